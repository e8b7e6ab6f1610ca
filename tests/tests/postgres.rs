//! What only PostgreSQL can get wrong: rows that become visible out of order, another cluster's transaction ids, a server
//! that goes away.

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Transaction, postgres::PgListener};
use tendon::{
    backend::{Database, Options, Order},
    error::Kind,
    event::{Cursor, Event},
    source::Until,
};
use tendon_tests::{
    place::{Place as _, PostgresPlace, advance, append, claim, commit, emit, filled, read, shard, stream},
    servers::has_postgres,
};
use tokio::time::{sleep, timeout};

macro_rules! needs_postgres {
    () => {
        if !has_postgres() {
            return;
        }
    };
}

/// The table of the first stream that was made.
const INSERT: &str = "INSERT INTO tendon.events_1 (era, type, foreign_id, timestamp, metadata)
    VALUES ((SELECT max(era) FROM tendon.era), 1, $1, 0, '')";

/// Inserts an event in a transaction that stays open.
async fn insert<'c>(connection: &'c mut PgConnection, text: &str) -> Transaction<'c, Postgres> {
    let mut open = connection.begin().await.unwrap();
    sqlx::query(INSERT).bind(text.as_bytes()).execute(&mut *open).await.unwrap();
    open
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
    let held = source.held_up(&head).await.unwrap().unwrap();
    assert!(held.by.contains("session ") && held.by.contains("idle in transaction"), "{held:?}");
    assert!(held.since.is_some() && held.way_out.as_ref().unwrap().contains("pg_terminate_backend"), "{held:?}");
    open.commit().await.unwrap();
    let all = source.stream(head.clone(), Until::Head).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(source.held_up(all.end()).await.unwrap(), None);
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

/// It keeps the ids of transactions, and what comes then is of another cluster.
#[tokio::test]
async fn after_pg_upgrade_nothing_is_lost_or_repeated_and_ids_stay() {
    needs_postgres!();
    let old = PostgresPlace::fresh().await;
    let (database, source) = filled(&old, "in", 20).await;
    let before = read(&*source, &Cursor::START).await;
    let claimed = claim(&database, &shard("c")).await;
    commit(&*database.store(), advance(&claimed, &before[9].cursor.to_string())).await.unwrap();
    database.close().await;
    let Some(new) = old.0.upgraded().await.map(PostgresPlace) else {
        return eprintln!("skipped: the server is another one's, and cannot be moved to another cluster");
    };

    let database = new.open().await;
    let source = database.source(&stream("in")).await.unwrap();
    commit(&*database.store(), append((20..30).map(|n| emit(&stream("in"), n)).collect())).await.unwrap();
    let position = database.store().load(&shard("c")).await.unwrap();
    let rest = read(&*source, &position.cursor).await;
    assert_eq!(rest[..10], before[10..], "what was there has the places and the ids that it had");
    let ids: Vec<String> = rest.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids, (11..=30).map(|id| id.to_string()).collect::<Vec<_>>());
    let era = |event: &Event| event.cursor.to_string().split('.').next().unwrap().to_owned();
    assert_eq!([era(&rest[0]), era(&rest[19])], ["1", "2"], "the cluster is the same: this test proves nothing");
    database.close().await;
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

/// The sessions that listen for what other hosts append.
async fn listeners(place: &PostgresPlace) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tendon' AND query LIKE 'LISTEN%'";
    sqlx::query_scalar(sql).fetch_all(&mut place.0.connect().await).await.unwrap()
}

#[tokio::test]
async fn hosts_tell_each_other_what_they_append_and_listen_again_after_a_break() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let mut told = PgListener::connect(&place.0.url()).await.unwrap();
    told.listen("tendon").await.unwrap();
    let (writer, _) = filled(&place, "in", 0).await;
    let (reader, source) = filled(&place, "in", 0).await;
    let mut reading = source.stream(Cursor::START, Until::Forever).await.unwrap();
    let mut broken: Option<i32> = None;
    for round in 1..=2_u64 {
        let listener =
            wait_for_one(async || listeners(&place).await.into_iter().find(|pid| Some(*pid) != broken)).await;
        commit(&*writer.store(), append(vec![emit(&stream("in"), round)])).await.unwrap();
        assert_eq!(reading.next().await.unwrap().unwrap().events.len(), 1);
        // Its number is 1: it is the first stream.
        assert!(told.recv().await.unwrap().payload().ends_with(" 1"));
        let kill = AssertSqlSafe(format!("SELECT pg_terminate_backend({listener})"));
        sqlx::query(kill).execute(&mut place.0.connect().await).await.unwrap();
        broken = Some(listener);
    }
    reader.close().await;
    wait_for_one(async || listeners(&place).await.is_empty().then_some(())).await;
    writer.close().await;
}

/// Asks again and again.
async fn wait_for_one<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let ask = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), ask).await.expect("it never came")
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

/// Clients of reflex take an id for a place.
#[tokio::test]
async fn a_stream_by_id_has_cursors_that_are_ids_and_stays_so() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let database = place.open().await;
    for (name, order) in [("native", Order::Native), ("by-id", Order::Id)] {
        database.create_stream(&stream(name), order).await.unwrap();
        commit(&*database.store(), append((0..3).map(|n| emit(&stream(name), n)).collect())).await.unwrap();
    }
    let by_id = database.source(&stream("by-id")).await.unwrap();
    let events = read(&*by_id, &Cursor("1".into())).await;
    let places: Vec<_> = events.iter().map(|event| (event.id.to_string(), event.cursor.to_string())).collect();
    assert_eq!(places, [("2".into(), "2".into()), ("3".into(), "3".into())]);
    // A place of the other order would be read as one before everything.
    let native = database.source(&stream("native")).await.unwrap();
    assert_eq!(native.lag(&Cursor("2".into()), 9).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(by_id.lag(&Cursor("1.700.2".into()), 9).await.unwrap_err().kind(), Kind::Invalid);
    let other = place.open().await;
    let refused = other.create_stream(&stream("native"), Order::Id).await.unwrap_err();
    assert!(refused.to_string().contains("not of ids") && refused.way_out().is_some(), "{refused}");
    other.create_stream(&stream("by-id"), Order::Native).await.unwrap();
}

#[tokio::test]
async fn a_name_of_any_length_has_its_table() {
    needs_postgres!();
    let place = PostgresPlace::fresh().await;
    let database = place.open().await;
    let long = |last: char| stream(&format!("{}{last}", "s".repeat(62)));
    for last in ['a', 'b'] {
        database.create_stream(&long(last), Order::Native).await.unwrap();
        commit(&*database.store(), append(vec![emit(&long(last), 1)])).await.unwrap();
    }
    assert_eq!(read(&*database.source(&long('a')).await.unwrap(), &Cursor::START).await.len(), 1);
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'events\\__' AND relkind = 'r'";
    let tables: i64 = sqlx::query_scalar(AssertSqlSafe(tables)).fetch_one(&mut place.0.connect().await).await.unwrap();
    assert_eq!(tables, 2);
}
