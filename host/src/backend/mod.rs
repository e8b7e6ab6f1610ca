//! The databases. Each backend knows events, errors and the two ports, and nothing else of this library; their folders
//! have the same file names.

mod columns;
mod dead_letter;
pub mod failpoint;
mod failure;
pub mod foreign;
mod item;
mod known;
pub mod memory;
pub mod mysql;
mod pieces;
mod poll;
pub mod postgres;
mod round;
mod row;
pub mod sqlite;

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;

use crate::{
    changes::Write,
    deployment::{Deployment, LegacyCursor},
    error::{Error, Result},
    event::{Cursor, EventId},
    limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX},
    source::{REPLACED, Source},
    store::{Commit, Epoch, Move, Position, Store},
    tenant::{ConsumerId, StreamId},
};

pub use self::failpoint::Failpoints;
use self::{
    foreign::{Finding, ForeignTable},
    memory::Memory,
    mysql::Mysql,
    postgres::Postgres,
    sqlite::Sqlite,
};

/// Events that one chunk holds at the most.
pub const CHUNK_EVENTS_MAX: usize = 4096;
/// Bytes that one chunk holds at the most, one event of any size apart.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a commit survives once it was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the machine: every commit waits for the disk.
    #[default]
    Full,
    /// A crash of the process. One of the machine may lose the newest commits, each of them as a whole.
    Relaxed,
}

/// How a database is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What a commit survives.
    pub durability: Durability,
    /// Whether nothing may be written; the database must exist.
    pub read_only: bool,
}

/// What the order of a stream is, where a database knows more than one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The one in which nobody who appends waits for another: on PostgreSQL that of transactions, elsewhere that of ids.
    #[default]
    Native,
    /// That of ids: they rise by one from event to event, as clients of reflex need it. Whoever appends draws them last, and
    /// waits for those that have drawn and not yet committed.
    Id,
}

/// A database that holds streams and is a store. Clones are the same database.
#[derive(Clone)]
pub enum Database {
    /// In this process's memory; it ends with its last clone.
    Memory(Memory),
    /// A SQLite file.
    Sqlite(Sqlite),
    /// A MySQL or MariaDB database.
    Mysql(Mysql),
    /// A PostgreSQL database.
    Postgres(Postgres),
}

