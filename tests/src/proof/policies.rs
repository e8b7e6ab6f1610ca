//! What consumers do when something fails or is too much for one: a poison key among many, shards side by side, and shards that
//! are divided anew while everything fails.

use std::{
    panic::catch_unwind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tendon::{
    backend::{Database, Options},
    committer::Committer,
    deployment::{Spec, StateScope},
    handler::HandlerFactory,
    policy::{OnExhausted, RetryPolicy},
    shard::Version,
    source::Source,
    store::{Commit, Epoch, Scope, Store},
    tailer::Tailer,
    topology::Shards,
};

use super::{
    Counting, Scale,
    replay::{fill_with, stream},
    report::Report,
};
use crate::{
    bench::{self, Bench, Running},
    place::{Place as _, SqlitePlace},
    policy_suite::{kills, table, table_of_other_policies},
    reflex_suite::CASES,
    sim::{self, Plan},
    state_suite::writes,
};

/// Keys of the stream, one of which is poison.
const KEYS: u64 = 1_000;
const POISON: &str = "key-00000";
/// Shards that are compared with one.
const SHARDS: u32 = 8;

/// Runs all of it.
pub(super) fn prove(report: &mut Report) -> Result<()> {
    if report.wants("table") {
        failures(report);
    }
    if report.wants("reflex") {
        behaviours(report);
    }
    if report.is_whole() {
        simulation(report);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if report.wants("poison") {
            poison(report).await?;
        }
        if report.wants("shards") {
            shards(report).await?;
        }
        Ok(())
    })
}

/// Every failure under every policy in every form, and with a kill at each step of the store.
fn failures(report: &mut Report) {
    let (ran, killed, control) = (table(), kills(), table_of_other_policies());
    ran.wrong.iter().chain(&killed.wrong).for_each(|wrong| eprintln!("{wrong}"));
    report.at_least("failures x policies x forms", 108, ran.count);
    report.count("of those, left otherwise than the policy says", 0, ran.wrong.len() as u64);
    report.at_least("the same with a kill at each step of the store", 1_000, killed.count);
    report.count("of those, torn or left otherwise", 0, killed.wrong.len() as u64);
    report.at_least("control, compared with the next policy: left otherwise", 1, control.wrong.len() as u64);
}

/// What reflex's own tests show.
fn behaviours(report: &mut Report) {
    let hold = CASES.iter().filter(|case| {
        let holds = catch_unwind(case.show).is_ok();
        if !holds {
            eprintln!("{}: {}: does not hold", case.number, case.sentence);
        }
        holds
    });
    report.count("behaviours of reflex's consumers that are shown", CASES.len() as u64, hold.count() as u64);
}

/// Parked keys and shards that are divided anew, on the very loop, under faults.
fn simulation(report: &mut Report) {
    let seeds = if report.scale() == Scale::Full { 1_000 } else { 40 };
    let plan = |seed: u64| Plan {
        seed,
        events: 300,
        keys: 11,
        hosts: 1 + (seed % 3) as u32,
        compares: true,
        divides: seed % 4 > 0,
        remembers: true,
        parks: seed % 2 == 0,
        redrives: true,
    };
    let (mut lost, mut doubled, mut waiting, mut faults, mut divided) = (0, 0, 0, 0, 0);
    for seed in report.seed()..report.seed() + seeds {
        let outcome = sim::run(plan(seed));
        let (l, d) = outcome.lost_and_doubled(&plan(seed));
        (lost, doubled) = (lost + l as u64, doubled + d as u64);
        waiting += (outcome.parked.len() + outcome.set_aside.len()) as u64;
        (faults, divided) = (faults + outcome.faults, divided + outcome.divided);
    }
    report.count("simulation, poison that is cured: events lost", 0, lost);
    report.count("simulation: events applied twice", 0, doubled);
    report.count("simulation: events that still wait or are set aside", 0, waiting);
    report.beside("simulated runs, faults injected, divided anew", format!("{seeds}, {faults}, {divided}"));
    let control = |seed| Plan { divides: true, parks: false, remembers: false, ..plan(seed) };
    let doubled: u64 = (0..10).map(|seed| sim::run(control(seed)).lost_and_doubled(&control(seed)).1 as u64).sum();
    report.at_least("control, new shards that know nothing of the old: applied twice", 1, doubled);
}

