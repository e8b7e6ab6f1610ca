//! One stream's own table, and the statements that name it. The name is made of a number: nothing in it is a user's.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use tokio::sync::watch;

use super::window::Window;
use crate::tenant::StreamId;

/// A statement that is sent again and again: prepared once for each connection.
pub(super) type Sql = AssertSqlSafe<Arc<str>>;

/// See the module.
pub(in crate::backend) struct Table {
    /// The stream.
    pub(super) stream: StreamId,
    /// The table's number.
    pub(super) number: i64,
    /// Moves when this process has appended: wakes those that wait at the head.
    pub(super) appended: watch::Sender<()>,
    /// How far its chunks go.
    pub(super) window: Window,
    read: Arc<str>,
    read_one: Arc<str>,
    read_more: Arc<str>,
    head: Arc<str>,
    lag: Arc<str>,
    prune: Arc<str>,
}

impl Table {
    /// Names the table; a chunk of it holds at the most so many bytes, one event of any size apart.
    pub(super) fn new(stream: &StreamId, number: i64, chunk_bytes_max: usize) -> Self {
        let table = name(number);
        Self {
            stream: stream.clone(),
            number,
            appended: watch::Sender::new(()),
            window: Window::new(&table, "id", "t.size", chunk_bytes_max),
            read: columns_sql(&table, "id > ? AND id <= ?").into(),
            read_one: columns_sql(&table, "id = ?").into(),
            read_more: format!(
                "SELECT GROUP_CONCAT(id), GROUP_CONCAT(COALESCE(LENGTH(headers), -1)), GROUP_CONCAT(headers SEPARATOR '')
                FROM {table} FORCE INDEX (PRIMARY) WHERE id BETWEEN ? AND ?"
            )
            .into(),
            head: format!("SELECT MAX(id) FROM {table}").into(),
            lag: format!(
                "SELECT (SELECT MAX(id) FROM {table}) - id + 1, timestamp FROM {table} WHERE id > ? ORDER BY id LIMIT 1"
            )
            .into(),
            prune: format!("DELETE FROM {table} WHERE id <= ?").into(),
        }
    }

    /// What is after an id up to another one, as one row; see `columns.rs`. Then their ids.
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

    /// Removes what is up to an id.
    pub(super) fn prune(&self) -> Sql {
        AssertSqlSafe(self.prune.clone())
    }

    /// The id of the last row; NULL where there is none.
    pub(super) fn head(&self) -> Sql {
        AssertSqlSafe(self.head.clone())
    }

    /// How many rows are after an id, and the timestamp of the first of them; no row where there is none. Ids have no
    /// holes.
    pub(super) fn lag(&self) -> Sql {
        AssertSqlSafe(self.lag.clone())
    }

    /// How a statement begins that appends rows; they come next.
    pub(super) fn append(&self) -> String {
        let table = name(self.number);
        format!("INSERT INTO {table} (id, type, foreign_id, timestamp, metadata, headers, size) VALUES ")
    }
}

fn name(number: i64) -> String {
    format!("tendon_events_{number}")
}

/// Makes the table of a number, unless it is there.
pub(super) fn create_sql(number: i64) -> String {
    let table = name(number);
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
            id         BIGINT PRIMARY KEY, -- dense, and in the order of commits
            type       INT      NOT NULL,
            foreign_id LONGBLOB NOT NULL,  -- UTF-8
            timestamp  BIGINT   NOT NULL,  -- microseconds since 1970
            metadata   LONGBLOB NOT NULL,
            headers    LONGTEXT,           -- JSON: pairs of name and value
            size       BIGINT   NOT NULL   -- bytes of the three
        ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
    )
}

/// Rows are concatenated in the order in which the index has them; their ids show it.
fn columns_sql(table: &str, which: &str) -> String {
    format!(
        "SELECT COUNT(*), MIN(id), MAX(id), COUNT(headers), GROUP_CONCAT(type), GROUP_CONCAT(timestamp),
            GROUP_CONCAT(LENGTH(foreign_id)), GROUP_CONCAT(foreign_id SEPARATOR ''),
            GROUP_CONCAT(LENGTH(metadata)), GROUP_CONCAT(metadata SEPARATOR ''), GROUP_CONCAT(id)
        FROM {table} FORCE INDEX (PRIMARY) WHERE {which}"
    )
}
