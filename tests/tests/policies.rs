//! Every kind of failure under every policy, in every form of call: what becomes of cursor, state, emitted events, dead letters,
//! parked events and attempts. And the same whenever the process dies between two steps of the store.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tendon::{
    backend::{Database, Options, Order},
    changes::Changes,
    clock::Clock,
    committer::Committer,
    dead_letter::{DeadLetter, Letters},
    deployment::{Spec, StateScope},
    error::{Error, Kind},
    event::{Cursor, Event, NewEvent, Timestamp},
    handler::{Failure, FailureKind, Handled, Handler, HandlerFactory},
    metrics::ConsumerMetrics,
    owner::Owner,
    policy::{OnExhausted, RetryPolicy},
    shard::{Remembered, Shard, Version},
    store::{Commit, Digest, Epoch, Position, Scope, Status},
    supervisor::Supervised,
    tailer::Tailer,
    tenant::ShardId,
    topology::Shards,
    view::View,
};
use tendon_tests::{
    bench,
    native::failure,
    place::{consumer, emit_new, name, read, stream},
};
use tokio::time::sleep;

/// Events, by turns of keys `a` and `b`; the third one, of key `a`, fails.
const EVENTS: usize = 6;
const POISON: &str = "3";
const ATTEMPTS: u32 = 3;

/// How a failure looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Retry,
    Reject,
    Trap,
    Timeout,
    Limit,
    Denied,
    Filter,
    Infrastructure,
}

const FAILS: [Fails; 8] = [
    Fails::Retry,
    Fails::Reject,
    Fails::Trap,
    Fails::Timeout,
    Fails::Limit,
    Fails::Denied,
    Fails::Filter,
    Fails::Infrastructure,
];

impl Fails {
    fn kind(self) -> FailureKind {
        match self {
            Self::Retry => FailureKind::Retry,
            Self::Reject => FailureKind::Reject,
            Self::Trap => FailureKind::Trap,
            Self::Timeout => FailureKind::Timeout,
            Self::Limit => FailureKind::Limit,
            Self::Denied => FailureKind::Denied,
            Self::Filter => FailureKind::Filter,
            Self::Infrastructure => FailureKind::Infrastructure(Error::unavailable("the store is down")),
        }
    }

    /// How often it is tried before its policy's end.
    fn attempts(self) -> u32 {
        match self {
            Self::Retry | Self::Trap | Self::Timeout | Self::Limit => ATTEMPTS,
            Self::Reject | Self::Denied | Self::Filter => 1,
            Self::Infrastructure => 0,
        }
    }
}

const POLICIES: [OnExhausted; 4] =
    [OnExhausted::Block, OnExhausted::DeadLetter, OnExhausted::Skip, OnExhausted::ParkKey];

/// In which form events are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One event after the other.
    Single,
    /// Many a call, all of them or none.
    Batch,
    /// One after the other, each key in a shard of its own.
    Sharded,
}

const FORMS: [Form; 3] = [Form::Single, Form::Batch, Form::Sharded];

/// A row of the table.
#[derive(Clone, Copy, Debug)]
struct Case {
    fails: Fails,
    policy: OnExhausted,
    form: Form,
}

/// What is left of a case.
#[derive(PartialEq, Eq, Default)]
struct Left {
    /// Of the shard of each key, with its status and attempts.
    rows: BTreeMap<&'static str, (String, Status, u32)>,
    /// Ids that were emitted, and those that each key's state has counted.
    emitted: Vec<String>,
    counted: BTreeMap<&'static str, String>,
    /// What was set aside, with its attempts, and whether it was skipped.
    set_aside: Vec<(String, u32, bool)>,
    /// What is parked, the first with its attempts.
    parked: Vec<(String, u32)>,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, emitted, counted, set_aside, parked } = self;
        write!(
            f,
            "\n  rows {rows:?}\n  emitted {emitted:?}\n  counted {counted:?}\n  set aside {set_aside:?}\n  parked {parked:?}"
        )
    }
}

