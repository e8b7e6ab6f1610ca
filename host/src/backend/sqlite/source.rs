//! A stream's table as a source. One process writes at a time, so ids become visible in their order: no gap is ever
//! filled later.

use std::{cmp::Ordering, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::watch;

use super::{
    Sqlite,
    chunk::{Columns, More},
    table::Table,
};
use crate::{
    backend::{compare_numbers, cursor_at, number_of},
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
        let failed = |error| self.sqlite.failed("read", error);
        let readers = &self.sqlite.0.readers;
        let columns: Columns =
            sqlx::query_as(self.table.read()).bind(self.after).fetch_one(readers).await.map_err(failed)?;
        let (Some(first), Some(last)) = (columns.1, columns.2) else { return Ok(Vec::new()) };
        let mut more: Option<More> = None;
        if columns.needs_more() {
            let read = sqlx::query_as(self.table.read_more()).bind(first).bind(last);
            more = Some(read.fetch_one(readers).await.map_err(failed)?);
        }
        let events = columns.into_events(more)?;
        self.after = last;
        Ok(events)
    }
}
