//! The schema's version, and the numbered steps from one to the next.

use std::path::Path;

use sqlx::SqliteConnection;

use super::failure;
use crate::{
    backend::failure::is_older,
    error::{Error, Result},
};

/// `tndn`: the header field by which a file says that it is ours.
const APPLICATION_ID: i64 = 0x746e_646e;

/// Step n leads from version n to n + 1.
const STEPS: [&str; 6] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
];

/// The version that this code reads and writes.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// Brings a database to this version; a second time changes nothing.
pub(super) async fn migrate(connection: &mut SqliteConnection, path: &Path, read_only: bool) -> Result<()> {
    let version = version(connection, path).await?;
    if !is_older(version, SCHEMA_VERSION..=SCHEMA_VERSION, &path.display().to_string(), read_only)? {
        return Ok(());
    }
    let failed = |error| failure::sqlite(path, "migrate", error);
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(failed)?;
    // Another host may have been here while this one waited for the lock.
    let version = self::version(connection, path).await?;
    is_older(version, SCHEMA_VERSION..=SCHEMA_VERSION, &path.display().to_string(), read_only)?;
    for step in STEPS.iter().skip(usize::try_from(version).unwrap_or(usize::MAX)) {
        sqlx::raw_sql(*step).execute(&mut *connection).await.map_err(failed)?;
    }
    let stamp = format!("PRAGMA user_version = {SCHEMA_VERSION}; PRAGMA application_id = {APPLICATION_ID}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(stamp)).execute(&mut *connection).await.map_err(failed)?;
    sqlx::query("COMMIT").execute(&mut *connection).await.map_err(failed)?;
    Ok(())
}

/// The version of a database that is ours, or of a new one: 0.
async fn version(connection: &mut SqliteConnection, path: &Path) -> Result<i64> {
    let failed = |error| failure::sqlite(path, "open", error);
    let sql = "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
        FROM pragma_user_version, pragma_application_id";
    let (version, application, tables): (i64, i64, i64) =
        sqlx::query_as(sql).fetch_one(connection).await.map_err(failed)?;
    let file = path.display();
    if application != APPLICATION_ID && (application, version, tables) != (0, 0, 0) {
        return Err(Error::invalid(format!("database {file} belongs to another program")).help("name another file"));
    }
    Ok(version)
}
