//! The simulation: the very loop of the host, on one thread, in virtual time, over the memory backend, with faults at
//! the ports. A run is a seed; the same seed gives the same run.

mod faults;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tendon::{
    backend::{Database, Options, Order},
    batch::BatchPolicy,
    changes::{Changes, Emit},
    clock::Clock,
    committer::Committer,
    consumer,
    dead_letter::Redrive,
    deployment::{Spec, StateScope},
    event::{Cursor, Event, EventId, EventKey, NewEvent, Timestamp},
    filter::Filter,
    handler::{Failure, FailureKind},
    limits::Limits,
    metrics::ConsumerMetrics,
    owner::Owner,
    policy::{OnExhausted, RetryPolicy},
    shard::{Remembered, Shard, Stop, Version},
    source::{Source, Until},
    store::{Commit, Epoch, Move, Position, Rewrite, Scope, Status, Store},
    tailer::Tailer,
    tenant::{ConsumerId, Name, ShardId, StreamId, TenantId},
    topology::{self, Past, ShardBy, Shards},
    view::View,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use self::faults::{Faults, FaultySource, FaultyStore};
use crate::{
    letter_suite::set_aside,
    native::{Logic, Native, failure, infrastructure},
};

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Events that a producer appends.
    pub events: u32,
    /// Foreign ids that they are spread over.
    pub keys: u32,
    /// Hosts that all run all of its shards.
    pub hosts: u32,
    /// Whether it begins with three shards, and an operator divides it anew all the time.
    pub divides: bool,
    /// Whether the store compares at all; the control does not.
    pub compares: bool,
    /// Whether shards that were divided anew know what those before them have handled; the control does not.
    pub remembers: bool,
    /// Whether the keys of poison are parked, in place of what is set aside.
    pub parks: bool,
    /// Whether poison is none any more after a minute, and an operator then has all that was set aside handled again.
    pub redrives: bool,
}

/// How old events are before they are handled.
const LAG: Duration = Duration::from_millis(40);

/// Shards that it has at the most.
const SHARDS_MAX: u32 = 5;

/// How long, in virtual time, a shard may take to its head once nothing fails any more.
const PATIENCE: Duration = Duration::from_secs(600);

impl Plan {
    /// The events that pass the filter: two of three.
    pub fn wanted(&self) -> u32 {
        self.events - self.events / 3
    }
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The sum of the counters that the consumer kept, one a key.
    pub counted: u64,
    /// Events that the consumer emitted, in the order of the stream, as the ids of their causes.
    pub emitted: Vec<String>,
    /// Events that were set aside, by their ids.
    pub set_aside: Vec<String>,
    /// Events that are parked, by their ids, key by key in their order.
    pub parked: Vec<Vec<String>>,
    /// Faults that were injected.
    pub faults: u64,
    /// Runs of the loop that ended and were begun again.
    pub restarts: u64,
    /// Components that took over.
    pub swaps: usize,
    /// How often it was divided anew.
    pub divided: u64,
    /// A hash of every call at the store's port: two runs of one seed have the same.
    pub trace: String,
}

impl Outcome {
    /// Events that were lost, and events whose effects were applied more than once, or that were set aside as well.
    pub fn lost_and_doubled(&self, plan: &Plan) -> (usize, usize) {
        let mut seen = BTreeMap::new();
        for id in self.emitted.iter().chain(&self.set_aside).chain(self.parked.iter().flatten()) {
            *seen.entry(id).or_insert(0_u32) += 1;
        }
        (plan.wanted() as usize - seen.len(), seen.values().filter(|times| **times > 1).count())
    }
}

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    fastrand::seed(plan.seed);
    runtime.block_on(simulate(plan))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn stream(text: &str) -> StreamId {
    StreamId { tenant: TenantId::default(), name: name(text) }
}

fn consumer_id() -> ConsumerId {
    ConsumerId { tenant: TenantId::default(), name: name("counter") }
}

fn shard_id(index: u32) -> ShardId {
    ShardId { consumer: consumer_id(), index }
}

