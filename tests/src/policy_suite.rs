//! Runs the table of `policy_case.rs`: what becomes of cursor, state, emitted events, dead letters, parked events and attempts, on
//! every backend. And the same whenever the process dies between two steps of the store.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::iter};
use tendon::{
    backend::Database,
    changes::Changes,
    clock::Clock,
    committer::Committer,
    dead_letter::{DeadLetter, Letters},
    error::Kind,
    event::{Cursor, Event, NewEvent, Timestamp},
    handler::{Failure, Handled, Handler, HandlerFactory},
    metrics::ConsumerMetrics,
    owner::Owner,
    shard::{Remembered, Shard, Version},
    store::{Digest, Epoch, Position, Scope},
    supervisor::Supervised,
    tailer::Tailer,
    tenant::{ShardId, StreamId, TenantId},
    view::View,
};
use tokio::time::sleep;

use crate::{
    native::{failure, infrastructure},
    place::{MemoryPlace, Place, append, commit, emit_new, read, stream},
    policy_case::{Case, EVENTS, Fails, Form, Left, POISON},
};

/// How many cases were run, and what was wrong with which.
#[derive(Default)]
pub struct Ran {
    /// Cases, or cases times kills.
    pub count: u64,
    /// What is not as it must be.
    pub wrong: Vec<String>,
}

impl Ran {
    fn add(&mut self, wrong: Option<String>) {
        self.count += 1;
        self.wrong.extend(wrong);
    }
}

/// Runs all cases, in memory and in virtual time.
pub fn table() -> Ran {
    let mut ran = Ran::default();
    for case in Case::all() {
        in_virtual_time(async {
            let database = filled::<MemoryPlace>(&[case]).await.1;
            live(&database, case, simulated(), sleep(Duration::from_secs(2))).await;
            ran.add(wrong(case, &left(&database, case).await, ""));
        });
    }
    ran
}

/// The control: what is left of a case, beside what must be left of the one under the next policy.
pub fn table_of_other_policies() -> Ran {
    let mut ran = Ran::default();
    let cases = Case::all();
    for case in &cases {
        let other = cases.iter().find(|other| is_next(case, other)).unwrap_or(case);
        in_virtual_time(async {
            let database = filled::<MemoryPlace>(&[*case]).await.1;
            live(&database, *case, simulated(), sleep(Duration::from_secs(2))).await;
            ran.add(wrong(*other, &left(&database, *case).await, ""));
        });
    }
    ran
}

/// Of the same failure and form, under the policy behind it; the first one behind the last.
fn is_next(case: &Case, other: &Case) -> bool {
    let number = |case: &Case| case.policy as usize;
    (case.fails, case.form) == (other.fails, other.form) && number(other) == (number(case) + 1) % 4
}

/// Runs all cases with a kill at each step of the store, and again after it.
pub fn kills() -> Ran {
    let mut ran = Ran::default();
    for case in Case::all() {
        for k in 0.. {
            let mut is_over = false;
            in_virtual_time(async {
                let database = filled::<MemoryPlace>(&[case]).await.1;
                database.failpoints().crash_at(k);
                live(&database, case, simulated(), sleep(Duration::from_secs(2))).await;
                is_over = database.failpoints().visited().len() <= k;
                database.failpoints().disarm();
                let torn = torn(&database, case).await.map(|what| format!("{case:?} killed at {k}: {what}"));
                live(&database, case, simulated(), sleep(Duration::from_secs(2))).await;
                let after = wrong(case, &left(&database, case).await, &format!(" killed at {k}"));
                ran.add(torn.or(after));
            });
            if is_over {
                break;
            }
        }
    }
    ran
}

/// Every failure ends as its policy says, in every form.
pub async fn every_failure_ends_as_its_policy_says<P: Place>() {
    let cases = Case::all();
    let (_place, database) = filled::<P>(&cases).await;
    let (database, mut ran) = (&database, Ran::default());
    let mut runs = iter(cases).map(|case| run_for_real(database, case)).buffer_unordered(8);
    while let Some(wrong) = runs.next().await {
        ran.add(wrong);
    }
    drop(runs);
    assert!(ran.wrong.is_empty(), "{} of {}: {}", ran.wrong.len(), ran.count, ran.wrong.join("\n"));
    database.close().await;
}