impl Database {
    /// Opens the database of a URL, and brings its schema to this version: `memory:`, `sqlite://path/to.db`,
    /// `mysql://user:password@host:port/database` (or `mariadb://…`) or `postgres://user:password@host:port/database`.
    pub async fn open(url: &str, options: Options) -> Result<Self> {
        match url.split_once("://") {
            None if url == "memory:" => Ok(Self::Memory(Memory::default())),
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(Sqlite::open(path.as_ref(), options).await?)),
            Some(("mysql" | "mariadb", _)) => Ok(Self::Mysql(Mysql::open(url, options).await?)),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(Postgres::open(url, options).await?)),
            _ => Err(Error::invalid(format!("`{url}` is not the URL of a database")).help(
                "the databases known here are `memory:`, `sqlite://path/to.db`, `mysql://user@host/database` and \
                `postgres://user@host/database`",
            )),
        }
    }

    /// The database as a store.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(memory) => Arc::new(memory.clone()),
            Self::Sqlite(sqlite) => Arc::new(sqlite.clone()),
            Self::Mysql(mysql) => Arc::new(mysql.clone()),
            Self::Postgres(postgres) => Arc::new(postgres.clone()),
        }
    }

    /// Makes a stream, unless it is there already. One that is there and has no order of ids cannot be given one.
    pub async fn create_stream(&self, stream: &StreamId, order: Order) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.create_stream(stream).await,
            Self::Sqlite(sqlite) => sqlite.create_stream(stream).await,
            Self::Mysql(mysql) => mysql.create_stream(stream).await,
            Self::Postgres(postgres) => postgres.create_stream(stream, order).await,
        }
    }

    /// Lets a table that was there before be a stream, as long as this database is open. An error says why it cannot be.
    pub async fn adopt(&self, stream: &StreamId, table: &ForeignTable) -> Result<()> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Err(no_foreign()),
            Self::Mysql(mysql) => mysql.adopt(stream, table).await,
            Self::Postgres(postgres) => postgres.adopt(stream, table).await,
        }
    }

    /// Makes such a table, unless it is there.
    pub async fn create_table(&self, table: &ForeignTable) -> Result<()> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Err(no_foreign()),
            Self::Mysql(mysql) => mysql.create_table(table).await,
            Self::Postgres(postgres) => postgres.create_table(table).await,
        }
    }

    /// Where reflex left a consumer; none where it has no row.
    pub async fn legacy_cursor(&self, legacy: &LegacyCursor) -> Result<Option<Cursor>> {
        match self {
            Self::Mysql(mysql) => mysql.legacy_cursor(legacy).await,
            _ => Err(Error::invalid("only a MySQL or MariaDB database has cursors of reflex")),
        }
    }

    /// What there is to say about such a table.
    pub async fn inspect(&self, table: &ForeignTable) -> Result<Vec<Finding>> {
        match self {
            Self::Memory(_) | Self::Sqlite(_) => Err(no_foreign()),
            Self::Mysql(mysql) => Ok(mysql.inspect(table).await?.0.findings),
            Self::Postgres(postgres) => Ok(postgres.inspect(table).await?.0.findings),
        }
    }

    /// A stream as a source; `NotFound` where nobody made it.
    pub async fn source(&self, stream: &StreamId) -> Result<Arc<dyn Source>> {
        match self {
            Self::Memory(memory) => Ok(Arc::new(memory.source(stream).await?)),
            Self::Sqlite(sqlite) => Ok(Arc::new(sqlite.source(stream).await?)),
            Self::Mysql(mysql) => mysql.source(stream).await,
            Self::Postgres(postgres) => postgres.source(stream).await,
        }
    }

    /// Takes the events of a stream of tendon's own up to this place out of it, for ever. The newest one must stay: what comes
    /// after it is numbered from there.
    pub async fn prune(&self, stream: &StreamId, through: &Cursor) -> Result<()> {
        match self {
            Self::Memory(memory) => memory.prune(stream, through).await,
            Self::Sqlite(sqlite) => sqlite.prune(stream, through).await,
            Self::Mysql(mysql) => mysql.prune(stream, through).await,
            Self::Postgres(postgres) => postgres.prune(stream, through).await,
        }
    }

    /// All streams, in the order of their ids.
    pub async fn streams(&self) -> Result<Vec<StreamId>> {
        match self {
            Self::Memory(memory) => memory.streams().await,
            Self::Sqlite(sqlite) => sqlite.streams().await,
            Self::Mysql(mysql) => mysql.streams().await,
            Self::Postgres(postgres) => postgres.streams().await,
        }
    }

    /// The places between its statements where a test can make it fail.
    pub fn failpoints(&self) -> &Failpoints {
        match self {
            Self::Memory(memory) => memory.failpoints(),
            Self::Sqlite(sqlite) => sqlite.failpoints(),
            Self::Mysql(mysql) => mysql.failpoints(),
            Self::Postgres(postgres) => postgres.failpoints(),
        }
    }

    /// Ends its connections, once what they do is done. Readings that still wait get an error.
    pub async fn close(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Sqlite(sqlite) => sqlite.close().await,
            Self::Mysql(mysql) => mysql.close().await,
            Self::Postgres(postgres) => postgres.close().await,
        }
    }
}

fn no_foreign() -> Error {
    Error::invalid("only a MySQL, MariaDB or PostgreSQL database has tables that can be streams")
}

/// The cursor after the event of this number; numbers count from 1.
fn cursor_at(number: i64) -> Cursor {
    if number == 0 { Cursor::START } else { Cursor(Bytes::from(number.to_string())) }
}

/// The number of the last event before a cursor; 0 is the start.
fn number_of(cursor: &Cursor, stream: &StreamId) -> Result<i64> {
    if cursor.is_start() {
        return Ok(0);
    }
    let text = std::str::from_utf8(&cursor.0).unwrap_or_default();
    let number = text.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == text);
    number.ok_or_else(|| {
        Error::invalid(format!("cursor {cursor} is not one of stream {stream}"))
            .help("its cursors are the decimal ids of its events")
    })
}

/// The error of a place whose event is gone.
fn gone(stream: &StreamId, cursor: impl std::fmt::Display, why: &str) -> Error {
    Error::corrupt(format!(
        "stream {stream} has lost the event at cursor {cursor} ({why}): it was truncated, pruned or restored"
    ))
    .help(REPLACED)
}

/// The order of decimal numbers without leading zeros, the empty text first.
fn compare_numbers(a: &Cursor, b: &Cursor) -> Ordering {
    a.0.len().cmp(&b.0.len()).then_with(|| a.0.cmp(&b.0))
}