fn spec(plan: &Plan) -> Spec {
    Spec {
        stream: stream("in"),
        store: name("main"),
        start: Cursor::START,
        // Every third event is not for it.
        filter: Filter { types: vec![0, 1], ..Filter::default() },
        lag: LAG,
        state: if plan.divides || plan.parks { StateScope::Key } else { StateScope::Consumer },
        shards: Shards { count: if plan.divides { 3 } else { 1 }, ..Shards::default() },
        past: Past::default(),
        batch: BatchPolicy { max: 8, ..BatchPolicy::default() },
        retry: RetryPolicy {
            attempts: u32::MAX,
            cap: Duration::from_millis(200),
            on_exhausted: if plan.parks { OnExhausted::ParkKey } else { OnExhausted::DeadLetter },
            ..RetryPolicy::default()
        },
        limits: Limits::default(),
        grants_emit: vec![name("out")],
        config: BTreeMap::new(),
        state_version: 0,
        legacy_cursor: None,
    }
}

async fn simulate(plan: Plan) -> Outcome {
    let database = Database::open("memory:", Options::default()).await.unwrap();
    for text in ["in", "out"] {
        database.create_stream(&stream(text), Order::Native).await.unwrap();
    }
    let faults = Arc::new(Faults::new(&plan));
    let cured = Arc::new(AtomicBool::new(false));
    let source = database.source(&stream("in")).await.unwrap();
    let world = Arc::new(World {
        source: Arc::new(FaultySource { inner: source, faults: faults.clone() }),
        store: Arc::new(FaultyStore { inner: database.store(), faults: faults.clone() }),
        faults: faults.clone(),
        clock: Clock::simulated(Timestamp(1_800_000_000_000_000)),
        cured: cured.clone(),
        deployed: Mutex::new((1, spec(&plan))),
        restarts: AtomicU64::new(0),
    });
    tokio::spawn(produce(database.store(), plan, world.clock));
    if plan.divides {
        tokio::spawn(divide(world.clone(), plan.remembers));
    }
    if plan.redrives {
        tokio::spawn(redrive(database.store(), cured));
    }
    let shards = (0..plan.hosts).flat_map(|host| (0..SHARDS_MAX).map(move |index| (host, index)));
    let lives: Vec<_> = shards.map(|(host, index)| tokio::spawn(shard_life(host, index, world.clone()))).collect();
    // Faults for two virtual minutes, and until the last event is in; then calm, in which everybody must arrive.
    sleep(Duration::from_secs(120)).await;
    faults.calm.store(true, Relaxed);
    let head = database.source(&stream("in")).await.unwrap().head().await.unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    while !has_arrived(&world, &*database.store(), &head).await {
        assert!(tokio::time::Instant::now() < end, "{plan:?}: the shard does not reach its head");
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_secs(5)).await;
    assert!(!lives.iter().any(tokio::task::JoinHandle::is_finished), "{plan:?}: a host panicked");
    lives.iter().for_each(tokio::task::JoinHandle::abort);
    Outcome {
        counted: count(&*database.store(), &plan).await,
        emitted: emitted(&*database.source(&stream("out")).await.unwrap()).await,
        set_aside: set_aside(&*database.store(), &consumer_id()).await,
        faults: faults.injected.load(Relaxed),
        restarts: world.restarts.load(Relaxed),
        parked: parked(&*database.store()).await,
        swaps: database.store().history(&shard_id(0)).await.unwrap().len(),
        divided: world.deployed().1.past.number,
        trace: faults.trace(),
    }
}

async fn produce(store: Arc<dyn Store>, plan: Plan, clock: Clock) {
    for n in 0..plan.events {
        sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        let event = NewEvent {
            r#type: (n % 3) as i32,
            foreign_id: format!("key-{}", n % plan.keys).into(),
            timestamp: clock.now(),
            metadata: Bytes::new(),
            headers: Vec::new(),
        };
        let key = EventKey::new(clock.now(), &[&n.to_le_bytes()]);
        let emits = vec![Emit { key, stream: stream("in"), event }];
        let commit = Commit { changes: Changes { emits, ..Changes::default() }, ..Commit::default() };
        store.commit(&[commit]).await.remove(0).unwrap();
    }
}

/// An operator who has mended the component.
async fn redrive(store: Arc<dyn Store>, cured: Arc<AtomicBool>) {
    sleep(Duration::from_secs(60)).await;
    cured.store(true, Relaxed);
    loop {
        let consumer = consumer_id();
        let wish = |event| Redrive {
            consumer: consumer.clone(),
            event: EventId(event),
            at: Some(Timestamp(1)),
            pace: Duration::ZERO,
        };
        let redrives = set_aside(&*store, &consumer).await.into_iter().map(|id| wish(id.into())).collect();
        store.commit(&[Commit { redrives, ..Commit::default() }]).await.remove(0).unwrap();
        sleep(Duration::from_secs(1)).await;
    }
}

