//! SQLite's state in its two homes, the table and the log: whoever reads sees one state, the newest, whatever was folded,
//! crashed, given up or written by another process.

use std::collections::BTreeMap;

use bytes::Bytes;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tendon::{
    backend::{Database, Durability, Options},
    limits::STATE_VALUE_BYTES_MAX,
    store::{Commit, Scope},
};
use tendon_tests::{
    place::{Place as _, SqlitePlace, commit, consumer},
    state_suite::{get, writes},
};

/// Weights of logs that are not folded yet; see `recent.rs`.
const LOG_BYTES_MAX: i64 = 8 * 1024 * 1024;
const READ_ONLY: Options = Options { durability: Durability::Full, read_only: true };

type Model = BTreeMap<(&'static str, String), Bytes>;

async fn set(database: &Database, part: &str, key: &str, value: Option<&[u8]>) {
    let changes = writes(&consumer("c"), part, [(key, value)]);
    commit(&*database.store(), Commit { changes, ..Commit::default() }).await.unwrap();
}

/// Everything in a part, page by page.
async fn all(database: &Database, part: &str, prefix: &str, page: u32) -> Vec<(String, Bytes)> {
    let scope = Scope { consumer: consumer("c"), part: part.into() };
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let entries = database.store().scan(&scope, prefix, after.as_deref(), page).await.unwrap();
        let Some((last, _)) = entries.last() else { return found };
        after = Some(last.to_string());
        found.extend(entries.into_iter().map(|(key, value)| (key.to_string(), value)));
    }
}

async fn agrees(database: &Database, model: &Model) {
    for part in ["", "p"] {
        for prefix in ["", "1"] {
            let wanted = model.iter().filter(|((home, key), _)| *home == part && key.starts_with(prefix));
            let wanted: Vec<_> = wanted.map(|((_, key), value)| (key.clone(), value.clone())).collect();
            assert_eq!(all(database, part, prefix, 7).await, wanted, "part `{part}`, prefix `{prefix}`");
        }
    }
    let (part, key) = (["", "p"][fastrand::usize(..2)], fastrand::u8(..80).to_string());
    let found = get(&*database.store(), &consumer("c"), part, &key).await;
    assert_eq!(found.as_ref(), model.get(&(part, key)));
}

/// The rows of a table, and their bytes.
async fn size(place: &SqlitePlace, sql: &'static str) -> (i64, i64) {
    let options = SqliteConnectOptions::new().filename(place.path());
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query_as(sql).fetch_one(&mut connection).await.unwrap()
}

const LOG: &str = "SELECT count(*), ifnull(sum(length(writes)), 0) FROM state_log";
const TABLE: &str = "SELECT count(*), ifnull(sum(length(value)), 0) FROM state";

#[tokio::test]
async fn two_hosts_a_reader_and_a_map_agree_over_many_folds_and_restarts() {
    fastrand::seed(7);
    let place = SqlitePlace::fresh().await;
    let mut hosts = [place.open().await, place.open().await];
    let reader = Database::open(&place.url(), READ_ONLY).await.unwrap();
    let mut model = Model::new();
    let mut longest = 0;
    for step in 0..600 {
        // Mostly the same one for a while: whoever writes after the other takes the log in anew.
        let host = &hosts[(step / 25) % 2];
        let part = ["", "p"][fastrand::usize(..2)];
        let mut changes: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for _ in 0..fastrand::usize(1..4) {
            let value = (fastrand::u8(..4) > 0).then(|| vec![fastrand::u8(..); fastrand::usize(..60_000)]);
            changes.insert(fastrand::u8(..80).to_string(), value);
        }
        for (key, value) in &changes {
            match value {
                Some(value) => model.insert((part, key.clone()), Bytes::from(value.clone())),
                None => model.remove(&(part, key.clone())),
            };
        }
        let pairs = changes.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
        let write = Commit { changes: writes(&consumer("c"), part, pairs), ..Commit::default() };
        commit(&*host.store(), write).await.unwrap();
        if step % 20 == 0 {
            agrees(&hosts[fastrand::usize(..2)], &model).await;
            agrees(&reader, &model).await;
            longest = longest.max(size(&place, LOG).await.1);
        }
        if step % 150 == 149 {
            hosts[0].close().await;
            hosts[0] = place.open().await;
            agrees(&hosts[0], &model).await;
        }
    }
    agrees(&hosts[1], &model).await;
    let (rows, _) = size(&place, TABLE).await;
    assert!(rows > 0 && longest > LOG_BYTES_MAX / 2, "nothing was ever folded: {rows} rows, a log of {longest} bytes");
    assert!(longest < 2 * LOG_BYTES_MAX, "the log grew to {longest} bytes");
}