/// A replay of a stream with one key of many that cannot be handled, beside the same one that can.
async fn poison(report: &mut Report) -> Result<()> {
    let (events, rounds) = if report.scale() == Scale::Full { (300_000, 5) } else { (5_000, 1) };
    let place = SqlitePlace::fresh().await;
    fill_with(&place.url(), events, KEYS, report.seed()).await?;
    let bench = Bench::new().await?;
    let (healthy, poisoned) = (bench.guest("count").await?, bench.version_of("count-but-one", 1).await?);
    let mended = bench.version_of("count-in-order", 2).await?;
    let mut best = [Duration::MAX; 2];
    let (mut parked, mut drained, mut disordered, mut drained_in) = (0, 0, 0, Duration::MAX);
    for _ in 0..rounds {
        for (best, factory) in best.iter_mut().zip([&healthy, &poisoned]) {
            let run = Parked::run(&place, factory.clone()).await?;
            *best = (*best).min(run.took);
            if Arc::ptr_eq(factory, &poisoned) {
                let Drained { waiting, counted, wrong, took } = run.mend(&mended).await?;
                (parked, drained, drained_in) = (waiting, drained + counted, drained_in.min(took));
                disordered += wrong;
            } else {
                run.database.close().await;
            }
        }
    }
    let rate = |took: Duration, of: u64| of as f64 / took.as_secs_f64();
    let (without, with) = (rate(best[0], events), rate(best[1], events - parked));
    let [a, b] = [without, with].map(|rate| format!("{rate:.0}/s"));
    report.at_least("events of one poison key among 1,000 that were parked", 1, parked);
    report.count("of those, counted in their key after a reload", parked * rounds, drained);
    report.count("and not in their order", 0, disordered);
    let run = Parked::run(&place, poisoned).await?;
    run.say_was_ahead().await?;
    report.at_least("control, a key whose last event is said to be ahead", 1, run.mend(&mended).await?.wrong);
    report.beside("how long a reload took until they were", format!("{:.1} ms", drained_in.as_secs_f64() * 1e3));
    report.beside("events handled without it, and others with it", format!("{a}, {b}"));
    report.no_less("1 poison key among 1,000: the others' throughput", "of without", 0.9, with / without);
    Ok(())
}

/// A consumer that parks keys, once it is at the head.
struct Parked {
    database: Database,
    running: Running,
    store: Arc<dyn Store>,
    name: String,
    took: Duration,
}

/// What a reload came to.
struct Drained {
    waiting: u64,
    counted: u64,
    wrong: u64,
    took: Duration,
}

fn spec() -> Spec {
    let retry = RetryPolicy { on_exhausted: OnExhausted::ParkKey, parked_events: 1_000_000, ..RetryPolicy::default() };
    Spec { state: StateScope::Key, retry, ..bench::spec(stream()) }
}

impl Parked {
    async fn run(place: &SqlitePlace, factory: Arc<dyn HandlerFactory>) -> Result<Self> {
        let database = Database::open(&place.url(), Options::default()).await?;
        let tailer = Tailer::start(database.source(&stream()).await?);
        let head = tailer.source().head().await?;
        let (store, name) = (database.store(), format!("parks-{}", fastrand::u64(..)));
        let committer = Committer::start(store.clone());
        let version = Version { epoch: Epoch(0), spec: Arc::new(spec()), factory };
        let began = Instant::now();
        let running = Running::start(&name, &database, committer, tailer, version)?;
        running.until(&head).await?;
        Ok(Self { database, running, store, name, took: began.elapsed() })
    }

    /// How many events wait.
    async fn parked(&self) -> Result<u64> {
        let keys = self.store.parked_keys(&bench::consumer(&self.name)).await?;
        Ok(keys.iter().map(|key| key.events).sum())
    }

