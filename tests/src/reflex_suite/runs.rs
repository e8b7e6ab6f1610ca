//! Runs: where one begins and ends, what a failure leaves, and events side by side.

use tendon::{
    deployment::{Spec, StateScope},
    event::Cursor,
    handler::FailureKind,
    policy::RetryPolicy,
    store::Status,
    topology::Shards,
};
use tokio::time::sleep;

use super::{LONG, Stage, in_virtual_time, ok, spec};
use crate::{
    native::failure,
    place::{append, commit, emit, shard, stream},
};

/// The rows of reflex's test: how many events there are, behind which one it begins, which one fails, and where it then is, having
/// been called with which.
pub(super) fn where_it_is() {
    let rows: [(usize, &str, u64, &str, &[u64]); 6] = [
        (0, "", 0, "start", &[]),
        (1, "", 0, "1", &[1]),
        (5, "", 0, "5", &[1, 2, 3, 4, 5]),
        (5, "", 4, "3", &[1, 2, 3, 4]),
        (5, "", 1, "start", &[1]),
        (4, "2", 0, "4", &[3, 4]),
    ];
    for (events, start, fails, cursor, called_with) in rows {
        in_virtual_time(async {
            let stage = Stage::new().await;
            stage.append_all(events).await;
            let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
            let spec = Spec { start: Cursor(start.into()), retry, ..spec() };
            let subject = stage.run("c", spec, move |event, _| match *event.id.0 == *fails.to_string() {
                true => Err(failure(FailureKind::Retry, "it fails")),
                false => Ok(()),
            });
            sleep(LONG).await;
            let row = stage.row("c").await;
            assert_eq!((row.cursor.to_string(), subject.called_with()), (cursor.to_owned(), called_with.to_vec()));
            let status = if fails > 0 { Status::Blocked } else { Status::Running };
            assert_eq!((row.status, row.attempts), (status, u32::from(fails > 0)));
        });
    }
}

/// A run that failed at the first event, and one after it: it is called with that one again, and with nothing behind it before.
pub(super) fn a_failure_passes_nothing() {
    in_virtual_time(async {
        let stage = Stage::new().await;
        stage.append_all(3).await;
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let fails = |_: &_, _| Err(failure(FailureKind::Retry, "it fails"));
        let subject = stage.run("c", Spec { retry, ..spec() }, fails);
        sleep(LONG).await;
        assert_eq!(subject.called_with(), [1]);
        subject.running.stop().await;
        // Somebody lets it go on.
        let mut row = stage.row("c").await;
        (row.status, row.attempts, row.reason) = (Status::Running, 0, None);
        let moved = tendon::store::Move { from: stage.row("c").await, to: row, takes_fence: true };
        let moved = tendon::store::Commit { r#move: Some(moved), ..tendon::store::Commit::default() };
        commit(&*stage.database.store(), moved).await.unwrap();
        let subject = stage.run("c", spec(), ok);
        sleep(LONG).await;
        assert_eq!((subject.called_with(), stage.row("c").await.cursor), (vec![1, 2, 3], Cursor("3".into())));
    });
}

/// A thousand events of many keys in eight shards, all handled; with one of them that fails, its shard is before it and none other.
pub(super) fn side_by_side() {
    const SHARDS: u32 = 8;
    for fails in [0, 2] {
        in_virtual_time(async {
            let stage = Stage::new().await;
            let emits = (0..1_000).map(|n| emit(&stream("in"), n)).collect();
            commit(&*stage.database.store(), append(emits)).await.unwrap();
            let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
            let shards = Shards { count: SHARDS, ..Shards::default() };
            let spec = Spec { retry, shards: shards.clone(), state: StateScope::Key, ..spec() };
            let mut subjects = Vec::new();
            for index in 0..SHARDS {
                subjects.push(stage.run_shard(("c", index), spec.clone(), move |event, _| {
                    match *event.id.0 == *fails.to_string() {
                        true => Err(failure(FailureKind::Retry, "it fails")),
                        false => Ok(()),
                    }
                }));
            }
            sleep(LONG).await;
            let mut called: Vec<u64> = subjects.iter().flat_map(|subject| subject.called_with()).collect();
            called.sort_unstable();
            let mut blocked = 0;
            for index in 0..SHARDS {
                let id = tendon::tenant::ShardId { index, ..shard("c") };
                let row = stage.database.store().load(&id).await.unwrap();
                match row.status {
                    Status::Running => assert_eq!(row.cursor, Cursor("1000".into())),
                    _ => {
                        blocked += 1;
                        assert!(["start", "1"].contains(&&*row.cursor.to_string()), "{}", row.cursor);
                    }
                }
            }
            assert_eq!(blocked, usize::from(fails > 0));
            let all = called.len();
            called.dedup();
            assert_eq!(called.len(), all, "called twice");
            match fails {
                0 => assert_eq!(called, (1..=1_000).collect::<Vec<_>>()),
                _ => assert!((800..1_000).contains(&all), "{all}"),
            }
        });
    }
}
