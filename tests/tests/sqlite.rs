//! SQLite in bad company: locked, read-only, full, newer, foreign or no database at all; and what it must keep to
//! beside the ports.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::StreamExt as _;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tendon::{
    backend::{
        Database, Durability, Options, Order,
        sqlite::{FAILPOINTS, SCHEMA_VERSION},
    },
    error::{Error, Kind, Retry},
    event::Cursor,
    source::Until,
    store::Commit,
};
use tendon_tests::{
    place::{Place as _, SqlitePlace, advance, append, claim, commit, consumer, emit, filled, read, shard, stream},
    rewrite_suite::crash_a_rewrite_everywhere,
    state_suite::{get, writes},
    sweep_suite::{an_error_at_any_failpoint_has_a_true_answer_for_each_commit, crash_everywhere},
};
use tokio::time::timeout;

const READ_ONLY: Options = Options { durability: Durability::Full, read_only: true };

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path).create_if_missing(true)).await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

async fn refused(url: &str, options: Options) -> Error {
    match Database::open(url, options).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error,
    }
}

/// A small disk of its own. Needs to be root, as CI is: to skip it in silence would prove nothing.
struct Disk(PathBuf);

impl Disk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let disk = Self(folder);
        disk.command("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        disk
    }

    fn read_only(&self) {
        self.command("mount", &["-o", "remount,ro"]);
    }

    fn command(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(&self.0).status().unwrap();
        assert!(status.success(), "`{program}` failed: this test mounts a tmpfs and must be root");
    }

    fn url(&self) -> String {
        format!("sqlite://{}/tendon.db", self.0.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because connections may still be closing.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_database_that_is_locked_by_another_connection_is_unavailable_and_comes_back() {
    let place = SqlitePlace::fresh().await;
    let (database, out) = filled(&place, "out", 1).await;
    let mut other = raw(&place.path()).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let commits = [append(vec![emit(&stream("out"), 1)]), append(vec![emit(&stream("out"), 2)])];
    for answer in database.store().commit(&commits).await {
        let error = answer.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (Kind::Unavailable, Retry::Later));
        let text = error.to_string();
        assert!(text.contains("another process has locked it"), "{text}");
        assert!(text.contains(&place.path().display().to_string()), "{text}");
        assert!(error.way_out().unwrap().contains("fuser"));
    }
    assert_eq!(read(&*out, &Cursor::START).await.len(), 1);
    run(&mut other, "ROLLBACK").await;
    for answer in database.store().commit(&commits).await {
        assert_eq!(answer.unwrap().appended, 1);
    }
}

#[tokio::test]
async fn a_database_that_another_connection_holds_alone_cannot_be_opened() {
    let place = SqlitePlace::fresh().await;
    let mut other = raw(&place.path()).await;
    run(&mut other, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t (x); COMMIT").await;
    let error = refused(&place.url(), Options::default()).await;
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("another process has locked it"), "{error}");
}

#[tokio::test]
async fn a_database_on_a_read_only_disk_says_so() {
    let disk = Disk::mount("4m");
    let database = Database::open(&disk.url(), Options::default()).await.unwrap();
    database.create_stream(&stream("out"), Order::Native).await.unwrap();
    database.close().await;
    disk.read_only();
    let opened = Database::open(&disk.url(), Options::default()).await;
    let error = match opened {
        Err(error) => error,
        Ok(database) => commit(&*database.store(), append(vec![emit(&stream("out"), 1)])).await.unwrap_err(),
    };
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("read-only") || error.to_string().contains("cannot be opened"), "{error:?}");
    assert!(error.to_string().contains("tendon.db") && error.way_out().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_left_behind() {
    let disk = Disk::mount("2m");
    let database = Database::open(&disk.url(), Options::default()).await.unwrap();
    database.create_stream(&stream("out"), Order::Native).await.unwrap();
    let out = database.source(&stream("out")).await.unwrap();
    let start = claim(&database, &shard("c")).await;
    let big = vec![7; 256 * 1024];
    let (mut position, mut n) = (start, 0);
    let error = loop {
        let mut changes = writes(&consumer("c"), "", [(n.to_string().as_str(), Some(&big[..]))]);
        changes.emits.push(emit(&stream("out"), n));
        n += 1;
        assert!(n < 20, "the disk never filled");
        match commit(&*database.store(), Commit { changes, ..advance(&position, &n.to_string()) }).await {
            Ok(committed) => position = committed.position.unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("its disk is full") && error.to_string().contains("tendon.db"), "{error:?}");
    assert_eq!(database.store().load(&shard("c")).await.unwrap(), position);
    assert_eq!(read(&*out, &Cursor::START).await.len() as u64, position.revision.0);
    disk.command("mount", &["-o", "remount,size=32m"]);
    commit(&*database.store(), advance(&position, "freed")).await.unwrap();
    database.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = SqlitePlace::fresh().await;
    place.open().await.close().await;
    let mut other = raw(&place.path()).await;
    run(&mut other, "PRAGMA user_version = 99").await;
    for options in [Options::default(), READ_ONLY] {
        let error = refused(&place.url(), options).await;
        assert_eq!(error.kind(), Kind::Unavailable);
        let said = format!("has schema version 99, this tendon knows versions up to {SCHEMA_VERSION}");
        assert!(error.to_string().contains(&said), "{error}");
    }
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut other).await.unwrap();
    assert_eq!(version, 99);
}

#[tokio::test]
async fn migrating_twice_is_migrating_once() {
    let place = SqlitePlace::fresh().await;
    let hosts = tokio::join!(place.open(), place.open(), place.open());
    claim(&hosts.0, &shard("c")).await;
    let before = schema(&place).await;
    for _ in 0..3 {
        place.open().await.close().await;
    }
    assert_eq!(schema(&place).await, before);
    assert_eq!(before.0, SCHEMA_VERSION);
    assert_eq!(hosts.2.store().positions().await.unwrap().len(), 1);
}

async fn schema(place: &SqlitePlace) -> (i64, Vec<String>) {
    let mut connection = raw(&place.path()).await;
    let version = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await.unwrap();
    let tables = sqlx::query_scalar("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name");
    (version, tables.fetch_all(&mut connection).await.unwrap())
}

#[tokio::test]
async fn what_is_not_ours_is_not_touched() {
    let place = SqlitePlace::fresh().await;
    let text = "this is a text file, not a database, and it is longer than a header: ".repeat(40);
    std::fs::write(place.path(), &text).unwrap();
    let error = refused(&place.url(), Options::default()).await;
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(error.to_string().contains("not a SQLite database"), "{error}");
    assert_eq!(std::fs::read_to_string(place.path()).unwrap(), text);

    let place = SqlitePlace::fresh().await;
    run(&mut raw(&place.path()).await, "CREATE TABLE theirs (x)").await;
    let error = refused(&place.url(), Options::default()).await;
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.to_string().contains("belongs to another program"), "{error}");

    let nowhere = "sqlite:///nowhere/at/all/tendon.db";
    assert_eq!(refused(nowhere, Options::default()).await.kind(), Kind::Unavailable);
    assert_eq!(refused(nowhere, READ_ONLY).await.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_reader_beside_a_host_reads_and_writes_nothing() {
    let place = SqlitePlace::fresh().await;
    let (database, _) = filled(&place, "out", 3).await;
    let reader = Database::open(&place.url(), READ_ONLY).await.unwrap();
    let source = reader.source(&stream("out")).await.unwrap();
    let mut chunks = source.stream(Cursor::START, Until::Forever).await.unwrap();
    assert_eq!(chunks.next().await.unwrap().unwrap().events.len(), 3);
    let write = async { commit(&*database.store(), append(vec![emit(&stream("out"), 9)])).await.unwrap() };
    let (chunk, _) = timeout(Duration::from_secs(30), async { tokio::join!(chunks.next(), write) }).await.unwrap();
    assert_eq!(chunk.unwrap().unwrap().events.len(), 1);
    let error = commit(&*reader.store(), append(vec![emit(&stream("out"), 4)])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("opened only to be read"), "{error}");
    database.close().await;
    reader.close().await;
    let reader = Database::open(&place.url(), READ_ONLY).await.unwrap();
    assert_eq!(read(&*reader.source(&stream("out")).await.unwrap(), &Cursor::START).await.len(), 4);
}

#[tokio::test]
async fn readers_at_the_head_learn_that_the_database_was_closed() {
    let place = SqlitePlace::fresh().await;
    let (database, source) = filled(&place, "out", 0).await;
    let mut chunks = source.stream(Cursor::START, Until::Forever).await.unwrap();
    let close = async {
        tokio::task::yield_now().await;
        database.close().await;
    };
    let (chunk, ()) = timeout(Duration::from_secs(30), async { tokio::join!(chunks.next(), close) }).await.unwrap();
    assert_eq!(chunk.unwrap().unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn holes_in_the_ids_are_read_over() {
    let place = SqlitePlace::fresh().await;
    let (_database, source) = filled(&place, "out", 600).await;
    run(&mut raw(&place.path()).await, r#"DELETE FROM "events:default/out" WHERE id % 3 = 0 OR id < 10"#).await;
    let ids: Vec<u64> = read(&*source, &Cursor::START).await.iter().map(|event| event.id.0.parse().unwrap()).collect();
    assert_eq!(ids, (10..=600).filter(|id| id % 3 != 0).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_commit_has_the_same_statements_however_much_it_carries() {
    let mut statements = BTreeSet::new();
    for size in [1, 10, 2_000] {
        let place = SqlitePlace::fresh().await;
        let (database, _) = filled(&place, "out", 0).await;
        let mut commits = Vec::new();
        for index in 0..(size / 10).clamp(1, 64) {
            let shard = tendon::tenant::ShardId { index, ..shard("c") };
            let keys: Vec<String> = (0..size).map(|n| n.to_string()).collect();
            let pairs = keys.iter().map(|key| (key.as_str(), (!key.ends_with('0')).then_some(&b"v"[..])));
            let mut changes =
                writes(&consumer("c"), &index.to_string(), pairs.chain([("gone", None), ("set", Some(&b""[..]))]));
            changes.emits = (0..size).map(|n| emit(&stream("out"), u64::from(index * size + n))).collect();
            commits.push(Commit { changes, ..advance(&claim(&database, &shard).await, "1") });
        }
        database.failpoints().disarm();
        for answer in database.store().commit(&commits).await {
            assert_eq!(answer.unwrap().appended, u64::from(size));
        }
        statements.insert(database.failpoints().visited());
        assert_eq!(get(&*database.store(), &consumer("c"), "0", "set").await.unwrap(), "");
    }
    let wanted = ["begin", "position", "state", "event keys", "events", "commit", "answer"];
    let wanted: Vec<String> = wanted.iter().map(|name| format!("sqlite {name}")).collect();
    assert_eq!(statements.into_iter().collect::<Vec<_>>(), [wanted]);
}

#[tokio::test]
async fn the_crash_sweep_visits_every_failpoint_there_is() {
    let mut swept = crash_everywhere::<SqlitePlace>().await;
    let rewrites = crash_a_rewrite_everywhere::<SqlitePlace>().await;
    assert_eq!((swept.old, swept.new), (swept.crashes - 1, 1));
    // What a full commit does not pass: the claim, which has a sweep of its own, and the look at who won.
    // Another process's writes have a test of their own.
    let elsewhere = |name: &&str| name.starts_with("sqlite claim") || *name == "sqlite found";
    let theirs = |name: &&str| *name == "sqlite state log";
    let expected: BTreeSet<&str> = FAILPOINTS.into_iter().filter(|name| !elsewhere(name) && !theirs(name)).collect();
    swept.visited.extend(rewrites.visited);
    assert_eq!(swept.visited, expected);

    let place = SqlitePlace::fresh().await;
    let database = place.open().await;
    let before = claim(&database, &shard("c")).await;
    claim(&database, &shard("c")).await;
    commit(&*database.store(), advance(&before, "1")).await.unwrap_err();
    let visited: BTreeSet<&str> = database.failpoints().visited().into_iter().collect();
    assert!(FAILPOINTS.into_iter().filter(elsewhere).all(|name| visited.contains(name)), "{visited:?}");
    an_error_at_any_failpoint_has_a_true_answer_for_each_commit::<SqlitePlace>().await;
}

#[tokio::test]
async fn a_commit_that_is_given_up_leaves_nothing_open() {
    let place = SqlitePlace::fresh().await;
    let (database, out) = filled(&place, "out", 0).await;
    for n in 0..40 {
        let store = database.store();
        let append = async move { commit(&*store, append(vec![emit(&stream("out"), n)])).await };
        // At another of its waits each time.
        let mut append = Box::pin(append);
        for _ in 0..n % 8 {
            if futures_util::poll!(&mut append).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(append);
    }
    let before = read(&*out, &Cursor::START).await.len();
    commit(&*database.store(), append(vec![emit(&stream("out"), 1_000)])).await.unwrap();
    assert!(read(&*out, &Cursor::START).await.len() > before);
}