    /// Writes into the state of the key that its last event came long after all others.
    async fn say_was_ahead(&self) -> Result<()> {
        let mut value = [0; 64];
        value[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        let changes = writes(&bench::consumer(&self.name), POISON, [(POISON, Some(&value[..]))]);
        self.store.commit(&[Commit { changes, ..Commit::default() }]).await.remove(0)?;
        Ok(())
    }

    /// Reloads a component that can handle the key, and waits until nothing does any more.
    async fn mend(self, factory: &Arc<dyn HandlerFactory>) -> Result<Drained> {
        let waiting = self.parked().await?;
        let version = Version { epoch: Epoch(1), spec: Arc::new(spec()), factory: factory.clone() };
        let began = Instant::now();
        self.running.supervised.swap(Arc::new(version), Duration::from_secs(30)).await;
        while self.parked().await? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = began.elapsed();
        // The last commit is answered once the consumer has stopped: what it wrote is read then.
        self.running.stop().await;
        let scope = Scope { consumer: bench::consumer(&self.name), part: POISON.into() };
        let value = self.store.get(&scope, &[POISON.into()]).await?.remove(0).unwrap_or_default();
        let number = |at: usize| value.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let (counted, wrong) = (number(0).unwrap_or_default(), number(16).unwrap_or_default());
        self.database.close().await;
        Ok(Drained { waiting, counted, wrong, took })
    }
}

/// A guest that only computes, in one shard and in many.
async fn shards(report: &mut Report) -> Result<()> {
    let (events, rounds) = if report.scale() == Scale::Full { (100_000, 5) } else { (5_000, 1) };
    let place = SqlitePlace::fresh().await;
    fill_with(&place.url(), events, KEYS, report.seed()).await?;
    let factory = Bench::new().await?.guest("compute").await?;
    let mut best = [Duration::MAX; 2];
    let (mut read, mut handled) = (0, 0);
    for _ in 0..rounds {
        for (best, count) in best.iter_mut().zip([1, SHARDS]) {
            let (took, of_all, by_all) = run_shards(&place, &factory, count).await?;
            *best = (*best).min(took);
            if count == SHARDS {
                (read, handled) = (read + of_all, handled + by_all);
            }
        }
    }
    report.count(&format!("{SHARDS} shards: events handled"), events * rounds, handled);
    report.count(&format!("{SHARDS} shards: rows read of their stream"), events * rounds, read);
    let [one, many] = best.map(|took| events as f64 / took.as_secs_f64());
    report.beside(&format!("events a second, 1 shard and {SHARDS}"), format!("{one:.0}/s, {many:.0}/s"));
    report.no_less(&format!("{SHARDS} shards, a guest that computes"), "× one", 1.5, many / one);
    Ok(())
}

/// How long a replay took, how many events were read, and how many handled.
async fn run_shards(
    place: &SqlitePlace,
    factory: &Arc<dyn HandlerFactory>,
    count: u32,
) -> Result<(Duration, u64, u64)> {
    let database = Database::open(&place.url(), Options::default()).await?;
    let read = Arc::new(AtomicU64::new(0));
    let source = Counting { inner: database.source(&stream()).await?, read: read.clone() };
    let head = source.head().await?;
    let (tailer, committer) = (Tailer::start(Arc::new(source)), Committer::start(database.store()));
    let shards = Shards { count, ..Shards::default() };
    let spec = Arc::new(Spec { shards, state: StateScope::Key, ..bench::spec(stream()) });
    let name = format!("shards-{}", fastrand::u64(..));
    let began = Instant::now();
    let mut running = Vec::new();
    for index in 0..count {
        let version = Version { epoch: Epoch(0), spec: spec.clone(), factory: factory.clone() };
        let shard = (name.as_str(), index);
        running.push(Running::start_shard(shard, &database, committer.clone(), tailer.clone(), version)?);
    }
    for shard in &running {
        shard.until(&head).await?;
    }
    let took = began.elapsed();
    let mut handled = 0;
    for shard in running {
        handled += shard.stop().await;
    }
    database.close().await;
    Ok((took, read.load(Relaxed), handled))
}
