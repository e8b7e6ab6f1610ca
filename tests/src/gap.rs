//! The gap harness: writers that do what others do to a table of events, a reader that is started anew again and again,
//! and a control that reads by ids, as one would who does not know better.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use sqlx::{AssertSqlSafe, MySqlConnection, PgConnection, Row as _};
use tendon::{
    backend::Database,
    changes::Changes,
    event::{Cursor, Event, NewEvent},
    source::{Source, Until},
    store::{Commit, Fence, Position},
};
use tokio::{task::JoinHandle, time::timeout};

use crate::place::{Place, advance, append, claim, commit, emit_new, event, filled, read, shard, stream};

/// Writers at a time.
pub const WRITERS: u64 = 8;

/// A table, as writers and the control see it.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub table: &'static str,
    /// The columns that are written.
    columns: &'static str,
    /// The values of a row, with `TEXT` for its text.
    row: &'static str,
    /// The column that has the text.
    text: &'static str,
    /// Whether no two rows can have the same text.
    is_unique: bool,
}

impl Target {
    /// A table of reflex's shape, which `Connection::create` makes.
    pub const REFLEX: Self = Self {
        table: "events",
        columns: "foreign_id, timestamp, type, once",
        row: "'TEXT', now(), 1, 'TEXT'",
        text: "foreign_id",
        is_unique: true,
    };
    /// The table of the first stream that was made in a PostgreSQL database.
    pub const OWN_POSTGRES: Self = Self {
        table: "tendon.events_1",
        columns: "era, foreign_id, timestamp, type, metadata",
        row: "1, 'TEXT'::bytea, 0, 1, ''::bytea",
        text: "convert_from(foreign_id, 'UTF8')",
        is_unique: false,
    };
}

/// A connection to one of the servers.
pub enum Connection {
    /// MariaDB.
    Mysql(MySqlConnection),
    /// PostgreSQL.
    Postgres(PgConnection),
}

impl Connection {
    /// Runs statements, and says how many rows they touched.
    pub async fn run(&mut self, sql: impl Into<String>) -> u64 {
        self.try_run(sql).await.unwrap()
    }

    async fn try_run(&mut self, sql: impl Into<String>) -> sqlx::Result<u64> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
        match self {
            Self::Mysql(connection) => sql.execute(connection).await.map(|done| done.rows_affected()),
            Self::Postgres(connection) => sql.execute(connection).await.map(|done| done.rows_affected()),
        }
    }

    /// The first column of the answer, a number.
    pub async fn numbers(&mut self, sql: impl Into<String>) -> Vec<i64> {
        let sql = AssertSqlSafe(sql.into());
        match self {
            Self::Mysql(connection) => sqlx::query_scalar(sql).fetch_all(connection).await.unwrap(),
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(connection).await.unwrap(),
        }
    }

    /// Ids and texts after an id.
    async fn rows(&mut self, Target { table, text, .. }: Target, after: i64) -> Vec<(i64, String)> {
        let sql = AssertSqlSafe(format!(
            "SELECT id, {text} FROM {table} WHERE id > {after} AND type <> 0 ORDER BY id LIMIT 1000"
        ));
        match self {
            Self::Mysql(connection) => {
                let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
                rows.iter().map(|row| (row.get(0), row.get(1))).collect()
            }
            Self::Postgres(connection) => {
                let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
                rows.iter().map(|row| (row.get(0), row.get(1))).collect()
            }
        }
    }

    fn is_mysql(&self) -> bool {
        matches!(self, Self::Mysql(_))
    }

    /// Makes a table of reflex's shape.
    pub async fn create(&mut self, table: &str) {
        let id = if self.is_mysql() { "BIGINT AUTO_INCREMENT" } else { "BIGSERIAL" };
        let (time, bytes) = if self.is_mysql() { ("DATETIME(6)", "BLOB") } else { ("TIMESTAMP", "BYTEA") };
        let set = if self.is_mysql() { "CHARACTER SET utf8mb4" } else { "" };
        self.run(format!(
            "CREATE TABLE {table} (id {id} PRIMARY KEY, foreign_id VARCHAR(255) NOT NULL, timestamp {time} NOT NULL,
            type INT NOT NULL, metadata {bytes}, once VARCHAR(63) UNIQUE) {set}"
        ))
        .await;
    }
}

