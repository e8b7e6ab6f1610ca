//! What reflex's own tests show of its consumers, shown of ours. The numbers are those of a list of its tests; the hash that
//! divides events (33) is tested beside it, in `topology.rs`. From 37 on they are what reflex gets wrong, with the real binary.

mod batches;
mod defects;
mod failures;
mod filters;
mod lag;
mod runs;
mod starts;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tendon::{
    backend::{Database, Options, Order},
    clock::Clock,
    committer::Committer,
    dead_letter::{DeadLetter, Letters},
    deployment::Spec,
    event::{Event, NewEvent, Timestamp},
    handler::Failure,
    shard::Version,
    store::{Epoch, Position},
    tailer::Tailer,
    view::View,
};

use crate::{
    bench::Running,
    native::{Logic, Native},
    place::{append, commit, consumer, emit_new, shard, stream},
};

/// A case of reflex's tests.
pub struct Case {
    /// Its number in the list.
    pub number: u32,
    /// What holds.
    pub sentence: &'static str,
    /// Shows it, or panics.
    pub show: fn(),
}

/// All cases that are shown here.
pub const CASES: &[Case] = &[
    Case { number: 1, sentence: "a run is where its events were handled", show: runs::where_it_is },
    Case { number: 2, sentence: "a failure passes nothing", show: runs::a_failure_passes_nothing },
    Case { number: 32, sentence: "events side by side", show: runs::side_by_side },
    Case { number: 4, sentence: "an event waits until it is as old as the lag", show: lag::events_wait_for_their_age },
    Case { number: 4, sentence: "a lag is no other consumer's", show: lag::a_lag_is_no_other_consumer_s },
    Case { number: 4, sentence: "a stop ends the wait, and the event stays", show: lag::a_stop_ends_the_wait },
    Case { number: 5, sentence: "events of the future are handled at their age", show: lag::events_of_the_future },
    Case { number: 6, sentence: "what a filter leaves out is passed and counted", show: filters::what_is_left_out },
    Case { number: 6, sentence: "an event that a filter cannot judge blocks", show: filters::what_cannot_be_judged },
    Case { number: 7, sentence: "the component says what an error means", show: failures::the_component_decides },
    Case { number: 7, sentence: "a shutdown is no failure", show: failures::a_shutdown_is_no_failure },
    Case { number: 30, sentence: "what fails too often is set aside in its turn", show: failures::dead_letters },
    Case { number: 30, sentence: "or skipped", show: failures::best_effort },
    Case { number: 31, sentence: "calls are full, and what is left waits for its time", show: batches::full_calls },
    Case { number: 31, sentence: "the time counts from the first event that waits", show: batches::the_first_waits },
    Case { number: 31, sentence: "a call has no more bytes than it may", show: batches::bytes_of_a_call },
    Case { number: 31, sentence: "what is before the event that fails is called again", show: batches::a_prefix_again },
    Case { number: 31, sentence: "a batch that traps is called again one by one", show: batches::one_by_one },
    Case { number: 31, sentence: "filtered events are passed with those that wait", show: batches::filtered_ones },
    Case { number: 31, sentence: "what a filter cannot judge waits for nobody", show: batches::not_judged },
    Case { number: 31, sentence: "what waits when it is stopped comes again, once", show: batches::stops },
    Case { number: 31, sentence: "what waits at a swap goes to the new component", show: batches::swaps },
    Case { number: 31, sentence: "a batch whose run ended is called again whole", show: batches::ended_runs },
    Case { number: 31, sentence: "events that are too young for a lag wait together", show: batches::with_a_lag },
    Case { number: 31, sentence: "whatever their order", show: batches::with_a_lag_and_no_order },
    Case { number: 34, sentence: "the latest place is fixed when a consumer is made", show: starts::latest_is_fixed },
    Case { number: 34, sentence: "a place that cannot be read is not guessed", show: starts::no_place_is_guessed },
    Case {
        number: 37,
        sentence: "what is never tried again is recorded, and passed",
        show: defects::never_tried_again,
    },
    Case { number: 44, sentence: "a batch consumer passes what it filters", show: defects::filtered_batches },
    Case { number: 46, sentence: "once each over stops and kills", show: defects::once_over_stops_and_kills },
    Case {
        number: 50,
        sentence: "what is cut off is not passed, and everybody is told to stop (47)",
        show: defects::cut_off,
    },
];

