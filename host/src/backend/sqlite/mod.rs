//! SQLite: the embedded default. One connection writes, a few read, one looks for commits of other processes.

mod commit;
mod encode;
mod failure;
mod lock;
mod migrate;
mod poll;
mod recent;
mod rewrite;
mod source;
mod state;
mod store;
mod table;
mod transaction;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Durability, Failpoints, Options,
    known::{self, Known},
    number_of,
    round::no_stream,
};
use crate::{
    error::{Error, Result},
    event::Cursor,
    tenant::StreamId,
};

pub use self::{
    commit::FAILPOINTS,
    lock::{Holder, HostLock, holder},
    migrate::SCHEMA_VERSION,
    source::SqliteSource,
};
use self::{recent::Recent, table::Table};

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first connection waits before it tries a locked file again.
const LOCKED_PAUSE: Duration = Duration::from_millis(20);
/// Connections that read.
const READERS_MAX: u32 = 4;
/// Prepared statements that a connection keeps: three for each stream, and some twenty.
const STATEMENTS_MAX: usize = 512;
/// Pages that the log gathers before they go into the file, 16 MiB: a page that many commits write goes there once.
const CHECKPOINT_PAGES: &str = "4000";

/// A SQLite database. Clones are the same one.
#[derive(Clone)]
pub struct Sqlite(Arc<Inner>);

struct Inner {
    path: PathBuf,
    options: SqliteConnectOptions,
    read_only: bool,
    /// Empty while a transaction has it, and after one that was given up: closing it is what rolls back.
    writer: tokio::sync::Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    /// The streams that were named so far.
    known: Known<Arc<Table>>,
    poller: Mutex<Option<JoinHandle<()>>>,
    /// The state that is not in its table yet.
    recent: Mutex<Recent>,
    failpoints: Failpoints,
}

impl Sqlite {
    pub(super) async fn open(path: &Path, options: Options) -> Result<Self> {
        if options.read_only && !path.exists() {
            return Err(Error::not_found(format!("there is no database {}", path.display())));
        }
        let failed = |error| failure::sqlite(path, "open", error);
        let connect = connect_options(path, options);
        let mut first = first_connection(&connect).await.map_err(failed)?;
        migrate::migrate(&mut first, path, options.read_only).await?;
        // A pool asks a connection whether it lives before it lends it: a hop for each read, and a file does not hang up.
        let pool = SqlitePoolOptions::new().max_connections(READERS_MAX).test_before_acquire(false);
        let readers = pool.connect_lazy_with(connect.clone().create_if_missing(false).pragma("query_only", "1"));
        let sqlite = Self(Arc::new(Inner {
            path: path.to_owned(),
            options: connect,
            read_only: options.read_only,
            writer: tokio::sync::Mutex::new(Some(first)),
            readers,
            known: Known::default(),
            poller: Mutex::default(),
            recent: Mutex::default(),
            failpoints: Failpoints::default(),
        }));
        if !options.read_only {
            // Whoever cannot write is told now, not by the first commit.
            sqlite.begin("open").await?.commit().await.map_err(failed)?;
        }
        sqlite.catch_up().await?;
        Ok(sqlite)
    }

    pub(super) fn failpoints(&self) -> &Failpoints {
        &self.0.failpoints
    }

    pub(super) async fn create_stream(&self, stream: &StreamId) -> Result<()> {
        if self.find(stream).await?.is_some() {
            return Ok(());
        }
        let table = Table::new(stream)?;
        let mut transaction = self.begin("make a stream in").await?;
        let create = sqlx::query(table.create()).execute(transaction.connection()).await;
        create.map_err(|error| self.failed("make a stream in", error))?;
        let register = sqlx::query("INSERT INTO stream (tenant, name) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(stream.tenant.0.as_str())
            .bind(stream.name.as_str());
        register.execute(transaction.connection()).await.map_err(|error| self.failed("make a stream in", error))?;
        transaction.commit().await.map_err(|error| self.failed("make a stream in", error))?;
        Ok(())
    }

    pub(super) async fn prune(&self, stream: &StreamId, through: &Cursor) -> Result<()> {
        let id = number_of(through, stream)?;
        let table = self.find(stream).await?.ok_or_else(|| no_stream(stream))?;
        let mut transaction = self.begin("prune a stream of").await?;
        let done = sqlx::query(table.prune()).bind(id).execute(transaction.connection()).await;
        done.map_err(|error| self.failed("prune a stream of", error))?;
        transaction.commit().await.map_err(|error| self.failed("prune a stream of", error))
    }

    pub(super) async fn source(&self, stream: &StreamId) -> Result<SqliteSource> {
        let table = self.find(stream).await?.ok_or_else(|| no_stream(stream))?;
        Ok(SqliteSource::new(self.clone(), table))
    }

    pub(super) async fn streams(&self) -> Result<Vec<StreamId>> {
        let rows = sqlx::query_as("SELECT tenant, name FROM stream ORDER BY tenant, name").fetch_all(&self.0.readers);
        known::streams(rows.await.map_err(|error| self.failed("list the streams of", error))?)
    }

    pub(super) async fn close(&self) {
        if let Some(poller) = self.poller().take() {
            poller.abort();
        }
        self.0.readers.close().await;
        // Whoever waits at a head looks again, and finds the readers closed.
        self.0.known.all().values().for_each(|table| table.newest.send_modify(|_| ()));
        if let Some(writer) = self.0.writer.lock().await.take() {
            // What was answered is in the file already; a connection that does not end well loses nothing.
            let _ = writer.close().await;
        }
    }

    /// The table of a stream; none where nobody made it.
    async fn find(&self, stream: &StreamId) -> Result<Option<Arc<Table>>> {
        if let Some(table) = self.0.known.get(stream) {
            return Ok(Some(table));
        }
        let known = sqlx::query("SELECT 1 FROM stream WHERE tenant = ? AND name = ?")
            .bind(stream.tenant.0.as_str())
            .bind(stream.name.as_str());
        let known = known.fetch_optional(&self.0.readers).await;
        if known.map_err(|error| self.failed("look for a stream in", error))?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.0.known.add(stream, Arc::new(Table::new(stream)?))))
    }

    fn poller(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.0.poller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an error of this database means.
    fn failed(&self, doing: &str, error: sqlx::Error) -> Error {
        failure::sqlite(&self.0.path, doing, error)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(poller) = self.poller.get_mut().unwrap_or_else(PoisonError::into_inner) {
            poller.abort();
        }
    }
}

fn connect_options(path: &Path, options: Options) -> SqliteConnectOptions {
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .read_only(options.read_only)
        .create_if_missing(!options.read_only)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_MAX)
        .disable_statement_logging();
    let synchronous = match options.durability {
        Durability::Full => SqliteSynchronous::Full,
        Durability::Relaxed => SqliteSynchronous::Normal,
    };
    if options.read_only {
        connect
    } else {
        // What a statement would need to undo itself is kept in memory: beyond 64 KiB, which 16 changed pages are, SQLite
        // makes a file for it, each time anew.
        connect
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("temp_store", "MEMORY")
            .synchronous(synchronous)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
    }
}

/// Connects to a file that another process may be making at this moment: for the lock that a new file's log takes SQLite
/// itself does not wait.
async fn first_connection(options: &SqliteConnectOptions) -> sqlx::Result<SqliteConnection> {
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match options.connect().await {
            Err(error) if failure::is_locked(&error) && Instant::now() < until => sleep(LOCKED_PAUSE).await,
            answer => return answer,
        }
    }
}
