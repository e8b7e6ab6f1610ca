//! Hosts whose processes end at work, by an event or for no reason of its, and what those leave behind that stop in order.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use serde_json::json;
use tendon::{
    backend::{Database, Options},
    committer::Committer,
    dead_letter::{DeadLetter, Letters, Redrive},
    event::{Event, Timestamp},
    handler::Failure,
    owner::Owner,
    shard::Version,
    store::{Commit, Epoch, Position, Scope, Status},
    tailer::Tailer,
    view::View,
};
use tendon_tests::{
    bench::{self, Running},
    native::{Logic, Native},
    place::{Place, SqlitePlace, commit, consumer, filled, shard, stream},
    project::{Project, event, subject, wait},
};

/// How many events there are, each of a key of its own.
const EVENTS: u64 = 40;

/// A database with events, and hosts that may be ended by them.
struct Mortals {
    place: SqlitePlace,
}

impl Mortals {
    async fn new() -> Self {
        let place = SqlitePlace::fresh().await;
        let (database, _) = filled(&place, "in", EVENTS).await;
        database.close().await;
        Self { place }
    }

    /// Runs a host; whether it has ended in order.
    fn live(&self, policy: &str, version: &str, fatal: &[&str]) -> bool {
        let mut host = Command::new(Path::new(env!("CARGO_BIN_EXE_mortal")));
        let status = host.args([&self.place.url(), policy, version]).args(fatal).status().unwrap();
        assert!(status.success() || status.code().is_none(), "it failed: {status}");
        status.success()
    }

    /// Runs hosts until one ends in order; how many did not.
    fn deaths(&self, policy: &str, fatal: &[&str]) -> usize {
        (0..12).take_while(|_| !self.live(policy, "v1", fatal)).count()
    }

    async fn left(&self) -> Left {
        let database = Database::open(&self.place.url(), Options::default()).await.unwrap();
        let store = database.store();
        let row = store.load(&shard("c")).await.unwrap();
        let letters = store.dead_letters(&consumer("c"), &Letters { limit: 100, ..Letters::default() }).await.unwrap();
        let (mut parked, mut counted) = (Vec::new(), Vec::new());
        for key in store.parked_keys(&consumer("c")).await.unwrap() {
            parked.extend(store.parked(&consumer("c"), key.key(), 0, 100).await.unwrap());
        }
        for key in 0..=EVENTS {
            let scope = Scope { consumer: consumer("c"), part: format!("key-{key}").into() };
            let value = store.get(&scope, &["ids".into()]).await.unwrap().remove(0);
            let value = String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
            counted.extend(value.split_whitespace().map(|id| id.parse::<u64>().unwrap()));
        }
        counted.sort_unstable();
        database.close().await;
        Left { row, letters, parked: parked.iter().map(|parked| parked.letter.clone()).collect(), counted }
    }
}

/// What the hosts have left behind.
struct Left {
    row: Position,
    letters: Vec<DeadLetter>,
    parked: Vec<DeadLetter>,
    /// The events whose effects are there, each as often as they are.
    counted: Vec<u64>,
}

impl Left {
    fn all_but(&self, gone: &[u64]) {
        let wanted: Vec<u64> = (1..=EVENTS).filter(|id| !gone.contains(id)).collect();
        assert_eq!(self.counted, wanted);
    }
}

fn ids_and_codes(letters: &[DeadLetter]) -> Vec<(&str, &str)> {
    letters.iter().map(|letter| (&*letter.event.id.0, letter.reason.code.as_str())).collect()
}

#[tokio::test]
async fn an_event_that_has_ended_two_hosts_alone_is_not_given_to_another() {
    for policy in ["dead-letter", "skip"] {
        let mortals = Mortals::new().await;
        assert_eq!(mortals.deaths(policy, &["20"]), 3);
        let left = mortals.left().await;
        let code = if policy == "skip" { "skipped" } else { "crash" };
        assert_eq!(ids_and_codes(&left.letters), [("20", code)]);
        assert!(left.letters[0].reason.message.contains("have ended while this event was handled"));
        left.all_but(&[20]);
        assert_eq!((left.row.status, left.row.reason), (Status::Running, None));
    }
}

