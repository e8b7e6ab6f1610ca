//! A handler that cannot be made, while nothing but parked events is there to be handled. Time is virtual.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use tendon::{
    backend::Database,
    clock::Clock,
    committer::Committer,
    deployment::{Spec, StateScope},
    event::{Event, Timestamp},
    handler::{Failure, FailureKind, Handler, HandlerFactory},
    policy::{OnExhausted, RetryPolicy},
    shard::Version,
    store::{Digest, Epoch, Position, Status},
    supervisor::Standing,
    tailer::Tailer,
    view::View,
};
use tendon_tests::{
    bench::{self, Running},
    native::{Logic, Native, failure},
    place::{MemoryPlace, Place, consumer, filled, shard, stream},
};
use tokio::time::sleep;

/// Fails the first event the first time.
struct Once(AtomicU32);

impl Logic for Once {
    async fn handle(&self, event: &Event, _: &mut View) -> Result<(), Failure> {
        match &*event.id.0 == "1" && self.0.fetch_add(1, Relaxed) == 0 {
            true => Err(failure(FailureKind::Retry, "not the first time")),
            false => Ok(()),
        }
    }
}

/// Makes handlers for new events, and then so many times none.
struct Makes {
    handlers: Arc<dyn HandlerFactory>,
    made: AtomicU32,
    fails: u32,
}

#[async_trait]
impl HandlerFactory for Makes {
    fn digest(&self) -> Digest {
        self.handlers.digest()
    }

    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure> {
        // One for the event that fails, and one for those behind it.
        match (2..2 + self.fails).contains(&self.made.fetch_add(1, Relaxed)) {
            true => Err(failure(FailureKind::Trap, "no memory for a handler")),
            false => self.handlers.create(view).await,
        }
    }
}

/// Runs until everything is handled, or the consumer stands; its row, and how many events are parked.
async fn run(fails: u32) -> (Position, u64) {
    let place = MemoryPlace::fresh().await;
    let (database, _): (Database, _) = filled(&place, "in", 5).await;
    let retry = RetryPolicy {
        attempts: 3,
        base: Duration::from_secs(1),
        on_exhausted: OnExhausted::ParkKey,
        ..RetryPolicy::default()
    };
    let spec = Arc::new(Spec { retry, state: StateScope::Key, ..bench::spec(stream("in")) });
    let handlers = Native::new("once", Once(AtomicU32::new(0)));
    let factory = Arc::new(Makes { handlers, made: AtomicU32::new(0), fails });
    let version = Version { epoch: Epoch(1), spec, factory };
    let tailer = Tailer::start(database.source(&stream("in")).await.unwrap());
    let clock = Clock::simulated(Timestamp(1_900_000_000_000_000));
    let committer = Committer::start(database.store());
    let running = Running::start_by(clock, ("c", 0), &database, committer, tailer, version).unwrap();
    sleep(Duration::from_secs(60)).await;
    let store = database.store();
    let parked = store.parked_keys(&consumer("c")).await.unwrap().iter().map(|key| key.events).sum();
    let row = store.load(&shard("c")).await.unwrap();
    let stands = matches!(running.supervised.standing(), Standing::Blocked(_));
    assert_eq!(stands, row.status == Status::Blocked, "{:?}", running.supervised.standing());
    running.stop().await;
    (row, parked)
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_can_be_made_again_goes_on_with_what_is_parked() {
    let (row, parked) = run(2).await;
    assert_eq!((row.cursor.to_string().as_str(), parked), ("5", 0));
    assert_eq!((row.status, row.attempts, row.reason), (Status::Running, 0, None));
}

#[tokio::test(start_paused = true)]
async fn one_that_never_can_blocks_the_consumer_and_the_event_stays_parked() {
    let (row, parked) = run(100).await;
    assert_eq!((row.cursor.to_string().as_str(), parked), ("5", 1));
    let reason = row.reason.unwrap();
    assert_eq!((row.status, row.attempts, reason.code.as_str()), (Status::Blocked, 3, "trap"));
    assert_eq!(reason.message, "no memory for a handler");
}
