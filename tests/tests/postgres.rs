//! What only PostgreSQL can get wrong: rows that become visible out of order, another cluster's transaction ids, a server
//! that goes away.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, Transaction};
use tendon::{
    backend::{Database, Options},
    error::Kind,
    event::{Cursor, Event},
    source::{Source, Until},
};
use tendon_tests::{
    place::{Place as _, PostgresPlace, append, claim, commit, emit, filled, read, shard, stream},
    servers::has_postgres,
};
use tokio::sync::Notify;

macro_rules! needs_postgres {
    () => {
        if !has_postgres() {
            return;
        }
    };
}

/// Writers at a time, and the transactions of each.
const WRITERS: u64 = 8;
const TRANSACTIONS: u64 = 600;

/// The table of the first stream that was made.
const INSERT: &str = "INSERT INTO tendon.events_1 (era, type, foreign_id, timestamp, metadata)
    VALUES ((SELECT max(era) FROM tendon.era), 1, $1, 0, '')";

/// Inserts an event in a transaction that stays open.
async fn insert<'c>(connection: &'c mut PgConnection, text: &str) -> Transaction<'c, Postgres> {
    let mut open = connection.begin().await.unwrap();
    sqlx::query(INSERT).bind(text.as_bytes()).execute(&mut *open).await.unwrap();
    open
}

/// Transactions of one to three inserts that take up to 12 ms; one in twenty is rolled back. What was committed.
async fn write(mut connection: PgConnection, writer: u64, some: Arc<Notify>) -> Vec<String> {
    let mut committed = Vec::new();
    for n in 0..TRANSACTIONS {
        let mut open = connection.begin().await.unwrap();
        let mut mine = Vec::new();
        for k in 0..fastrand::u64(1..=3) {
            let text = format!("{writer}-{n}-{k}");
            sqlx::query(INSERT).bind(text.as_bytes()).execute(&mut *open).await.unwrap();
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..4_000))).await;
            mine.push(text);
        }
        if fastrand::u8(..20) == 0 {
            open.rollback().await.unwrap();
        } else {
            open.commit().await.unwrap();
            committed.extend(mine);
            some.notify_one();
        }
    }
    committed
}