/// Why a move's compare failed.
fn fenced(r#move: &Move, found: Option<&Position>) -> Error {
    let Move { from, .. } = r#move;
    let Some(found) = found else {
        return Error::fenced(format!(
            "commit {}: expected revision {} and fence {}, found no row: the consumer was removed",
            from.shard, from.revision.0, from.fence.0
        ));
    };
    if found.epoch != from.epoch && found.fence == from.fence && found.revision == from.revision {
        return Error::fenced(format!(
            "commit {}: expected epoch {}, found {}: another deployment was activated",
            from.shard, from.epoch.0, found.epoch.0
        ));
    }
    Error::fenced(format!(
        "commit {}: expected revision {} and fence {}, found {} and {}: another host owns it",
        from.shard, from.revision.0, from.fence.0, found.revision.0, found.fence.0
    ))
}

/// Another deployment was activated than the one that a proposal was made from.
fn overtaken(deployment: &Deployment, follows: Epoch) -> Error {
    Error::fenced(format!(
        "deploy {}: deployment {}, which this one was made from, is no longer the newest: another host was faster",
        deployment.consumer, follows.0
    ))
}

/// What no backend can write, whatever is in it.
fn check(commit: &Commit) -> Result<()> {
    if commit.changes.consumer.is_none() && !commit.changes.writes.is_empty() {
        return Err(Error::invalid(format!("{}: state without the consumer whose it is", label(commit))));
    }
    if commit.rewrite.is_some() && (commit.r#move.is_some() || !commit.changes.is_empty()) {
        return Err(Error::invalid(format!("{}: other positions come alone", label(commit))));
    }
    for Write { key, value, .. } in commit.changes.writes.iter() {
        let value_bytes = value.map_or(0, <[u8]>::len);
        for (what, found, most) in
            [("key", key.len(), STATE_KEY_BYTES_MAX), ("value", value_bytes, STATE_VALUE_BYTES_MAX)]
        {
            if found > most {
                let label = label(commit);
                return Err(Error::limit(format!(
                    "{label}: a state {what} has {found} bytes, at most {most} are allowed"
                )));
            }
        }
    }
    Ok(())
}

/// A commit as errors name it.
fn label(commit: &Commit) -> String {
    if let Some(rewrite) = &commit.rewrite {
        return format!("move {}", rewrite.consumer);
    }
    match (&commit.r#move, &commit.changes.consumer, &commit.deployment) {
        (Some(r#move), ..) => format!("commit {}", r#move.from.shard),
        (None, Some(consumer), _) => format!("commit {consumer}"),
        (None, None, Some((deployment, _))) => format!("deploy {}", deployment.consumer),
        (None, None, None) => {
            let redriven = commit.redrives.first().map(|redrive| &redrive.consumer);
            match commit.purged.first().map(|(consumer, _)| consumer).or(redriven) {
                Some(consumer) => format!("change dead letters of {consumer}"),
                None => "append".to_owned(),
            }
        }
    }
}

/// A second commit for a shard in one call: its compare would rest on the first one's answer.
fn twice(commit: &Commit) -> Error {
    Error::invalid(format!("{}: the shard has two commits in one call", label(commit)))
}

/// A dead letter that is not there.
fn no_letter(consumer: &ConsumerId, event: &EventId) -> Error {
    Error::not_found(format!("{consumer} has not set event {event} aside, or it was purged"))
        .help(format!("`tendon dlq list {}` lists what is there", consumer.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> StreamId {
        StreamId { tenant: Default::default(), name: "orders".parse().unwrap() }
    }

    #[test]
    fn only_decimal_numbers_as_we_write_them_are_cursors() {
        assert_eq!(number_of(&Cursor::START, &stream()).unwrap(), 0);
        assert_eq!(number_of(&cursor_at(41), &stream()).unwrap(), 41);
        for bad in ["0", "-1", "+1", "01", " 1", "x", "9223372036854775808", "\u{ff11}"] {
            assert!(number_of(&Cursor(bad.into()), &stream()).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn cursors_have_the_order_of_their_numbers() {
        let numbers = [0, 1, 2, 9, 10, 99, 100, i64::MAX];
        for (a, b) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (a, b))) {
            assert_eq!(compare_numbers(&cursor_at(*a), &cursor_at(*b)), a.cmp(b));
        }
    }

    #[tokio::test]
    async fn an_unknown_url_is_refused_with_those_that_are_known() {
        for url in ["", "sqlite://", "sqlite:x.db", "mssql://x/y", "memory"] {
            let Err(error) = Database::open(url, Options::default()).await else { panic!("{url} was taken") };
            assert_eq!(error.kind(), crate::error::Kind::Invalid);
            assert!(error.way_out().unwrap().contains("sqlite://path/to.db"));
        }
    }
}
