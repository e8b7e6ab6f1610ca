//! PostgreSQL: for teams that run it already, and for more than one host. A pool reads, another one commits.

mod chunk;
mod commit;
mod failure;
mod foreign;
mod held;
mod inspect;
mod migrate;
mod notice;
mod rewrite;
mod source;
mod statement;
mod store;
mod table;

use std::{
    str::FromStr as _,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::watch;

use super::{
    Durability, Failpoints, Options, Order,
    failure::only_read,
    foreign::{self as foreign_tables, ForeignSource, ForeignTable, another_table},
    known::{self, Known},
    round::no_stream,
};
use crate::{
    error::{Error, Result},
    source::Source,
    tenant::StreamId,
};

pub use self::{commit::FAILPOINTS, migrate::SCHEMA_VERSION, source::PostgresSource};
use self::{
    foreign::{ForeignLog, Reader},
    notice::Notices,
    table::Table,
};

/// Where a stream is.
pub(in crate::backend) type Log = foreign_tables::Log<Table, ForeignLog>;

/// Connections that read streams and state.
const READERS_MAX: u32 = 8;
/// Connections that claim and commit: one is the committer's.
const WRITERS_MAX: u32 = 4;
/// Prepared statements that a connection keeps: three for each stream, and some twenty.
const STATEMENTS_MAX: usize = 512;
/// How long anybody waits for a connection before that is an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// A session that was cut off in a transaction holds up no takeover for longer than this.
const IDLE_IN_TRANSACTION: &str = "5s";

/// A PostgreSQL database. Clones are the same one.
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    /// As errors name it: the url without its password.
    name: String,
    read_only: bool,
    readers: PgPool,
    writers: PgPool,
    /// The streams that were named so far.
    known: Known<Log>,
    /// How many foreign tables were named so far.
    foreign_count: AtomicI64,
    failpoints: Failpoints,
    /// How connections are made.
    connect: PgConnectOptions,
    notices: Notices,
}

