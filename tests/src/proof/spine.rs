//! What the spine costs: an event through source, loop, guest and commit, beside the plain reading of the same rows.
//!
//! The yardstick U is the CPU that a plain sqlx loop needs per event to SELECT and decode the rows in chunks of 256.
//! Every figure is CPU per event of the whole process, so that ratios within one run hold on any machine.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use sqlx::{Connection as _, Row as _, sqlite::SqliteConnectOptions};
use tendon::{
    backend::{Database, Durability, Options},
    changes::{Changes, Emit},
    committer::Committer,
    consumer::Version,
    event::{EventKey, NewEvent, Timestamp},
    handler::HandlerFactory,
    store::{Commit, Epoch},
    tailer::Tailer,
    tenant::{Name, StreamId, TenantId},
};

use super::{
    Scale, idle, logic, reload,
    report::{Report, cpu_time},
    sweep,
};
use crate::bench::{self, Bench};

/// Events of the full run.
const EVENTS: u64 = 1_000_000;
/// Events of a quick one.
const EVENTS_QUICK: u64 = 20_000;
/// How often each replay of the full run is made.
const ROUNDS: u64 = 5;
/// Foreign ids, and keys of the state.
const KEYS: u64 = 10_000;

/// Runs all of it.
pub(super) fn prove(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(replay(report))?;
    if !report.is_whole() {
        return Ok(());
    }
    runtime.block_on(reload::run(report))?;
    runtime.block_on(idle::run(report))?;
    runtime.block_on(sweep::crashes(report))?;
    sweep::simulation(report)
}

/// What one replay cost, per event.
#[derive(Clone, Copy)]
struct Cost {
    cpu_us: f64,
    wall_us: f64,
}

impl Cost {
    const MOST: Self = Self { cpu_us: f64::MAX, wall_us: f64::MAX };

    fn least(self, other: Self) -> Self {
        Self { cpu_us: self.cpu_us.min(other.cpu_us), wall_us: self.wall_us.min(other.wall_us) }
    }
}

/// One kind of replay.
struct Case {
    what: &'static str,
    factory: Arc<dyn HandlerFactory>,
    durability: Durability,
}

/// Every kind in its turn, and again. What else the machine does can only add to a cost, so each kind's cheapest round is
/// taken, and the yardstick's.
async fn replay(report: &mut Report) -> Result<()> {
    let (events, rounds) = if report.scale() == Scale::Full { (EVENTS, ROUNDS) } else { (EVENTS_QUICK, 1) };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("spine.db");
    fill(&file, events, report.seed()).await?;
    let bench = Bench::new().await?;

    use Durability::{Full, Relaxed};
    let case = |what, factory, durability| Case { what, factory, durability };
    let cases = [
        case("native closure, empty body", logic::empty(), Relaxed),
        case("guest, empty body", bench.guest("empty").await?, Relaxed),
        case("native closure, parses JSON", logic::parse(), Relaxed),
        case("guest, parses JSON", bench.guest("parse").await?, Relaxed),
        case("guest, parses, one get and set", bench.guest("count").await?, Relaxed),
        case("guest, parses JSON, durability full", bench.guest("parse").await?, Full),
        case("guest, one get and set, durability full", bench.guest("count").await?, Full),
    ];
    let mut costs: BTreeMap<&str, Cost> = BTreeMap::new();
    let mut handled: BTreeMap<&str, u64> = BTreeMap::new();
    let mut plain = Cost::MOST;
    for _ in 0..rounds {
        plain = plain.least(plain_loop(&file, events).await?);
        for case in cases.iter().filter(|case| report.wants(case.what)) {
            let (cost, seen) = run(&file, case, events).await?;
            costs.entry(case.what).and_modify(|least| *least = least.least(cost)).or_insert(cost);
            *handled.entry(case.what).or_default() += seen;
        }
    }
    let u = plain.cpu_us;
    report.beside("U: plain sqlx loop, SELECT and decode, CPU per event", format!("{u:.2} µs"));
    for Case { what, .. } in &cases {
        let Some(Cost { cpu_us, wall_us }) = costs.get(what) else { continue };
        report.count(&format!("{what}: events handled"), events * rounds, handled.get(what).copied().unwrap_or(0));
        let measured = format!("{cpu_us:.2} µs, {:.2} U, {:.0}/s", cpu_us / u, 1e6 / wall_us);
        report.beside(&format!("{what}: CPU per event, wall rate"), measured);
    }

    let ratio = |what| Some(costs.get(what)?.cpu_us / u);
    let beyond = |guest, native| Some(costs.get(guest)?.cpu_us - costs.get(native)?.cpu_us);
    let figures = [
        ("replay through a guest that parses", "U", 1.8, ratio("guest, parses JSON")),
        ("the same, beyond a native closure", "µs", 1.2, beyond("guest, parses JSON", "native closure, parses JSON")),
        ("replay with one state read and write", "U", 3.0, ratio("guest, parses, one get and set")),
        (
            "an empty handler call, beyond a native one",
            "µs",
            0.8,
            beyond("guest, empty body", "native closure, empty body"),
        ),
    ];
    for (what, unit, target, measured) in figures {
        if let Some(measured) = measured {
            report.at_most(what, unit, target, measured);
        }
    }
    Ok(())
}