#[tokio::test]
async fn it_blocks_its_consumer_or_its_key_where_that_is_the_policy() {
    let mortals = Mortals::new().await;
    assert_eq!(mortals.deaths("block", &["20"]), 3);
    let left = mortals.left().await;
    let reason = left.row.reason.unwrap();
    assert_eq!((left.row.status, reason.code.as_str(), &*reason.event.unwrap().0), (Status::Blocked, "crash", "20"));
    assert_eq!(left.counted, (1..20).collect::<Vec<_>>());

    let mortals = Mortals::new().await;
    assert_eq!(mortals.deaths("park-key", &["20"]), 3);
    let left = mortals.left().await;
    assert_eq!(ids_and_codes(&left.parked[..1]), [("20", "crash")]);
    assert_eq!(left.parked[0].redrive_at, None, "it is not tried again by itself");
    let parked: Vec<u64> = left.parked.iter().map(|letter| letter.event.id.0.parse().unwrap()).collect();
    left.all_but(&parked);
}

/// No event is to blame for a component that ends hosts before it is given any.
#[tokio::test]
async fn a_component_whose_start_ends_hosts_blocks_its_consumer_whatever_the_policy() {
    for policy in ["dead-letter", "park-key"] {
        let mortals = Mortals::new().await;
        assert_eq!(mortals.deaths(policy, &["init"]), 3);
        let left = mortals.left().await;
        let reason = left.row.reason.unwrap();
        assert_eq!((left.row.status, reason.code.as_str()), (Status::Blocked, "crash"));
        assert!(reason.message.contains("while a handler was made"), "{}", reason.message);
        assert!(left.letters.is_empty() && left.parked.is_empty() && left.counted.is_empty());
    }
}

#[tokio::test]
async fn two_such_events_end_no_more_than_two_hosts_each_alone() {
    let mortals = Mortals::new().await;
    assert_eq!(mortals.deaths("dead-letter", &["20", "30"]), 5, "the second one is alone when it is reached");
    let left = mortals.left().await;
    assert_eq!(ids_and_codes(&left.letters), [("20", "crash"), ("30", "crash")]);
    left.all_but(&[20, 30]);
}

/// The control: whatever ended these hosts, it was no event twice, alone.
#[tokio::test]
async fn an_event_that_was_there_when_a_host_ended_is_handled() {
    let mortals = Mortals::new().await;
    for fatal in ["10", "10", "30", "31", "40"] {
        assert!(!mortals.live("dead-letter", "v1", &[fatal]));
    }
    assert!(mortals.live("dead-letter", "v1", &[]));
    let left = mortals.left().await;
    assert!(left.letters.is_empty());
    left.all_but(&[]);
}

/// Of two that were alone in their shards when hosts ended one has nothing to do with it.
#[tokio::test]
async fn an_event_is_not_blamed_for_what_another_consumer_s_does() {
    let mortals = Mortals::new().await;
    let deaths = mortals.deaths("dead-letter", &["20", "21", "slow"]);
    assert!((5..=6).contains(&deaths), "{deaths}");
    let left = mortals.left().await;
    assert_eq!(ids_and_codes(&left.letters), [("20", "crash"), ("21", "crash")]);
    let database = Database::open(&mortals.place.url(), Options::default()).await.unwrap();
    let row = database.store().load(&shard("slow")).await.unwrap();
    assert_eq!((row.cursor, row.status), (left.row.cursor, Status::Running));
    let all = Letters { limit: 100, ..Letters::default() };
    assert!(database.store().dead_letters(&consumer("slow"), &all).await.unwrap().is_empty());
}

