//! Replays of one stream through different consumers, each beside the plain reading of the same rows.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use tendon::{
    backend::{Database, Durability, Options, Order, foreign::ForeignTable},
    changes::{Changes, Emit},
    committer::Committer,
    event::{EventKey, NewEvent, Timestamp},
    handler::HandlerFactory,
    shard::Version,
    store::{Commit, Epoch},
    tailer::Tailer,
    tenant::{Name, StreamId, TenantId},
};

use super::report::{Report, cpu_time};
use crate::bench;

/// Foreign ids, and keys of the state.
const KEYS: u64 = 10_000;

/// What one replay cost, per event.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) cpu_us: f64,
    pub(super) wall_us: f64,
}

impl Cost {
    /// Of that many events, since a moment and since so much CPU.
    pub(super) fn since(began: Instant, cpu: Duration, events: u64) -> Self {
        Self { cpu_us: per_event(cpu_time() - cpu, events), wall_us: per_event(began.elapsed(), events) }
    }

    const MOST: Self = Self { cpu_us: f64::MAX, wall_us: f64::MAX };

    pub(super) fn least(self, other: Self) -> Self {
        Self { cpu_us: self.cpu_us.min(other.cpu_us), wall_us: self.wall_us.min(other.wall_us) }
    }
}

/// One kind of replay.
pub(super) struct Case {
    pub(super) what: String,
    pub(super) factory: Arc<dyn HandlerFactory>,
    pub(super) durability: Durability,
    /// Another's table that it reads, in place of the stream of ours.
    pub(super) table: Option<ForeignTable>,
}

/// What is replayed.
pub(super) struct Replay<'a> {
    pub(super) url: &'a str,
    /// What the yardstick's name begins with.
    pub(super) what: &'a str,
    pub(super) events: u64,
    pub(super) rounds: u64,
}

/// What all replays cost.
pub(super) struct Measured {
    u: f64,
    costs: BTreeMap<String, Cost>,
}

impl Measured {
    /// A replay's CPU, in yardsticks.
    pub(super) fn ratio(&self, what: &str) -> Option<f64> {
        Some(self.costs.get(what)?.cpu_us / self.u)
    }

    /// What a replay costs more than another one, in microseconds an event.
    pub(super) fn beyond(&self, what: &str, other: &str) -> Option<f64> {
        Some(self.costs.get(what)?.cpu_us - self.costs.get(other)?.cpu_us)
    }
}

/// Every kind in its turn, and again. What else the machine does can only add to a cost, so each kind's cheapest round is
/// taken, and the yardstick's.
pub(super) async fn measure(
    report: &mut Report,
    replay: &Replay<'_>,
    cases: &[Case],
    plain_loop: impl AsyncFn() -> Result<Cost>,
) -> Result<Measured> {
    let &Replay { url, what: prefix, events, rounds } = replay;
    let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
    let mut handled: BTreeMap<&str, u64> = BTreeMap::new();
    let mut plain = Cost::MOST;
    for _ in 0..rounds {
        plain = plain.least(plain_loop().await?);
        for case in cases.iter().filter(|case| report.wants(&case.what)) {
            let (cost, seen) = run(url, case, events).await?;
            costs.entry(case.what.clone()).and_modify(|least| *least = least.least(cost)).or_insert(cost);
            *handled.entry(&case.what).or_default() += seen;
        }
    }
    let u = plain.cpu_us;
    report.beside(&format!("{prefix}U, plain sqlx loop, SELECT and decode, CPU per event"), format!("{u:.2} µs"));
    for Case { what, .. } in cases {
        let Some(Cost { cpu_us, wall_us }) = costs.get(what) else { continue };
        report.count(
            &format!("{what}: events handled"),
            events * rounds,
            handled.get(what.as_str()).copied().unwrap_or(0),
        );
        let measured = format!("{cpu_us:.2} µs, {:.2} U, {:.0}/s", cpu_us / u, 1e6 / wall_us);
        report.beside(&format!("{what}: CPU per event, wall rate"), measured);
    }
    Ok(Measured { u, costs })
}

/// Replays the whole stream through a consumer of its own; what that cost, and how many events it saw.
async fn run(url: &str, case: &Case, events: u64) -> Result<(Cost, u64)> {
    let database = Database::open(url, Options { durability: case.durability, read_only: false }).await?;
    let stream = StreamId { name: name(if case.table.is_some() { "theirs" } else { "bench" }), ..stream() };
    if let Some(table) = &case.table {
        database.adopt(&stream, table).await?;
    }
    let tailer = Tailer::start(database.source(&stream).await?);
    let head = tailer.source().head().await?;
    let committer = Committer::start(database.store());
    let consumer = format!("replay-{}", fastrand::u64(..));
    let version = Version { epoch: Epoch(0), spec: Arc::new(bench::spec(stream)), factory: case.factory.clone() };
    let (began, cpu) = (Instant::now(), cpu_time());
    let running = bench::Running::start(&consumer, &database, committer, tailer, version)?;
    running.until_handled(events).await?;
    let cost = Cost::since(began, cpu, events);
    running.until(&head).await?;
    let handled = running.stop().await;
    database.close().await;
    Ok((cost, handled))
}

fn per_event(time: Duration, events: u64) -> f64 {
    time.as_secs_f64() * 1e6 / events as f64
}

pub(super) fn stream() -> StreamId {
    StreamId { tenant: TenantId::default(), name: name("bench") }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Appends events with about 100 bytes of JSON, their foreign ids uniform.
pub(super) async fn fill(url: &str, events: u64, seed: u64) -> Result<()> {
    fill_with(url, events, KEYS, seed).await
}

/// The same, with so many foreign ids.
pub(super) async fn fill_with(url: &str, events: u64, keys: u64, seed: u64) -> Result<()> {
    fastrand::seed(seed);
    let database = Database::open(url, Options { durability: Durability::Relaxed, read_only: false }).await?;
    database.create_stream(&stream(), Order::Native).await?;
    for first in (0..events).step_by(10_000) {
        let emits = (first..events.min(first + 10_000)).map(|n| event(n, keys)).collect();
        let commit = Commit { changes: Changes { emits, ..Changes::default() }, ..Commit::default() };
        database.store().commit(&[commit]).await.remove(0)?;
    }
    database.close().await;
    Ok(())
}

/// The n-th event of the stream, of one of so many keys.
fn event(n: u64, keys: u64) -> Emit {
    let key = fastrand::u64(..keys);
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
