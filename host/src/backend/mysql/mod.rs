//! MySQL and MariaDB: for teams that run one already, and for more than one host. A pool reads, another one commits.
//!
//! What is said of it here was tried with MariaDB 10.11. There are no schemas inside a database, so all tables have
//! names that begin with `tendon_`.

mod commit;
mod connect;
mod failure;
mod foreign;
mod holders;
mod inspect;
mod legacy;
mod migrate;
mod position;
mod rewrite;
mod source;
mod state;
mod store;
mod table;
mod text;
mod transaction;
mod window;
mod write;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, MySqlPool};
use tokio::sync::watch;

use super::{
    CHUNK_BYTES_MAX, Failpoints, Options,
    failure::only_read,
    foreign::{self as foreign_tables, ForeignSource, ForeignTable, another_table},
    known::{self, Known},
    number_of,
    round::{no_stream, not_ours},
};
use crate::{
    error::{Error, Result},
    event::Cursor,
    source::Source,
    tenant::StreamId,
};

pub use self::{commit::FAILPOINTS, migrate::SCHEMA_VERSION, source::MysqlSource};
use self::{
    foreign::{ForeignLog, Reader},
    table::Table,
};

/// Where a stream is.
pub(in crate::backend) type Log = foreign_tables::Log<Table, ForeignLog>;

impl Log {
    fn appended(&self) -> &watch::Sender<()> {
        match self {
            Self::Own(table) => &table.appended,
            Self::Foreign(log) => &log.tracked.appended,
        }
    }
}

/// Connections that read streams and state.
const READERS_MAX: u32 = 8;
/// Connections that claim and commit: one is the committer's.
const WRITERS_MAX: u32 = 4;

/// A MySQL or MariaDB database. Clones are the same one.
#[derive(Clone)]
pub struct Mysql(Arc<Inner>);

struct Inner {
    /// As errors name it: the url without its password.
    name: String,
    read_only: bool,
    /// The biggest packet that the server takes.
    packet_bytes_max: usize,
    readers: MySqlPool,
    writers: MySqlPool,
    /// The streams that were named so far.
    known: Known<Log>,
    failpoints: Failpoints,
}

impl Mysql {
    pub(super) async fn open(url: &str, Options { read_only, .. }: Options) -> Result<Self> {
        let (connect, name) = connect::options(url)?;
        let failed = |error| failure::mysql(&name, "open", error);
        let mut first = connect.connect().await.map_err(failed)?;
        connect::begin_session(&mut first, read_only).await.map_err(failed)?;
        connect::refuse_old(&mut first, &name).await?;
        if !read_only {
            connect::refuse_read_only(&mut first, &name).await?;
        }
        migrate::migrate(&mut first, &name, read_only).await?;
        let packet = sqlx::query_scalar("SELECT @@max_allowed_packet").fetch_one(&mut first).await;
        let packet_bytes_max: u64 = packet.map_err(failed)?;
        // A connection that does not end well has nothing left to write.
        let _ = first.close().await;
        Ok(Self(Arc::new(Inner {
            read_only,
            packet_bytes_max: usize::try_from(packet_bytes_max).unwrap_or(usize::MAX),
            readers: connect::pool(&connect, READERS_MAX, read_only),
            writers: connect::pool(&connect, WRITERS_MAX, read_only),
            known: Known::default(),
            failpoints: Failpoints::default(),
            name,
        })))
    }

    pub(super) fn failpoints(&self) -> &Failpoints {
        &self.0.failpoints
    }

