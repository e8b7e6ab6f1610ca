//! MariaDB in bad company: foreign, read-only, cut off, crowded; and what the backend must keep to beside the ports.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, MySqlConnection};
use tendon::{
    backend::{Database, Durability, Options, Order, mysql::FAILPOINTS},
    error::{Error, Kind},
    event::{Cursor, NewEvent},
    store::{Commit, Duplicates},
    tenant::ShardId,
};
use tendon_tests::{
    place::{
        MysqlPlace, Place as _, advance, append, claim, commit, consumer, emit, emit_new, event, filled, read, shard,
        stream,
    },
    rewrite_suite::crash_a_rewrite_everywhere,
    state_suite::{get, writes},
    sweep_suite::crash_everywhere,
};
use tokio::sync::RwLock;

const READ_ONLY: Options = Options { durability: Durability::Full, read_only: true };

/// All tests share a server; one makes it read-only.
static SERVER: RwLock<()> = RwLock::const_new(());

macro_rules! needs_mariadb {
    ($lock:ident) => {
        if !MysqlPlace::is_here() {
            return;
        }
        let _server = SERVER.$lock().await;
    };
}

async fn refused(url: &str, options: Options) -> Error {
    match Database::open(url, options).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error,
    }
}

async fn number(connection: &mut MySqlConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

async fn run(connection: &mut MySqlConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

fn skip(numbers: impl IntoIterator<Item = u64>) -> Commit {
    let emits = numbers.into_iter().map(|n| emit(&stream("out"), n)).collect();
    Commit { duplicates: Duplicates::Skip, ..append(emits) }
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_with_a_way_out() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let url = place.0.url();
    let (server, name) = url.rsplit_once('/').unwrap();
    let stranger = url.replace("root@", "stranger:secret@");
    for (url, kind, what) in [
        (server.to_owned(), Kind::Invalid, "names no database"),
        (format!("{server}/no-such-database"), Kind::Unavailable, "there is no such database"),
        (stranger, Kind::Unavailable, "it refuses this user"),
        (format!("mysql://root@127.0.0.1:1/{name}"), Kind::Unavailable, "it cannot be reached"),
    ] {
        let error = refused(&url, Options::default()).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.way_out().is_some() && !error.chain().contains("secret"), "{error:?}");
    }
    let error = refused(&url, READ_ONLY).await;
    assert!(error.to_string().contains("schema version 0"), "{error}");
    Database::open(&url.replace("mysql://", "mariadb://"), Options::default()).await.unwrap();
    run(&mut place.0.connect().await, "UPDATE tendon_schema_version SET version = 99").await;
    let error = refused(&url, Options::default()).await;
    assert!(error.to_string().contains("schema version 99"), "{error}");
}

#[tokio::test]
async fn a_half_made_schema_and_a_half_made_stream_are_made_whole() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (database, _) = filled(&place, "out", 1).await;
    let position = claim(&database, &shard("c")).await;
    database.close().await;
    let mut raw = place.0.connect().await;
    run(&mut raw, "DROP TABLE tendon_schema_version, tendon_history").await;
    run(&mut raw, "INSERT INTO tendon_stream (tenant, name, last_id, is_made) VALUES ('default', 'half', 0, FALSE)")
        .await;
    let (first, second) = tokio::join!(place.open(), place.open());
    assert_eq!(first.streams().await.unwrap(), [stream("out")]);
    assert_eq!(first.source(&stream("half")).await.err().unwrap().kind(), Kind::NotFound);
    let (one, two) = (stream("half"), stream("half"));
    let (one, two) = tokio::join!(first.create_stream(&one, Order::Native), second.create_stream(&two, Order::Native));
    assert_eq!((one.unwrap(), two.unwrap()), ((), ()));
    assert_eq!(second.streams().await.unwrap(), [stream("half"), stream("out")]);
    assert!(claim(&second, &shard("c")).await.fence > position.fence);
}

#[tokio::test]
async fn a_server_that_is_read_only_is_only_read() {
    needs_mariadb!(write);
    let place = MysqlPlace::fresh().await;
    let (database, _) = filled(&place, "out", 3).await;
    database.close().await;
    let mut raw = place.0.connect().await;
    run(&mut raw, "SET GLOBAL read_only = 1").await;
    let error = refused(&place.0.url(), Options::default()).await;
    let opened = Database::open(&place.0.url(), READ_ONLY).await;
    run(&mut raw, "SET GLOBAL read_only = 0").await;
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("read-only (read_only)"), "{error}");
    let database = opened.unwrap();
    assert_eq!(read(&*database.source(&stream("out")).await.unwrap(), &Cursor::START).await.len(), 3);
    let error = commit(&*database.store(), skip([9])).await.unwrap_err();
    assert!(error.to_string().contains("opened only to be read"), "{error}");
}

