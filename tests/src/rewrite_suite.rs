//! What every store must hold to when other positions take the place of all that a consumer has.

use bytes::Bytes;
use tendon::{
    backend::Database,
    deployment::Deployment,
    error::Kind,
    event::{Cursor, EventId},
    limits::STATE_VALUE_BYTES_MAX,
    store::{Commit, Epoch, Position, Revision, Rewrite, Scope, Store},
    tenant::{ConsumerId, ShardId},
};

use crate::{
    deployments::deployment,
    letter_suite::{letter, set_aside},
    place::{Place, advance, claim, commit, consumer, name, shard, tenant},
    state_suite::{get, writes},
    sweep_suite::Swept,
};

fn part(index: u32) -> ShardId {
    ShardId { index, ..shard("c") }
}

/// All rows of consumer `c`.
async fn rows(store: &dyn Store) -> Vec<Position> {
    let mut rows = store.positions().await.unwrap();
    rows.retain(|row| row.shard.consumer == consumer("c"));
    rows
}

/// Consumer `c` with so many shards, each of which has committed once, and another consumer of this name.
async fn prepared(database: &Database, shards: u32) {
    let store = database.store();
    let other = ShardId { consumer: ConsumerId { tenant: tenant("acme"), name: name("c") }, index: 0 };
    for shard in (0..shards).map(part).chain([other]) {
        let start = claim(database, &shard).await;
        let changes = writes(&shard.consumer, &shard.index.to_string(), [("k", Some(&b"v"[..]))]);
        let to = Commit { changes, ..advance(&start, &(shard.index + 5).to_string()) };
        commit(&*store, to).await.unwrap();
    }
}

/// These rows, moved to a cursor, and as many more as are asked for.
fn moved(from: &[Position], cursor: &'static str, count: u32) -> Vec<Position> {
    let first = &from[0];
    let row = |index| Position {
        shard: part(index),
        cursor: Cursor(Bytes::from(cursor)),
        revision: Revision(77),
        digest: None,
        ..first.clone()
    };
    (0..count).map(row).collect()
}

fn rewrite(from: Vec<Position>, to: Vec<Position>) -> Commit {
    let rewrite = Rewrite { consumer: consumer("c"), from, to, clears_state: false };
    Commit { rewrite: Some(rewrite), ..Commit::default() }
}

/// Old rows are replaced and new ones made, all under one new fence, with the deployment that wants it so.
pub async fn other_positions_take_the_place_of_all<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    prepared(&database, 3).await;
    let before = store.positions().await.unwrap();
    let from = rows(&*store).await;
    let mut to = moved(&from, "5", 5);
    to[4].incarnation = 0;
    let mut wanted = rewrite(from.clone(), to);
    wanted.deployment = Some((deployment(&consumer("c"), b"wasm"), Bytes::from("wasm")));
    let epoch = commit(&*store, wanted).await.unwrap().epoch.unwrap();
    let after = rows(&*place.open().await.store()).await;
    assert_eq!(after.len(), 5);
    let fence = after[0].fence;
    assert!(before.iter().all(|row| row.fence < fence));
    for (row, index) in after.iter().zip(0..) {
        assert_eq!((row.shard.index, row.fence, row.epoch, row.revision), (index, fence, epoch, Revision(77)));
        assert_eq!(row.cursor.to_string(), "5");
        assert_eq!(row.incarnation, if index == 4 { fence.0 } else { from[0].incarnation });
    }
    assert_eq!(store.deployments().await.unwrap()[0].epoch, epoch);
    assert_eq!(before.iter().find(|row| row.shard.consumer != consumer("c")), store.positions().await.unwrap().first());
    assert_eq!(get(&*store, &consumer("c"), "1", "k").await.unwrap(), "v");
    // Whoever held a row holds it no longer, and the next one goes on from there.
    assert_eq!(commit(&*store, advance(&from[1], "9")).await.unwrap_err().kind(), Kind::Fenced);
    let claimed = claim(&database, &part(4)).await;
    assert_eq!((claimed.cursor.to_string(), claimed.revision), ("5".to_owned(), Revision(77)));
    let next = commit(&*store, advance(&claimed, "6")).await.unwrap().position.unwrap();
    assert_eq!(next.revision, Revision(78));
}

