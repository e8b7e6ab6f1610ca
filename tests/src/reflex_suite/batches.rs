//! What a handler that takes many events a call gets: by number, bytes and time, and what becomes of a call that fails.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tendon::{
    backend::Database,
    batch::BatchPolicy,
    changes::Changes,
    clock::Clock,
    committer::Committer,
    dead_letter::Letters,
    deployment::{Spec, StateScope},
    error::Error,
    event::{Cursor, Event, Timestamp},
    filter::Filter,
    handler::{Failure, FailureKind, Handled, Handler, HandlerFactory},
    policy::{OnExhausted, RetryPolicy},
    shard::Version,
    store::{Digest, Epoch, Scope, Status},
    tailer::Tailer,
    view::View,
};
use tokio::time::{Instant, sleep};

use super::{NOW, in_virtual_time};
use crate::{
    bench::{self, Running},
    native::{failure, infrastructure},
    place::{MemoryPlace, Place as _, append, commit, consumer, emit, filled, read, shard, stream},
};

/// A call: after how many seconds, under which version, and the ids of its events.
type Call = (u64, &'static str, Vec<u64>);

/// What was called, by all handlers of a test.
#[derive(Clone)]
struct Calls {
    began: Instant,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Calls {
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// The same, without the times and versions.
    fn ids(&self) -> Vec<Vec<u64>> {
        self.take().into_iter().map(|(_, _, ids)| ids).collect()
    }
}

/// What becomes of a call with some event in it.
type Fails = fn(id: u64) -> Option<FailureKind>;

/// Writes down its calls; one that has an event that fails is undone as a whole.
struct Recorder {
    version: &'static str,
    calls: Calls,
    fails: Fails,
}

struct RecorderHandler {
    version: &'static str,
    calls: Calls,
    fails: Fails,
    view: View,
}

fn id(event: &Event) -> u64 {
    event.id.0.parse().unwrap()
}

#[async_trait]
impl HandlerFactory for Recorder {
    fn digest(&self) -> Digest {
        Digest::of(self.version.as_bytes())
    }

    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure> {
        Ok(Box::new(RecorderHandler { version: self.version, calls: self.calls.clone(), fails: self.fails, view }))
    }

    fn takes_many(&self) -> bool {
        true
    }
}

#[async_trait]
impl Handler for RecorderHandler {
    async fn handle(&mut self, events: &[Event]) -> Handled {
        let second = self.calls.began.elapsed().as_secs();
        self.calls.calls.lock().unwrap().push((second, self.version, events.iter().map(id).collect()));
        self.view.begin_batch(events);
        for (index, event) in events.iter().enumerate() {
            let failed = match (self.fails)(id(event)) {
                Some(kind @ FailureKind::Trap) => Some(Failure { among: events.len(), ..failure(kind, "it trapped") }),
                Some(kind) => Some(Failure { index, ..failure(kind, "it failed") }),
                None => self.count(event).await.err(),
            };
            if failed.is_some() {
                self.view.take();
                return Handled { changes: Changes::default(), done: 0, failure: failed };
            }
        }
        self.view.keep();
        Handled { changes: self.view.take(), done: events.len(), failure: None }
    }

    fn committed(&mut self) {
        self.view.committed();
    }

    fn into_view(self: Box<Self>) -> View {
        self.view
    }
}

impl RecorderHandler {
    async fn count(&mut self, event: &Event) -> Result<(), Failure> {
        let before = self.view.get("ids").await.map_err(infrastructure)?.unwrap_or_default();
        self.view.write("ids", Some(&[&before[..], event.id.0.as_bytes(), b" "].concat())).unwrap();
        Ok(())
    }
}

/// A consumer of a stream in memory, in virtual time.
struct Stage {
    database: Database,
    spec: Arc<Spec>,
    calls: Calls,
    tailer: Arc<Tailer>,
    running: Running,
}

impl Stage {
    async fn new(events: u64, spec: Spec, fails: Fails) -> Self {
        let (database, source) = filled(&MemoryPlace::fresh().await, "in", events).await;
        let calls = Calls { began: Instant::now(), calls: Arc::default() };
        let (tailer, spec) = (Tailer::start(source), Arc::new(spec));
        let running = start(&database, &tailer, &spec, recorder("v1", &calls, fails), 1);
        Self { database, spec, calls, tailer, running }
    }

    async fn append(&self, ids: RangeInclusive<u64>) {
        let emits = ids.map(|id| emit(&stream("in"), id - 1)).collect();
        commit(&*self.database.store(), append(emits)).await.unwrap();
    }

    async fn cursor(&self) -> String {
        self.database.store().load(&shard("c")).await.unwrap().cursor.to_string()
    }

    async fn counted(&self) -> Vec<u64> {
        let scope = Scope { consumer: consumer("c"), part: "".into() };
        let value = self.database.store().get(&scope, &["ids".into()]).await.unwrap().remove(0).unwrap_or_default();
        std::str::from_utf8(&value).unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    async fn again(self, fails: Fails) -> Self {
        self.running.stop().await;
        let factory = recorder("v1", &self.calls, fails);
        Self { running: start(&self.database, &self.tailer, &self.spec, factory, 1), ..self }
    }
}

fn recorder(version: &'static str, calls: &Calls, fails: Fails) -> Arc<dyn HandlerFactory> {
    Arc::new(Recorder { version, calls: calls.clone(), fails })
}

fn start(
    database: &Database,
    tailer: &Arc<Tailer>,
    spec: &Arc<Spec>,
    factory: Arc<dyn HandlerFactory>,
    epoch: u64,
) -> Running {
    let version = Version { epoch: Epoch(epoch), spec: spec.clone(), factory };
    let (clock, committer) = (Clock::simulated(NOW), Committer::start(database.store()));
    Running::start_by(clock, ("c", 0), database, committer, tailer.clone(), version).unwrap()
}

fn spec(max: u32, bytes: u64, linger_seconds: u64) -> Spec {
    let batch = BatchPolicy { max, bytes, linger: Duration::from_secs(linger_seconds) };
    let retry = RetryPolicy { attempts: 3, base: Duration::from_secs(1), jitter: false, ..RetryPolicy::default() };
    Spec { batch, retry, ..bench::spec(stream("in")) }
}

fn never(_: u64) -> Option<FailureKind> {
    None
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

const PLENTY: u64 = 1 << 30;

/// Calls are full, and what is left waits for its time.
pub(super) fn full_calls() {
    for (events, full, left) in [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 1, 0), (5, 1, 2), (7, 2, 1)] {
        in_virtual_time(async {
            let stage = Stage::new(events, spec(3, PLENTY, 60), never).await;
            seconds(59).await;
            let sizes: Vec<usize> = stage.calls.ids().iter().map(Vec::len).collect();
            assert_eq!(sizes, vec![3; full], "of {events}");
            assert_eq!(stage.counted().await.len(), full * 3, "what waits is not passed");
            seconds(2).await;
            let sizes: Vec<usize> = stage.calls.ids().iter().map(Vec::len).collect();
            assert_eq!(sizes, Vec::from_iter((left > 0).then_some(left)), "of {events}");
            assert_eq!(stage.counted().await, (1..=events).collect::<Vec<_>>());
        });
    }
}

/// The time counts from the first event that waits.
pub(super) fn the_first_waits() {
    in_virtual_time(async {
        let stage = Stage::new(0, spec(100, PLENTY, 10), never).await;
        seconds(5).await;
        for n in 1..=8 {
            stage.append(n..=n).await;
            seconds(4).await;
        }
        seconds(20).await;
        // They came at 5, 9, 13 and so on.
        let calls = stage.calls.take();
        let wanted = [(15, vec![1, 2, 3]), (27, vec![4, 5, 6]), (39, vec![7, 8])];
        assert_eq!(calls, wanted.map(|(second, ids)| (second, "v1", ids)));
    });
}

/// A call has no more bytes than it may.
pub(super) fn bytes_of_a_call() {
    in_virtual_time(async {
        let first = Stage::new(1, spec(1, PLENTY, 0), never).await;
        seconds(1).await;
        let source = first.tailer.source().clone();
        let event = read(&*source, &Cursor::START).await.remove(0);
        let bytes = event.bytes() as u64 * 2;
        let stage = Stage::new(5, spec(100, bytes, 60), never).await;
        seconds(1).await;
        assert_eq!(stage.calls.ids(), [vec![1, 2], vec![3, 4], vec![5]], "more than two events' bytes do not wait");
        let stage = Stage::new(1, spec(100, bytes, 60), never).await;
        seconds(1).await;
        assert!(stage.calls.take().is_empty());
        stage.append(2..=2).await;
        seconds(1).await;
        assert_eq!(stage.calls.ids(), [vec![1, 2]], "two events' bytes are enough");
    });
}

/// What is before the event that fails is called again.
pub(super) fn a_prefix_again() {
    in_virtual_time(async {
        let stage = Stage::new(6, spec(6, PLENTY, 60), |id| (id == 4).then_some(FailureKind::Retry)).await;
        seconds(100).await;
        let [whole, prefix, tries @ ..] = &stage.calls.ids()[..] else { panic!("no calls") };
        assert_eq!((&whole[..], &prefix[..]), (&[1, 2, 3, 4, 5, 6][..], &[1, 2, 3][..]));
        assert_eq!(
            tries,
            [vec![4, 5, 6], vec![4], vec![4]],
            "then it with those behind it, and once it is known alone"
        );
        let row = stage.database.store().load(&shard("c")).await.unwrap();
        assert_eq!((row.status, row.attempts, &*row.cursor.to_string()), (Status::Blocked, 3, "3"));
        assert_eq!(stage.counted().await, [1, 2, 3]);
    });
}

/// A batch that traps is called again one by one.
pub(super) fn one_by_one() {
    in_virtual_time(async {
        let retry = RetryPolicy { attempts: 1, on_exhausted: OnExhausted::DeadLetter, ..RetryPolicy::default() };
        let spec = Spec { retry, ..spec(6, PLENTY, 60) };
        let stage = Stage::new(12, spec, |id| (id == 4).then_some(FailureKind::Trap)).await;
        seconds(1).await;
        let singly: Vec<Vec<u64>> = (1..=6).map(|id| vec![id]).collect();
        let calls = [vec![(1..=6).collect()], singly, vec![(7..=12).collect()]].concat();
        assert_eq!(stage.calls.ids(), calls, "the one that trapped is one call; what comes next is a batch again");
        let all = Letters { limit: 10, ..Letters::default() };
        let letters = stage.database.store().dead_letters(&consumer("c"), &all).await.unwrap();
        let letters: Vec<_> = letters.iter().map(|one| (id(&one.event), one.attempts, &*one.reason.code)).collect();
        assert_eq!(letters, [(4, 1, "trap")]);
        assert_eq!(stage.counted().await, [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
    });
}

/// Filtered events are passed with those that wait.
pub(super) fn filtered_ones() {
    in_virtual_time(async {
        let filter = Filter { r#where: Some("metadata.n < 2".to_owned()), ..Filter::default() };
        let stage = Stage::new(9, Spec { filter, ..spec(10, PLENTY, 60) }, never).await;
        seconds(30).await;
        assert_eq!(stage.cursor().await, "start", "not before those that wait");
        seconds(40).await;
        assert_eq!((stage.calls.ids(), stage.cursor().await), (vec![vec![1, 2]], "9".to_owned()));
        stage.append(10..=12).await;
        seconds(2).await;
        assert_eq!((stage.calls.ids(), stage.cursor().await), (vec![], "12".to_owned()), "nothing waits");
    });
}

/// What a filter cannot judge waits for nobody.
pub(super) fn not_judged() {
    in_virtual_time(async {
        let filter = Filter { r#where: Some("metadata.n < 100 / (4 - metadata.n)".to_owned()), ..Filter::default() };
        let stage = Stage::new(9, Spec { filter, ..spec(100, PLENTY, 60) }, never).await;
        seconds(1).await;
        assert_eq!((stage.calls.ids(), stage.cursor().await), (vec![vec![1, 2, 3, 4]], "4".to_owned()));
        let row = stage.database.store().load(&shard("c")).await.unwrap();
        assert_eq!((row.status, &*row.reason.unwrap().code), (Status::Blocked, "filter"));
    });
}

/// Whenever it is stopped: what waits is neither passed nor lost, and nothing is handled twice.
pub(super) fn stops() {
    for stop_at in [0, 10, 25, 50, 70] {
        in_virtual_time(async {
            let mut stage = Stage::new(0, spec(20, PLENTY, 30), never).await;
            for n in 1..=70 {
                stage.append(n..=n).await;
                seconds(1).await;
                if n == stop_at {
                    stage = stage.again(never).await;
                }
            }
            seconds(60).await;
            assert_eq!(stage.counted().await, (1..=70).collect::<Vec<_>>(), "stopped at {stop_at}");
            let called: Vec<u64> = stage.calls.ids().concat();
            assert_eq!(called, (1..=70).collect::<Vec<_>>(), "stopped at {stop_at}");
        });
    }
}

/// What waits at a swap goes to the new component.
pub(super) fn swaps() {
    in_virtual_time(async {
        let stage = Stage::new(5, spec(3, PLENTY, 60), never).await;
        seconds(1).await;
        let factory = recorder("v2", &stage.calls, never);
        let version = Version { epoch: Epoch(2), spec: stage.spec.clone(), factory };
        stage.running.supervised.swap(Arc::new(version), Duration::from_secs(5)).await;
        stage.append(6..=6).await;
        seconds(1).await;
        let wanted = [(0, "v1", vec![1, 2, 3]), (1, "v2", vec![4, 5, 6])];
        assert_eq!(stage.calls.take(), wanted);
    });
}

/// A store or an instance that is not there ends the run; the next one calls with the same batch.
pub(super) fn ended_runs() {
    in_virtual_time(async {
        let fails: Fails = |id| (id == 2).then(|| FailureKind::Infrastructure(Error::unavailable("it is down")));
        let stage = Stage::new(3, spec(3, PLENTY, 60), fails).await;
        seconds(5).await;
        let calls = stage.calls.ids();
        assert!(calls.len() >= 3 && calls.iter().all(|ids| *ids == [1, 2, 3]), "{calls:?}");
        assert_eq!((stage.counted().await, stage.cursor().await), (vec![], "start".to_owned()));
        let stage = stage.again(never).await;
        seconds(1).await;
        assert_eq!(stage.counted().await, [1, 2, 3]);
    });
}

/// Events of a batch that are too young for a lag wait together.
pub(super) fn with_a_lag() {
    in_virtual_time(async {
        let spec = Spec { lag: Duration::from_secs(20), ..spec(10, PLENTY, 5) };
        let stage = Stage::new(0, spec, never).await;
        // A second apart, as old as the clock says.
        for n in 1..=12 {
            let mut young = emit(&stream("in"), n - 1);
            young.event.timestamp = NOW.after(stage.calls.began.elapsed());
            commit(&*stage.database.store(), append(vec![young])).await.unwrap();
            seconds(1).await;
        }
        seconds(60).await;
        let sizes: Vec<usize> = stage.calls.ids().iter().map(Vec::len).collect();
        assert!(sizes.len() <= 3 && sizes.iter().sum::<usize>() == 12, "{sizes:?}");
    });
}

/// One that is younger than those behind it, by what it says: its call waits for it, and does nothing else meanwhile.
pub(super) fn with_a_lag_and_no_order() {
    in_virtual_time(async {
        let retry = RetryPolicy { on_exhausted: OnExhausted::ParkKey, attempts: 1, ..RetryPolicy::default() };
        let (lag, state) = (Duration::from_secs(20), StateScope::Key);
        let spec = Spec { lag, retry, state, ..spec(3, PLENTY, 1) };
        let stage = Stage::new(0, spec, |id| (id == 1).then_some(FailureKind::Reject)).await;
        for (key, age_seconds) in [(1, 60), (2, 60), (3, 0), (1, 60)] {
            let mut event = emit(&stream("in"), key);
            event.key = tendon::event::EventKey::new(event.event.timestamp, &[&fastrand::u128(..).to_le_bytes()]);
            event.event.timestamp = Timestamp(NOW.0 - age_seconds * 1_000_000);
            commit(&*stage.database.store(), append(vec![event])).await.unwrap();
        }
        seconds(15).await;
        let revision = stage.database.store().load(&shard("c")).await.unwrap().revision.0;
        assert!(revision < 10, "{revision} commits while it waited");
        seconds(30).await;
        let row = stage.database.store().load(&shard("c")).await.unwrap();
        assert_eq!(&*row.cursor.to_string(), "4");
        let parked = stage.database.store().parked_keys(&consumer("c")).await.unwrap();
        assert_eq!(parked.iter().map(|key| key.events).sum::<u64>(), 2, "the first, and the one behind it of its key");
    });
}
