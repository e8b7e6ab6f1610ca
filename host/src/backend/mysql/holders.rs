//! Who has a foreign table locked for writing. Metadata locks tell which sessions; a session that is busy all the time is
//! told from its earlier transactions by their numbers.
//!
//! Two things about InnoDB's list of transactions were learnt the hard way. It is made anew only if nobody has read it for
//! a tenth of a second, so a number in it may be that of the session's transaction before: only a list that shows this
//! very question is believed. And a transaction that was prepared for XA outlives its session, holds no metadata lock that
//! is shown or waited for, and is in the list of XA alone.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Row as _, mysql::MySqlRow};

use super::{Mysql, failure};
use crate::{backend::foreign::Holder, error::Result, event::Timestamp, source::HeldUp};

/// The modes in which writers hold the lock, in the words of the plugin.
const MODES: &str = "'MDL_SHARED_WRITE', 'MDL_SHARED_NO_READ_WRITE', 'MDL_SHARED_UPGRADABLE', 'MDL_SHARED_NO_WRITE',
    'MDL_EXCLUSIVE'";

/// How long nobody must have read InnoDB's list before it is made anew; some more for those that look, too.
const STALE: std::ops::Range<u64> = 110..250;

/// A lock that somebody has, nobody knows who.
const SOMEBODY: &str = "somebody";

/// How those are found that have a table locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// MariaDB's plugin `metadata_lock_info`.
    Plugin,
    /// The performance schema, where it watches metadata locks.
    PerformanceSchema,
    /// A lock that is granted only while nobody has the table locked: right, and late where writers never pause.
    LockTables,
}

/// Asks who has a table locked.
pub(super) struct Holders {
    pub(super) method: Method,
    schema: String,
    table: String,
    /// When InnoDB's list was read last.
    listed: Mutex<Option<Instant>>,
    /// Whether that was not refused.
    may_list: AtomicBool,
}

impl Holders {
    pub(super) fn new(method: Method, schema: &str, table: &str) -> Self {
        Self {
            method,
            schema: schema.to_owned(),
            table: table.to_owned(),
            listed: Mutex::default(),
            may_list: AtomicBool::new(true),
        }
    }

    /// The sessions and transactions that have it locked.
    pub(super) async fn ask(&self, mysql: &Mysql) -> Result<Vec<Holder>> {
        let mut holders = match self.method {
            Method::Plugin => self.sessions(mysql, &plugin_sql()).await?,
            Method::PerformanceSchema => self.sessions(mysql, PERFORMANCE_SCHEMA).await?,
            Method::LockTables => self.try_lock(mysql).await?,
        };
        // After the locks: whoever lets go of its session between the two is in the second list.
        holders.extend(prepared(mysql).await?);
        Ok(holders)
    }

