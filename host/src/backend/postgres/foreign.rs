//! A foreign table, and the statements that name it. Its names are the user's: they come into a statement through `quote`.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::{Postgres, held, table::Sql};
use crate::{
    backend::{
        CHUNK_BYTES_MAX, CHUNK_EVENTS_MAX,
        foreign::{self, Holder, Kind, Shape, Tracked, to_header},
        pieces::Pieces,
        row::decode,
    },
    error::Result,
    event::{Cursor, Event, EventId, Timestamp},
    source::{HeldUp, Lag},
    tenant::Identifier,
};

/// Microseconds from 1970 to 2000, where the times of PostgreSQL begin.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Transactions that hold a lock of a writer on the table, one of its partitions, or the sequence: an id may be drawn well
/// before its row is inserted. All databases of the server are in `pg_locks`.
const HOLDERS: &str = "
    SELECT DISTINCT virtualtransaction, pid IS NULL FROM pg_locks
    WHERE granted AND locktype = 'relation'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relation IN (
            SELECT $1::text::regclass::oid UNION ALL SELECT $2::text::regclass::oid
            UNION ALL SELECT relid::oid FROM pg_partition_tree($1::text::regclass)
        )
        AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";

/// What the sequence gives next; NULL for a user who may not look at it.
const UNDRAWN: &str = "
    SELECT CASE WHEN has_sequence_privilege(seqrelid, 'SELECT, USAGE')
        THEN coalesce(pg_sequence_last_value(seqrelid) + seqincrement, seqstart) END
    FROM pg_sequence WHERE seqrelid = $1::text::regclass";

/// A name in a statement.
pub(super) fn quote(name: &Identifier) -> String {
    format!("\"{name}\"")
}

/// See the module.
pub(in crate::backend) struct ForeignLog {
    pub(super) tracked: Tracked,
    /// Tells it from the stream tables, whose numbers are positive.
    pub(super) number: i64,
    /// As a statement has its name.
    pub(super) name: String,
    /// Where its ids come from, in the same way.
    sequence: String,
    next_id: Arc<str>,
    last_id: Arc<str>,
    read: Arc<str>,
    row: Arc<str>,
    end_of_run: Arc<str>,
    lag: Arc<str>,
}

impl ForeignLog {
    pub(super) fn new(tracked: Tracked, number: i64, name: String, sequence: String) -> Self {
        let id = quote(&tracked.table.id);
        let one = columns(&tracked.shape, &tracked);
        let events = if tracked.table.noops {
            String::new()
        } else {
            let (r#type, foreign_id) = (quote(&tracked.table.r#type), quote(&tracked.table.foreign_id));
            format!("AND NOT (t.{type} = 0 AND t.{foreign_id}::text = '0')")
        };
        let timestamp = quote(&tracked.table.timestamp);
        Self {
            number,
            next_id: format!("SELECT t.{id}::int8 FROM {name} AS t WHERE t.{id} > $1 ORDER BY t.{id} LIMIT 1").into(),
            last_id: format!("SELECT coalesce(max({id}), 0)::int8 FROM {name}").into(),
            read: format!(
                "{SELECT_EVENTS} FROM (
                    SELECT *, sum(size) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM (
                        SELECT {one} FROM {name} AS t WHERE t.{id} > $1 ORDER BY t.{id} LIMIT {CHUNK_EVENTS_MAX}
                    ) AS next
                ) AS counted WHERE bytes <= {CHUNK_BYTES_MAX} OR bytes = size ORDER BY id"
            )
            .replace(METADATA, metadata(&tracked.shape))
            .into(),
            row: format!("{SELECT_EVENTS} FROM (SELECT {one} FROM {name} AS t WHERE t.{id} = $1) AS one")
                .replace(METADATA, metadata(&tracked.shape))
                .into(),
            end_of_run: format!(
                "SELECT coalesce(max(id), $1) FROM (
                    SELECT t.{id}::int8 AS id, row_number() OVER (ORDER BY t.{id}) AS place FROM {name} AS t WHERE t.{id} > $1
                ) AS following WHERE id - place = $1"
            )
            .into(),
            lag: format!(
                "SELECT (SELECT count(*) FROM (
                        SELECT 1 FROM {name} AS t WHERE t.{id} > $1 {events} ORDER BY t.{id} LIMIT $2
                    ) AS unread),
                    (SELECT t.{timestamp} FROM {name} AS t WHERE t.{id} > $1 {events} ORDER BY t.{id} LIMIT 1)"
            )
            .into(),
            tracked,
            name,
            sequence,
        }
    }
}

