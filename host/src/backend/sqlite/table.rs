//! One stream's own table, and the statements that name it.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use tokio::sync::watch;

use crate::{
    backend::{CHUNK_BYTES_MAX, CHUNK_EVENTS_MAX},
    error::{Error, Result},
    tenant::StreamId,
};

/// A statement that is sent again and again: prepared once for each connection.
pub(super) type Sql = AssertSqlSafe<Arc<str>>;

/// See the module.
pub(in crate::backend) struct Table {
    /// The stream.
    pub(super) stream: StreamId,
    /// The table's name, as SQLite's own tables hold it.
    pub(super) name: String,
    /// The id of the newest event that this process has heard of; wakes those that wait at the head.
    pub(super) newest: watch::Sender<i64>,
    create: Arc<str>,
    read: Arc<str>,
    read_one: Arc<str>,
    read_more: Arc<str>,
    head: Arc<str>,
    lag: Arc<str>,
    append: Arc<str>,
    prune: Arc<str>,
}

impl Table {
    /// Names the table; it need not exist.
    pub(super) fn new(stream: &StreamId) -> Result<Self> {
        let name = format!("events:{stream}");
        let table = quote(&name)?;
        Ok(Self {
            stream: stream.clone(),
            newest: watch::Sender::new(0),
            create: create_sql(&table).into(),
            read: read_sql(&table).into(),
            read_one: columns_sql(&table, "WHERE id = ?1").into(),
            read_more: format!(
                "SELECT group_concat(id), group_concat(ifnull(octet_length(headers), -1)), group_concat(headers, '')
                FROM (SELECT id, headers FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id)"
            )
            .into(),
            head: format!("SELECT max(id) FROM {table}").into(),
            lag: format!(
                "SELECT (SELECT max(id) FROM {table}) - id + 1, timestamp FROM {table} WHERE id > ? ORDER BY id LIMIT 1"
            )
            .into(),
            append: append_sql(&table).into(),
            prune: format!("DELETE FROM {table} WHERE id <= ?").into(),
            name,
        })
    }

    /// Makes the table, unless it is there.
    pub(super) fn create(&self) -> Sql {
        AssertSqlSafe(self.create.clone())
    }

    /// The next chunk, as one row; see `columns.rs`.
    pub(super) fn read(&self) -> Sql {
        AssertSqlSafe(self.read.clone())
    }

    /// The event of an id, in the same way.
    pub(super) fn read_one(&self) -> Sql {
        AssertSqlSafe(self.read_one.clone())
    }

    /// The ids and headers between two ids, as one row.
    pub(super) fn read_more(&self) -> Sql {
        AssertSqlSafe(self.read_more.clone())
    }

    /// The newest id.
    pub(super) fn head(&self) -> Sql {
        AssertSqlSafe(self.head.clone())
    }

    /// How many events are after an id, and the timestamp of the first of them. Ids of a table of ours have no holes: a
    /// transaction that is rolled back gives its ids back.
    pub(super) fn lag(&self) -> Sql {
        AssertSqlSafe(self.lag.clone())
    }

    /// Appends the events of `encode::Events`, in their order.
    pub(super) fn append(&self) -> Sql {
        AssertSqlSafe(self.append.clone())
    }

    /// Removes what is up to an id.
    pub(super) fn prune(&self) -> Sql {
        AssertSqlSafe(self.prune.clone())
    }

    /// Wakes those that wait at the head, unless they know of this event; whether it is news.
    pub(super) fn announce(&self, newest: i64) -> bool {
        self.newest.send_if_modified(|known| {
            let moved = newest > *known;
            *known = newest.max(*known);
            moved
        })
    }
}

/// A name as SQL may hold it, whoever chose it. The only way in which a name comes into a statement.
fn quote(name: &str) -> Result<String> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::invalid(format!("`{}` is not a name for a table", name.escape_debug())));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// AUTOINCREMENT: without it the id of a deleted last row would be given again.
fn create_sql(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
            id         INTEGER PRIMARY KEY AUTOINCREMENT,
            type       INTEGER NOT NULL,
            foreign_id TEXT    NOT NULL,
            timestamp  INTEGER NOT NULL, -- microseconds since 1970
            metadata   BLOB    NOT NULL,
            headers    TEXT              -- JSON: pairs of name and value
        ) STRICT"
    )
}

/// `octet_length` does not read the payload, so a chunk is bounded by bytes before it is read.
fn read_sql(table: &str) -> String {
    let sizes = format!(
        "SELECT id, octet_length(foreign_id) + octet_length(metadata) + ifnull(octet_length(headers), 0) AS size
        FROM {table} WHERE id > ?1 ORDER BY id LIMIT {CHUNK_EVENTS_MAX}"
    );
    let bound = format!(
        "SELECT CASE WHEN sum(size) <= {CHUNK_BYTES_MAX} THEN {CHUNK_EVENTS_MAX} ELSE max(1, (
            SELECT count(*) FROM (SELECT sum(size) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ({sizes}))
            WHERE bytes <= {CHUNK_BYTES_MAX}
        )) END FROM ({sizes})"
    );
    columns_sql(table, &format!("WHERE id > ?1 ORDER BY id LIMIT ({bound})"))
}

/// A row costs sqlx more than everything else about an event, so events are one row of columns. (Measured: 1.6 µs of CPU
/// an event as rows, 0.6 µs so.) In a UTF-8 database a blob passes through `group_concat` byte for byte.
fn columns_sql(table: &str, which: &str) -> String {
    format!(
        "SELECT count(*), min(id), max(id), count(headers), group_concat(type), group_concat(timestamp),
            group_concat(octet_length(foreign_id)), group_concat(foreign_id, ''),
            group_concat(octet_length(metadata)), CAST(group_concat(metadata, '') AS BLOB)
        FROM (SELECT id, type, foreign_id, timestamp, metadata, headers FROM {table} {which})"
    )
}

fn append_sql(table: &str) -> String {
    format!(
        "WITH event AS MATERIALIZED (
            SELECT value->>0 AS type, value->>1 AS timestamp, value->>2 AS at, value->>3 AS foreign_bytes,
                value->>4 AS metadata_bytes, value->>5 AS headers_bytes
            FROM json_each(?1)
        )
        INSERT INTO {table} (type, foreign_id, timestamp, metadata, headers)
        SELECT type, CAST(substr(?2, at, foreign_bytes) AS TEXT), timestamp,
            substr(?2, at + foreign_bytes, metadata_bytes),
            CASE WHEN headers_bytes > 0
                THEN CAST(substr(?2, at + foreign_bytes + metadata_bytes, headers_bytes) AS TEXT) END
        FROM event"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(quote("a").unwrap(), "\"a\"");
        assert_eq!(quote("a\"; DROP TABLE x; --").unwrap(), "\"a\"\"; DROP TABLE x; --\"");
        assert!(quote("").is_err());
        assert!(quote("a\0b").is_err());
    }
}
