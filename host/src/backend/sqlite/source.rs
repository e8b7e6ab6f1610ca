//! A stream's table as a source. One process writes at a time, so ids become visible in their order: no gap is ever
//! filled later.

use std::{cmp::Ordering, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::watch;

use super::{
    Sqlite,
    table::{Sql, Table},
};
use crate::{
    backend::{
        columns::{Columns, More},
        compare_numbers, cursor_at, gone, number_of,
    },
    error::{Error, Result},
    event::{Chunk, Cursor, Event, Timestamp},
    source::{Chunks, Lag, Source, Until},
};

/// One stream.
pub struct SqliteSource {
    sqlite: Sqlite,
    table: Arc<Table>,
}

/// A reading that is under way.
struct Reading {
    sqlite: Sqlite,
    table: Arc<Table>,
    newest: watch::Receiver<i64>,
    after: i64,
    until: Until,
}

impl SqliteSource {
    pub(super) fn new(sqlite: Sqlite, table: Arc<Table>) -> Self {
        Self { sqlite, table }
    }
}

#[async_trait]
impl Source for SqliteSource {
    async fn head(&self) -> Result<Cursor> {
        let newest = sqlx::query_scalar(self.table.head()).fetch_one(&self.sqlite.0.readers).await;
        let newest: Option<i64> = newest.map_err(|error| self.sqlite.failed("read", error))?;
        Ok(cursor_at(newest.unwrap_or(0)))
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        let after = number_of(&after, &self.table.stream)?;
        if until == Until::Forever {
            self.sqlite.poll();
        }
        let (sqlite, table) = (self.sqlite.clone(), self.table.clone());
        let reading = Reading { newest: table.newest.subscribe(), sqlite, table, after, until };
        Ok(Box::pin(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        let after = number_of(after, &self.table.stream)?;
        let row = sqlx::query_as(self.table.lag()).bind(after).fetch_optional(&self.sqlite.0.readers).await;
        let row: Option<(i64, i64)> = row.map_err(|error| self.sqlite.failed("read", error))?;
        Ok(row.map_or_else(Lag::default, |(events, oldest)| Lag {
            events: cap.min(u64::try_from(events).unwrap_or(0)),
            oldest: Some(Timestamp(oldest)),
        }))
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        compare_numbers(a, b)
    }

    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>> {
        let id = number_of(cursor, &self.table.stream)?;
        if id == 0 {
            return Ok(None);
        }
        let columns = self.sqlite.columns(self.table.read_one(), id).await?;
        let event = self.sqlite.events(&self.table, columns).await?.pop();
        event.map(Some).ok_or_else(|| gone(&self.table.stream, cursor, "no event has it"))
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            // Marked before the look, so that an event that comes in between ends the wait.
            self.newest.mark_unchanged();
            let events = self.read().await?;
            if !events.is_empty() {
                return Ok(Some(Chunk { events }));
            }
            if self.until == Until::Head {
                return Ok(None);
            }
            self.newest
                .changed()
                .await
                .map_err(|error| Error::unavailable("the database was closed").because(error))?;
        }
    }

    async fn read(&mut self) -> Result<Vec<Event>> {
        let columns = self.sqlite.columns(self.table.read(), self.after).await?;
        self.after = columns.2.unwrap_or(self.after);
        self.sqlite.events(&self.table, columns).await
    }
}

impl Sqlite {
    async fn columns(&self, read: Sql, id: i64) -> Result<Columns> {
        let columns = sqlx::query_as(read).bind(id).fetch_one(&self.0.readers).await;
        columns.map_err(|error| self.failed("read", error))
    }

    async fn events(&self, table: &Table, columns: Columns) -> Result<Vec<Event>> {
        let (Some(first), Some(last)) = (columns.1, columns.2) else { return Ok(Vec::new()) };
        let mut more: Option<More> = None;
        if columns.needs_more() {
            let read = sqlx::query_as(table.read_more()).bind(first).bind(last).fetch_one(&self.0.readers).await;
            more = Some(read.map_err(|error| self.failed("read", error))?);
        }
        columns.into_events(more)
    }
}