/// What all hosts and the operator know.
struct World {
    store: Arc<dyn Store>,
    source: Arc<dyn Source>,
    faults: Arc<Faults>,
    clock: Clock,
    /// Whether the component can handle poison now.
    cured: Arc<AtomicBool>,
    /// The newest deployment: each is another component, or in other shards.
    deployed: Mutex<(u64, Spec)>,
    restarts: AtomicU64,
}

impl World {
    fn deployed(&self) -> (u64, Spec) {
        self.deployed.lock().unwrap().clone()
    }

    fn version(&self) -> Arc<Version> {
        let (epoch, spec) = self.deployed();
        let factory = Native::new(&format!("v{epoch}"), CountAndEmit(self.cured.clone(), self.clock));
        Arc::new(Version { epoch: Epoch(epoch), spec: Arc::new(spec), factory })
    }
}

/// Whether every shard of now is at the head.
async fn has_arrived(world: &World, store: &dyn Store, head: &Cursor) -> bool {
    let rows = store.positions().await.unwrap();
    let count = world.deployed().1.shards.count;
    let here = rows.iter().filter(|row| row.shard.index < count && row.cursor == *head).count();
    here == count as usize
}

/// An operator who divides the consumer anew, by another key and into another number, while its shards run, stand or are behind.
async fn divide(world: Arc<World>, remembers: bool) {
    loop {
        sleep(Duration::from_millis(fastrand::u64(0..6_000))).await;
        if world.faults.calm.load(Relaxed) {
            return;
        }
        let to = Shards { by: ShardBy::ForeignId, count: fastrand::u32(1..=SHARDS_MAX) };
        let (epoch, spec) = world.deployed();
        let Ok(from) = world.store.positions().await else { continue };
        let compare = |a: &Cursor, b: &Cursor| world.source.compare(a, b);
        let before = (&spec.shards, &spec.past, &spec.start);
        let (mut rows, past) = topology::divide_anew(&consumer_id(), before, &to, &from, world.clock.now(), &compare);
        rows.iter_mut().for_each(|row| row.epoch = Epoch(epoch + 1));
        let number = past.number;
        let rewrite = Rewrite { consumer: consumer_id(), from, to: rows, clears_state: false };
        // It may be lost, come too late, or have taken place without an answer: the rows tell.
        let _ = world.store.commit(&[Commit { rewrite: Some(rewrite), ..Commit::default() }]).await;
        let is_done = loop {
            if let Ok(rows) = world.store.positions().await {
                break rows.first().is_some_and(|row| row.topology == number);
            }
        };
        let mut deployed = world.deployed.lock().unwrap();
        if is_done {
            let past = if remembers { past } else { Past { number, ..Past::default() } };
            *deployed = (deployed.0.max(epoch) + 1, Spec { shards: to, past, ..spec });
        }
    }
}

/// One shard on one host: runs, is killed now and then at any await, and begins again.
async fn shard_life(host: u32, index: u32, world: Arc<World>) {
    loop {
        let version = world.version();
        if index >= version.spec.shards.count {
            sleep(Duration::from_millis(100)).await;
            continue;
        }
        let (versions, version) = watch::channel(version);
        let (stops, stop) = watch::channel(false);
        let poke = Arc::new(Notify::new());
        let mut shard = Shard {
            id: shard_id(index),
            owner: Owner(format!("host {host}").into()),
            store: world.store.clone(),
            committer: Committer::start(world.store.clone()),
            tailer: Tailer::start(world.source.clone()),
            clock: world.clock,
            metrics: ConsumerMetrics::unregistered(&consumer_id()),
            adopted: watch::Sender::new(Epoch(0)),
            full: watch::Sender::new(None),
            version,
            poke: poke.clone(),
            stop,
            remembered: Remembered::default(),
        };
        let life = Duration::from_millis(fastrand::u64(1..4_000));
        let run = tokio::time::timeout(life, consumer::run(&mut shard));
        let end = tokio::select! {
            biased;
            end = run => end,
            () = operate(&world, index, &versions, &stops, &poke) => continue,
        };
        match end {
            Ok(Ok(Stop::Blocked(reason))) => panic!("blocked: {reason:?}"),
            Ok(Ok(Stop::Paused(_))) => set_status(&world, index, Status::Running).await,
            Ok(Ok(Stop::Asked) | Err(_)) | Err(_) => {}
        }
        world.restarts.fetch_add(1, Relaxed);
        sleep(Duration::from_millis(fastrand::u64(0..500))).await;
    }
}