/// Nor for what the one behind it does, however few are handled between two commits.
#[tokio::test]
async fn an_event_is_not_blamed_for_what_the_next_one_does() {
    let mortals = Mortals::new().await;
    let deaths = mortals.deaths("dead-letter", &["20", "21", "30", "single"]);
    assert!(deaths <= 9, "{deaths}");
    let left = mortals.left().await;
    assert_eq!(ids_and_codes(&left.letters), [("20", "crash"), ("21", "crash"), ("30", "crash")]);
    left.all_but(&[20, 21, 30]);
}

#[tokio::test]
async fn another_component_is_given_the_event_that_ended_hosts_under_the_one_before() {
    let mortals = Mortals::new().await;
    for _ in 0..3 {
        assert!(!mortals.live("dead-letter", "v1", &["20"]));
    }
    assert!(mortals.live("dead-letter", "v2", &[]));
    let left = mortals.left().await;
    assert!(left.letters.is_empty());
    left.all_but(&[]);
}

#[tokio::test]
async fn a_dead_letter_that_ends_hosts_when_it_is_redriven_is_set_aside_again() {
    let mortals = Mortals::new().await;
    assert_eq!(mortals.deaths("dead-letter", &["20"]), 3);
    let letter = mortals.left().await.letters.remove(0);
    let database = Database::open(&mortals.place.url(), Options::default()).await.unwrap();
    let (at, pace) = (Some(Timestamp(1)), Duration::ZERO);
    let redrives = vec![Redrive { consumer: consumer("c"), event: letter.event.id, at, pace }];
    commit(&*database.store(), Commit { redrives, ..Commit::default() }).await.unwrap();
    database.close().await;
    assert_eq!(mortals.deaths("dead-letter", &["20"]), 3);
    let left = mortals.left().await;
    assert_eq!(ids_and_codes(&left.letters), [("20", "crash")]);
    assert_eq!(left.letters[0].redrive_at, None, "the wish is spent");
    left.all_but(&[20]);
}

#[tokio::test]
async fn a_host_that_ends_in_order_leaves_nobody_under_suspicion() {
    let mortals = Mortals::new().await;
    assert!(mortals.live("dead-letter", "v1", &[]));
    let left = mortals.left().await;
    assert_eq!(&*left.row.owner.0, "");
    left.all_but(&[]);
}

/// A host that is slow to stop while another one has taken over.
#[tokio::test]
async fn a_host_that_stops_takes_nothing_back_from_the_one_that_has_taken_over() {
    let place = SqlitePlace::fresh().await;
    let (database, source) = filled(&place, "in", EVENTS).await;
    let (store, spec) = (database.store(), Arc::new(bench::spec(stream("in"))));
    let version = Version { epoch: Epoch(1), spec, factory: Native::new("v1", Passes) };
    let tailer = Tailer::start(source.clone());
    let running = Running::start("c", &database, Committer::start(store.clone()), tailer, version).unwrap();
    running.until(&source.head().await.unwrap()).await.unwrap();
    let taken = store.claim(&shard("c"), &Owner("another".into())).await.unwrap();
    running.stop().await;
    assert_eq!(store.load(&shard("c")).await.unwrap(), taken);
}

/// Handles everything.
struct Passes;

impl Logic for Passes {
    async fn handle(&self, _: &Event, _: &mut View) -> Result<(), Failure> {
        Ok(())
    }
}

/// The row of a project's consumer, as anybody may read it beside the host.
async fn subject_row(project: &Project) -> Position {
    let url = format!("sqlite://{}", project.path("test.db").display());
    let database = Database::open(&url, Options { read_only: true, ..Options::default() }).await.unwrap();
    let row = database.store().load(&shard("subject")).await.unwrap();
    database.close().await;
    row
}