/// A row that has moved, one that is new and one that is missing: each means that nothing happens.
pub async fn a_rewrite_that_comes_too_late_changes_nothing<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    prepared(&database, 2).await;
    let from = rows(&*store).await;
    let stale = commit(&*store, advance(&from[1], "8")).await.unwrap().position.unwrap();
    let late = |from: Vec<Position>| Commit {
        deployment: Some((deployment(&consumer("c"), b"wasm"), Bytes::from("wasm"))),
        purged: vec![(consumer("c"), EventId("kept".into()))],
        ..rewrite(from.clone(), moved(&from, "0", 4))
    };
    let kept = Commit { dead_letters: vec![letter(&shard("c"), "kept", 0)], ..Commit::default() };
    commit(&*store, kept).await.unwrap();
    let before = store.positions().await.unwrap();
    let missing = vec![from[0].clone()];
    let other = vec![from[0].clone(), stale.clone(), Position { shard: part(2), ..stale.clone() }];
    for from in [from.clone(), missing, other] {
        assert_eq!(commit(&*store, late(from)).await.unwrap_err().kind(), Kind::Fenced);
        assert_eq!(store.positions().await.unwrap(), before);
        assert_eq!(store.deployments().await.unwrap(), []);
        assert_eq!(set_aside(&*store, &consumer("c")).await, ["kept"]);
    }
    commit(&*store, late(vec![from[0].clone(), stale])).await.unwrap();
    assert_eq!(set_aside(&*store, &consumer("c")).await, [""; 0]);
}

/// A state is emptied in every part, in whatever form the store holds it, for whoever has the database open; others keep
/// theirs.
pub async fn a_state_is_emptied_with_the_move<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    prepared(&database, 2).await;
    let reader = place.open().await;
    let big = vec![7; STATE_VALUE_BYTES_MAX];
    for n in 0..12 {
        for owner in ["c", "d"] {
            let key = format!("key-{n}");
            let changes = writes(&consumer(owner), "1", [(&*key, Some(&big[..])), ("same", Some(key.as_bytes()))]);
            commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
        }
    }
    assert!(get(&*reader.store(), &consumer("c"), "1", "key-11").await.is_some());
    let from = rows(&*store).await;
    let mut wanted = rewrite(from.clone(), from.clone());
    wanted.rewrite.as_mut().unwrap().clears_state = true;
    commit(&*store, wanted).await.unwrap();
    for database in [&database, &reader, &place.open().await] {
        let store = database.store();
        for part in ["", "0", "1"] {
            let scope = Scope { consumer: consumer("c"), part: part.into() };
            assert_eq!(store.scan(&scope, "", None, 100).await.unwrap(), []);
        }
        assert_eq!(get(&*store, &consumer("c"), "1", "same").await, None);
        let scope = Scope { consumer: consumer("d"), part: "1".into() };
        assert_eq!(store.scan(&scope, "", None, 100).await.unwrap().len(), 13);
        assert_eq!(get(&*store, &consumer("d"), "1", "same").await.unwrap(), "key-11");
    }
    // What is written after it is there.
    let changes = writes(&consumer("c"), "1", [("same", Some(&b"new"[..]))]);
    commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
    for database in [&database, &reader, &place.open().await] {
        assert_eq!(get(&*database.store(), &consumer("c"), "1", "same").await.unwrap(), "new");
    }
}

/// Nothing is left of it, and one of the same name is another one.
pub async fn a_consumer_that_is_gone_has_nothing<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    prepared(&database, 2).await;
    let all = Commit {
        deployment: Some((deployment(&consumer("c"), b"wasm"), Bytes::from("wasm"))),
        dead_letters: vec![letter(&shard("c"), "1", 0)],
        ..Commit::default()
    };
    commit(&*store, all).await.unwrap();
    let from = rows(&*store).await;
    let old = from[0].clone();
    let gone = commit(&*store, rewrite(from, Vec::new())).await.unwrap();
    assert_eq!(gone.epoch, None);
    assert_eq!(rows(&*store).await, []);
    assert_eq!(store.deployments().await.unwrap(), []);
    assert_eq!(set_aside(&*store, &consumer("c")).await, [""; 0]);
    assert_eq!(store.history(&shard("c")).await.unwrap(), []);
    assert_eq!(get(&*store, &consumer("c"), "1", "k").await, None);
    assert_eq!(store.positions().await.unwrap().len(), 1, "the other one's is there");
    assert_eq!(commit(&*store, advance(&old, "9")).await.unwrap_err().kind(), Kind::Fenced);
    let fresh = claim(&database, &shard("c")).await;
    assert!(fresh.cursor.is_start() && fresh.incarnation > old.incarnation);
}

