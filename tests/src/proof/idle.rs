//! What consumers cost that have nothing to do: memory and CPU.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tendon::{
    backend::{Database, Durability, Options, Order},
    changes::{Changes, Emit},
    clock::Clock,
    committer::Committer,
    event::{EventKey, NewEvent, Timestamp},
    shard::Version,
    store::{Commit, Epoch},
    tailer::Tailer,
    tenant::{StreamId, TenantId},
};

use super::{
    Scale,
    report::{Report, cpu_time, resident_bytes},
};
use crate::bench::{self, Bench};

fn stream() -> StreamId {
    StreamId { tenant: TenantId::default(), name: "idle".parse().unwrap() }
}

pub(super) async fn run(report: &mut Report) -> Result<()> {
    let (consumers, watched) = match report.scale() {
        Scale::Full => (1_000, Duration::from_secs(20)),
        Scale::Quick => (50, Duration::from_secs(1)),
    };
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("idle.db").display());
    let database = Database::open(&url, Options { durability: Durability::Relaxed, read_only: false }).await?;
    database.create_stream(&stream(), Order::Native).await?;
    append(&database).await?;
    let bench = Bench::new().await?;
    let factory = bench.guest("parse").await?;
    let tailer = Tailer::start(database.source(&stream()).await?);
    let committer = Committer::start(database.store());
    let head = tailer.source().head().await?;

    let before = resident_bytes();
    let mut all = Vec::new();
    for n in 0..consumers {
        let text = format!("idle-{n}");
        let spec = Arc::new(bench::spec(stream()));
        let version = Version { epoch: Epoch(0), spec, factory: factory.clone() };
        all.push(bench::Running::start(&text, &database, committer.clone(), tailer.clone(), version)?);
    }
    for running in &all {
        running.until(&head).await?;
    }
    let each = (resident_bytes() - before) as f64 / f64::from(consumers) / 1024.0;
    let (cpu, began) = (cpu_time(), Instant::now());
    tokio::time::sleep(watched).await;
    let share = (cpu_time() - cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let handled: u64 = all.iter().map(bench::Running::handled).sum();
    report.count("idle consumers: events handled before they idle", u64::from(consumers as u32) * 10, handled);
    report.at_most("an idle consumer's memory beside the engine", "KiB", 200.0, each);
    report.at_most("the whole process with 1,000 idle consumers", "MiB", 400.0, resident_bytes() as f64 / 1_048_576.0);
    report.at_most("CPU of 1,000 idle consumers, of one core", "%", 2.0, share);
    for running in all {
        running.stop().await;
    }
    database.close().await;
    Ok(())
}

/// Ten events, so that every consumer has an instance that has worked.
async fn append(database: &Database) -> Result<()> {
    let event = |n: u64| NewEvent {
        r#type: 1,
        foreign_id: n.to_string().into(),
        timestamp: Clock::System.now(),
        metadata: br#"{"quake":"us1","mag":4.5,"place":"here","depth_km":1.0}"#.to_vec().into(),
        headers: Vec::new(),
    };
    let emit =
        |n: u64| Emit { key: EventKey::new(Timestamp(0), &[&n.to_le_bytes()]), stream: stream(), event: event(n) };
    let changes = Changes { emits: (0..10).map(emit).collect(), ..Changes::default() };
    database.store().commit(&[Commit { changes, ..Commit::default() }]).await.remove(0)?;
    Ok(())
}
