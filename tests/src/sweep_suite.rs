//! Crashes and faults at every place there is: old or new, never between.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tendon::{
    backend::Database,
    dead_letter::Redrive,
    error::{Error, Kind, Result},
    event::{Cursor, Event, EventId, Timestamp},
    limits::STATE_VALUE_BYTES_MAX,
    owner::Owner,
    source::{Source, Until},
    store::{Commit, Duplicates, Store},
};

use crate::{
    deployments::deployment,
    faulty::{Fault, FaultySource, FaultyStore, When},
    letter_suite::{letter, set_aside},
    park_suite::parked,
    place::{Place, append, claim, commit, consumer, emit, filled, read, shard, stream},
    state_suite::{get, writes},
    store_suite::full,
};

/// What a crash sweep came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Crashes, one at each visit of a failpoint.
    pub crashes: usize,
    /// The failpoints that were visited, by name.
    pub visited: BTreeSet<&'static str>,
    /// Crashes after which nothing of the write was there.
    pub old: usize,
    /// Crashes after which all of it was there.
    pub new: usize,
}

/// Everything that a write can change.
#[derive(Debug, PartialEq)]
struct Seen {
    cursors: Vec<String>,
    last: Option<Bytes>,
    old: Option<Bytes>,
    events: Vec<Event>,
    history: usize,
    deployments: usize,
    set_aside: Vec<String>,
    parked: Vec<String>,
}

async fn see(database: &Database) -> Seen {
    let store = database.store();
    Seen {
        cursors: store.positions().await.unwrap().iter().map(|position| position.cursor.to_string()).collect(),
        last: get(&*store, &consumer("c"), "", "last").await,
        old: get(&*store, &consumer("c"), "", "old").await,
        events: read(&*database.source(&stream("out")).await.unwrap(), &Cursor::START).await,
        history: store.history(&shard("c")).await.unwrap().len(),
        deployments: store.deployments().await.unwrap().len(),
        set_aside: set_aside(&*store, &consumer("c")).await,
        parked: store.parked_keys(&consumer("c")).await.unwrap().iter().map(|key| key.key().to_string()).collect(),
    }
}

/// A claimed shard with some state, and a stream, in a place of their own.
async fn prepared<P: Place>() -> (P, Database, Commit) {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "out", 2).await;
    let changes = writes(&consumer("c"), "", [("old", Some(&b"x"[..])), ("gone", None)]);
    let dead_letters = vec![letter(&shard("c"), "to be purged", 0)];
    let waits = vec![parked(&shard("c"), "old", 1, "1")];
    let before = Commit { changes, dead_letters, parked: waits.clone(), ..Commit::default() };
    commit(&*database.store(), before).await.unwrap();
    // So much that a store which puts work off has to do it with the next write.
    let big = vec![7; STATE_VALUE_BYTES_MAX];
    for _ in 0..8 {
        let changes = writes(&consumer("c"), "", [("zzz", Some(&big[..]))]);
        commit(&*database.store(), Commit { changes, ..Commit::default() }).await.unwrap();
    }
    let position = claim(&database, &shard("c")).await;
    let mut write = full(&position, "41", 7);
    write.r#move.as_mut().unwrap().takes_fence = true;
    write.changes.emits.push(emit(&stream("out"), 1));
    write.duplicates = Duplicates::Skip;
    write.purged = vec![(consumer("c"), EventId("to be purged".into()))];
    let wish = Redrive {
        consumer: consumer("c"),
        event: EventId("poison".into()),
        at: Some(Timestamp(1)),
        pace: Duration::ZERO,
    };
    write.redrives = vec![wish];
    write.unparked = vec![waits[0].id()];
    write.parked = vec![parked(&shard("c"), "new", 1, "2")];
    write.deployment = Some((deployment(&consumer("c"), b"wasm"), Bytes::from("wasm")));
    (place, database, write)
}

/// Crashes a commit with everything in it at each failpoint that it passes, and looks after a restart.
pub async fn crash_everywhere<P: Place>() -> Swept {
    let mut swept = Swept::default();
    loop {
        let (place, database, write) = prepared::<P>().await;
        let before = see(&database).await;
        database.failpoints().crash_at(swept.crashes);
        let answer = commit(&*database.store(), write.clone()).await;
        let visited = database.failpoints().visited();
        database.close().await;
        let database = place.open().await;
        let after = see(&database).await;
        if visited.len() <= swept.crashes {
            assert_eq!(answer.unwrap().appended, 1);
            assert_eq!((after.cursors, after.events.len(), after.old), (vec!["41".to_owned()], 3, None));
            return swept;
        }
        let error = answer.unwrap_err();
        swept.crashes += 1;
        swept.visited.extend(visited);
        if after == before {
            swept.old += 1;
            assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
            // Nothing is left of it that would stand in the way of the next one.
            commit(&*database.store(), write).await.unwrap();
        } else {
            swept.new += 1;
            assert_eq!(error.kind(), Kind::Ambiguous, "{error:?}");
            assert_eq!(
                (after.cursors, after.last.unwrap(), after.old),
                (vec!["41".to_owned()], Bytes::from("7"), None)
            );
            assert_eq!((after.events.len(), after.history, after.deployments), (3, 1, 1));
            assert_eq!((after.set_aside, after.parked), (vec!["poison".to_owned()], vec!["new".to_owned()]));
            assert_eq!(commit(&*database.store(), write).await.unwrap_err().kind(), Kind::Fenced);
        }
    }
}

/// The sweep: nothing in between, and only the last place of all is after the write.
pub async fn a_crash_at_any_failpoint_leaves_old_or_new<P: Place>() {
    let swept = crash_everywhere::<P>().await;
    assert!(swept.crashes > 2, "{swept:?}");
    assert_eq!((swept.old, swept.new), (swept.crashes - 1, 1), "{swept:?}");
}