/// Crashes at each failpoint that a rewrite passes, and looks after a restart.
pub async fn crash_a_rewrite_everywhere<P: Place>() -> Swept {
    let mut swept = Swept::default();
    loop {
        let place = P::fresh().await;
        let database = place.open().await;
        prepared(&database, 2).await;
        let letters = vec![letter(&shard("c"), "1", 0), letter(&shard("c"), "2", 0)];
        commit(&*database.store(), Commit { dead_letters: letters, ..Commit::default() }).await.unwrap();
        let from = rows(&*database.store()).await;
        let mut wanted = rewrite(from.clone(), moved(&from, "1", 4));
        wanted.rewrite.as_mut().unwrap().clears_state = true;
        wanted.deployment = Some((deployment(&consumer("c"), b"wasm"), Bytes::from("wasm")));
        wanted.purged = vec![(consumer("c"), EventId("1".into()))];
        database.failpoints().crash_at(swept.crashes);
        let answer = commit(&*database.store(), wanted.clone()).await;
        let visited = database.failpoints().visited();
        database.close().await;
        let database = place.open().await;
        let store = database.store();
        let seen = (
            rows(&*store).await.len(),
            get(&*store, &consumer("c"), "1", "k").await.is_some(),
            store.deployments().await.unwrap().len(),
            set_aside(&*store, &consumer("c")).await.len(),
        );
        if visited.len() <= swept.crashes {
            answer.unwrap();
            assert_eq!(seen, (4, false, 1, 1));
            return swept;
        }
        swept.crashes += 1;
        swept.visited.extend(visited);
        match answer.unwrap_err().kind() {
            Kind::Ambiguous => {
                swept.new += 1;
                assert_eq!(seen, (4, false, 1, 1));
                assert_eq!(commit(&*store, wanted).await.unwrap_err().kind(), Kind::Fenced);
            }
            kind => {
                swept.old += 1;
                assert_eq!((kind, seen), (Kind::Unavailable, (2, true, 0, 2)));
                commit(&*store, wanted).await.unwrap();
            }
        }
    }
}

/// The sweep: nothing in between.
pub async fn a_crash_in_a_rewrite_leaves_old_or_new<P: Place>() {
    let swept = crash_a_rewrite_everywhere::<P>().await;
    assert!(swept.crashes > 2, "{swept:?}");
    assert_eq!((swept.old, swept.new), (swept.crashes - 1, 1), "{swept:?}");
}

/// Of two that were made from the same one only the first is activated, by itself or with other positions.
pub async fn a_deployment_is_activated_only_after_the_one_it_was_made_from<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    prepared(&database, 1).await;
    let deploy = |component: &'static [u8], follows| Commit {
        deployment: Some((deployment(&consumer("c"), component), Bytes::from(component))),
        follows: Some(follows),
        ..Commit::default()
    };
    let first = commit(&*store, deploy(b"one", Epoch(0))).await.unwrap().epoch.unwrap();
    let late = commit(&*store, deploy(b"two", Epoch(0))).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Fenced, "{late}");
    let from = rows(&*store).await;
    let moved_too =
        |follows| Commit { rewrite: rewrite(from.clone(), moved(&from, "3", 2)).rewrite, ..deploy(b"two", follows) };
    let late = commit(&*store, moved_too(Epoch(0))).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Fenced, "{late}");
    assert_eq!(rows(&*store).await, from);
    let active = |all: Vec<Deployment>| all.into_iter().map(|one| one.epoch).collect::<Vec<_>>();
    assert_eq!(active(store.deployments().await.unwrap()), [first]);
    let second = commit(&*store, moved_too(first)).await.unwrap().epoch.unwrap();
    let third = commit(&*store, deploy(b"one", second)).await.unwrap().epoch.unwrap();
    assert_eq!(active(store.deployments().await.unwrap()), [third]);
    assert_eq!(rows(&*store).await.len(), 2);
    // Another consumer's has nothing to do with it.
    let other = Deployment { consumer: consumer("d"), ..deployment(&consumer("d"), b"one") };
    let other = Commit { deployment: Some((other, Bytes::from("one"))), follows: Some(Epoch(0)), ..Commit::default() };
    commit(&*store, other).await.unwrap();
}

/// Of several that were made from the same one, at once, on connections of their own.
pub async fn of_deployments_at_once_one_is_activated<P: Place>() {
    let place = P::fresh().await;
    let databases = [place.open().await, place.open().await, place.open().await];
    let mut newest = Epoch(0);
    for round in 0..15_u8 {
        let deploy = async |n: u8, database: &Database| {
            let component = vec![round, n];
            let deployment = deployment(&consumer("c"), &component);
            let deployment = Some((deployment, Bytes::from(component)));
            commit(&*database.store(), Commit { deployment, follows: Some(newest), ..Commit::default() }).await
        };
        let [a, b, c] = &databases;
        let answers = tokio::join!(deploy(0, a), deploy(1, b), deploy(2, c));
        let answers = [answers.0, answers.1, answers.2];
        let activated: Vec<Epoch> =
            answers.iter().filter_map(|answer| answer.as_ref().ok()).filter_map(|committed| committed.epoch).collect();
        let refused =
            answers.iter().filter(|answer| matches!(answer, Err(error) if error.kind() == Kind::Fenced)).count();
        assert_eq!((activated.len(), refused), (1, 2), "round {round}: {answers:?}");
        newest = activated[0];
    }
    assert_eq!(databases[0].store().deployments().await.unwrap()[0].epoch, newest);
}
