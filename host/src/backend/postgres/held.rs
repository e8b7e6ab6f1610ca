//! Who holds a stream up: an open transaction that writes, anywhere in the server, keeps back whatever was committed after
//! it began. Whoever asks why nothing moves is told which session that is.

use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::{Postgres, source::Place, table::Table};
use crate::{error::Result, event::Timestamp, source::HeldUp};

/// A session as an operator is told of it: who, since when, and how to end it. Of other users' sessions everybody is shown
/// pid, user and application; what they do, and since when, only a member of pg_read_all_stats.
pub(super) const SESSION: &str = "
    SELECT 'session ' || pid || ' of database ' || coalesce(datname, '?') || ' (user ' || coalesce(usename, '?')
            || ', application \"' || coalesce(application_name, '') || '\", ' || coalesce(state, 'unknown') || ')',
        (extract(epoch FROM xact_start) * 1000000)::int8,
        'SELECT pg_terminate_backend(' || pid || ')'";

/// A prepared transaction, in the same way.
pub(super) const PREPARED: &str = "
    SELECT 'the prepared transaction ' || gid || ' of database ' || database,
        (extract(epoch FROM prepared) * 1000000)::int8,
        'ROLLBACK PREPARED ' || quote_literal(gid)";

impl Postgres {
    /// Who holds up the events after a place: the oldest transaction that has written, prepared ones included.
    pub(super) async fn held_up_by(&self, table: &Table, after: Place) -> Result<Option<HeldUp>> {
        let failed = |error| self.failed("ask who holds up a stream of", error);
        let Place { era, xid, id } = after;
        let waits = sqlx::query_scalar(table.waits()).bind(era).bind(xid.to_string()).bind(id);
        let (is_behind, waits): (bool, bool) = (
            sqlx::query_scalar(table.is_behind())
                .bind(era)
                .bind(xid.to_string())
                .bind(id)
                .fetch_one(&self.0.readers)
                .await
                .map_err(failed)?,
            waits.fetch_one(&self.0.readers).await.map_err(failed)?,
        );
        if is_behind || !waits {
            return Ok(None);
        }
        let oldest = format!(
            "{SESSION}, age(backend_xid) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
            UNION ALL {PREPARED}, age(transaction) FROM pg_prepared_xacts ORDER BY 4 DESC LIMIT 1"
        );
        sqlx::query(AssertSqlSafe(oldest))
            .try_map(|row| held_up(&row))
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)
    }
}

/// A row of `SESSION` or `PREPARED`.
pub(super) fn held_up(row: &PgRow) -> sqlx::Result<HeldUp> {
    let since: Option<i64> = row.try_get(1)?;
    Ok(HeldUp { by: row.try_get(0)?, since: since.map(Timestamp), way_out: row.try_get(2)? })
}