#[tokio::test]
async fn the_crash_sweep_visits_every_failpoint_there_is() {
    needs_mariadb!(read);
    let mut visited = crash_everywhere::<MysqlPlace>().await.visited;
    let place = MysqlPlace::fresh().await;
    let database = place.open().await;
    // The claim has a sweep of its own; several moves are locked first; and a loser is looked up.
    let before = claim(&database, &shard("c")).await;
    let commits =
        [advance(&claim(&database, &shard("c")).await, "1"), advance(&claim(&database, &shard("d")).await, "1")];
    assert!(database.store().commit(&commits).await.iter().all(Result::is_ok));
    commit(&*database.store(), advance(&before, "1")).await.unwrap_err();
    visited.extend(database.failpoints().visited());
    visited.extend(crash_a_rewrite_everywhere::<MysqlPlace>().await.visited);
    // Only who comes from reflex passes that one.
    visited.insert("mysql mirror");
    assert_eq!(visited, BTreeSet::from(FAILPOINTS));
}

#[tokio::test]
async fn a_commit_has_as_many_statements_whatever_it_carries() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (database, _) = filled(&place, "out", 0).await;
    let mut statements = BTreeSet::new();
    let mut n = 0;
    for (shards, size) in [(2, 1), (3, 40), (30, 9)] {
        let mut commits = Vec::new();
        for index in 0..shards {
            let shard = ShardId { index, ..shard("c") };
            let keys: Vec<String> = (0..size).map(|key| format!("{key}")).collect();
            let pairs = keys.iter().flat_map(|key| [(key.as_str(), Some(&b"v"[..])), ("gone", None)]);
            let mut changes = writes(&consumer("c"), &index.to_string(), pairs);
            changes.emits = (n..n + size).map(|n| emit(&stream("out"), n)).collect();
            n += size;
            commits.push(Commit { changes, ..advance(&claim(&database, &shard).await, "1") });
        }
        database.failpoints().disarm();
        assert!(database.store().commit(&commits).await.iter().all(Result::is_ok));
        statements.insert(database.failpoints().visited());
    }
    assert_eq!(statements.len(), 1, "{statements:?}");
}

#[tokio::test]
async fn state_of_long_parts_is_kept_apart() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let store = place.open().await.store();
    let parts = [255, 256, 5_000, 5_001].map(|length| "p".repeat(length));
    for part in &parts {
        let changes = writes(&consumer("c"), part, [("k", Some(part.as_bytes())), ("gone", Some(b"x"))]);
        commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
    }
    let changes = writes(&consumer("c"), &parts[2], [("gone", None)]);
    commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
    for (n, part) in parts.iter().enumerate() {
        assert_eq!(get(&*store, &consumer("c"), part, "k").await.unwrap(), *part);
        assert_eq!(get(&*store, &consumer("c"), part, "gone").await.is_none(), n == 2);
    }
}

#[tokio::test]
async fn an_event_that_no_packet_holds_is_refused_by_its_size() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (database, out) = filled(&place, "out", 1).await;
    let packet: u64 =
        sqlx::query_scalar("SELECT @@max_allowed_packet").fetch_one(&mut place.0.connect().await).await.unwrap();
    let metadata = Bytes::from(vec![7; packet as usize / 2]);
    let big = emit_new(&stream("out"), NewEvent { metadata, ..event(0) });
    let error = commit(&*database.store(), append(vec![emit(&stream("out"), 2), big])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error:?}");
    assert!(error.way_out().unwrap().contains("max_allowed_packet"));
    // What is bigger only together is sent in parts.
    let many = (0..8).map(|n| {
        let metadata = Bytes::from(vec![7; packet as usize / 8]);
        emit_new(&stream("out"), NewEvent { metadata, ..event(n) })
    });
    assert_eq!(commit(&*database.store(), append(many.collect())).await.unwrap().appended, 8);
    assert_eq!(read(&*out, &Cursor::START).await.len(), 9);
}

