//! Reloads under load: how long a shard does not handle events, and that none is lost or handled twice.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tendon::{
    backend::{Database, Durability, Options, Order},
    changes::{Changes, Emit},
    clock::Clock,
    committer::Committer,
    event::{Cursor, EventKey, NewEvent, Timestamp},
    shard::Version,
    source::Until,
    store::{Commit, Epoch},
    tailer::Tailer,
    tenant::{ShardId, StreamId, TenantId},
};

use super::{Scale, report::Report};
use crate::bench::{self, Bench};

/// How long a swap may be waited for.
const SWAP_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

fn stream(text: &str) -> StreamId {
    StreamId { tenant: TenantId::default(), name: text.parse().unwrap() }
}

pub(super) async fn run(report: &mut Report) -> Result<()> {
    let (swaps, events) = if report.scale() == Scale::Full { (1_000, 200_000) } else { (50, 5_000) };
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("reload.db").display());
    let database = Database::open(&url, Options { durability: Durability::Full, read_only: false }).await?;
    for text in ["in", "out"] {
        database.create_stream(&stream(text), Order::Native).await?;
    }
    let bench = Bench::new().await?;
    let guests = [bench.version_of("emit", 0).await?, bench.version_of("emit", 1).await?];
    ensure!(guests[0].digest() != guests[1].digest(), "the two versions are the same");
    let spec = Arc::new(tendon::deployment::Spec { grants_emit: vec!["out".parse()?], ..bench::spec(stream("in")) });
    let version =
        |n: u64| Version { epoch: Epoch(n), spec: spec.clone(), factory: guests[usize::from(n % 2 == 1)].clone() };

    let tailer = Tailer::start(database.source(&stream("in")).await?);
    let committer = Committer::start(database.store());
    let running = bench::Running::start("reload", &database, committer.clone(), tailer, version(1))?;
    let producer = tokio::spawn(produce(committer, events));
    // The first version has committed under its own digest before the second one takes over.
    running.has_committed().await?;
    let mut stalls = Vec::new();
    for n in 2..=swaps + 1 {
        let began = Instant::now();
        ensure!(running.supervised.swap(Arc::new(version(n)), SWAP_WAIT).await, "swap {n} did not happen");
        stalls.push(began.elapsed());
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    producer.await??;
    let head = database.source(&stream("in")).await?.head().await?;
    running.until(&head).await?;
    stalls.sort();
    let at = |share: f64| stalls[((stalls.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    report.at_most("swap of a cached component under load, p99", "ms", 5.0, at(0.99));
    report.beside("swap, p50 and worst", format!("{:.2} ms, {:.2} ms", at(0.5), at(1.0)));

    let mut seen = std::collections::BTreeSet::new();
    let mut all = 0;
    let mut chunks = database.source(&stream("out")).await?.stream(Cursor::START, Until::Head).await?;
    while let Some(chunk) = chunks.next().await {
        for event in chunk?.events {
            all += 1;
            seen.insert(event.foreign_id.to_string());
        }
    }
    report.count("events lost over all swaps", 0, events - seen.len() as u64);
    report.count("events handled twice over all swaps", 0, all - seen.len() as u64);
    let shard = ShardId { consumer: bench::consumer("reload"), index: 0 };
    let history = database.store().history(&shard).await?;
    report.count("swaps in the shard's history, the first version included", swaps + 1, history.len() as u64);
    running.stop().await;
    database.close().await;
    Ok(())
}

/// Appends events, a few at a time, as fast as the store takes them.
async fn produce(committer: Committer, events: u64) -> Result<()> {
    for first in (0..events).step_by(50) {
        let emits = (first..events.min(first + 50)).map(event).collect();
        committer.commit(Commit { changes: Changes { emits, ..Changes::default() }, ..Commit::default() }).await?;
    }
    Ok(())
}

fn event(n: u64) -> Emit {
    let event = NewEvent {
        r#type: 1,
        foreign_id: n.to_string().into(),
        timestamp: Clock::System.now(),
        metadata: Bytes::from_static(br#"{"quake":"us1","mag":4.5,"place":"here","depth_km":1.0}"#),
        headers: Vec::new(),
    };
    Emit { key: EventKey::new(Timestamp(0), &[&n.to_le_bytes()]), stream: stream("in"), event }
}
