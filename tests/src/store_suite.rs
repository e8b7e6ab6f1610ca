//! What every store must hold to: the commit, its compare, and what lies beside the position.

use bytes::Bytes;
use tendon::{
    backend::Database,
    error::Kind,
    event::{Cursor, EventHash, EventId, Timestamp},
    owner::Owner,
    store::{Commit, Committed, Digest, Duplicates, Epoch, Fence, Move, Position, Reason, Revision, Status, Swap},
    tenant::ShardId,
};

use crate::{
    letter_suite::letter,
    place::{Place, advance, append, claim, commit, consumer, emit, emit_new, event, filled, read, shard, stream},
    state_suite::{get, writes},
};

/// A commit with everything in it: the cursor, a value, a deleted key, an emitted event, and one that is set aside.
pub fn full(from: &Position, cursor: &str, n: u64) -> Commit {
    let value = n.to_string();
    let pairs = [("last", Some(value.as_bytes())), ("old", None)];
    let mut changes = writes(&from.shard.consumer, "", pairs);
    changes.emits.push(emit(&stream("out"), n));
    let dead_letters = vec![letter(&from.shard, "poison", 1)];
    let mut commit = Commit { changes, dead_letters, ..advance(from, cursor) };
    if let Some(r#move) = &mut commit.r#move {
        r#move.to.digest = Some(Digest::of(&n.to_le_bytes()));
    }
    commit
}

/// One commit, one step: all of it is there, also after a restart.
pub async fn a_commit_moves_cursor_state_and_events_together<P: Place>() {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "out", 0).await;
    let consumer = consumer("c");
    commit(
        &*database.store(),
        Commit { changes: writes(&consumer, "", [("old", Some(&b"x"[..]))]), ..Commit::default() },
    )
    .await
    .unwrap();
    let start = claim(&database, &shard("c")).await;
    let committed = commit(&*database.store(), full(&start, "41", 7)).await.unwrap();
    let position = committed.position.unwrap();
    assert_eq!((position.revision, position.fence), (Revision(1), start.fence));
    assert_eq!((position.cursor.to_string(), committed.appended), ("41".to_owned(), 1));
    database.close().await;
    let database = place.open().await;
    let store = database.store();
    assert_eq!(store.load(&shard("c")).await.unwrap(), position);
    assert_eq!(get(&*store, &consumer, "", "last").await.unwrap(), "7");
    assert_eq!(get(&*store, &consumer, "", "old").await, None);
    assert_eq!(read(&*database.source(&stream("out")).await.unwrap(), &Cursor::START).await.len(), 1);
}