/// Whoever is asked to stop, and killed because that takes too long, has not ended at an event.
#[test]
fn an_event_at_which_hosts_were_asked_to_stop_is_not_to_blame() {
    let project = Project::new(&subject("retry = { attempts = 1, on-exhausted = \"dead-letter\" }"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = project.host();
    project.import("first.jsonl", [event("a", "append")]);
    project.consumer("subject", "behind the first one", |consumer| consumer["cursor"] == "1");
    project.import("next.jsonl", [event("a", "sleep 4000"), event("a", "append")]);
    drop(host);
    for _ in 0..3 {
        let host = project.host();
        project.consumer("subject", "at the one that takes long", |consumer| {
            consumer["lag_events"] == 2 && consumer["status"] == "running"
        });
        host.kill();
        let host = project.host();
        project.consumer("subject", "at it, alone", |consumer| {
            consumer["reason"]["code"].as_str().is_some_and(|code| code.starts_with("suspect"))
        });
        host.ask_to_stop();
        // It no longer answers, and is not gone yet.
        let row = wait("the row to be free of suspicion", || {
            let row = runtime.block_on(subject_row(&project));
            row.reason.is_none().then_some(row)
        });
        assert_eq!((row.cursor.to_string().as_str(), &*row.owner.0), ("1", ""), "the event is still being handled");
        host.kill();
    }
    let host = project.host();
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "3");
    assert_eq!(project.json(&["dlq", "list", "subject"]), json!([]));
    assert_eq!(host.terminate(), Some(0));
}

/// Hosts end at the second event, the first time while nobody knows of it, and then as often as there are more codes that say what is.
fn end_hosts(project: &Project, codes: &[&str]) {
    for (n, code) in codes.iter().enumerate() {
        let host = project.host();
        if n == 0 {
            project.import("first.jsonl", [event("a", "append")]);
            project.consumer("subject", "behind the first one", |consumer| consumer["cursor"] == "1");
            project.import("next.jsonl", [event("a", "sleep 1500")]);
        }
        project.consumer("subject", "at it", |consumer| {
            let at = consumer["reason"]["code"].as_str().unwrap_or_default();
            consumer["cursor"] == "1" && consumer["lag_events"] == 1 && consumer["status"] == "running" && at == *code
        });
        host.kill();
    }
}

/// A consumer of other events than the subject's, which is not held up.
fn goes_on(project: &Project) {
    assert!(project.run(&["event", "append", "events", "--type", "2"]).status.success());
    project.consumer("other", "at the head", |consumer| consumer["cursor"] == "3");
}

fn with_another(consumer: &str) -> Project {
    let other = "[consumer.other]\ncomponent = \"guest.wasm\"\nstream = \"events\"\nfilter = { types = [2] }";
    let appends = "config = { behaviour = \"append\" }";
    Project::new(&format!("{}\n{other}\n{appends}", subject(&format!("filter = {{ types = [1] }}\n{consumer}"))))
}

/// Whoever resumes what was convicted wants another attempt.
#[test]
fn a_convicted_event_is_tried_again_when_somebody_wants_that() {
    let project = with_another("retry = { attempts = 1 }");
    end_hosts(&project, &["", "suspect", "suspect-again"]);
    let host = project.host();
    let blocked = project.status("subject", "blocked");
    assert_eq!(blocked["reason"]["code"], "crash");
    goes_on(&project);
    project.json(&["consumer", "resume", "subject"]);
    project.consumer("subject", "behind it", |consumer| consumer["cursor"] == "3");
    assert_eq!(project.ids(None), [1]);
    assert_eq!(project.json(&["dlq", "list", "subject"]), json!([]));
    assert_eq!(host.terminate(), Some(0));
}

/// What was accused and is handled well is over: it waits for its next event beside all others.
#[test]
fn an_accused_event_that_was_handled_holds_nobody_up() {
    let project = with_another("");
    end_hosts(&project, &["", "suspect"]);
    let host = project.host();
    project.consumer("subject", "behind it", |consumer| consumer["cursor"] == "2");
    goes_on(&project);
    assert_eq!(host.terminate(), Some(0));
}