/// When the cases take place.
const NOW: Timestamp = Timestamp(1_900_000_000_000_000);
/// Longer than any policy takes to have its way with a few events.
const LONG: Duration = Duration::from_secs(600);

/// Runs a case in a time that goes by as soon as everybody waits.
fn in_virtual_time(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(case);
}

/// A moment so many seconds before or after the cases begin.
fn at(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1_000_000)
}

/// The spec of a consumer of the stage's stream.
fn spec() -> Spec {
    crate::bench::spec(stream("in"))
}

/// A stream in memory and whoever reads it, at [`NOW`].
struct Stage {
    database: Database,
    tailer: Arc<Tailer>,
    clock: Clock,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::open("memory:", Options::default()).await.unwrap();
        database.create_stream(&stream("in"), Order::Native).await.unwrap();
        let tailer = Tailer::start(database.source(&stream("in")).await.unwrap());
        Self { database, tailer, clock: Clock::simulated(NOW) }
    }

    /// Appends an event; ids count from 1.
    async fn append(&self, r#type: i32, timestamp: Timestamp, metadata: &'static str) {
        let (foreign_id, metadata) = ("a".into(), Bytes::from_static(metadata.as_bytes()));
        let event = NewEvent { r#type, foreign_id, timestamp, metadata, headers: Vec::new() };
        commit(&*self.database.store(), append(vec![emit_new(&stream("in"), event)])).await.unwrap();
    }

    /// Appends so many that do not differ.
    async fn append_all(&self, count: usize) {
        for _ in 0..count {
            self.append(1, NOW, "").await;
        }
    }

    /// Runs a consumer that answers to the n-th call with an event, n from 1.
    fn run(&self, name: &str, spec: Spec, answer: impl Answer) -> Subject {
        self.run_shard((name, 0), spec, answer)
    }

    /// Runs one of its shards.
    fn run_shard(&self, shard: (&str, u32), spec: Spec, answer: impl Answer) -> Subject {
        let calls = Calls::default();
        let logic = Recorded { answer, clock: self.clock, calls: calls.clone() };
        let version = Version { epoch: Epoch(1), spec: Arc::new(spec), factory: Native::new("subject", logic) };
        let (committer, tailer) = (Committer::start(self.database.store()), self.tailer.clone());
        let running = Running::start_by(self.clock, shard, &self.database, committer, tailer, version).unwrap();
        Subject { running, calls }
    }

    /// A consumer's row.
    async fn row(&self, name: &str) -> Position {
        self.database.store().load(&shard(name)).await.unwrap()
    }

    /// What it has set aside.
    async fn letters(&self, name: &str) -> Vec<DeadLetter> {
        let all = Letters { limit: u32::MAX, ..Letters::default() };
        self.database.store().dead_letters(&consumer(name), &all).await.unwrap()
    }
}

/// What a consumer answers.
trait Answer: Fn(&Event, u32) -> Result<(), Failure> + Send + Sync + 'static {}

impl<F: Fn(&Event, u32) -> Result<(), Failure> + Send + Sync + 'static> Answer for F {}

/// A consumer that handles everything.
fn ok(_: &Event, _: u32) -> Result<(), Failure> {
    Ok(())
}

/// A consumer that runs, and its calls: each event's id and the moment.
struct Subject {
    running: Running,
    calls: Calls,
}

type Calls = Arc<Mutex<Vec<(u64, Timestamp)>>>;

impl Subject {
    /// The events that it was called with, in that order.
    fn called_with(&self) -> Vec<u64> {
        self.calls.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }

    /// The moments.
    fn called_at(&self) -> Vec<Timestamp> {
        self.calls.lock().unwrap().iter().map(|(_, at)| *at).collect()
    }
}

/// Writes down its calls before it answers.
struct Recorded<A> {
    answer: A,
    clock: Clock,
    calls: Calls,
}

impl<A: Answer> Logic for Recorded<A> {
    async fn handle(&self, event: &Event, _: &mut View) -> Result<(), Failure> {
        let id = event.id.0.parse().unwrap();
        let mut calls = self.calls.lock().unwrap();
        calls.push((id, self.clock.now()));
        let so_far = calls.iter().filter(|(other, _)| *other == id).count();
        (self.answer)(event, u32::try_from(so_far).unwrap())
    }
}

/// Happens once.
#[derive(Default)]
struct Once(AtomicU32);

impl Once {
    fn is_now(&self) -> bool {
        self.0.fetch_add(1, Relaxed) == 0
    }
}
