//! One stream's own table, and the statements that name it. The name is made of a number: nothing in it is a user's.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use tokio::sync::watch;

use crate::{
    backend::{CHUNK_BYTES_MAX, CHUNK_EVENTS_MAX},
    tenant::StreamId,
};

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
    read: Arc<str>,
    read_one: Arc<str>,
    is_behind: Arc<str>,
    head: Arc<str>,
    lag: Arc<str>,
}

impl Table {
    pub(super) fn new(stream: &StreamId, number: i64) -> Self {
        let table = name(number);
        Self {
            stream: stream.clone(),
            number,
            appended: watch::Sender::new(()),
            read: read_sql(&table).into(),
            read_one: format!("SELECT id, type, foreign_id, timestamp, metadata, headers FROM {table} WHERE id = ?")
                .into(),
            is_behind: format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE id > ?)").into(),
            head: format!("SELECT MAX(id) FROM {table}").into(),
            lag: format!(
                "SELECT (SELECT MAX(id) FROM {table}) - id + 1, timestamp FROM {table} WHERE id > ? ORDER BY id LIMIT 1"
            )
            .into(),
        }
    }

    /// The next chunk of rows after an id.
    pub(super) fn read(&self) -> Sql {
        AssertSqlSafe(self.read.clone())
    }

    /// The row of an id.
    pub(super) fn read_one(&self) -> Sql {
        AssertSqlSafe(self.read_one.clone())
    }

    /// Whether there is such a row: what costs a server a tenth of reading none.
    pub(super) fn is_behind(&self) -> Sql {
        AssertSqlSafe(self.is_behind.clone())
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

/// A chunk is bounded by bytes before any payload is read: the sizes of the rows are enough to choose them. Each is then
/// looked up by its id; a range up to the last id would be read to the end of the table.
fn read_sql(table: &str) -> String {
    format!(
        "SELECT e.id, type, foreign_id, timestamp, metadata, headers FROM (
            SELECT id, size, SUM(size) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM (
                SELECT id, size FROM {table} WHERE id > ? ORDER BY id LIMIT {CHUNK_EVENTS_MAX}
            ) AS next
        ) AS counted STRAIGHT_JOIN {table} AS e ON e.id = counted.id
        WHERE bytes <= {CHUNK_BYTES_MAX} OR bytes = counted.size ORDER BY counted.id"
    )
}