#[tokio::test]
async fn producers_that_say_the_same_at_once_say_it_once() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (first, out) = filled(&place, "out", 0).await;
    let second = place.open().await;
    let mut producers = Vec::new();
    for producer in 0..6 {
        let store = if producer % 2 == 0 { first.store() } else { second.store() };
        producers.push(tokio::spawn(async move {
            let mut appended = 0;
            for n in 0..20 {
                appended += commit(&*store, skip(n * 5..n * 5 + 10)).await.unwrap().appended;
            }
            appended
        }));
    }
    let mut appended = 0;
    for producer in producers {
        appended += producer.await.unwrap();
    }
    assert_eq!(appended, 105);
    let ids: Vec<_> = read(&*out, &Cursor::START).await.into_iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids, (1..=105).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn commits_that_cross_each_other_all_stand() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (first, _) = filled(&place, "a", 0).await;
    first.create_stream(&stream("b"), Order::Native).await.unwrap();
    let second = place.open().await;
    let mut hosts = Vec::new();
    for host in 0..4_u32 {
        let database = if host % 2 == 0 { first.clone() } else { second.clone() };
        hosts.push(tokio::spawn(async move {
            let mut position = claim(&database, &ShardId { index: host, ..shard("c") }).await;
            for n in 0..25 {
                // The same few keys and both streams, in another order each time.
                let mut keys: Vec<String> = (0..6).map(|key| format!("k{key}")).collect();
                fastrand::shuffle(&mut keys);
                let pairs = keys.iter().map(|key| (key.as_str(), fastrand::bool().then_some(&b"v"[..])));
                let mut changes = writes(&consumer("c"), "", pairs);
                let mut streams = ["a", "b"];
                fastrand::shuffle(&mut streams);
                changes.emits = streams.map(|name| emit_new(&stream(name), event(n))).to_vec();
                let step = Commit { changes, ..advance(&position, &n.to_string()) };
                position = commit(&*database.store(), step).await.unwrap().position.unwrap();
            }
        }));
    }
    for host in hosts {
        host.await.unwrap();
    }
    for name in ["a", "b"] {
        let events = read(&*first.source(&stream(name)).await.unwrap(), &Cursor::START).await;
        assert_eq!(events.len(), 100);
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_loses_and_doubles_nothing() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (database, out) = filled(&place, "out", 0).await;
    let mut raw = place.0.connect().await;
    let store = database.store();
    let writer = tokio::spawn(async move {
        let mut failures = 0;
        for n in 0..300 {
            while let Err(error) = commit(&*store, skip([n])).await {
                assert!(matches!(error.kind(), Kind::Unavailable | Kind::Ambiguous), "{error:?}");
                failures += 1;
            }
        }
        failures
    });
    while !writer.is_finished() {
        let others = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        let others: Vec<i64> = sqlx::query_scalar(others).fetch_all(&mut raw).await.unwrap();
        for id in others {
            // It may have ended by itself.
            let _ = sqlx::raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut raw).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await;
    }
    assert!(writer.await.unwrap() > 0);
    // The reader's connections were cut, too: once each is an error.
    let mut events = Vec::new();
    for _ in 0..20 {
        let chunks = out.stream(Cursor::START, tendon::source::Until::Head).await.unwrap();
        match futures_util::TryStreamExt::try_collect::<Vec<_>>(chunks).await {
            Ok(chunks) => {
                events = chunks.into_iter().flat_map(|chunk| chunk.events).collect();
                break;
            }
            Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error:?}"),
        }
    }
    let texts: Vec<_> = events.into_iter().map(|event| event.foreign_id).collect();
    assert_eq!(texts, (0..300).map(|n| event(n).foreign_id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_commit_that_is_given_up_leaves_nothing_open() {
    needs_mariadb!(read);
    let place = MysqlPlace::fresh().await;
    let (database, out) = filled(&place, "out", 0).await;
    for n in 0..60 {
        let store = database.store();
        let mut given_up = Box::pin(async move { commit(&*store, skip([n])).await });
        // At another of its waits each time.
        for _ in 0..n % 15 {
            if futures_util::poll!(&mut given_up).is_ready() {
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    let before = read(&*out, &Cursor::START).await.len();
    commit(&*database.store(), skip([1_000])).await.unwrap();
    assert!(read(&*out, &Cursor::START).await.len() > before);
    database.close().await;
    let mut raw = place.0.connect().await;
    let open = "SELECT COUNT(*) FROM information_schema.innodb_trx AS t
        JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE()";
    for _ in 0..100 {
        if number(&mut raw, open).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a transaction is still open");
}