/// The compare: the second of two commits from one row is refused whole, and told both values.
pub async fn a_stale_commit_is_fenced_and_changes_nothing<P: Place>() {
    let place = P::fresh().await;
    let (database, out) = filled(&place, "out", 0).await;
    let store = database.store();
    let start = claim(&database, &shard("c")).await;
    let position = commit(&*store, full(&start, "1", 1)).await.unwrap().position;
    let error = commit(&*store, full(&start, "2", 2)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    let fence = start.fence.0;
    let said =
        format!("commit default/c#0: expected revision 0 and fence {fence}, found 1 and {fence}: another host owns it");
    assert_eq!(error.to_string(), said);
    assert_eq!(Some(store.load(&shard("c")).await.unwrap()), position);
    assert_eq!(get(&*store, &consumer("c"), "", "last").await.unwrap(), "1");
    assert_eq!(read(&*out, &Cursor::START).await.len(), 1);
    assert_eq!(store.history(&shard("c")).await.unwrap().len(), 1);
}

/// A host that was taken over cannot commit, although no commit came in between.
pub async fn a_claim_fences_the_host_before_it<P: Place>() {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "out", 0).await;
    let other = place.open().await;
    let before = claim(&database, &shard("c")).await;
    let after = claim(&other, &shard("c")).await;
    assert!(after.fence > before.fence);
    assert_eq!((after.revision, after.incarnation), (before.revision, before.incarnation));
    assert_eq!(commit(&*database.store(), full(&before, "1", 1)).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(get(&*other.store(), &consumer("c"), "", "last").await, None);
    commit(&*other.store(), full(&after, "1", 1)).await.unwrap();
}

/// An operator's move takes a fence, so that a host that read before it cannot go on from what it holds, although the
/// cursor that it expects is there again.
pub async fn a_rewind_fences_a_host_that_read_before_it<P: Place>() {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "out", 0).await;
    let store = database.store();
    let start = claim(&database, &shard("c")).await;
    let held = commit(&*store, advance(&start, "5")).await.unwrap().position.unwrap();
    let operator = place.open().await.store();
    for cursor in ["2", "5"] {
        let mut rewind = advance(&operator.load(&shard("c")).await.unwrap(), cursor);
        rewind.r#move.as_mut().unwrap().takes_fence = true;
        let moved = commit(&*operator, rewind).await.unwrap().position.unwrap();
        assert!(moved.fence > held.fence);
        assert_eq!(store.load(&shard("c")).await.unwrap(), moved);
    }
    assert_eq!(commit(&*store, full(&held, "6", 6)).await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(store.load(&shard("c")).await.unwrap().cursor.to_string(), "5");
}

/// An epoch that moved is a fence, too.
pub async fn a_commit_of_an_older_deployment_is_fenced<P: Place>() {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "out", 0).await;
    let store = database.store();
    let start = claim(&database, &shard("c")).await;
    let other = Position { epoch: Epoch(77), ..start.clone() };
    let error = commit(&*store, full(&other, "1", 1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert!(error.to_string().contains("expected epoch 77, found 0"), "{error}");
    assert_eq!(store.load(&shard("c")).await.unwrap(), start);
}

/// Unknown is not the same as new.
pub async fn a_shard_begins_at_the_start_once_it_is_claimed<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    assert_eq!(store.load(&shard("c")).await.unwrap_err().kind(), Kind::NotFound);
    let nobody = Position::start(shard("c"), Fence(1));
    let error = commit(&*store, advance(&nobody, "1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced);
    assert!(error.to_string().contains("found no row"), "{error}");
    assert_eq!(store.load(&shard("c")).await.unwrap_err().kind(), Kind::NotFound);
    let position = claim(&database, &shard("c")).await;
    let owner = Owner("a test".into());
    assert_eq!(position, Position { owner, ..Position::start(shard("c"), position.fence) });
    assert_eq!(store.positions().await.unwrap(), [position]);
}

/// Every field of a row, with cursors of any bytes.
pub async fn every_field_of_a_position_survives<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let mut from = claim(&database, &shard("c")).await;
    assert_eq!(from.owner, Owner("a test".into()));
    let cursors: [&[u8]; 5] = [b"", b"\0", b"\xff\xfe\0\x01", b"'\"; --", &[9; 300]];
    for (n, bytes) in cursors.into_iter().enumerate() {
        let to = Position {
            cursor: Cursor(Bytes::copy_from_slice(bytes)),
            generation: u32::MAX - n as u32,
            epoch: Epoch(n as u64),
            status: [Status::Running, Status::Blocked, Status::Paused][n % 3],
            reason: (n > 0).then(|| Reason {
                code: "trap".into(),
                message: "a \"quoted\" line\nand \0 another ä".into(),
                event: (n > 1).then(|| EventId("41".into())),
                since: Timestamp(-1),
                retry_at: (n > 1).then_some(Timestamp(4)),
                logs: "INFO \0\n".repeat(n),
            }),
            attempts: u32::MAX,
            digest: (n % 2 == 1).then(|| Digest::of(bytes)),
            last_event: (n % 2 == 1).then_some(EventHash([n as u8; 32])),
            high_water: Cursor(Bytes::copy_from_slice(bytes)),
            features: u64::MAX - n as u64,
            updated_at: Timestamp(i64::MAX - n as i64),
            owner: Owner(["", "another's, 'quoted' ä"][n % 2].into()),
            ..from.clone()
        };
        let r#move = Some(Move { from: from.clone(), to: to.clone(), takes_fence: false });
        let committed = commit(&*database.store(), Commit { r#move, ..Commit::default() }).await.unwrap();
        from = committed.position.unwrap();
        assert_eq!(from, Position { revision: Revision(n as u64 + 1), ..to });
        assert_eq!(place.open().await.store().load(&shard("c")).await.unwrap(), from);
    }
}

/// A failed attempt is a commit that does not move the cursor.
pub async fn attempts_survive_a_restart<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let mut position = claim(&database, &shard("c")).await;
    for attempts in 1..4 {
        let to = Position { attempts, ..position.clone() };
        let r#move = Some(Move { from: position.clone(), to, takes_fence: false });
        position = commit(&*database.store(), Commit { r#move, ..Commit::default() }).await.unwrap().position.unwrap();
    }
    database.close().await;
    let position = claim(&place.open().await, &shard("c")).await;
    assert_eq!((position.attempts, position.cursor.is_start()), (3, true));
}

/// Each commit of a call decides for itself.
pub async fn a_loser_takes_nobody_with_it<P: Place>() {
    let place = P::fresh().await;
    let (database, out) = filled(&place, "out", 0).await;
    let mut commits = Vec::new();
    for (n, text) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let position = claim(&database, &shard(text)).await;
        commits.push(full(&position, "1", n as u64));
    }
    claim(&database, &shard("b")).await;
    commits[2].changes.emits[0].stream = stream("nowhere");
    commits[4].changes.emits[0] = commits[0].changes.emits[0].clone();
    commits.push(commits[0].clone());
    let answers = database.store().commit(&commits).await;
    let kinds: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map_or_else(|e| Some(e.kind()), |_| None)).collect();
    let expected = [None, Some(Kind::Fenced), Some(Kind::NotFound), None, Some(Kind::Corrupt), Some(Kind::Invalid)];
    assert_eq!(kinds, expected);
    for (text, stands) in [("a", true), ("b", false), ("c", false), ("d", true), ("e", false)] {
        let position = database.store().load(&shard(text)).await.unwrap();
        assert_eq!(position.revision.0, u64::from(stands), "{text}");
        assert_eq!(get(&*database.store(), &consumer(text), "", "last").await.is_some(), stands, "{text}");
    }
    let emitted: Vec<_> =
        read(&*out, &Cursor::START).await.into_iter().map(|event| event.foreign_id.to_string()).collect();
    assert_eq!(emitted, ["key-0", "key-3"]);
}

/// 64 shards, each with state and events, in one call.
pub async fn many_shards_share_a_call<P: Place>() {
    let place = P::fresh().await;
    let (database, out) = filled(&place, "out", 0).await;
    let mut commits = Vec::new();
    for index in 0..64 {
        let position = claim(&database, &ShardId { index, ..shard("c") }).await;
        let value = index.to_string();
        let mut changes = writes(&consumer("c"), &value, [("k", Some(value.as_bytes()))]);
        changes.emits = (0..3).map(|n| emit(&stream("out"), u64::from(index * 3 + n))).collect();
        commits.push(Commit { changes, ..advance(&position, &value) });
    }
    for (index, answer) in database.store().commit(&commits).await.into_iter().enumerate() {
        let Committed { position, appended, .. } = answer.unwrap();
        assert_eq!((position.unwrap().shard.index as usize, appended), (index, 3));
    }
    for (index, position) in database.store().positions().await.unwrap().into_iter().enumerate() {
        assert_eq!(position.cursor.to_string(), index.to_string());
        let part = index.to_string();
        assert_eq!(get(&*database.store(), &consumer("c"), &part, "k").await.unwrap(), part);
    }
    let events = read(&*out, &Cursor::START).await;
    assert!(events.iter().enumerate().all(|(n, event)| event.foreign_id == format!("key-{n}").as_str()));
}

/// Streams of one commit keep their own order.
pub async fn emitted_events_are_in_their_streams_in_order<P: Place>() {
    let place = P::fresh().await;
    let (database, odd) = filled(&place, "odd", 0).await;
    database.create_stream(&stream("even"), P::ORDER).await.unwrap();
    let even = database.source(&stream("even")).await.unwrap();
    for first in [0, 500] {
        let emits = (first..first + 500).map(|n| emit(&stream(if n % 2 == 0 { "even" } else { "odd" }), n)).collect();
        assert_eq!(commit(&*database.store(), append(emits)).await.unwrap().appended, 500);
    }
    for (source, from) in [(even, 0), (odd, 1)] {
        let numbers =
            read(&*source, &Cursor::START).await.into_iter().map(|event| event.foreign_id[4..].parse().unwrap());
        assert_eq!(numbers.collect::<Vec<u64>>(), (from..1_000).step_by(2).collect::<Vec<u64>>());
    }
}

/// A key that is given twice is a bug, and loud; a producer that repeats itself says so, and adds nothing.
pub async fn an_event_key_is_appended_once<P: Place>() {
    let place = P::fresh().await;
    let (database, out) = filled(&place, "out", 3).await;
    let store = database.store();
    let error = commit(&*store, append(vec![emit(&stream("out"), 9), emit(&stream("out"), 2)])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains(&emit(&stream("out"), 2).key.0.to_string()), "{error}");
    let error = commit(&*store, append(vec![emit(&stream("out"), 9), emit(&stream("out"), 9)])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(read(&*out, &Cursor::START).await.len(), 3);
    let skip = |numbers: Vec<u64>| Commit {
        duplicates: Duplicates::Skip,
        ..append(numbers.into_iter().map(|n| emit(&stream("out"), n)).collect())
    };
    assert_eq!(commit(&*store, skip(vec![2, 9, 1, 9, 10])).await.unwrap().appended, 2);
    assert_eq!(commit(&*store, skip(vec![0, 1, 2, 9, 10])).await.unwrap().appended, 0);
    let answers = store.commit(&[skip(vec![11, 2]), skip(vec![11, 12]), append(vec![emit(&stream("out"), 13)])]).await;
    let appended: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().appended).collect();
    assert_eq!(appended, [1, 1, 1]);
    let texts: Vec<_> = read(&*out, &Cursor::START).await.into_iter().map(|event| event.foreign_id).collect();
    assert_eq!(texts, [0, 1, 2, 9, 10, 11, 12, 13].map(|n| event(n).foreign_id));
}

/// Removing nothing, making nothing again: what is drawn is new every time, after a restart, too.
pub async fn fences_and_epochs_are_never_drawn_twice<P: Place>() {
    let place = P::fresh().await;
    let mut drawn = Vec::new();
    for round in 0..3 {
        let database = place.open().await;
        for text in ["a", "b"] {
            let position = claim(&database, &shard(text)).await;
            drawn.push(position.fence.0);
            let mut operator = advance(&position, &round.to_string());
            operator.r#move.as_mut().unwrap().takes_fence = true;
            drawn.push(commit(&*database.store(), operator).await.unwrap().position.unwrap().fence.0);
        }
        database.close().await;
    }
    assert!(drawn.is_sorted_by(|a, b| a < b), "{drawn:?}");
}

/// From the first commit of a component on, the history names it; from whatever revision on it was another.
pub async fn the_history_names_each_component_from_its_first_commit<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let mut position = claim(&database, &shard("c")).await;
    let digests: Vec<_> = ["a", "a", "b", "b", "a"].map(|text| Digest::of(text.as_bytes())).to_vec();
    for (n, digest) in digests.iter().enumerate() {
        let to = Position {
            digest: Some(*digest),
            epoch: Epoch(n as u64),
            updated_at: Timestamp(n as i64),
            ..position.clone()
        };
        let r#move = Some(Move { from: position.clone(), to, takes_fence: false });
        position = commit(&*database.store(), Commit { r#move, ..Commit::default() }).await.unwrap().position.unwrap();
    }
    let swap = |n: usize| Swap {
        revision: Revision(n as u64 + 1),
        digest: digests[n],
        epoch: Epoch(n as u64),
        at: Timestamp(n as i64),
    };
    let store = place.open().await.store();
    assert_eq!(store.history(&shard("c")).await.unwrap(), [swap(0), swap(2), swap(4)]);
    assert_eq!(store.history(&shard("d")).await.unwrap(), []);
}

/// The newest deployment of a consumer is the active one; components stay, and an unknown one is not found.
pub async fn the_newest_deployment_is_the_active_one<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let mut epochs = Vec::new();
    for (text, component) in [("b", "one"), ("a", "two"), ("b", "two"), ("b", "one")] {
        let deployment = crate::deployments::deployment(&consumer(text), component.as_bytes());
        let deploy = Commit { deployment: Some((deployment, Bytes::from(component))), ..Commit::default() };
        epochs.push(commit(&*store, deploy).await.unwrap().epoch.unwrap());
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let store = place.open().await.store();
    let active = |text: &str, component: &str, epoch| tendon::deployment::Deployment {
        epoch,
        ..crate::deployments::deployment(&consumer(text), component.as_bytes())
    };
    assert_eq!(store.deployments().await.unwrap(), [active("a", "two", epochs[1]), active("b", "one", epochs[3])]);
    for component in ["one", "two"] {
        assert_eq!(store.component(&Digest::of(component.as_bytes())).await.unwrap(), component);
    }
    assert_eq!(store.component(&Digest::of(b"three")).await.unwrap_err().kind(), Kind::NotFound);
    let position = claim(&database, &shard("b")).await;
    let deployment = crate::deployments::deployment(&consumer("b"), b"two");
    let both = Commit { deployment: Some((deployment, Bytes::from("two"))), ..advance(&position, "1") };
    let committed = commit(&*store, both).await.unwrap();
    assert_eq!(committed.position.unwrap().epoch, committed.epoch.unwrap());
}

/// Two hosts, one shard, 200 events: each takes the shard over when it was fenced.
pub async fn two_hosts_racing_commit_each_event_once<P: Place>() {
    race::<P>(true).await;
}

/// The same where nobody takes a new fence, as after a failover that lost one: the revision alone decides.
pub async fn two_hosts_with_one_fence_commit_each_event_once<P: Place>() {
    race::<P>(false).await;
}

const RACE_EVENTS: u64 = 200;

async fn race<P: Place>(claims: bool) {
    let place = P::fresh().await;
    let (first, out) = filled(&place, "out", 0).await;
    let second = place.open().await;
    claim(&first, &shard("c")).await;
    let hosts = [first.clone(), second].map(|database| tokio::spawn(race_host(database, claims)));
    let mut applied = 0;
    for host in hosts {
        applied += host.await.unwrap();
    }
    let emitted: Vec<_> = read(&*out, &Cursor::START).await.into_iter().map(|event| event.foreign_id).collect();
    assert_eq!(applied, RACE_EVENTS);
    assert_eq!(emitted, (0..RACE_EVENTS).map(|n| event(n).foreign_id).collect::<Vec<_>>());
    assert_eq!(first.store().load(&shard("c")).await.unwrap().revision.0, RACE_EVENTS);
}

/// A host in the race; how many events it has applied. Their keys are its own, so that nothing but the compare stands
/// against the other one.
async fn race_host(database: Database, claims: bool) -> u64 {
    let store = database.store();
    let mut applied = 0;
    loop {
        let mut position = match claims {
            true => claim(&database, &shard("c")).await,
            false => store.load(&shard("c")).await.unwrap(),
        };
        loop {
            let done: u64 = if position.cursor.is_start() { 0 } else { position.cursor.to_string().parse().unwrap() };
            if done == RACE_EVENTS {
                return applied;
            }
            tokio::task::yield_now().await;
            let mut step = full(&position, &(done + 1).to_string(), done);
            step.changes.emits = vec![emit_new(&stream("out"), event(done))];
            match commit(&*store, step).await {
                Ok(committed) => position = committed.position.unwrap(),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Fenced, "{error:?}");
                    break;
                }
            }
            applied += 1;
        }
    }
}