#[tokio::test]
async fn a_key_that_is_written_again_and_again_leaves_no_log_behind() {
    let place = SqlitePlace::fresh().await;
    let database = place.open().await;
    for n in 0..40_u8 {
        set(&database, "", "k", Some(&vec![n; STATE_VALUE_BYTES_MAX])).await;
    }
    let (rows, bytes) = size(&place, LOG).await;
    assert!(bytes <= LOG_BYTES_MAX + 2 * STATE_VALUE_BYTES_MAX as i64, "{rows} rows, {bytes} bytes");
    set(&database, "", "k", None).await;
    assert_eq!(get(&*database.store(), &consumer("c"), "", "k").await, None);
    database.close().await;
    assert_eq!(get(&*place.open().await.store(), &consumer("c"), "", "k").await, None);
}

#[tokio::test]
async fn what_another_process_wrote_is_seen_whichever_way_the_write_after_it_fails() {
    let place = SqlitePlace::fresh().await;
    let (ours, theirs) = (place.open().await, place.open().await);
    let mut taken_in = 0;
    for k in 0..8 {
        let value = k.to_string();
        set(&theirs, "", "theirs", Some(value.as_bytes())).await;
        ours.failpoints().fail_at(k);
        let changes = writes(&consumer("c"), "", [("ours", Some(value.as_bytes()))]);
        let answer = commit(&*ours.store(), Commit { changes, ..Commit::default() }).await;
        taken_in += usize::from(ours.failpoints().visited().contains(&"sqlite state log"));
        ours.failpoints().disarm();
        for database in [&ours, &theirs] {
            let store = database.store();
            assert_eq!(get(&*store, &consumer("c"), "", "theirs").await.unwrap(), value);
            let found = get(&*store, &consumer("c"), "", "ours").await.is_some_and(|found| found == value);
            // The last place is after the COMMIT, where the answer is lost and the write stands.
            assert!(found || answer.is_err(), "at {k}");
        }
    }
    assert!(taken_in > 3, "{taken_in}");
}

#[tokio::test]
async fn a_write_that_is_given_up_is_there_or_not_for_everybody() {
    let place = SqlitePlace::fresh().await;
    let database = place.open().await;
    for n in 0..60_u32 {
        let value = n.to_string();
        let store = database.store();
        let changes = writes(&consumer("c"), "", [("k", Some(value.as_bytes()))]);
        let mut write = Box::pin(async move { commit(&*store, Commit { changes, ..Commit::default() }).await });
        for _ in 0..n % 12 {
            if futures_util::poll!(&mut write).is_ready() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(300)).await;
        }
        drop(write);
        // Waits for the writer, and so for whatever the one before it still does.
        set(&database, "", "other", Some(value.as_bytes())).await;
        let seen = get(&*database.store(), &consumer("c"), "", "k").await;
        let fresh = Database::open(&place.url(), READ_ONLY).await.unwrap();
        assert_eq!(get(&*fresh.store(), &consumer("c"), "", "k").await, seen, "after {n}");
        fresh.close().await;
    }
}
