//! A stream's table as a source, in the order of ids.
//!
//! An id that AUTO_INCREMENT draws may become visible after a later one, and a reader that is past it loses its row. So
//! ids come from the stream's own row, which whoever appends holds until the commit: they have no holes, and they become
//! visible in their order.

use std::{cmp::Ordering, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use sqlx::{FromRow as _, MySql, Row as _, mysql::MySqlArguments, query::Query};
use tokio::sync::watch;

use super::{Mysql, table::Table};
use crate::{
    backend::{
        columns::{Columns, More},
        compare_numbers, cursor_at, gone, number_of,
        poll::Poll,
    },
    error::Result,
    event::{Chunk, Cursor, Event, Timestamp},
    source::{Chunks, Lag, Source, Until},
};

/// One stream.
pub struct MysqlSource {
    mysql: Mysql,
    table: Arc<Table>,
}

impl MysqlSource {
    pub(super) fn new(mysql: Mysql, table: Arc<Table>) -> Self {
        Self { mysql, table }
    }
}

#[async_trait]
impl Source for MysqlSource {
    async fn head(&self) -> Result<Cursor> {
        let last = sqlx::query_scalar(self.table.head()).fetch_one(&self.mysql.0.readers).await;
        let last: Option<i64> = last.map_err(|error| self.mysql.failed("read", error))?;
        Ok(cursor_at(last.unwrap_or_default()))
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        let after = number_of(&after, &self.table.stream)?;
        let (mysql, table) = (self.mysql.clone(), self.table.clone());
        let reading = Reading { appended: table.appended.subscribe(), mysql, table, after, until };
        Ok(Box::pin(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        let after = number_of(after, &self.table.stream)?;
        let row = sqlx::query_as(self.table.lag()).bind(after).fetch_optional(&self.mysql.0.readers).await;
        let row: Option<(i64, i64)> = row.map_err(|error| self.mysql.failed("read", error))?;
        Ok(row.map_or(Lag::default(), |(events, oldest)| Lag {
            events: events.unsigned_abs().min(cap),
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
        let mut events = self.mysql.events(&self.table, sqlx::query(self.table.read_one()).bind(id)).await?;
        events.pop().map(Some).ok_or_else(|| gone(&self.table.stream, cursor, "no event has it"))
    }
}

/// A reading that is under way.
struct Reading {
    mysql: Mysql,
    table: Arc<Table>,
    appended: watch::Receiver<()>,
    after: i64,
    until: Until,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        let mut poll = Poll::default();
        loop {
            // Marked before the look, so that an event that comes in between ends the wait.
            self.appended.mark_unchanged();
            if let Some(last) = self.table.window.last(&self.mysql, self.after).await? {
                let range = sqlx::query(self.table.read()).bind(self.after).bind(last);
                let events = self.mysql.events(&self.table, range).await?;
                self.after = last;
                if !events.is_empty() {
                    return Ok(Some(Chunk { events }));
                }
            } else if self.until == Until::Head {
                return Ok(None);
            } else {
                poll.wait(&mut self.appended).await;
            }
        }
    }
}

impl Mysql {
    /// The events of a row of columns.
    async fn events(&self, table: &Table, read: Query<'_, MySql, MySqlArguments>) -> Result<Vec<Event>> {
        let failed = |error| self.failed("read", error);
        let row = read.fetch_one(&self.0.readers).await.map_err(failed)?;
        let columns = Columns::from_row(&row).map_err(failed)?;
        let (Some(first), Some(last)) = (columns.1, columns.2) else { return Ok(Vec::new()) };
        let more = if columns.3 == 0 {
            More::ids(row.try_get(10).map_err(failed)?)
        } else {
            let more = sqlx::query_as(table.read_more()).bind(first).bind(last);
            more.fetch_one(&self.0.readers).await.map_err(failed)?
        };
        columns.into_events(Some(more))
    }
}