    async fn sessions(&self, mysql: &Mysql, sql: &str) -> Result<Vec<Holder>> {
        let ids = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.schema).bind(&self.table);
        let ids: Vec<i64> =
            ids.fetch_all(&mysql.0.readers).await.map_err(|error| mysql.failed("look at locks in", error))?;
        let transactions = if ids.is_empty() { Vec::new() } else { self.transactions(mysql).await };
        let holder = |id: i64| Holder {
            name: id.to_string(),
            transaction: transactions.iter().find(|(session, _)| *session == id).map(|(_, transaction)| *transaction),
            is_detached: false,
        };
        Ok(ids.into_iter().map(holder).collect())
    }

    /// The transaction of each session, now; none where that cannot be known.
    async fn transactions(&self, mysql: &Mysql) -> Vec<(i64, u64)> {
        if !self.may_list.load(Relaxed) {
            return Vec::new();
        }
        let stale = Duration::from_millis(fastrand::u64(STALE));
        let is_due = {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = listed.is_none_or(|at| at.elapsed() > stale);
            if is_due {
                *listed = Some(Instant::now());
            }
            is_due
        };
        if !is_due {
            return Vec::new();
        }
        let question = format!("{:032x}", fastrand::u128(..));
        // The transaction makes this session appear in the list, with this text.
        let list = format!(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT;
            SELECT trx_mysql_thread_id, trx_id, coalesce(trx_query LIKE '%{question}%', 0) FROM information_schema.innodb_trx;
            COMMIT"
        );
        let Ok(mut connection) = mysql.0.readers.acquire().await else { return Vec::new() };
        let Ok(rows) = sqlx::raw_sql(AssertSqlSafe(list)).fetch_all(&mut *connection).await else {
            // The transaction is still open, and with it an old view of everything.
            connection.close_on_drop();
            // Without the right to see it sessions alone are known, which is enough wherever they pause.
            self.may_list.store(false, Relaxed);
            return Vec::new();
        };
        let read = |row: MySqlRow| -> Option<(i64, u64, bool)> {
            let number = |column: usize| row.try_get_unchecked::<String, _>(column).ok()?.parse::<u64>().ok();
            Some((number(0)?.cast_signed(), number(1)?, number(2)? != 0))
        };
        let rows: Vec<_> = rows.into_iter().filter_map(read).collect();
        if !rows.iter().any(|(_, _, is_this)| *is_this) {
            return Vec::new();
        }
        // Whoever has written nothing yet has no number, or one that is made up.
        let has_written = |number: &u64| (1..1 << 47).contains(number);
        rows.into_iter().filter(|(_, number, _)| has_written(number)).map(|(id, number, _)| (id, number)).collect()
    }

    async fn try_lock(&self, mysql: &Mysql) -> Result<Vec<Holder>> {
        let failed = |error| mysql.failed("lock a table in", error);
        let mut connection = mysql.0.readers.acquire().await.map_err(failed)?;
        // Sent at once: no lock outlives this look, even where nobody waits for its answer.
        let look = format!(
            "SET SESSION lock_wait_timeout = 1; LOCK TABLES `{}`.`{}` READ /*M!100300 NOWAIT */; UNLOCK TABLES;
            SET SESSION lock_wait_timeout = DEFAULT",
            self.schema, self.table
        );
        let Err(error) = sqlx::raw_sql(AssertSqlSafe(look)).execute(&mut *connection).await else {
            return Ok(Vec::new());
        };
        connection.close_on_drop();
        match failure::number(&error) {
            Some(1205) => Ok(vec![Holder { name: SOMEBODY.to_owned(), transaction: None, is_detached: false }]),
            _ => Err(failed(error)),
        }
    }

    /// Who of the holders an operator should look at: the one that is open for longest.
    pub(super) async fn who(&self, mysql: &Mysql, holders: &[Holder]) -> Result<HeldUp> {
        let sessions: Vec<&str> =
            holders.iter().map(|holder| holder.name.as_str()).filter(|name| name.parse::<i64>().is_ok()).collect();
        // A session has this very table locked; a prepared transaction may have others.
        let which = match holders.iter().find(|holder| holder.is_detached) {
            _ if !sessions.is_empty() => format!("p.id IN ({})", sessions.join(", ")),
            None => "t.trx_mysql_thread_id <> CONNECTION_ID()".to_owned(),
            Some(xa) => {
                return Ok(HeldUp {
                    by: format!("the prepared transaction {}", xa.name),
                    since: None,
                    way_out: Some("XA ROLLBACK or XA COMMIT, as its owner decides".into()),
                });
            }
        };
        let oldest = format!(
            "SELECT CONVERT(CONCAT('session ', p.id, ' of user ', p.user, '@', p.host, ' (', p.command, ')') USING utf8mb4),
                TIMESTAMPDIFF(MICROSECOND, '1970-01-01', CONVERT_TZ(t.trx_started, 'SYSTEM', '+00:00')), p.id
            FROM information_schema.processlist AS p
            LEFT JOIN information_schema.innodb_trx AS t ON t.trx_mysql_thread_id = p.id
            WHERE {which} ORDER BY t.trx_started IS NULL, t.trx_started LIMIT 1"
        );
        let read = |row: MySqlRow| {
            let (by, since, id): (String, Option<i64>, u64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get_unchecked(2)?);
            Ok(HeldUp { by, since: since.map(Timestamp), way_out: Some(format!("KILL {id}")) })
        };
        // It is only told; a user without the right to see others is told that much.
        let oldest = sqlx::query(AssertSqlSafe(oldest)).try_map(read).fetch_optional(&mysql.0.readers).await;
        Ok(oldest.ok().flatten().unwrap_or_else(|| HeldUp {
            by: "an open transaction that this user may not see".into(),
            since: None,
            way_out: Some("GRANT PROCESS ON *.* TO this user shows which".into()),
        }))
    }
}

