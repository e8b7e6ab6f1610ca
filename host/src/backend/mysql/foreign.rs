//! A foreign table, and the statements that name it. Its names are the user's: they come into a statement through `quote`.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, MySql, Row as _,
    mysql::{MySqlArguments, MySqlRow},
    query::Query,
};

use super::{Mysql, holders::Holders, table::Sql, text::Row, window::Window};
use crate::{
    backend::{
        CHUNK_BYTES_MAX,
        foreign::{self, Holder, Kind, Tracked, to_header, to_trace},
        pieces::Pieces,
        row::decode,
    },
    error::{Error, Result},
    event::{Cursor, Event, EventId, NewEvent, Timestamp},
    source::{HeldUp, Lag},
    tenant::Identifier,
};

const UNDRAWN: &str =
    "SELECT CAST(auto_increment AS SIGNED) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";

/// A name in a statement.
pub(super) fn quote(name: &Identifier) -> String {
    format!("`{name}`")
}

/// See the module.
pub(in crate::backend) struct ForeignLog {
    pub(super) tracked: Tracked,
    holders: Holders,
    schema: String,
    append: String,
    next_id: Arc<str>,
    last_id: Arc<str>,
    /// How far its chunks go.
    window: Window,
    read: Arc<str>,
    row: Arc<str>,
    end_of_run: Arc<str>,
    lag: Arc<str>,
}