/// Reads by ids, as one would who does not know better, until everybody has written and nothing more comes.
async fn read_naively(mut connection: PgConnection, done: Arc<AtomicBool>) -> BTreeSet<String> {
    let (mut after, mut seen) = (0_i64, BTreeSet::new());
    loop {
        let is_done = done.load(Relaxed);
        let rows = sqlx::query("SELECT id, foreign_id FROM tendon.events_1 WHERE id > $1 ORDER BY id LIMIT 1000");
        let rows = rows.bind(after).fetch_all(&mut connection).await.unwrap();
        if rows.is_empty() && is_done {
            return seen;
        }
        for row in &rows {
            after = row.get(0);
            seen.insert(String::from_utf8(row.get(1)).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads as a host does that is started anew again and again, from the start on.
async fn read_with_restarts(source: Arc<dyn Source>, wanted: Arc<AtomicU64>) -> Vec<Event> {
    let (mut seen, mut cursor) = (Vec::new(), Cursor::START);
    loop {
        let mut chunks = source.stream(cursor.clone(), Until::Forever).await.unwrap();
        for _ in 0..fastrand::u8(1..20) {
            let Ok(chunk) = tokio::time::timeout(Duration::from_millis(200), chunks.next()).await else { break };
            let chunk = chunk.unwrap().unwrap();
            // Now and then it dies in the middle of a chunk.
            let all = chunk.events.len();
            let kept = if fastrand::bool() { all } else { fastrand::usize(1..=all) };
            seen.extend(chunk.events.into_iter().take(kept));
            cursor = seen.last().map(|event: &Event| event.cursor.clone()).unwrap();
            if kept < all {
                break;
            }
        }
        if seen.len() as u64 >= wanted.load(Relaxed) {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_of_concurrent_writers_is_lost_or_repeated_and_a_naive_reader_loses_many() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let (database, source) = filled(&place, "in", 0).await;
    // The first transaction of all is open while others commit: the reader stands at the very start.
    let mut first = place.0.connect().await;
    let first = insert(&mut first, "first").await;

    let (done, wanted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
    let naive = tokio::spawn(read_naively(place.0.connect().await, done.clone()));
    let reader = tokio::spawn(read_with_restarts(source.clone(), wanted.clone()));
    let some = Arc::new(Notify::new());
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        writers.push(tokio::spawn(write(place.0.connect().await, writer, some.clone())));
    }
    for _ in 0..10 {
        some.notified().await;
    }
    first.commit().await.unwrap();
    let mut committed = BTreeSet::from(["first".to_owned()]);
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    wanted.store(committed.len() as u64, Relaxed);
    done.store(true, Relaxed);

    let events = tokio::time::timeout(Duration::from_secs(60), reader).await.expect("events are lost").unwrap();
    let seen: BTreeSet<String> = events.iter().map(|event| event.foreign_id.to_string()).collect();
    assert_eq!(events.len(), seen.len(), "an event came twice");
    assert!(seen == committed, "{} events lost of {}", committed.difference(&seen).count(), committed.len());
    assert_eq!(read(&*source, &Cursor::START).await, events, "another reading has another order");
    let naive = naive.await.unwrap();
    let lost = committed.difference(&naive).count();
    println!("{} events; lost and repeated: 0; the naive reader lost {lost}", committed.len());
    assert!(lost * 10 > committed.len(), "the control lost only {lost} of {}", committed.len());
    database.close().await;
}

#[tokio::test]
async fn what_is_not_committed_is_after_the_head() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let (database, source) = filled(&place, "in", 1).await;
    let mut other = place.0.connect().await;
    let open = insert(&mut other, "late").await;
    commit(&*database.store(), append(vec![emit(&stream("in"), 9)])).await.unwrap();
    let head = source.head().await.unwrap();
    assert_eq!(read(&*source, &Cursor::START).await.len(), 1, "nothing is read beyond an open transaction");
    assert_eq!(source.lag(&head, 100).await.unwrap().events, 1, "what waits is lag");
    let Database::Postgres(postgres) = &database else { panic!("another database") };
    let held = postgres.source(&stream("in")).await.unwrap();
    let why = held.held_up_by(&head).await.unwrap().unwrap();
    assert!(
        why.contains("session ") && why.contains("idle in transaction") && why.contains("pg_terminate_backend"),
        "{why}"
    );
    open.commit().await.unwrap();
    let all = source.stream(head.clone(), Until::Head).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(held.held_up_by(all.end()).await.unwrap(), None);
    let texts: Vec<String> = read(&*source, &head).await.iter().map(|event| event.foreign_id.to_string()).collect();
    assert_eq!(texts, ["late", "key-9"]);
}

#[tokio::test]
async fn a_rolled_back_event_holds_nobody_up() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let (database, source) = filled(&place, "in", 1).await;
    let mut other = place.0.connect().await;
    let open = insert(&mut other, "never").await;
    open.rollback().await.unwrap();
    commit(&*database.store(), append(vec![emit(&stream("in"), 9)])).await.unwrap();
    let ids: Vec<String> = read(&*source, &Cursor::START).await.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids, ["1", "3"]);
}

/// In another cluster transaction ids begin anew: here that of a dump which is restored on a younger server.
#[tokio::test]
async fn after_a_restore_in_another_cluster_nothing_is_lost_or_repeated_and_ids_stay() {
    needs_postgres!();
    let (old, new) = (PostgresPlace::fresh().await, PostgresPlace::fresh().await);
    let mut busy = old.0.connect().await;
    for _ in 0..300 {
        sqlx::query("SELECT pg_current_xact_id()").execute(&mut busy).await.unwrap();
    }
    let (database, source) = filled(&old, "in", 20).await;
    let before = read(&*source, &Cursor::START).await;
    let fence = claim(&database, &shard("c")).await.fence;
    database.close().await;
    tendon_tests::servers::copy(&old.0, &new.0);

    let database = new.open().await;
    let source = database.source(&stream("in")).await.unwrap();
    commit(&*database.store(), append((20..30).map(|n| emit(&stream("in"), n)).collect())).await.unwrap();
    let after = read(&*source, &Cursor::START).await;
    assert_eq!(after[..20], before[..], "what was restored has the places and the ids that it had");
    let middle = &before[9].cursor;
    assert_eq!(read(&*source, middle).await.len(), 20);
    let eras: BTreeSet<_> =
        after.iter().map(|event| event.cursor.to_string().split('.').next().unwrap().to_owned()).collect();
    assert_eq!(eras.len(), 2);
    let xid = |event: &Event| event.cursor.to_string().split('.').nth(1).unwrap().parse::<u64>().unwrap();
    assert!(xid(&after[29]) < xid(&after[0]), "the new cluster is not younger: this test proves nothing");
    assert!(claim(&database, &shard("c")).await.fence > fence);
    database.close().await;
}

#[tokio::test]
async fn a_server_that_ends_its_sessions_is_used_again() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let (database, source) = filled(&place, "in", 3).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tendon'";
    sqlx::query(kill).execute(&mut place.0.connect().await).await.unwrap();
    let mut failures = 0;
    let appended = loop {
        match commit(&*database.store(), append(vec![emit(&stream("in"), 9)])).await {
            Ok(committed) => break committed.appended,
            Err(error) => assert!(matches!(error.kind(), Kind::Unavailable | Kind::Ambiguous), "{error:?}"),
        }
        failures += 1;
        assert!(failures < 20);
    };
    assert_eq!(appended, 1);
    loop {
        // Every connection of the pool may be dead, each once.
        if let Ok(head) = source.head().await {
            assert_eq!(read(&*source, &head).await.len(), 0);
            break;
        }
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_had_says_why_and_never_its_password() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let url = place.0.url().replace("postgres@", "postgres:hunter2@");
    let missing = format!("{url}_missing");
    let nobody = "postgres://me:hunter2@127.0.0.1:1/orders";
    let opened = place.open().await;
    let newer = "UPDATE tendon.schema_version SET version = 99";
    sqlx::query(newer).execute(&mut place.0.connect().await).await.unwrap();
    for (url, said) in [(missing.as_str(), "no such database"), (nobody, "cannot be reached"), (&url, "version 99")] {
        let Err(error) = Database::open(url, Options::default()).await else { panic!("{url} was opened") };
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        let text = format!("{}{:?}", error.chain(), error.way_out());
        assert!(text.contains(said) && !text.contains("hunter2"), "{text}");
    }
    opened.close().await;
    let fresh = PostgresPlace::fresh().await;
    let read_only = Options { read_only: true, ..Options::default() };
    let Err(error) = Database::open(&fresh.0.url(), read_only).await else { panic!("it was opened") };
    assert!(error.to_string().contains("may not write"), "{error}");
}

#[tokio::test]
async fn a_name_of_any_length_has_its_table() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let database = place.open().await;
    let long = |last: char| stream(&format!("{}{last}", "s".repeat(62)));
    for last in ['a', 'b'] {
        database.create_stream(&long(last)).await.unwrap();
        commit(&*database.store(), append(vec![emit(&long(last), 1)])).await.unwrap();
    }
    assert_eq!(read(&*database.source(&long('a')).await.unwrap(), &Cursor::START).await.len(), 1);
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'events\\__' AND relkind = 'r'";
    let tables: i64 = sqlx::query_scalar(AssertSqlSafe(tables)).fetch_one(&mut place.0.connect().await).await.unwrap();
    assert_eq!(tables, 2);
}