/// An error at any place, when the process lives on: each commit of the call has its own, true answer.
pub async fn an_error_at_any_failpoint_has_a_true_answer_for_each_commit<P: Place>() {
    for k in 0.. {
        let place = P::fresh().await;
        let (database, out) = filled(&place, "out", 0).await;
        let mut commits = Vec::new();
        for (n, text) in ["a", "b", "c"].into_iter().enumerate() {
            commits.push(full(&claim(&database, &shard(text)).await, "1", n as u64));
        }
        claim(&database, &shard("b")).await;
        database.failpoints().fail_at(k);
        let answers = database.store().commit(&commits).await;
        let visited = database.failpoints().visited().len();
        database.failpoints().disarm();
        let mut stand = 0;
        for (text, answer) in ["a", "b", "c"].into_iter().zip(&answers) {
            let moved = database.store().load(&shard(text)).await.unwrap().revision.0 == 1;
            stand += usize::from(moved);
            match answer.as_ref().map_err(Error::kind) {
                Ok(_) => assert!(moved),
                Err(Kind::Ambiguous) => {}
                Err(_) => assert!(!moved),
            }
        }
        assert!(answers[1].is_err());
        assert_eq!(read(&*out, &Cursor::START).await.len(), stand);
        if visited <= k {
            assert_eq!(stand, 2);
            return;
        }
    }
}

/// A crashed claim is an old row or a new one, and the next claim goes on.
pub async fn a_crash_in_a_claim_leaves_a_row_that_can_be_claimed<P: Place>() {
    for k in 0.. {
        let place = P::fresh().await;
        let database = place.open().await;
        let before = claim(&database, &shard("c")).await;
        database.failpoints().crash_at(k);
        let answer = database.store().claim(&shard("c"), &Owner("a test".into())).await;
        let done = database.failpoints().visited().len() <= k;
        database.close().await;
        let database = place.open().await;
        let fence = database.store().load(&shard("c")).await.unwrap().fence;
        assert_eq!(answer.is_ok(), done);
        assert!(fence >= before.fence && claim(&database, &shard("c")).await.fence > fence);
        if done {
            return;
        }
    }
}

/// The life of a host that reads a stream and emits each event again: it claims, reads, and commits one by one. Ends
/// with the stream or with the first error.
async fn live(store: &dyn Store, source: &dyn Source) -> Result<()> {
    let mut position = store.claim(&shard("c"), &Owner("a test".into())).await?;
    let mut chunks = source.stream(position.cursor.clone(), Until::Head).await?;
    while let Some(chunk) = chunks.next().await {
        for event in chunk?.events {
            let counted =
                store.get(&tendon::store::Scope { consumer: consumer("c"), part: "".into() }, &["n".into()]).await?;
            let counted: u64 = counted[0].as_ref().map_or(0, |n| std::str::from_utf8(n).unwrap().parse().unwrap());
            let value = (counted + 1).to_string();
            let mut changes = writes(&consumer("c"), "", [("n", Some(value.as_bytes()))]);
            changes.emits.push(emit(&stream("out"), event.foreign_id[4..].parse().unwrap()));
            let cursor = std::str::from_utf8(&event.cursor.0).unwrap();
            let step = Commit { changes, ..crate::place::advance(&position, cursor) };
            position = commit(store, step).await?.position.unwrap();
        }
    }
    Ok(())
}

/// Whichever call fails, before it is made or after: the host that comes next goes on from the row, and each event is
/// counted and emitted once.
pub async fn a_fault_at_any_call_loses_and_doubles_nothing<P: Place>() {
    const EVENTS: u64 = 6;
    for when in [When::Before, When::After] {
        for k in 0.. {
            let place = P::fresh().await;
            let (database, source) = filled(&place, "in", EVENTS).await;
            database.create_stream(&stream("out"), P::ORDER).await.unwrap();
            let fault = Fault::at(k, when);
            let store = FaultyStore { inner: database.store(), fault: fault.clone() };
            let broken = FaultySource { inner: Arc::clone(&source), fault: fault.clone() };
            let first = live(&store, &broken).await;
            let failed = fault.calls() > k;
            assert_eq!(first.is_err(), failed);
            live(&*database.store(), &*source).await.unwrap();
            let out = read(&*database.source(&stream("out")).await.unwrap(), &Cursor::START).await;
            let order: Vec<_> = out.iter().map(|event| event.foreign_id.to_string()).collect();
            assert_eq!(order, (0..EVENTS).map(|n| format!("key-{n}")).collect::<Vec<_>>());
            assert_eq!(get(&*database.store(), &consumer("c"), "", "n").await.unwrap(), EVENTS.to_string());
            if !failed {
                break;
            }
        }
    }
}

/// A producer that does not know whether its append stands says it again.
pub async fn a_repeated_append_adds_what_is_missing<P: Place>() {
    for k in 0.. {
        let place = P::fresh().await;
        let (database, out) = filled(&place, "out", 0).await;
        let emits = (0..5).map(|n| emit(&stream("out"), n)).collect();
        let events = Commit { duplicates: Duplicates::Skip, ..append(emits) };
        database.failpoints().fail_at(k);
        let first = commit(&*database.store(), events.clone()).await;
        let done = database.failpoints().visited().len() <= k;
        database.failpoints().disarm();
        assert_eq!(first.is_ok(), done);
        commit(&*database.store(), events).await.unwrap();
        assert_eq!(read(&*out, &Cursor::START).await.len(), 5);
        if done {
            return;
        }
    }
}
