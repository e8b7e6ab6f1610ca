//! Who holds a stream up: an open transaction that writes, anywhere in the server, keeps back whatever was committed after
//! it began. Whoever asks why nothing moves is told which session that is.

use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::{Postgres, source::Place, table::Table};
use crate::error::Result;

/// The oldest transaction that has written, prepared ones included. Of other users' sessions everybody is shown pid, user and
/// application; what they do, and since when, only a member of pg_read_all_stats.
const OLDEST: &str = "
    SELECT 'session ' || pid || ' of database ' || coalesce(datname, '?') || ' (user ' || coalesce(usename, '?')
            || ', application \"' || coalesce(application_name, '') || '\", ' || coalesce(state, 'unknown') || ')',
        to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
        'SELECT pg_terminate_backend(' || pid || ')', age(backend_xid)
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'the prepared transaction ' || gid || ' of database ' || database,
        to_char(prepared AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
        'ROLLBACK PREPARED ' || quote_literal(gid), age(transaction)
    FROM pg_prepared_xacts
    ORDER BY 4 DESC LIMIT 1";

impl Postgres {
    /// One sentence about who holds up the events after a place; none where nothing waits.
    pub(super) async fn held_up_by(&self, table: &Table, after: Place) -> Result<Option<String>> {
        let failed = |error| self.failed("ask who holds up a stream of", error);
        let waits = format!(
            "SELECT EXISTS (SELECT 1 FROM tendon.events_{} WHERE (era, xid, id) > ($1, $2::text::xid8, $3))",
            table.number
        );
        let waits = sqlx::query_scalar(AssertSqlSafe(waits)).bind(after.era).bind(after.xid.to_string()).bind(after.id);
        if !waits.fetch_one(&self.0.readers).await.map_err(failed)? {
            return Ok(None);
        }
        let sentence = |row: PgRow| {
            let (who, since, end): (String, Option<String>, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let since = since.unwrap_or_else(|| "an unknown time".into());
            Ok(format!("its events wait for {who}, open since {since}; `{end}` ends it"))
        };
        sqlx::query(OLDEST).try_map(sentence).fetch_optional(&self.0.readers).await.map_err(failed)
    }
}