impl Case {
    fn keys(self) -> &'static [&'static str] {
        if self.form == Form::Sharded { &["a", "b"] } else { &["both"] }
    }

    fn shard(self, key: &str) -> ShardId {
        let shards = self.spec().shards;
        let event = Event {
            id: tendon::event::EventId("1".into()),
            cursor: Cursor::START,
            r#type: 1,
            foreign_id: key.into(),
            timestamp: Timestamp(0),
            metadata: Bytes::new(),
            headers: Vec::new(),
        };
        ShardId { consumer: consumer("c"), index: shards.of(&event) }
    }

    fn spec(self) -> Spec {
        let count = if self.form == Form::Sharded { 2 } else { 1 };
        let base = Duration::from_millis(1);
        Spec {
            state: StateScope::Key,
            shards: Shards { count, ..Shards::default() },
            retry: RetryPolicy { attempts: ATTEMPTS, base, on_exhausted: self.policy, ..RetryPolicy::default() },
            grants_emit: vec![name("out")],
            ..bench::spec(stream("in"))
        }
    }

    /// What must be left, worked out from what the policies promise.
    fn expected(self) -> Left {
        let attempts = self.fails.attempts();
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let stops = self.policy == OnExhausted::Block || self.fails == Fails::Infrastructure;
        let status = if stops && attempts > 0 { Status::Blocked } else { Status::Running };
        let mut left = Left::default();
        let (a, b): (&[&str], &[&str]) = match (self.policy, stops, self.form) {
            // The call was undone, and nobody is to blame.
            (_, true, Form::Batch) if attempts == 0 => (&[], &[]),
            (_, true, Form::Sharded) => (&["1"], &["2", "4", "6"]),
            (_, true, _) => (&["1"], &["2"]),
            (OnExhausted::ParkKey, ..) => (&["1"], &["2", "4", "6"]),
            _ => (&["1", "5"], &["2", "4", "6"]),
        };
        left.emitted = [ids(a), ids(b)].concat();
        left.counted = [("a", a), ("b", b)].map(|(key, ids)| (key, ids.concat())).into();
        let end = EVENTS.to_string();
        for key in self.keys() {
            let here = match (stops, self.form, *key) {
                (true, Form::Sharded, "b") | (false, ..) => (end.clone(), Status::Running, 0),
                // After what it has handled last.
                (true, Form::Sharded, _) => ("1".to_owned(), status, attempts),
                (true, Form::Batch, _) if attempts == 0 => ("start".to_owned(), status, 0),
                (true, ..) => ("2".to_owned(), status, attempts),
            };
            left.rows.insert(key, here);
        }
        match self.policy {
            _ if stops => {}
            OnExhausted::DeadLetter | OnExhausted::Skip => {
                left.set_aside = vec![(POISON.to_owned(), attempts, self.policy == OnExhausted::Skip)];
            }
            OnExhausted::ParkKey => left.parked = vec![(POISON.to_owned(), attempts), ("5".to_owned(), 0)],
            OnExhausted::Block => {}
        }
        left
    }
}

/// Counts each key's events and emits one for each; what is poison fails.
struct Logic(Case);

struct LogicHandler {
    case: Case,
    view: View,
}

#[async_trait]
impl HandlerFactory for Logic {
    fn digest(&self) -> Digest {
        Digest::of(b"logic")
    }

    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure> {
        Ok(Box::new(LogicHandler { case: self.0, view }))
    }
}

impl LogicHandler {
    async fn one(&mut self, event: &Event) -> Result<(), Failure> {
        self.view.begin(event);
        let before = self.view.get("ids").await.map_err(tendon_tests::native::infrastructure)?.unwrap_or_default();
        self.view.write("ids", Some(&[&before[..], event.id.0.as_bytes()].concat())).unwrap();
        let caused = NewEvent {
            r#type: 2,
            foreign_id: event.id.0.clone(),
            timestamp: event.timestamp,
            metadata: Bytes::new(),
            headers: Vec::new(),
        };
        self.view.emit(name("out"), caused).unwrap();
        if *event.id.0 == *POISON {
            return Err(failure(self.case.fails.kind(), "poison"));
        }
        self.view.keep();
        Ok(())
    }
}

#[async_trait]
impl Handler for LogicHandler {
    async fn handle(&mut self, events: &[Event]) -> Handled {
        for (index, event) in events.iter().enumerate() {
            if let Err(failure) = self.one(event).await {
                let failure = Some(Failure { index, ..failure });
                let changes = self.view.take();
                return match self.case.form {
                    Form::Batch => Handled { changes: Changes::default(), done: 0, failure },
                    Form::Single | Form::Sharded => Handled { changes, done: index, failure },
                };
            }
        }
        Handled { changes: self.view.take(), done: events.len(), failure: None }
    }

    fn committed(&mut self) {
        self.view.committed();
    }

    fn into_view(self: Box<Self>) -> View {
        self.view
    }
}

/// A database with the events in it.
async fn database() -> Database {
    let database = Database::open("memory:", Options::default()).await.unwrap();
    for text in ["in", "out"] {
        database.create_stream(&stream(text), Order::Native).await.unwrap();
    }
    for n in 0..EVENTS {
        let event = NewEvent {
            r#type: 1,
            foreign_id: ["a", "b"][n % 2].into(),
            timestamp: Timestamp(1_800_000_000_000_000 + n as i64),
            metadata: Bytes::new(),
            headers: Vec::new(),
        };
        let emits = vec![emit_new(&stream("in"), event)];
        let commit = Commit { changes: Changes { emits, ..Changes::default() }, ..Commit::default() };
        database.store().commit(&[commit]).await.remove(0).unwrap();
    }
    database
}