/// An operator at this host: deploys, pauses and resumes, pokes, and asks it to stop. Ends when it has killed the host.
async fn operate(
    world: &World,
    index: u32,
    versions: &watch::Sender<Arc<Version>>,
    stops: &watch::Sender<bool>,
    poke: &Notify,
) {
    loop {
        sleep(Duration::from_millis(fastrand::u64(0..2_000))).await;
        let calm = world.faults.calm.load(Relaxed);
        match if calm { 1 } else { fastrand::u32(0..5) } {
            0 => {
                world.deployed.lock().unwrap().0 += 1;
                let version = world.version();
                if version.spec.past.number != versions.borrow().spec.past.number {
                    // It is divided otherwise: a host begins anew.
                    return;
                }
                versions.send_replace(version);
            }
            1 => set_status(world, index, Status::Running).await,
            2 => set_status(world, index, Status::Paused).await,
            3 => drop(stops.send_replace(true)),
            _ => return,
        }
        poke.notify_one();
    }
}

/// An operator's move, with a fence of its own; another try comes with the next round.
async fn set_status(world: &World, index: u32, status: Status) {
    let Ok(from) = world.store.load(&shard_id(index)).await else { return };
    if from.status == status {
        return;
    }
    let to = Position { status, ..from.clone() };
    let commit = Commit { r#move: Some(Move { from, to, takes_fence: true }), ..Commit::default() };
    // It may be lost, or come too late: then nothing has moved, or the next look tells.
    let _ = world.store.commit(&[commit]).await;
}

/// Whether no component can handle an event.
pub fn is_poison(id: &str) -> bool {
    id.parse::<u64>().unwrap() % 20 == 1
}

/// Counts a key's events and emits one for each; now and then it fails half-way, and with poison until that is cured.
struct CountAndEmit(Arc<AtomicBool>, Clock);

impl Logic for CountAndEmit {
    async fn handle(&self, event: &Event, view: &mut View) -> Result<(), Failure> {
        assert!(event.timestamp.after(LAG) <= self.1.now(), "event {} came too early", event.id);
        let before = view.get(&event.foreign_id).await.map_err(infrastructure)?;
        let count = before.map_or(0, |bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()));
        view.write(&event.foreign_id, Some(&(count + 1).to_le_bytes())).unwrap();
        if is_poison(&event.id.0) && !self.0.load(Relaxed) {
            return Err(failure(FailureKind::Reject, "poison"));
        }
        if fastrand::u32(0..200) == 0 {
            return Err(failure(FailureKind::Retry, "by chance"));
        }
        let event = NewEvent {
            r#type: 2,
            foreign_id: event.id.0.clone(),
            timestamp: event.timestamp,
            metadata: Bytes::new(),
            headers: Vec::new(),
        };
        view.emit(name("out"), event).unwrap();
        Ok(())
    }
}

async fn count(store: &dyn Store, plan: &Plan) -> u64 {
    let keys = (0..plan.keys).map(|key| format!("key-{key}"));
    let parts: Vec<String> = if plan.divides || plan.parks { keys.collect() } else { vec![String::new()] };
    let mut sum = 0;
    for part in parts {
        let scope = Scope { consumer: consumer_id(), part: part.into() };
        let entries = store.scan(&scope, "", None, u32::MAX).await.unwrap();
        sum += entries.iter().map(|(_, value)| u64::from_le_bytes(value[..].try_into().unwrap())).sum::<u64>();
    }
    sum
}

async fn parked(store: &dyn Store) -> Vec<Vec<String>> {
    let mut keys = Vec::new();
    for key in store.parked_keys(&consumer_id()).await.unwrap() {
        let events = store.parked(&consumer_id(), key.key(), 0, u32::MAX).await.unwrap();
        assert_eq!(events.len() as u64, key.events);
        keys.push(events.iter().map(|parked| parked.event().to_string()).collect());
    }
    keys
}

async fn emitted(source: &dyn Source) -> Vec<String> {
    let chunks: Vec<_> = source.stream(Cursor::START, Until::Head).await.unwrap().collect().await;
    chunks.into_iter().flat_map(|chunk| chunk.unwrap().events).map(|event| event.foreign_id.to_string()).collect()
}
