//! The schema's version, and the numbered steps from one to the next; and the era of this cluster.

use std::ops::RangeInclusive;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::failure;
use crate::{backend::failure::is_older, error::Result};

/// Step n leads from version n to n + 1. DDL is transactional here: a step happens as a whole.
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

/// A newer host may have been here while this one runs on beside it: a step only adds what hosts of the version before can
/// do without. One that takes something from them is two steps, the first of which does nothing.
const KNOWN: RangeInclusive<i64> = SCHEMA_VERSION..=SCHEMA_VERSION + 1;

/// One host at a time migrates: the lock ends with the transaction. The number is `tendon` as text.
const LOCK: &str = "SELECT pg_advisory_xact_lock(x'74656e646f6e'::bigint)";

const VERSION_TABLE: &str = "
    CREATE SCHEMA IF NOT EXISTS tendon;
    CREATE TABLE IF NOT EXISTS tendon.schema_version (version bigint NOT NULL)";

/// Begins an era where the last one was another cluster's. A host that does it at the same moment does the same.
const ERA: &str = "
    INSERT INTO tendon.era (era, system_identifier)
    SELECT coalesce(max(era), 0) + 1, (SELECT system_identifier FROM pg_control_system()) FROM tendon.era
    HAVING (SELECT system_identifier FROM tendon.era ORDER BY era DESC LIMIT 1)
        IS DISTINCT FROM (SELECT system_identifier FROM pg_control_system())
    ON CONFLICT DO NOTHING";

/// Brings a database to this version; a second time changes nothing.
pub(super) async fn migrate(connection: &mut PgConnection, name: &str, read_only: bool) -> Result<()> {
    let failed = |error| failure::postgres(name, "migrate", error);
    let found = version(connection).await.map_err(failed)?;
    if !is_older(found, KNOWN, name, read_only)? {
        return Ok(());
    }
    let mut open = connection.begin().await.map_err(failed)?;
    sqlx::query(LOCK).execute(&mut *open).await.map_err(failed)?;
    // Another host may have been here while this one waited for the lock.
    let found = version(&mut open).await.map_err(failed)?;
    is_older(found, KNOWN, name, read_only)?;
    sqlx::raw_sql(VERSION_TABLE).execute(&mut *open).await.map_err(failed)?;
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        sqlx::raw_sql(*step).execute(&mut *open).await.map_err(failed)?;
    }
    let stamp = format!(
        "DELETE FROM tendon.schema_version; INSERT INTO tendon.schema_version (version) VALUES ({SCHEMA_VERSION})"
    );
    sqlx::raw_sql(AssertSqlSafe(stamp)).execute(&mut *open).await.map_err(failed)?;
    open.commit().await.map_err(failed)
}

/// Begins the era of this cluster, unless it has begun.
pub(super) async fn begin_era(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query(ERA).execute(connection).await.map(drop)
}

/// The version of a database; 0 where there is nothing of ours.
async fn version(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let exists = sqlx::query_scalar("SELECT to_regclass('tendon.schema_version') IS NOT NULL");
    if !exists.fetch_one(&mut *connection).await? {
        return Ok(0);
    }
    let version = sqlx::query_scalar("SELECT max(version) FROM tendon.schema_version").fetch_one(connection).await?;
    Ok(Option::<i64>::unwrap_or_default(version))
}