impl ForeignLog {
    /// How rows of `emits` come into it; where they are from comes next. The server draws their ids.
    pub(super) fn insert(&self) -> String {
        let Tracked { table, shape, .. } = &self.tracked;
        let (foreign_id, timestamp, r#type) = (quote(&table.foreign_id), quote(&table.timestamp), quote(&table.r#type));
        let cast = |value: &str, r#type: &str| format!("convert_from({value}, 'UTF8')::{type}");
        let foreign = cast("foreign_id", &shape.foreign_id.r#type);
        // Two intervals, for a double holds no such number of microseconds exactly.
        let since = "timestamp / 1000000 * interval '1 second' + timestamp % 1000000 * interval '1 microsecond'";
        let epoch = if shape.timestamp.kind == Kind::Time { "timestamp '1970-01-01'" } else { "timestamptz 'epoch'" };
        let mut columns = format!("{foreign_id}, {timestamp}, {type}");
        let mut values = format!("{foreign}, {epoch} + ({since}), type");
        if let Some(metadata) = &shape.metadata {
            columns += &format!(", {}", quote(&metadata.name));
            values += ", ";
            values += &match metadata.kind {
                // No bytes are no JSON.
                Kind::Text if metadata.r#type.starts_with("json") => cast("nullif(metadata, '')", &metadata.r#type),
                Kind::Text => cast("metadata", &metadata.r#type),
                _ => "metadata".to_owned(),
            };
        }
        if let Some(trace) = &shape.trace {
            columns += &format!(", {}", quote(&trace.name));
            values += ", trace";
        }
        format!("INSERT INTO {} ({columns}) SELECT {values}", self.name)
    }
}

const METADATA: &str = "$METADATA";
const SELECT_EVENTS: &str = "SELECT id, type, foreign_id, timestamp, $METADATA, trace";

/// The payload as bytes. A text becomes bytes only once the rows are chosen: what is kept apart is not read before.
fn metadata(shape: &Shape) -> &'static str {
    match &shape.metadata {
        Some(column) if column.kind == Kind::Text => "convert_to(metadata::text, 'UTF8')",
        _ => "metadata",
    }
}

/// A row's columns under names of our own, and how big its payload is.
fn columns(shape: &Shape, Tracked { table, .. }: &Tracked) -> String {
    let (id, r#type, foreign_id) = (quote(&table.id), quote(&table.r#type), quote(&table.foreign_id));
    let timestamp = quote(&table.timestamp);
    let metadata = shape.metadata.as_ref().map(|column| format!("t.{}", quote(&column.name)));
    let size = match &shape.metadata {
        Some(column) if column.kind == Kind::Text => format!("octet_length(t.{}::text)", quote(&column.name)),
        Some(column) => format!("octet_length(t.{})", quote(&column.name)),
        None => "0".to_owned(),
    };
    let metadata = metadata.unwrap_or_else(|| "NULL::bytea".into());
    let trace = shape.trace.as_ref().map_or_else(|| "NULL::bytea".into(), |trace| format!("t.{}", quote(&trace.name)));
    format!(
        "t.{id}::int8 AS id, t.{type}::int8 AS type, t.{foreign_id}::text AS foreign_id, t.{timestamp} AS timestamp,
        {metadata} AS metadata, {trace} AS trace,
        coalesce(octet_length(t.{foreign_id}::text), 0) + coalesce({size}, 0) AS size"
    )
}

/// A log that can be read.
pub(super) struct Reader {
    pub(super) postgres: Postgres,
    pub(super) log: Arc<ForeignLog>,
}

impl Reader {
    fn failed(&self, error: sqlx::Error) -> crate::error::Error {
        self.postgres.failed("read", error)
    }

    async fn number(&self, sql: &Arc<str>, after: i64) -> Result<Option<i64>> {
        let number = sqlx::query_scalar(sql_of(sql)).bind(after).fetch_optional(&self.postgres.0.readers).await;
        number.map_err(|error| self.failed(error))
    }

    async fn events(&self, sql: &Arc<str>, id: i64) -> Result<(Vec<Event>, Vec<i64>)> {
        let rows = sqlx::query(sql_of(sql)).bind(id).fetch_all(&self.postgres.0.readers).await;
        rows.and_then(|rows| events(&rows)).map_err(|error| self.failed(error))
    }
}

fn sql_of(text: &Arc<str>) -> Sql {
    AssertSqlSafe(text.clone())
}

#[async_trait]
impl foreign::Foreign for Reader {
    fn tracked(&self) -> &Tracked {
        &self.log.tracked
    }

    async fn next_id(&self, after: i64) -> Result<Option<i64>> {
        self.number(&self.log.next_id, after).await
    }

    async fn last_id(&self) -> Result<i64> {
        let last = sqlx::query_scalar(sql_of(&self.log.last_id)).fetch_one(&self.postgres.0.readers).await;
        last.map_err(|error| self.failed(error))
    }

    async fn read(&self, after: i64) -> Result<(Vec<Event>, Vec<i64>)> {
        self.events(&self.log.read, after).await
    }

    async fn row(&self, id: i64) -> Result<Option<Event>> {
        Ok(self.events(&self.log.row, id).await?.0.pop())
    }

    async fn holders(&self) -> Result<Vec<Holder>> {
        let names = sqlx::query(HOLDERS).bind(&self.log.name).bind(&self.log.sequence);
        // A prepared transaction has no session: https://www.postgresql.org/docs/current/view-pg-locks.html
        // It keeps its name until the server is started anew.
        let holder = |row: PgRow| Ok(Holder { name: row.try_get(0)?, transaction: None, is_detached: row.try_get(1)? });
        let holders = names.try_map(holder).fetch_all(&self.postgres.0.readers).await;
        holders.map_err(|error| self.failed(error))
    }

    async fn held_up_by(&self, holders: &[Holder]) -> Result<HeldUp> {
        let names: Vec<&str> = holders.iter().map(|holder| holder.name.as_str()).collect();
        let oldest = format!(
            "{}, xact_start FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE virtualtransaction = ANY($1))
            UNION ALL {}, prepared FROM pg_prepared_xacts
                WHERE transaction IN (SELECT transactionid FROM pg_locks WHERE virtualtransaction = ANY($1))
            ORDER BY 4 LIMIT 1",
            held::SESSION,
            held::PREPARED
        );
        let oldest = sqlx::query(AssertSqlSafe(oldest)).bind(names).try_map(|row| held::held_up(&row));
        let oldest = oldest.fetch_optional(&self.postgres.0.readers).await.map_err(|error| self.failed(error))?;
        Ok(oldest.unwrap_or_else(|| HeldUp {
            by: "a transaction that has just ended".into(),
            since: None,
            way_out: None,
        }))
    }

    async fn end_of_run(&self, after: i64) -> Result<i64> {
        Ok(self.number(&self.log.end_of_run, after).await?.unwrap_or(after))
    }

    async fn lag(&self, after: i64, cap: u64) -> Result<Lag> {
        let row = sqlx::query(sql_of(&self.log.lag)).bind(after).bind(i64::try_from(cap).unwrap_or(i64::MAX));
        let lag = row.try_map(|row: PgRow| {
            let events: i64 = row.try_get(0)?;
            // A time that is none does not keep anybody from counting.
            Ok(Lag { events: events.unsigned_abs(), oldest: timestamp(&row, 1).unwrap_or(None) })
        });
        lag.fetch_one(&self.postgres.0.readers).await.map_err(|error| self.failed(error))
    }

    async fn undrawn_id(&self) -> Result<Option<i64>> {
        let undrawn = sqlx::query_scalar(UNDRAWN).bind(&self.log.sequence).fetch_optional(&self.postgres.0.readers);
        undrawn.await.map(Option::flatten).map_err(|error| self.failed(error))
    }
}

fn events(rows: &[PgRow]) -> sqlx::Result<(Vec<Event>, Vec<i64>)> {
    let (mut pieces, mut ids) = (Pieces::default(), Vec::with_capacity(rows.len()));
    for row in rows {
        let id: i64 = row.try_get(0)?;
        let foreign_id: Option<&str> = row.try_get(2)?;
        let foreign_id = foreign_id.ok_or_else(|| decode(format!("row {id} has no foreign id")))?;
        let metadata: Option<&[u8]> = row.try_get(4)?;
        pieces.push(id, foreign_id.as_bytes(), metadata.unwrap_or_default())?;
        ids.push(id);
    }
    let event = |((row, number), (id, foreign_id, metadata)): ((&PgRow, &i64), (bytestring::ByteString, _, _))| {
        let r#type: Option<i64> = row.try_get(1)?;
        let r#type = r#type.and_then(|r#type| i32::try_from(r#type).ok());
        let trace: Option<&[u8]> = row.try_get(5)?;
        Ok(Event {
            cursor: Cursor(id.as_bytes().clone()),
            id: EventId(id),
            r#type: r#type.ok_or_else(|| decode(format!("row {number} has no type of 32 bits")))?,
            foreign_id,
            timestamp: timestamp(row, 3)?.ok_or_else(|| decode(format!("row {number} has no time that is one")))?,
            metadata,
            headers: trace.and_then(to_header).into_iter().collect(),
        })
    };
    let events: sqlx::Result<Vec<Event>> = rows.iter().zip(&ids).zip(pieces.finish()).map(event).collect();
    Ok((events?, ids))
}

/// A time as the server sends it, of either type: microseconds since 2000, and the two ends for `infinity`. No session's
/// zone has a say in it. None where it is none, or too far away to be counted from 1970.
fn timestamp(row: &PgRow, column: usize) -> sqlx::Result<Option<Timestamp>> {
    let value = row.try_get_raw(column)?;
    if sqlx::ValueRef::is_null(&value) {
        return Ok(None);
    }
    let bytes = value.as_bytes().map_err(decode)?;
    let micros = i64::from_be_bytes(bytes.try_into().map_err(decode)?);
    let is_finite = !matches!(micros, i64::MIN | i64::MAX);
    Ok(micros.checked_add(EPOCH_MICROS).filter(|_| is_finite).map(Timestamp))
}