/// How a transaction inserts its rows.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One statement a row.
    OneByOne,
    /// One statement for all.
    Bulk,
    /// One statement, whose first row is there already and is left out; its id is drawn, and no row is locked.
    IgnoreFirst,
    /// Likewise, but the row that is there is written to.
    UpdateFirst,
    /// From a table, whose rows the server has not counted before.
    Select,
    /// The ids are drawn first, in PostgreSQL.
    Ahead,
}

impl Way {
    fn any(is_mysql: bool, target: Target) -> Self {
        let mut ways = vec![Self::OneByOne, Self::Bulk, Self::Select];
        if target.is_unique {
            ways.extend([Self::IgnoreFirst, Self::UpdateFirst]);
        }
        if !is_mysql {
            ways.push(Self::Ahead);
        }
        ways[fastrand::usize(..ways.len())]
    }

    /// Inserts rows in the transaction that is open.
    async fn insert(self, connection: &mut Connection, target: Target, texts: &[String]) -> sqlx::Result<()> {
        let Target { table, columns, row, .. } = target;
        let value = |text: &String| format!("({})", row.replace("TEXT", text));
        let values = texts.iter().map(value).collect::<Vec<_>>().join(", ");
        let into = format!("INTO {table} ({columns})");
        let there = value(&"there".to_owned());
        let sql = match (self, connection.is_mysql()) {
            (Self::OneByOne, _) => {
                for text in texts {
                    connection.try_run(format!("INSERT {into} VALUES {}", value(text))).await?;
                    pause(4).await;
                }
                return Ok(());
            }
            (Self::Bulk, _) => format!("INSERT {into} VALUES {values}"),
            (Self::IgnoreFirst, true) => format!("INSERT IGNORE {into} VALUES {there}, {values}"),
            (Self::UpdateFirst, true) => {
                format!("INSERT {into} VALUES {there}, {values} ON DUPLICATE KEY UPDATE type = 1")
            }
            (Self::IgnoreFirst | Self::UpdateFirst, false) => {
                format!("INSERT {into} VALUES {there}, {values} ON CONFLICT DO NOTHING")
            }
            (Self::Select, _) => {
                let select = |text: &String| format!("SELECT {}", row.replace("TEXT", text));
                format!("INSERT {into} {}", texts.iter().map(select).collect::<Vec<_>>().join(" UNION ALL "))
            }
            (Self::Ahead, _) => {
                let draw = format!("SELECT nextval('{table}_id_seq') FROM generate_series(1, {})", texts.len());
                let ids = connection.numbers(draw).await;
                pause(8).await;
                let row = |(text, id): (&String, i64)| format!("({id}, {})", row.replace("TEXT", text));
                let rows = texts.iter().zip(ids).map(row).collect::<Vec<_>>().join(", ");
                format!("INSERT INTO {table} (id, {columns}) OVERRIDING SYSTEM VALUE VALUES {rows}")
            }
        };
        connection.try_run(sql).await.map(drop)
    }
}

async fn pause(milliseconds_max: u64) {
    tokio::time::sleep(Duration::from_micros(fastrand::u64(..milliseconds_max * 1_000))).await;
}

/// Transactions of one to three rows that take up to 12 ms; one in twenty is rolled back. What was committed.
async fn write(mut connection: Connection, target: Target, writer: u64, transactions: u64) -> Vec<String> {
    let mut committed = Vec::new();
    for n in 0..transactions {
        let texts: Vec<String> = (0..fastrand::u64(1..=3)).map(|k| format!("{writer}-{n}-{k}")).collect();
        let way = Way::any(connection.is_mysql(), target);
        connection.run("BEGIN").await;
        // Who writes to the same row may be in the way, and is then rolled back by the server.
        while way.insert(&mut connection, target, &texts).await.is_err() {
            connection.run("ROLLBACK").await;
            connection.run("BEGIN").await;
        }
        pause(8).await;
        if fastrand::u8(..20) == 0 {
            connection.run("ROLLBACK").await;
        } else {
            connection.run("COMMIT").await;
            committed.extend(texts);
        }
    }
    committed
}

