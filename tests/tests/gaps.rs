//! No event of concurrent writers is lost or repeated: on tables that others insert into, whatever they do, however the
//! server lets its transactions be seen; and on tables of tendon's own. A reader that goes by ids alone loses many on the
//! same table: that is the control, wherever ids do not become visible in their order.

use std::io::Write as _;

use std::sync::Arc;

use tendon::{
    backend::{Database, Options, foreign::ForeignTable},
    source::Source,
};
use tendon_tests::{
    gap::{Connection, Found, Target, run, run_hosts},
    place::{MysqlPlace, Place, PostgresByIdPlace, PostgresPlace, SqlitePlace, filled, stream},
    servers::{MariadbDatabase, MariadbKind, PostgresDatabase, has_mariadb_of, has_postgres},
};

/// Transactions of each of eight writers.
const TRANSACTIONS: u64 = 700;

async fn adopted(url: &str) -> (Database, Arc<dyn Source>) {
    let database = Database::open(url, Options::default()).await.unwrap();
    let table = ForeignTable::named("events".parse().unwrap());
    database.adopt(&stream("in"), &table).await.unwrap();
    let source = database.source(&stream("in")).await.unwrap();
    (database, source)
}

/// Says it even where tests that pass say nothing.
fn say(figures: &str) {
    writeln!(std::io::stderr(), "{figures}").unwrap();
}

fn lost_nothing(what: &str, Found { committed, lost_naively }: &Found) {
    say(&format!("{what}: {committed} events; lost and repeated: 0; the naive reader lost {lost_naively}"));
    assert!(lost_naively * 10 > *committed, "the control lost only {lost_naively} of {committed}");
}

async fn on_mariadb(kind: MariadbKind, method: &str, user: &str) {
    if !has_mariadb_of(kind) {
        return;
    }
    let place = MariadbDatabase::fresh_on(kind).await;
    let connect = || async { Connection::Mysql(place.connect().await) };
    connect().await.create("events").await;
    if user != "root" {
        connect()
            .await
            .run(format!("CREATE USER IF NOT EXISTS {user}; GRANT ALL ON {}.* TO {user}", place.name()))
            .await;
    }
    let (database, source) = adopted(&place.url_of(user)).await;
    let table = ForeignTable::named("events".parse().unwrap());
    let findings = database.inspect(&table).await.unwrap();
    let is_by_that = findings.iter().any(|finding| finding.what.contains(method));
    assert!(is_by_that || kind.is_named(), "{findings:?}");
    let found = run(connect, Target::REFLEX, source, TRANSACTIONS).await;
    lost_nothing(&format!("MariaDB {kind:?} as {user}"), &found);
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_with_the_plugin_loses_nothing() {
    on_mariadb(MariadbKind::Plugin, "plugin", "root").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_with_the_performance_schema_loses_nothing() {
    on_mariadb(MariadbKind::PerformanceSchema, "performance schema", "root").await;
}

/// Who may see locks and not transactions is told which sessions are at it, and has to wait until each pauses.
#[tokio::test(flavor = "multi_thread")]
async fn mariadb_with_the_plugin_and_no_right_to_see_others_loses_nothing() {
    on_mariadb(MariadbKind::Plugin, "plugin", "plain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_with_locks_alone_loses_nothing() {
    on_mariadb(MariadbKind::Bare, "LOCK TABLES", "root").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_loses_nothing() {
    if !has_postgres() {
        return;
    }
    let place = PostgresDatabase::fresh().await;
    let connect = || async { Connection::Postgres(place.connect().await) };
    connect().await.create("events").await;
    let (database, source) = adopted(&place.url()).await;
    let found = run(connect, Target::REFLEX, source, TRANSACTIONS).await;
    lost_nothing("PostgreSQL", &found);
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_ours_in_postgres_loses_nothing_whoever_inserts() {
    if !has_postgres() {
        return;
    }
    let place = PostgresPlace::fresh().await;
    let (database, source) = filled(&place, "in", 0).await;
    let connect = || async { Connection::Postgres(place.0.connect().await) };
    let found = run(connect, Target::OWN_POSTGRES, source, TRANSACTIONS).await;
    lost_nothing("PostgreSQL, a table of ours", &found);
    database.close().await;
}

async fn on_hosts<P: Place>(what: &str, commits: u64) {
    if P::is_here() {
        let committed = run_hosts(&P::fresh().await, commits).await;
        say(&format!("{what}, through the store: {committed} events; lost and repeated: 0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_on_sqlite_lose_nothing() {
    on_hosts::<SqlitePlace>("SQLite", 700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_on_mariadb_lose_nothing() {
    on_hosts::<MysqlPlace>("MariaDB", 700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_on_postgres_lose_nothing() {
    on_hosts::<PostgresPlace>("PostgreSQL", 700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_on_postgres_lose_nothing_in_the_order_of_ids() {
    on_hosts::<PostgresByIdPlace>("PostgreSQL in the order of ids", 700).await;
}