/// Runs all shards for a while, as a host does.
async fn live(database: &Database, case: Case, clock: Clock) {
    let source = database.source(&stream("in")).await.unwrap();
    let (tailer, committer) = (Tailer::start(source), Committer::start(database.store()));
    let spec = Arc::new(case.spec());
    let shards: Vec<Supervised> = (0..spec.shards.count)
        .map(|index| {
            let version = Version { epoch: Epoch(1), spec: spec.clone(), factory: Arc::new(Logic(case)) };
            Supervised::start(Arc::new(version), |ends| Shard {
                id: ShardId { consumer: consumer("c"), index },
                owner: Owner("a test".into()),
                store: database.store(),
                committer: committer.clone(),
                tailer: tailer.clone(),
                clock,
                metrics: ConsumerMetrics::unregistered(&consumer("c")),
                adopted: ends.adopted,
                full: ends.full,
                remembered: Remembered::default(),
                version: ends.version,
                poke: ends.poke,
                stop: ends.stop,
            })
        })
        .collect();
    sleep(Duration::from_secs(2)).await;
    drop(shards);
    // What was submitted is written, as by a host that ends.
    sleep(Duration::from_secs(1)).await;
}

async fn row(database: &Database, shard: &ShardId) -> Option<Position> {
    match database.store().load(shard).await {
        Ok(row) => Some(row),
        Err(error) if error.kind() == Kind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

async fn letters(database: &Database) -> Vec<DeadLetter> {
    let all = Letters { limit: u32::MAX, ..Letters::default() };
    database.store().dead_letters(&consumer("c"), &all).await.unwrap()
}

async fn left(database: &Database, case: Case) -> Left {
    let (store, mut left) = (database.store(), Left::default());
    for key in case.keys() {
        let row = row(database, &case.shard(key)).await.unwrap();
        left.rows.insert(key, (row.cursor.to_string(), row.status, row.attempts));
    }
    let out = read(&*database.source(&stream("out")).await.unwrap(), &Cursor::START).await;
    left.emitted = out.iter().map(|event| event.foreign_id.to_string()).collect();
    // Shards emit side by side.
    left.emitted.sort_by_key(|id| (id.parse::<u32>().unwrap() % 2 == 0, id.clone()));
    for key in ["a", "b"] {
        let scope = Scope { consumer: consumer("c"), part: key.into() };
        let value = store.get(&scope, &["ids".into()]).await.unwrap().remove(0);
        left.counted.insert(key, String::from_utf8(value.unwrap_or_default().to_vec()).unwrap());
    }
    let letters = letters(database).await;
    left.set_aside = letters.iter().map(|one| (one.event.id.to_string(), one.attempts, one.is_skipped)).collect();
    for key in store.parked_keys(&consumer("c")).await.unwrap() {
        let events = store.parked(&consumer("c"), key.key(), 0, 100).await.unwrap();
        left.parked.extend(events.iter().map(|parked| (parked.event().to_string(), parked.letter.attempts)));
    }
    left
}

/// Whatever was interrupted: the poison is in exactly one place, and no event's effects are there twice.
async fn is_whole(database: &Database, case: Case, k: usize) {
    let out = read(&*database.source(&stream("out")).await.unwrap(), &Cursor::START).await;
    let mut ids: Vec<_> = out.iter().map(|event| event.foreign_id.to_string()).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "{case:?} at {k}: emitted twice");
    assert!(!ids.contains(&POISON.to_owned()), "{case:?} at {k}");
    let Some(row) = row(database, &case.shard("a")).await else { return };
    let source = database.source(&stream("in")).await.unwrap();
    let is_passed = source.compare(&row.cursor, &Cursor(Bytes::from(POISON))).is_ge();
    let parked = database.store().parked_keys(&consumer("c")).await.unwrap().len();
    let places = letters(database).await.len() + parked;
    assert_eq!(places, usize::from(is_passed), "{case:?} at {k}: the cursor is at {}", row.cursor);
}

fn in_virtual_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
}

fn cases() -> impl Iterator<Item = Case> {
    let policies = || POLICIES.into_iter().flat_map(|policy| FORMS.map(move |form| (policy, form)));
    FAILS.into_iter().flat_map(move |fails| policies().map(move |(policy, form)| Case { fails, policy, form }))
}

#[test]
fn every_failure_ends_as_its_policy_says_in_every_form() {
    let mut count = 0;
    for case in cases() {
        in_virtual_time(async {
            let database = database().await;
            live(&database, case, Clock::simulated(Timestamp(1_900_000_000_000_000))).await;
            assert_eq!(left(&database, case).await, case.expected(), "{case:?}");
        });
        count += 1;
    }
    assert_eq!(count, FAILS.len() * POLICIES.len() * FORMS.len());
}

#[test]
fn a_kill_between_any_two_steps_changes_nothing_of_that() {
    let mut kills = 0;
    for case in cases().filter(|case| matches!(case.fails, Fails::Retry | Fails::Reject | Fails::Infrastructure)) {
        for k in 0.. {
            let mut is_over = false;
            in_virtual_time(async {
                let database = database().await;
                let clock = Clock::simulated(Timestamp(1_900_000_000_000_000));
                database.failpoints().crash_at(k);
                live(&database, case, clock).await;
                is_over = database.failpoints().visited().len() <= k;
                database.failpoints().disarm();
                is_whole(&database, case, k).await;
                live(&database, case, clock).await;
                assert_eq!(left(&database, case).await, case.expected(), "{case:?} killed at {k}");
            });
            if is_over {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 300, "only {kills} kills");
}