/// The transactions that were prepared for XA, of whichever table.
async fn prepared(mysql: &Mysql) -> Result<Vec<Holder>> {
    let rows = match sqlx::raw_sql("XA RECOVER FORMAT='SQL'").fetch_all(&mysql.0.readers).await {
        Ok(rows) => rows,
        // MySQL hides them from users without XA_RECOVER_ADMIN, and has no such format.
        Err(error) if matches!(failure::number(&error), Some(1227 | 1401 | 1064)) => Vec::new(),
        Err(error) => return Err(mysql.failed("look at prepared transactions of", error)),
    };
    let holder = |row: MySqlRow| {
        let name: String = row.try_get_unchecked(3)?;
        Ok(Holder { name: format!("xa {name}"), transaction: None, is_detached: true })
    };
    let holders: sqlx::Result<_> = rows.into_iter().map(holder).collect();
    holders.map_err(|error| mysql.failed("look at prepared transactions of", error))
}

fn plugin_sql() -> String {
    format!(
        "SELECT DISTINCT CAST(thread_id AS SIGNED) FROM information_schema.metadata_lock_info
        WHERE table_schema = ? AND table_name = ? AND lock_mode IN ({MODES})"
    )
}

const PERFORMANCE_SCHEMA: &str = "
    SELECT DISTINCT CAST(t.processlist_id AS SIGNED) FROM performance_schema.metadata_locks AS m
    JOIN performance_schema.threads AS t ON t.thread_id = m.owner_thread_id
    WHERE m.object_type = 'TABLE' AND m.object_schema = ? AND m.object_name = ? AND m.lock_status = 'GRANTED'
        AND m.lock_type IN ('SHARED_WRITE', 'SHARED_NO_READ_WRITE', 'SHARED_UPGRADABLE', 'SHARED_NO_WRITE', 'EXCLUSIVE')
        AND t.processlist_id IS NOT NULL";

/// The best method that there is for a table; the reason against each where there is none.
pub(super) async fn method(mysql: &Mysql, schema: &str, table: &str) -> Result<Method, String> {
    let mut reasons = Vec::new();
    let watches = "SELECT COUNT(*) FROM performance_schema.setup_instruments AS i
        WHERE i.name = 'wait/lock/metadata/sql/mdl' AND i.enabled = 'YES' AND @@performance_schema = 1";
    for method in [Method::Plugin, Method::PerformanceSchema, Method::LockTables] {
        if method == Method::PerformanceSchema
            && !matches!(sqlx::query_scalar(watches).fetch_one(&mysql.0.readers).await, Ok(1_i64))
        {
            reasons.push("the performance schema does not watch metadata locks".to_owned());
            continue;
        }
        match Holders::new(method, schema, table).ask(mysql).await {
            Ok(_) => return Ok(method),
            Err(error) => reasons.push(error.chain()),
        }
    }
    Err(reasons.join("; "))
}

impl Method {
    /// What it is to an operator.
    pub(super) fn says(self) -> &'static str {
        match self {
            Self::Plugin => "holes are final once those end that hold its metadata lock (plugin metadata_lock_info)",
            Self::PerformanceSchema => {
                "holes are final once those end that hold its metadata lock (performance schema)"
            }
            Self::LockTables => {
                "holes are final once LOCK TABLES is granted: where writers never pause that may take long; \
                `INSTALL SONAME 'metadata_lock_info'` on MariaDB, or the performance schema, does better"
            }
        }
    }
}

/// What to do where no method works.
pub(super) fn what_to_grant(schema: &str, table: &str) -> String {
    format!(
        "INSTALL SONAME 'metadata_lock_info' on MariaDB; or switch the instrument wait/lock/metadata/sql/mdl of the performance \
        schema on and GRANT SELECT ON performance_schema.* TO this user; or GRANT LOCK TABLES, SELECT ON {schema}.{table} TO this user"
    )
}

/// Whether others than this server write to its tables, as its settings have it: how that shows.
pub(super) async fn several_servers(mysql: &Mysql) -> Result<Option<String>> {
    let failed = |error| mysql.failed("look at settings of", error);
    let step: i64 = sqlx::query_scalar("SELECT CAST(@@GLOBAL.auto_increment_increment AS SIGNED)")
        .fetch_one(&mysql.0.readers)
        .await
        .map_err(failed)?;
    if step > 1 {
        return Ok(Some(format!(
            "auto_increment_increment is {step}: several servers write to it, and one's locks are not the others'"
        )));
    }
    let wsrep: Vec<(String, String)> = sqlx::query_as("SHOW GLOBAL VARIABLES WHERE Variable_name = 'wsrep_on'")
        .fetch_all(&mysql.0.readers)
        .await
        .map_err(failed)?;
    let is_on = wsrep.iter().any(|(_, value)| value == "ON");
    Ok(is_on.then(|| "wsrep_on is ON: several servers write to it, and one's locks are not the others'".to_owned()))
}