/// Replays the whole stream through a consumer of its own; what that cost, and how many events it saw.
async fn run(file: &Path, case: &Case, events: u64) -> Result<(Cost, u64)> {
    let url = format!("sqlite://{}", file.display());
    let database = Database::open(&url, Options { durability: case.durability, read_only: false }).await?;
    let tailer = Tailer::start(database.source(&stream()).await?);
    let head = tailer.source().head().await?;
    let committer = Committer::start(database.store());
    let name = format!("replay-{}", fastrand::u64(..));
    let version = Version { epoch: Epoch(0), spec: Arc::new(bench::spec(stream())), factory: case.factory.clone() };
    let (began, cpu) = (Instant::now(), cpu_time());
    let running = bench::Running::start(&name, &database, committer, tailer, version)?;
    running.until(&head).await?;
    let cost = Cost { cpu_us: per_event(cpu_time() - cpu, events), wall_us: per_event(began.elapsed(), events) };
    // The counter is raised after the row moves: only a consumer that has stopped has counted everything.
    let handled = running.stop().await;
    database.close().await;
    Ok((cost, handled))
}

fn per_event(time: Duration, events: u64) -> f64 {
    time.as_secs_f64() * 1e6 / events as f64
}

fn stream() -> StreamId {
    StreamId { tenant: TenantId::default(), name: name("bench") }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Appends events with about 100 bytes of JSON, their foreign ids uniform.
async fn fill(file: &Path, events: u64, seed: u64) -> Result<()> {
    fastrand::seed(seed);
    let url = format!("sqlite://{}", file.display());
    let database = Database::open(&url, Options { durability: Durability::Relaxed, read_only: false }).await?;
    database.create_stream(&stream()).await?;
    for first in (0..events).step_by(10_000) {
        let emits = (first..events.min(first + 10_000)).map(event).collect();
        let commit = Commit { changes: Changes { emits, ..Changes::default() }, ..Commit::default() };
        database.store().commit(&[commit]).await.remove(0)?;
    }
    database.close().await;
    Ok(())
}

fn event(n: u64) -> Emit {
    let key = fastrand::u64(..KEYS);
    let metadata = format!(
        r#"{{"quake":"us{n:09}","mag":{:.2},"place":"{}km NNE of Amboy, Washington","depth_km":{:.1}}}"#,
        fastrand::f64() * 9.0,
        n % 90,
        fastrand::f64() * 600.0
    );
    let event = NewEvent {
        r#type: 1,
        foreign_id: format!("key-{key:05}").into(),
        timestamp: Timestamp(1_800_000_000_000_000 + n as i64),
        metadata: Bytes::from(metadata),
        headers: Vec::new(),
    };
    Emit { key: EventKey::new(event.timestamp, &[&n.to_le_bytes()]), stream: stream(), event }
}

/// The yardstick: what anybody would write to read these rows.
async fn plain_loop(file: &Path, events: u64) -> Result<Cost> {
    let mut connection = sqlx::SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await?;
    let sql = r#"SELECT id, type, foreign_id, timestamp, metadata, headers FROM "events:default/bench"
        WHERE id > ? ORDER BY id LIMIT 256"#;
    let (began, cpu) = (Instant::now(), cpu_time());
    let (mut after, mut seen) = (0_i64, 0_u64);
    loop {
        let rows = sqlx::query(sql).bind(after).fetch_all(&mut connection).await?;
        let Some(last) = rows.last() else { break };
        after = last.try_get(0)?;
        for row in &rows {
            let _ = std::hint::black_box((
                row.try_get::<i64, _>(0)?,
                row.try_get::<i32, _>(1)?,
                row.try_get::<String, _>(2)?,
                row.try_get::<i64, _>(3)?,
                row.try_get::<Vec<u8>, _>(4)?,
                row.try_get::<Option<String>, _>(5)?,
            ));
        }
        seen += rows.len() as u64;
    }
    anyhow::ensure!(seen == events, "the plain loop saw {seen} of {events} events");
    let cost = Cost { cpu_us: per_event(cpu_time() - cpu, events), wall_us: per_event(began.elapsed(), events) };
    connection.close().await.context("the plain loop's connection did not close")?;
    Ok(cost)
}