    /// Each statement commits by itself, as DDL does anyway: a stream is there once its row says that its table is.
    pub(super) async fn create_stream(&self, stream: &StreamId) -> Result<()> {
        if self.find(stream).await?.is_some() {
            return Ok(());
        }
        self.may_write("make a stream in")?;
        let failed = |error| self.failed("make a stream in", error);
        // Whether the row was there or not, its number is the answer.
        let number = sqlx::query(
            "INSERT INTO tendon_stream (tenant, name, last_id, is_made) VALUES (?, ?, 0, FALSE)
            ON DUPLICATE KEY UPDATE number = LAST_INSERT_ID(number)",
        )
        .bind(stream.tenant.0.as_str())
        .bind(stream.name.as_str());
        let number = number.execute(&self.0.writers).await.map_err(failed)?.last_insert_id().cast_signed();
        sqlx::raw_sql(AssertSqlSafe(table::create_sql(number))).execute(&self.0.writers).await.map_err(failed)?;
        let made = sqlx::query("UPDATE tendon_stream SET is_made = TRUE WHERE number = ?").bind(number);
        made.execute(&self.0.writers).await.map(drop).map_err(failed)
    }

    pub(super) async fn prune(&self, stream: &StreamId, through: &Cursor) -> Result<()> {
        self.may_write("prune a stream of")?;
        let id = number_of(through, stream)?;
        let Log::Own(table) = self.find(stream).await?.ok_or_else(|| no_stream(stream))? else {
            return Err(not_ours(stream));
        };
        let done = sqlx::query(table.prune()).bind(id).execute(&self.0.writers).await;
        done.map(drop).map_err(|error| self.failed("prune a stream of", error))
    }

    pub(super) async fn source(&self, stream: &StreamId) -> Result<Arc<dyn Source>> {
        Ok(match self.find(stream).await?.ok_or_else(|| no_stream(stream))? {
            Log::Own(table) => Arc::new(MysqlSource::new(self.clone(), table)),
            Log::Foreign(log) => Arc::new(ForeignSource::new(Arc::new(Reader { mysql: self.clone(), log }))),
        })
    }

    /// Makes a table that was there before the stream of this name, for as long as the database is open.
    pub(super) async fn adopt(&self, stream: &StreamId, table: &ForeignTable) -> Result<()> {
        match self.find(stream).await? {
            Some(Log::Foreign(log)) if log.tracked.table == *table => return Ok(()),
            Some(_) => return Err(another_table(stream, table)),
            None => {}
        }
        let log = self.foreign(stream, table).await?;
        self.0.known.add(stream, Log::Foreign(Arc::new(log)));
        Ok(())
    }

    pub(super) async fn streams(&self) -> Result<Vec<StreamId>> {
        let rows = sqlx::query_as("SELECT tenant, name FROM tendon_stream WHERE is_made ORDER BY tenant, name");
        let rows = rows.fetch_all(&self.0.readers).await;
        known::streams(rows.map_err(|error| self.failed("list the streams of", error))?)
    }

    pub(super) async fn close(&self) {
        self.0.readers.close().await;
        self.0.writers.close().await;
        // Whoever waits at a head looks again, and finds the pools closed.
        self.0.known.all().values().for_each(|log| log.appended().send_modify(|()| ()));
    }

    /// Where a stream is; none where nobody made it.
    async fn find(&self, stream: &StreamId) -> Result<Option<Log>> {
        if let Some(table) = self.0.known.get(stream) {
            return Ok(Some(table));
        }
        let number = sqlx::query_scalar("SELECT number FROM tendon_stream WHERE tenant = ? AND name = ? AND is_made")
            .bind(stream.tenant.0.as_str())
            .bind(stream.name.as_str());
        let number = number.fetch_optional(&self.0.readers).await;
        let number = number.map_err(|error| self.failed("look for a stream in", error))?;
        let table = |number| Table::new(stream, number, self.chunk_bytes_max());
        Ok(number.map(|number| self.0.known.add(stream, Log::Own(Arc::new(table(number))))))
    }

    /// A column of a chunk must have room in a packet.
    fn chunk_bytes_max(&self) -> usize {
        CHUNK_BYTES_MAX.min(self.0.packet_bytes_max / 2)
    }

    fn may_write(&self, doing: &str) -> Result<()> {
        if self.0.read_only { Err(only_read(doing, &self.0.name)) } else { Ok(()) }
    }

    /// What an error of this database means.
    fn failed(&self, doing: &str, error: sqlx::Error) -> Error {
        failure::mysql(&self.0.name, doing, error)
    }
}