impl Postgres {
    pub(super) async fn open(url: &str, options: Options) -> Result<Self> {
        let connect = connect_options(url, options)?;
        let database = connect.get_database().unwrap_or("postgres");
        let name = format!("postgres://{}:{}/{database}", connect.get_host(), connect.get_port());
        let failed = |error| failure::postgres(&name, "open", error);
        let mut first = connect.connect().await.map_err(failed)?;
        let is_standby = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut first).await;
        if is_standby.map_err(failed)? {
            return Err(Error::unavailable(format!("open database {name}: it is a standby"))
                .help("positions, state and streams are read from the primary: name that in the url"));
        }
        migrate::migrate(&mut first, &name, options.read_only).await?;
        if !options.read_only {
            migrate::begin_era(&mut first).await.map_err(failed)?;
        }
        // A connection that does not end well has written nothing.
        let _ = first.close().await;
        let (notices, wakes) = Notices::new();
        let inner = Arc::new(Inner {
            read_only: options.read_only,
            readers: pool(&connect, READERS_MAX, options.read_only),
            writers: pool(&connect, WRITERS_MAX, options.read_only),
            known: Known::default(),
            foreign_count: AtomicI64::new(0),
            failpoints: Failpoints::default(),
            connect,
            notices,
            name,
        });
        tokio::spawn(notice::tell(Arc::downgrade(&inner), wakes));
        Ok(Self(inner))
    }

    pub(super) fn failpoints(&self) -> &Failpoints {
        &self.0.failpoints
    }

    pub(super) async fn create_stream(&self, stream: &StreamId, order: Order) -> Result<()> {
        match self.find(stream).await? {
            Some(Log::Own(table)) if table.order == Order::Native && order == Order::Id => {
                return Err(Error::invalid(format!("stream {stream} is in the order of transactions, not of ids"))
                    .help("the order is fixed when a stream is made: give the new one another name"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        self.may_write("make a stream in")?;
        let failed = |error| self.failed("make a stream in", error);
        let mut open = self.0.writers.begin().await.map_err(failed)?;
        let number = sqlx::query_scalar(
            "INSERT INTO tendon.stream (tenant, name, last_id) VALUES ($1, $2, $3)
            ON CONFLICT DO NOTHING RETURNING number",
        )
        .bind(stream.tenant.0.as_str())
        .bind(stream.name.as_str())
        .bind((order == Order::Id).then_some(0_i64));
        let number: Option<i64> = number.fetch_optional(&mut *open).await.map_err(failed)?;
        // None: another host makes it, and the row was waited for.
        if let Some(number) = number {
            let create = sqlx::raw_sql(AssertSqlSafe(table::create_sql(number, order))).execute(&mut *open).await;
            create.map_err(failed)?;
        }
        open.commit().await.map_err(failed)
    }

    /// A stream as a source; `NotFound` where nobody made it.
    pub(super) async fn source(&self, stream: &StreamId) -> Result<Arc<dyn Source>> {
        Ok(match self.find(stream).await?.ok_or_else(|| no_stream(stream))? {
            Log::Own(table) => Arc::new(PostgresSource::new(self.clone(), table)),
            Log::Foreign(log) => Arc::new(ForeignSource::new(Arc::new(Reader { postgres: self.clone(), log }))),
        })
    }

    /// Makes a table that was there before the stream of this name, for as long as the database is open.
    pub(super) async fn adopt(&self, stream: &StreamId, table: &ForeignTable) -> Result<()> {
        match self.find(stream).await? {
            Some(Log::Foreign(log)) if log.tracked.table == *table => return Ok(()),
            Some(_) => return Err(another_table(stream, table)),
            None => {}
        }
        let number = -1 - self.0.foreign_count.fetch_add(1, Relaxed);
        let log = self.foreign(stream, table, number).await?;
        self.0.known.add(stream, Log::Foreign(Arc::new(log)));
        Ok(())
    }

    pub(super) async fn streams(&self) -> Result<Vec<StreamId>> {
        let rows = sqlx::query_as("SELECT tenant, name FROM tendon.stream ORDER BY tenant, name");
        let rows = rows.fetch_all(&self.0.readers).await;
        known::streams(rows.map_err(|error| self.failed("list the streams of", error))?)
    }

    pub(super) async fn close(&self) {
        self.0.notices.close();
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
        let sql = "SELECT number, last_id IS NOT NULL FROM tendon.stream WHERE tenant = $1 AND name = $2";
        let found = sqlx::query_as(sql).bind(stream.tenant.0.as_str()).bind(stream.name.as_str());
        let found = found.fetch_optional(&self.0.readers).await;
        let found: Option<(i64, bool)> = found.map_err(|error| self.failed("look for a stream in", error))?;
        Ok(found.map(|(number, is_by_id)| {
            let order = if is_by_id { Order::Id } else { Order::Native };
            self.0.known.add(stream, Log::Own(Arc::new(Table::new(stream, number, order))))
        }))
    }

    fn may_write(&self, doing: &str) -> Result<()> {
        if self.0.read_only { Err(only_read(doing, &self.0.name)) } else { Ok(()) }
    }

    /// What an error of this database means.
    fn failed(&self, doing: &str, error: sqlx::Error) -> Error {
        failure::postgres(&self.0.name, doing, error)
    }
}

fn connect_options(url: &str, options: Options) -> Result<PgConnectOptions> {
    let connect = PgConnectOptions::from_str(url).map_err(|error| {
        Error::invalid("this is not the url of a PostgreSQL database")
            .because(error)
            .help("write it as `postgres://user:password@host:5432/database`")
    })?;
    let synchronous = match options.durability {
        Durability::Full => "on",
        Durability::Relaxed => "off",
    };
    let read_only = if options.read_only { "on" } else { "off" };
    let connect =
        connect.application_name("tendon").statement_cache_capacity(STATEMENTS_MAX).disable_statement_logging();
    Ok(connect.options([
        ("synchronous_commit", synchronous),
        ("default_transaction_read_only", read_only),
        // A statement sees what was committed when it began; a longer view would hold a reader at an old horizon.
        ("default_transaction_isolation", "read committed"),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        // Every statement has one good plan, by an index. Left alone the server plans most of them anew each time, which
        // costs it more than they do, and of a table that was small a moment ago it would read every row.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("jit", "off"),
    ]))
}

impl Log {
    fn appended(&self) -> &watch::Sender<()> {
        match self {
            Self::Own(table) => &table.appended,
            Self::Foreign(log) => &log.tracked.appended,
        }
    }

    /// Tells it from the others of this database.
    fn number(&self) -> i64 {
        match self {
            Self::Own(table) => table.number,
            Self::Foreign(log) => log.number,
        }
    }
}

/// Connections are not asked whether they live before they are lent: a dead one is an error that is tried again. A new
/// one may reach another cluster than the last, that of a restore.
fn pool(connect: &PgConnectOptions, most: u32, read_only: bool) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(most).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
    let pool = pool.after_connect(move |connection, _| {
        Box::pin(async move {
            match read_only {
                true => Ok(()),
                false => migrate::begin_era(connection).await,
            }
        })
    });
    pool.connect_lazy_with(connect.clone())
}
