//! One stream's own table, and the statements that name it. The name is made of a number: nothing in it is a user's.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use tokio::sync::watch;

use super::chunk::columns_sql;
use crate::{
    backend::{CHUNK_BYTES_MAX, CHUNK_EVENTS_MAX, Order},
    tenant::StreamId,
};

/// A statement that is sent again and again: prepared once for each connection.
pub(super) type Sql = AssertSqlSafe<Arc<str>>;

/// Rows whose order is final: nothing that is still open can come before them. A transaction of an older era has ended.
const FINAL: &str = "(era < (SELECT max(era) FROM tendon.era) OR xid < pg_snapshot_xmin(pg_current_snapshot()))";

/// See the module.
pub(in crate::backend) struct Table {
    /// The stream.
    pub(super) stream: StreamId,
    /// The table's number.
    pub(super) number: i64,
    /// Where its ids come from.
    pub(super) order: Order,
    /// Moves when this process has appended: wakes those that wait at the head.
    pub(super) appended: watch::Sender<()>,
    read: Arc<str>,
    read_one: Arc<str>,
    is_behind: Arc<str>,
    waits: Arc<str>,
    head: Arc<str>,
    lag: Arc<str>,
    prune: Arc<str>,
}

impl Table {
    pub(super) fn new(stream: &StreamId, number: i64, order: Order) -> Self {
        let table = format!("tendon.events_{number}");
        Self {
            stream: stream.clone(),
            number,
            order,
            appended: watch::Sender::new(()),
            read: read_sql(&table).into(),
            read_one: columns_sql(&format!("SELECT * FROM {table} WHERE (era, xid, id) = ($1, $2::text::xid8, $3)")).into(),
            is_behind: format!(
                "SELECT EXISTS (SELECT 1 FROM {table} WHERE (era, xid, id) > ($1, $2::text::xid8, $3) AND {FINAL})"
            )
            .into(),
            waits: format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE (era, xid, id) > ($1, $2::text::xid8, $3))")
                .into(),
            head: format!(
                "SELECT era, xid::text::bigint, id FROM {table} WHERE {FINAL} ORDER BY era DESC, xid DESC, id DESC LIMIT 1"
            )
            .into(),
            lag: format!(
                "SELECT count(*), min(timestamp) FILTER (WHERE place = 1) FROM (
                    SELECT timestamp, row_number() OVER (ORDER BY era, xid, id) AS place FROM (
                        SELECT era, xid, id, timestamp FROM {table}
                        WHERE (era, xid, id) > ($1, $2::text::xid8, $3) ORDER BY era, xid, id LIMIT $4
                    ) AS unread
                ) AS counted"
            )
            .into(),
            prune: format!("DELETE FROM {table} WHERE (era, xid, id) <= ($1, $2::text::xid8, $3)").into(),
        }
    }

    /// The next chunk after an era, an xid and an id, as one row; see `chunk.rs`.
    pub(super) fn read(&self) -> Sql {
        AssertSqlSafe(self.read.clone())
    }

    /// The event of an era, an xid and an id, in the same way.
    pub(super) fn read_one(&self) -> Sql {
        AssertSqlSafe(self.read_one.clone())
    }

    /// Removes what is up to an era, an xid and an id.
    pub(super) fn prune(&self) -> Sql {
        AssertSqlSafe(self.prune.clone())
    }

    /// How rows of `emits` come into it; where they are from comes next.
    pub(super) fn insert(&self) -> String {
        let number = self.number;
        let columns = "type, foreign_id, timestamp, metadata, headers";
        match self.order {
            Order::Native => format!(
                "INSERT INTO tendon.events_{number} (era, {columns}) SELECT (SELECT max(era) FROM tendon.era), {columns}"
            ),
            Order::Id => format!(
                "INSERT INTO tendon.events_{number} (id, {columns})
                SELECT (SELECT last_id FROM drawn WHERE drawn.number = {number}) - count(*) OVER ()
                    + row_number() OVER (ORDER BY place), {columns}"
            ),
        }
    }

    /// Whether there is such a row: what costs a server a tenth of reading none.
    pub(super) fn is_behind(&self) -> Sql {
        AssertSqlSafe(self.is_behind.clone())
    }

    /// Whether there is one, final or not.
    pub(super) fn waits(&self) -> Sql {
        AssertSqlSafe(self.waits.clone())
    }

    /// The last row whose order is final.
    pub(super) fn head(&self) -> Sql {
        AssertSqlSafe(self.head.clone())
    }

    /// How many rows are after a place, at the most as many as asked for, and the timestamp of the first.
    pub(super) fn lag(&self) -> Sql {
        AssertSqlSafe(self.lag.clone())
    }
}

/// Makes the table of a number. One in the order of ids has them from its stream's row; all of it is of an era before the
/// first one, and so final as soon as it is visible.
///
/// Elsewhere what a transaction writes becomes visible at once, and so do its ids and its xid; the
/// xid orders transactions by their beginning, the id orders what is in one.
pub(super) fn create_sql(number: i64, order: Order) -> String {
    let (identity, era, xid) = match order {
        Order::Native => ("GENERATED ALWAYS AS IDENTITY", "", "pg_current_xact_id()"),
        Order::Id => ("", "DEFAULT 0", "'0'"),
    };
    format!(
        "CREATE TABLE tendon.events_{number} (
            id         bigint {identity} PRIMARY KEY,
            era        bigint  NOT NULL {era},
            xid        xid8    NOT NULL DEFAULT {xid},
            type       integer NOT NULL,
            foreign_id bytea   NOT NULL, -- UTF-8; a text cannot hold NUL
            timestamp  bigint  NOT NULL, -- microseconds since 1970
            metadata   bytea   NOT NULL,
            headers    text              -- JSON: pairs of name and value
        );
        CREATE UNIQUE INDEX events_{number}_place ON tendon.events_{number} (era, xid, id)"
    )
}

/// `octet_length` does not read a payload that is kept apart, so a chunk is bounded by bytes before it is read.
fn read_sql(table: &str) -> String {
    columns_sql(&format!(
        "SELECT * FROM (
            SELECT *, sum(size) OVER (ORDER BY era, xid, id ROWS UNBOUNDED PRECEDING) AS bytes FROM (
                SELECT *, octet_length(foreign_id) + octet_length(metadata) + coalesce(octet_length(headers), 0) AS size
                FROM {table} WHERE (era, xid, id) > ($1, $2::text::xid8, $3) AND {FINAL}
                ORDER BY era, xid, id LIMIT {CHUNK_EVENTS_MAX}
            ) AS next
        ) AS counted
        WHERE bytes <= {CHUNK_BYTES_MAX} OR bytes = size ORDER BY era, xid, id"
    ))
}
