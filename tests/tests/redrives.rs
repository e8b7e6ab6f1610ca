//! How fast a redrive goes. Time is virtual here, so that what it takes is exact.

use std::{sync::Arc, time::Duration};

use tendon::{
    backend::{Database, Options, Order},
    committer::Committer,
    dead_letter::{Letters, Redrive, Wished},
    deployment::Spec,
    event::{Event, EventId, Timestamp},
    handler::Failure,
    shard::Version,
    store::{Commit, Epoch},
    tailer::Tailer,
    topology::Shards,
    view::View,
};
use tendon_tests::{
    bench::{self, Running},
    letter_suite::letter,
    native::{Logic, Native},
    place::{commit, consumer, shard, stream},
};
use tokio::time::{Instant, sleep};

/// Says when it was given each event.
struct Tells(tokio::sync::mpsc::UnboundedSender<(Instant, String)>);

impl Logic for Tells {
    async fn handle(&self, event: &Event, _: &mut View) -> Result<(), Failure> {
        self.0.send((Instant::now(), event.id.to_string())).unwrap();
        Ok(())
    }
}

/// Has these events redriven, each with the pace that is said, by so many shards; when which of them was handled, from the
/// beginning on.
async fn handled(letters: &[(&str, Duration)], shards: u32) -> Vec<(Duration, String)> {
    let database = Database::open("memory:", Options::default()).await.unwrap();
    database.create_stream(&stream("in"), Order::Native).await.unwrap();
    let store = database.store();
    for (n, (id, pace)) in letters.iter().enumerate() {
        let mut one = letter(&shard("c"), id, n as i64);
        one.event.foreign_id = (*id).into();
        let redrive =
            Redrive { consumer: consumer("c"), event: EventId((*id).into()), at: Some(Timestamp(7)), pace: *pace };
        commit(&*store, Commit { dead_letters: vec![one], ..Commit::default() }).await.unwrap();
        commit(&*store, Commit { redrives: vec![redrive], ..Commit::default() }).await.unwrap();
    }
    let (tells, mut told) = tokio::sync::mpsc::unbounded_channel();
    let factory = Native::new("tells", Tells(tells));
    let (tailer, committer) =
        (Tailer::start(database.source(&stream("in")).await.unwrap()), Committer::start(store.clone()));
    let spec = Arc::new(Spec { shards: Shards { count: shards, ..Shards::default() }, ..bench::spec(stream("in")) });
    let began = Instant::now();
    let _running: Vec<Running> = (0..shards)
        .map(|index| {
            let version = Version { epoch: Epoch(1), spec: spec.clone(), factory: factory.clone() };
            Running::start_shard(("c", index), &database, committer.clone(), tailer.clone(), version).unwrap()
        })
        .collect();
    let which = Letters { wished: Wished::Yes, limit: 1, after: None };
    while !store.dead_letters(&consumer("c"), &which).await.unwrap().is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    let mut all = Vec::new();
    while let Ok((at, id)) = told.try_recv() {
        all.push((at - began, id));
    }
    all
}

const NONE: Duration = Duration::ZERO;
const PACE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_redrive_with_a_pace_leaves_that_time_between_its_events_and_holds_up_no_other() {
    let all = handled(&[("a", PACE), ("b", NONE), ("c", PACE), ("d", NONE), ("e", PACE)], 1).await;
    let ids: Vec<&str> = all.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "d", "c", "e"]);
    let at: Vec<u64> = all.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(at, [0, 0, 0, 10, 20]);
}

#[tokio::test(start_paused = true)]
async fn all_shards_together_keep_to_the_pace() {
    let ids: Vec<String> = (0..40).map(|n| format!("key-{n}")).collect();
    let letters: Vec<(&str, Duration)> = ids.iter().map(|id| (id.as_str(), PACE)).collect();
    let all = handled(&letters, 4).await;
    let mut done: Vec<&str> = all.iter().map(|(_, id)| id.as_str()).collect();
    done.sort_unstable();
    done.dedup();
    assert_eq!((all.len(), done.len()), (40, 40));
    let (took, _) = all.last().unwrap();
    // Each shard begins with one of its own.
    let least = PACE * (40 - 4);
    assert!(*took >= least, "{took:?} for 40 of them, at least {least:?}");
    // The control: without a pace they take no time.
    let letters: Vec<(&str, Duration)> = ids.iter().map(|id| (id.as_str(), NONE)).collect();
    let all = handled(&letters, 4).await;
    assert!(all.len() == 40 && all.iter().all(|(at, _)| at.as_secs() == 0), "{all:?}");
}
