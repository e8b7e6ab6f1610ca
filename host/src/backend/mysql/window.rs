//! How far the next chunk of a table goes: so many rows, and so many bytes. Only their sizes are read for it, no payload.

use std::sync::Arc;

use sqlx::AssertSqlSafe;

use super::Mysql;
use crate::{backend::CHUNK_EVENTS_MAX, error::Result};

/// Of one table.
pub(super) struct Window {
    bytes_max: usize,
    rows: Arc<str>,
    rows_of_bytes: Arc<str>,
}

impl Window {
    /// A chunk holds at the most so many bytes, one event of any size apart. The names of table and columns are as a
    /// statement has them.
    pub(super) fn new(table: &str, id: &str, size: &str, bytes_max: usize) -> Self {
        let rows = format!(
            "SELECT t.{id} AS id, {size} AS size FROM {table} AS t WHERE t.{id} > ? ORDER BY t.{id} LIMIT {CHUNK_EVENTS_MAX}"
        );
        Self {
            bytes_max,
            rows: format!("SELECT CAST(SUM(size) AS SIGNED), CAST(MAX(id) AS SIGNED) FROM ({rows}) AS next").into(),
            rows_of_bytes: format!(
                "SELECT CAST(MAX(id) AS SIGNED) FROM (
                    SELECT id, size, SUM(size) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ({rows}) AS next
                ) AS counted WHERE bytes <= {bytes_max} OR bytes = size"
            )
            .into(),
        }
    }

    /// The last id of the chunk after an id; none where nothing is after it.
    pub(super) async fn last(&self, mysql: &Mysql, after: i64) -> Result<Option<i64>> {
        let (readers, failed) = (&mysql.0.readers, |error| mysql.failed("read", error));
        let rows = sqlx::query_as(AssertSqlSafe(self.rows.clone())).bind(after).fetch_one(readers).await;
        let (bytes, last): (Option<i64>, Option<i64>) = rows.map_err(failed)?;
        if bytes.and_then(|bytes| usize::try_from(bytes).ok()).is_none_or(|bytes| bytes <= self.bytes_max) {
            return Ok(last);
        }
        let last = sqlx::query_scalar(AssertSqlSafe(self.rows_of_bytes.clone())).bind(after);
        last.fetch_one(readers).await.map_err(failed)
    }
}