impl ForeignLog {
    pub(super) fn new(tracked: Tracked, holders: Holders, schema: &str) -> Self {
        let table = &tracked.table;
        let name = format!("`{schema}`.{}", quote(&table.name));
        let [id, r#type, foreign_id, timestamp] =
            [&table.id, &table.r#type, &table.foreign_id, &table.timestamp].map(quote);
        let micros = format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', t.{timestamp})");
        let (metadata, size) = payload(&tracked);
        let trace = tracked.shape.trace.as_ref().map(|column| format!("t.{}", quote(&column.name)));
        let trace = trace.unwrap_or_else(|| "NULL".into());
        let columns = format!(
            "CAST(t.{id} AS SIGNED), CAST(t.{type} AS SIGNED), CONVERT(t.{foreign_id} USING utf8mb4), {micros}, {metadata}, {trace}"
        );
        let events =
            if table.noops { String::new() } else { format!("AND NOT (t.{type} = 0 AND t.{foreign_id} = '0')") };
        Self {
            append: append_sql(&tracked, &name),
            next_id: format!("SELECT CAST(t.{id} AS SIGNED) FROM {name} AS t WHERE t.{id} > ? ORDER BY t.{id} LIMIT 1")
                .into(),
            last_id: format!("SELECT CAST(COALESCE(MAX(t.{id}), 0) AS SIGNED) FROM {name} AS t").into(),
            window: Window::new(&name, &id, &format!("COALESCE(LENGTH(t.{foreign_id}), 0) + {size}"), CHUNK_BYTES_MAX),
            read: format!("SELECT {columns} FROM {name} AS t WHERE t.{id} > ? AND t.{id} <= ? ORDER BY t.{id}").into(),
            row: format!("SELECT {columns} FROM {name} AS t WHERE t.{id} = ?").into(),
            end_of_run: format!(
                "SELECT CAST(MAX(id) AS SIGNED) FROM (
                    SELECT t.{id} AS id, ROW_NUMBER() OVER (ORDER BY t.{id}) AS place FROM {name} AS t WHERE t.{id} > ?
                ) AS following WHERE id - place = ?"
            )
            .into(),
            lag: format!(
                "SELECT (SELECT COUNT(*) FROM (
                        SELECT 1 FROM {name} AS t WHERE t.{id} > ? {events} ORDER BY t.{id} LIMIT ?
                    ) AS unread),
                    (SELECT {micros} FROM {name} AS t WHERE t.{id} > ? {events} ORDER BY t.{id} LIMIT 1)"
            )
            .into(),
            schema: schema.to_owned(),
            holders,
            tracked,
        }
    }

    /// How a statement begins that appends rows; they come next. The server draws their ids.
    pub(super) fn append(&self) -> &str {
        &self.append
    }

    /// An event as a row of it.
    pub(super) fn append_row(&self, event: &NewEvent) -> Result<String> {
        self.tracked.check(event)?;
        let text = |bytes: &[u8]| format!("_utf8mb4 x'{}'", hex::encode(bytes));
        let shape = &self.tracked.shape;
        let mut row = Row::new();
        row = match event.foreign_id.parse() {
            Ok(number) if shape.foreign_id.kind == Kind::Number => row.number(number),
            _ => row.raw(&text(event.foreign_id.as_bytes())),
        };
        row = row.raw(&format!("TIMESTAMPADD(MICROSECOND, {}, '1970-01-01 00:00:00')", event.timestamp.0));
        row = row.number(i64::from(event.r#type));
        row = match &shape.metadata {
            Some(column) if column.kind == Kind::Text => row.raw(&text(&event.metadata)),
            Some(_) => row.bytes(&event.metadata),
            None => row,
        };
        if shape.trace.is_some() {
            row = row.bytes_or_null(to_trace(&event.headers).as_deref());
        }
        Ok(row.end())
    }
}

/// The payload as bytes, and how many they are.
fn payload(Tracked { shape, .. }: &Tracked) -> (String, String) {
    let Some(column) = &shape.metadata else { return ("NULL".to_owned(), "0".to_owned()) };
    let name = quote(&column.name);
    let value = match column.kind {
        Kind::Text => format!("CONVERT(t.{name} USING utf8mb4)"),
        _ => format!("t.{name}"),
    };
    (value, format!("COALESCE(LENGTH(t.{name}), 0)"))
}

fn append_sql(Tracked { table, shape, .. }: &Tracked, name: &str) -> String {
    let mut columns = vec![&table.foreign_id, &table.timestamp, &table.r#type];
    columns.extend(shape.metadata.iter().chain(&shape.trace).map(|column| &column.name));
    let columns: Vec<String> = columns.into_iter().map(quote).collect();
    format!("INSERT INTO {name} ({}) VALUES ", columns.join(", "))
}

/// A log that can be read.
pub(super) struct Reader {
    pub(super) mysql: Mysql,
    pub(super) log: Arc<ForeignLog>,
}

impl Reader {
    fn failed(&self, error: sqlx::Error) -> Error {
        self.mysql.failed("read", error)
    }

    async fn events(&self, read: Query<'_, MySql, MySqlArguments>) -> Result<(Vec<Event>, Vec<i64>)> {
        let rows = read.fetch_all(&self.mysql.0.readers).await;
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
        let next = sqlx::query_scalar(sql_of(&self.log.next_id)).bind(after);
        next.fetch_optional(&self.mysql.0.readers).await.map_err(|error| self.failed(error))
    }

    async fn last_id(&self) -> Result<i64> {
        let last = sqlx::query_scalar(sql_of(&self.log.last_id)).fetch_one(&self.mysql.0.readers).await;
        last.map_err(|error| self.failed(error))
    }

    async fn read(&self, after: i64) -> Result<(Vec<Event>, Vec<i64>)> {
        let Some(last) = self.log.window.last(&self.mysql, after).await? else { return Ok(Default::default()) };
        self.events(sqlx::query(sql_of(&self.log.read)).bind(after).bind(last)).await
    }

    async fn row(&self, id: i64) -> Result<Option<Event>> {
        Ok(self.events(sqlx::query(sql_of(&self.log.row)).bind(id)).await?.0.pop())
    }

    async fn holders(&self) -> Result<Vec<Holder>> {
        self.log.holders.ask(&self.mysql).await
    }

    async fn held_up_by(&self, holders: &[Holder]) -> Result<HeldUp> {
        self.log.holders.who(&self.mysql, holders).await
    }

    async fn end_of_run(&self, after: i64) -> Result<i64> {
        let end = sqlx::query_scalar(sql_of(&self.log.end_of_run)).bind(after).bind(after);
        let end: Option<i64> = end.fetch_one(&self.mysql.0.readers).await.map_err(|error| self.failed(error))?;
        Ok(end.unwrap_or(after))
    }

    async fn lag(&self, after: i64, cap: u64) -> Result<Lag> {
        let cap = i64::try_from(cap).unwrap_or(i64::MAX);
        let row = sqlx::query_as(sql_of(&self.log.lag)).bind(after).bind(cap).bind(after);
        let row = row.fetch_one(&self.mysql.0.readers).await;
        let (events, oldest): (i64, Option<i64>) = row.map_err(|error| self.failed(error))?;
        Ok(Lag { events: events.unsigned_abs(), oldest: oldest.map(Timestamp) })
    }

    async fn undrawn_id(&self) -> Result<Option<i64>> {
        let undrawn = sqlx::query_scalar(UNDRAWN).bind(&self.log.schema).bind(self.log.tracked.table.name.as_str());
        let undrawn = undrawn.fetch_optional(&self.mysql.0.readers).await;
        undrawn.map(Option::flatten).map_err(|error| self.failed(error))
    }
}

fn events(rows: &[MySqlRow]) -> sqlx::Result<(Vec<Event>, Vec<i64>)> {
    let (mut pieces, mut ids) = (Pieces::default(), Vec::with_capacity(rows.len()));
    for row in rows {
        let id: i64 = row.try_get(0)?;
        if id < 1 {
            return Err(decode(format!("row {} has an id of more than 63 bits", id.cast_unsigned())));
        }
        let foreign_id: Option<&str> = row.try_get(2)?;
        let foreign_id = foreign_id.ok_or_else(|| decode(format!("row {id} has no foreign id that is text")))?;
        // A text of the server is bytes as well.
        let metadata: Option<&[u8]> = row.try_get_unchecked(4)?;
        pieces.push(id, foreign_id.as_bytes(), metadata.unwrap_or_default())?;
        ids.push(id);
    }
    let event = |((row, number), (id, foreign_id, metadata)): ((&MySqlRow, &i64), (bytestring::ByteString, _, _))| {
        let (r#type, timestamp): (Option<i64>, Option<i64>) = (row.try_get(1)?, row.try_get(3)?);
        let r#type = r#type.and_then(|r#type| i32::try_from(r#type).ok());
        let timestamp = timestamp.ok_or_else(|| decode(format!("row {number} has no time that is one")))?;
        let trace: Option<&[u8]> = row.try_get_unchecked(5)?;
        Ok(Event {
            cursor: Cursor(id.as_bytes().clone()),
            id: EventId(id),
            r#type: r#type.ok_or_else(|| decode(format!("row {number} has no type of 32 bits")))?,
            foreign_id,
            timestamp: Timestamp(timestamp),
            metadata,
            headers: trace.and_then(to_header).into_iter().collect(),
        })
    };
    let events: sqlx::Result<Vec<Event>> = rows.iter().zip(&ids).zip(pieces.finish()).map(event).collect();
    Ok((events?, ids))
}