async fn read_naively(mut connection: Connection, target: Target, done: Arc<AtomicBool>) -> BTreeSet<String> {
    let (mut after, mut seen) = (0_i64, BTreeSet::new());
    loop {
        let is_done = done.load(Relaxed);
        let rows = connection.rows(target, after).await;
        if rows.is_empty() && is_done {
            return seen;
        }
        for (id, text) in rows {
            after = id;
            seen.insert(text);
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
            let Ok(chunk) = timeout(Duration::from_millis(400), chunks.next()).await else { break };
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

/// What a run found: nothing was lost or came twice, else it has panicked.
#[derive(Debug)]
pub struct Found {
    /// Events that were committed.
    pub committed: usize,
    /// Those that the naive reader never saw.
    pub lost_naively: usize,
}

/// Lets writers write to a table that `connect` reaches, and reads it through the source; the first transaction of all is
/// open for a while, so that the reader stands at the very start.
pub async fn run<F: Future<Output = Connection>>(
    connect: impl Fn() -> F,
    target: Target,
    source: Arc<dyn Source>,
    transactions: u64,
) -> Found {
    let mut first = connect().await;
    first.run("BEGIN").await;
    Way::Bulk.insert(&mut first, target, &["there".to_owned()]).await.unwrap();
    let (done, wanted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
    let naive = tokio::spawn(read_naively(connect().await, target, done.clone()));
    let reader = tokio::spawn(read_with_restarts(source.clone(), wanted.clone()));
    // Those that write over the first row would wait for it.
    let mut early = connect().await;
    for n in 0..5 {
        early.run("BEGIN").await;
        Way::OneByOne.insert(&mut early, target, &[format!("early-{n}")]).await.unwrap();
        early.run("COMMIT").await;
    }
    pause(50).await;
    first.run("COMMIT").await;
    let mut committed: BTreeSet<String> = (0..5).map(|n| format!("early-{n}")).chain(["there".to_owned()]).collect();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let write = write(connect().await, target, writer, transactions);
        writers.push(tokio::spawn(write));
    }
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    wanted.store(committed.len() as u64, Relaxed);
    done.store(true, Relaxed);

    check(&*source, reader, &committed).await;
    let naive = naive.await.unwrap();
    Found { committed: committed.len(), lost_naively: committed.difference(&naive).count() }
}

/// The same with writers that append through the store, as eight hosts do that commit one to three events each; one commit
/// in twenty has lost its compare. How many events were committed.
pub async fn run_hosts<P: Place>(place: &P, commits: u64) -> usize {
    let (database, source) = filled(place, "in", 0).await;
    let wanted = Arc::new(AtomicU64::new(u64::MAX));
    let reader = tokio::spawn(read_with_restarts(source.clone(), wanted.clone()));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        writers.push(tokio::spawn(append_as_a_host(place.open().await, writer, commits)));
    }
    let mut committed = BTreeSet::new();
    for writer in writers {
        committed.extend(writer.await.unwrap());
    }
    wanted.store(committed.len() as u64, Relaxed);
    check(&*source, reader, &committed).await;
    database.close().await;
    committed.len()
}

async fn append_as_a_host(database: Database, writer: u64, commits: u64) -> Vec<String> {
    let store = database.store();
    let lost = Position { fence: Fence(0), ..claim(&database, &shard(&format!("writer-{writer}"))).await };
    let mut committed = Vec::new();
    for n in 0..commits {
        let texts: Vec<String> = (0..fastrand::u64(1..=3)).map(|k| format!("{writer}-{n}-{k}")).collect();
        let event = |text: &String| NewEvent { foreign_id: text.as_str().into(), ..event(n) };
        let emits = texts.iter().map(|text| emit_new(&stream("in"), event(text))).collect();
        if fastrand::u8(..20) == 0 {
            let fenced = Commit { changes: Changes { emits, ..Changes::default() }, ..advance(&lost, "1") };
            commit(&*store, fenced).await.unwrap_err();
        } else {
            commit(&*store, append(emits)).await.unwrap();
            committed.extend(texts);
        }
    }
    database.close().await;
    committed
}

/// Each event came once, and comes in the same order again.
async fn check(source: &dyn Source, reader: JoinHandle<Vec<Event>>, committed: &BTreeSet<String>) {
    let events = timeout(Duration::from_secs(60), reader).await.expect("events are lost").unwrap();
    let seen: BTreeSet<String> = events.iter().map(|event| event.foreign_id.to_string()).collect();
    assert_eq!(events.len(), seen.len(), "an event came twice");
    assert!(seen == *committed, "{} events lost of {}", committed.difference(&seen).count(), committed.len());
    assert_eq!(read(source, &Cursor::START).await, events, "another reading has another order");
}
