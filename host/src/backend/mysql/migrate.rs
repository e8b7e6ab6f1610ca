//! The schema's version, and the numbered steps from one to the next.

use std::ops::RangeInclusive;

use sqlx::{AssertSqlSafe, MySqlConnection};

use super::failure;
use crate::{
    backend::failure::is_older,
    error::{Error, Result},
};

/// Step n leads from version n to n + 1. DDL is not transactional here: a step can be made again after its half.
const STEPS: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
];

/// The version that this code reads and writes.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// A newer host may have been here while this one runs on beside it: a step only adds what hosts of the version before can
/// do without. One that takes something from them is two steps, the first of which does nothing.
const KNOWN: RangeInclusive<i64> = SCHEMA_VERSION..=SCHEMA_VERSION + 1;

/// One host at a time migrates: the lock ends with the session. Its name is known to the whole server, and is short.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('tendon ', MD5(DATABASE())), 60)";

const VERSION_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS tendon_schema_version (id TINYINT PRIMARY KEY, version BIGINT NOT NULL) ENGINE=InnoDB";

/// MariaDB's and MySQL's number of `there is no such table`.
const NO_TABLE: u16 = 1146;
/// The server's number for a column that is there already: a step that adds one does nothing else.
const COLUMN_IS_THERE: u16 = 1060;

/// Brings a database to this version; a second time changes nothing. The session is to end then, and with it the lock.
pub(super) async fn migrate(connection: &mut MySqlConnection, name: &str, read_only: bool) -> Result<()> {
    let failed = |error| failure::mysql(name, "migrate", error);
    let found = version(connection).await.map_err(failed)?;
    if !is_older(found, KNOWN, name, read_only)? {
        return Ok(());
    }
    let locked: Option<i64> = sqlx::query_scalar(LOCK).fetch_one(&mut *connection).await.map_err(failed)?;
    if locked != Some(1) {
        return Err(Error::unavailable(format!("migrate database {name}: another host has been at it for a minute"))
            .help("wait for it; if none is, end the session that holds the lock whose name begins with `tendon`"));
    }
    // Another host may have been here while this one waited for the lock.
    let found = version(connection).await.map_err(failed)?;
    is_older(found, KNOWN, name, read_only)?;
    sqlx::raw_sql(VERSION_TABLE).execute(&mut *connection).await.map_err(failed)?;
    for (step, to) in STEPS.iter().zip(1..).skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        match sqlx::raw_sql(*step).execute(&mut *connection).await {
            Err(error) if failure::number(&error) == Some(COLUMN_IS_THERE) => {}
            done => drop(done.map_err(failed)?),
        }
        let stamp = format!("REPLACE INTO tendon_schema_version (id, version) VALUES (1, {to})");
        sqlx::raw_sql(AssertSqlSafe(stamp)).execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(())
}

/// The version of a database; 0 where there is nothing of ours.
async fn version(connection: &mut MySqlConnection) -> sqlx::Result<i64> {
    let version = sqlx::query_scalar("SELECT MAX(version) FROM tendon_schema_version").fetch_one(connection).await;
    match version {
        Err(error) if failure::number(&error) == Some(NO_TABLE) => Ok(0),
        version => Ok(Option::<i64>::unwrap_or_default(version?)),
    }
}