/// Until it is as it must be, and a while longer; not for ever.
async fn run_for_real(database: &Database, case: Case) -> Option<String> {
    let is_there = async {
        for _ in 0..3_000 {
            if left(database, case).await == case.expected() {
                return sleep(Duration::from_millis(20)).await;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    live(database, case, Clock::System, is_there).await;
    wrong(case, &left(database, case).await, "")
}

fn wrong(case: Case, left: &Left, when: &str) -> Option<String> {
    let expected = case.expected();
    (*left != expected).then(|| format!("{case:?}{when} left {left:?}\nin place of {expected:?}"))
}

fn simulated() -> Clock {
    Clock::simulated(Timestamp(1_900_000_000_000_000))
}

fn in_virtual_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
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

    fn takes_many(&self) -> bool {
        self.0.form == Form::Batch
    }
}

impl LogicHandler {
    async fn one(&mut self, event: &Event) -> Result<(), Failure> {
        self.view.begin(event);
        let before = self.view.get("events").await.map_err(infrastructure)?.unwrap_or_default();
        let after = [&before[..], &event.metadata, b" "].concat();
        self.view.write("events", Some(&after)).unwrap();
        let caused = NewEvent {
            r#type: 2,
            foreign_id: event.foreign_id.clone(),
            timestamp: event.timestamp,
            metadata: event.metadata.clone(),
            headers: Vec::new(),
        };
        self.view.emit(self.case.out(), caused).unwrap();
        if number(event) == POISON && self.case.fails != Fails::Filter {
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
            let Err(failure) = self.one(event).await else { continue };
            let changes = self.view.take();
            return match (self.case.form, self.case.fails.names_its_event()) {
                (Form::Single | Form::Sharded, _) => {
                    Handled { changes, done: index, failure: Some(Failure { index, ..failure }) }
                }
                (Form::Batch, true) => {
                    Handled { changes: Changes::default(), done: 0, failure: Some(Failure { index, ..failure }) }
                }
                (Form::Batch, false) => {
                    let failure = Some(Failure { among: events.len(), ..failure });
                    Handled { changes: Changes::default(), done: 0, failure }
                }
            };
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

/// The number of an event; it is in its metadata, since not every store begins its ids at 1.
fn number(event: &Event) -> u64 {
    std::str::from_utf8(&event.metadata).unwrap().parse().unwrap()
}

/// A database with the events in it, and a stream for what each case emits.
async fn filled<P: Place>(cases: &[Case]) -> (P, Database) {
    let place = P::fresh().await;
    let database = place.open().await;
    database.create_stream(&stream("in"), P::ORDER).await.unwrap();
    for case in cases {
        database.create_stream(&out(*case), P::ORDER).await.unwrap();
    }
    for n in 1..=EVENTS {
        let event = NewEvent {
            r#type: 1,
            foreign_id: if n % 2 == 1 { "a" } else { "b" }.into(),
            timestamp: Timestamp(1_800_000_000_000_000 + n as i64),
            metadata: Bytes::from(n.to_string()),
            headers: Vec::new(),
        };
        commit(&*database.store(), append(vec![emit_new(&stream("in"), event)])).await.unwrap();
    }
    (place, database)
}

fn out(case: Case) -> StreamId {
    StreamId { tenant: TenantId::default(), name: case.out() }
}

/// Runs all shards for a while, as a host does.
async fn live(database: &Database, case: Case, clock: Clock, time: impl Future<Output = ()>) {
    let source = database.source(&stream("in")).await.unwrap();
    let (tailer, committer) = (Tailer::start(source), Committer::start(database.store()));
    let spec = Arc::new(case.spec());
    let shards: Vec<Supervised> = (0..spec.shards.count)
        .map(|index| {
            let version = Version { epoch: Epoch(1), spec: spec.clone(), factory: Arc::new(Logic(case)) };
            Supervised::start(Arc::new(version), |ends| Shard {
                id: ShardId { consumer: case.consumer(), index },
                owner: Owner("a test".into()),
                store: database.store(),
                committer: committer.clone(),
                tailer: tailer.clone(),
                clock,
                metrics: ConsumerMetrics::unregistered(&case.consumer()),
                adopted: ends.adopted,
                full: ends.full,
                remembered: Remembered::default(),
                version: ends.version,
                poke: ends.poke,
                stop: ends.stop,
            })
        })
        .collect();
    time.await;
    drop(shards);
    if let Clock::System = clock {
        return;
    }
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

async fn letters(database: &Database, case: Case) -> Vec<DeadLetter> {
    let all = Letters { limit: 100, ..Letters::default() };
    database.store().dead_letters(&case.consumer(), &all).await.unwrap()
}

/// The numbers of what was emitted, those of key `a` first: shards emit side by side.
async fn emitted(database: &Database, case: Case) -> Vec<u64> {
    let out = read(&*database.source(&out(case)).await.unwrap(), &Cursor::START).await;
    let mut numbers: Vec<u64> = out.iter().map(number).collect();
    numbers.sort_by_key(|n| (n % 2 == 0, *n));
    numbers
}

async fn left(database: &Database, case: Case) -> Left {
    let (store, mut left) = (database.store(), Left::default());
    let events = read(&*database.source(&stream("in")).await.unwrap(), &Cursor::START).await;
    for key in case.keys() {
        let Some(row) = row(database, &case.shard(key)).await else { continue };
        let passed = events.iter().find(|event| event.cursor == row.cursor).map_or(0, number);
        left.rows.insert(key, (passed, row.status, row.attempts));
    }
    left.emitted = emitted(database, case).await;
    for key in ["a", "b"] {
        let scope = Scope { consumer: case.consumer(), part: key.into() };
        let value = store.get(&scope, &["events".into()]).await.unwrap().remove(0);
        left.counted.insert(key, String::from_utf8(value.unwrap_or_default().to_vec()).unwrap());
    }
    for letter in letters(database, case).await {
        left.set_aside.push((number(&letter.event), letter.attempts, letter.reason.code));
    }
    for key in store.parked_keys(&case.consumer()).await.unwrap() {
        let events = store.parked(&case.consumer(), key.key(), 0, 100).await.unwrap();
        left.parked.extend(events.iter().map(|parked| (number(&parked.letter.event), parked.letter.attempts)));
    }
    left
}

/// Whatever was interrupted: the poison is in exactly one place, and no event's effects are there twice. What is not so.
async fn torn(database: &Database, case: Case) -> Option<String> {
    let emitted = emitted(database, case).await;
    if emitted.windows(2).any(|two| two[0] == two[1]) || emitted.contains(&POISON) {
        return Some(format!("emitted {emitted:?}"));
    }
    let row = row(database, &case.shard("a")).await?;
    let source = database.source(&stream("in")).await.unwrap();
    let poison = read(&*source, &Cursor::START).await.into_iter().find(|event| number(event) == POISON)?;
    let is_passed = source.compare(&row.cursor, &poison.cursor).is_ge();
    let parked = database.store().parked_keys(&case.consumer()).await.unwrap().len();
    let places = letters(database, case).await.len() + parked;
    (places != usize::from(is_passed))
        .then(|| format!("the poison is in {places} places, the cursor at {}", row.cursor))
}
