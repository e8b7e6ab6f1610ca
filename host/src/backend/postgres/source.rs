//! A stream's table as a source, in the order of (era, xid, id).
//!
//! An id is drawn before its transaction commits, so the order of ids is not that in which rows become visible: whoever
//! reads by ids loses rows. The order of transactions' ids has a horizon: below the oldest transaction that is open
//! nothing can come any more. Rows beyond it wait. Transaction ids begin anew in another cluster, so a restore or an
//! upgrade begins an era, and what older eras hold is final.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream;
use tokio::{sync::watch, time::Instant};

use super::{Log, Postgres, chunk, notice, table::Table};
use crate::{
    backend::{
        Order, gone,
        poll::Poll,
        round::{no_stream, not_ours},
    },
    error::{Error, Result},
    event::{Chunk, Cursor, Event, Timestamp},
    source::{Chunks, HeldUp, Lag, Source, Until},
    tenant::StreamId,
};

/// How long a reader waits at the head before it asks whether it is held up, and how often.
const HELD_UP_MIN: Duration = Duration::from_secs(10);

/// One stream.
pub struct PostgresSource {
    postgres: Postgres,
    table: Arc<Table>,
}

/// A place in a stream, after a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) era: i64,
    pub(super) xid: i64,
    pub(super) id: i64,
}

impl Place {
    /// `era.xid.id`, in decimal; the id alone where that is the order.
    pub(super) fn cursor(self) -> Cursor {
        if self == Self::default() {
            return Cursor::START;
        }
        Cursor(format!("{}{}", self.prefix(), self.id).into())
    }

    /// What comes before the id.
    pub(super) fn prefix(self) -> String {
        if self.era == 0 { String::new() } else { format!("{}.{}.", self.era, self.xid) }
    }

    fn parse(cursor: &Cursor) -> Option<Self> {
        if cursor.is_start() {
            return Some(Self::default());
        }
        let text = std::str::from_utf8(&cursor.0).ok()?;
        let parts = text.split('.').map(|part| part.parse().ok().filter(|number: &i64| *number > 0));
        let place = match *parts.collect::<Option<Vec<i64>>>()?.as_slice() {
            [id] => Self { id, ..Self::default() },
            [era, xid, id] => Self { era, xid, id },
            _ => return None,
        };
        (place.cursor() == *cursor).then_some(place)
    }

    /// A cursor's place in a stream, whose order it must have.
    fn of(cursor: &Cursor, table: &Table) -> Result<Self> {
        let fits = |place: &Self| cursor.is_start() || (place.era == 0) == (table.order == Order::Id);
        Self::parse(cursor).filter(fits).ok_or_else(|| {
            let error = Error::invalid(format!("cursor {cursor} is not one of stream {}", table.stream));
            error.help(match table.order {
                Order::Native => "its cursors are era, transaction and id of an event, such as 1.745.12",
                Order::Id => "its cursors are the decimal ids of its events",
            })
        })
    }
}

impl Postgres {
    pub(in crate::backend) async fn prune(&self, stream: &StreamId, through: &Cursor) -> Result<()> {
        self.may_write("prune a stream of")?;
        let Log::Own(table) = self.find(stream).await?.ok_or_else(|| no_stream(stream))? else {
            return Err(not_ours(stream));
        };
        let Place { era, xid, id } = Place::of(through, &table)?;
        let done = sqlx::query(table.prune()).bind(era).bind(xid.to_string()).bind(id).execute(&self.0.writers).await;
        done.map(drop).map_err(|error| self.failed("prune a stream of", error))
    }
}

impl PostgresSource {
    pub(super) fn new(postgres: Postgres, table: Arc<Table>) -> Self {
        Self { postgres, table }
    }
}

#[async_trait]
impl Source for PostgresSource {
    async fn head(&self) -> Result<Cursor> {
        let last = sqlx::query_as(self.table.head()).fetch_optional(&self.postgres.0.readers).await;
        let last: Option<(i64, i64, i64)> = last.map_err(|error| self.postgres.failed("read", error))?;
        Ok(last.map_or(Cursor::START, |(era, xid, id)| Place { era, xid, id }.cursor()))
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        let after = Place::of(&after, &self.table)?;
        if until == Until::Forever {
            notice::listen(&self.postgres.0);
        }
        let (postgres, table) = (self.postgres.clone(), self.table.clone());
        let reading = Reading { appended: table.appended.subscribe(), postgres, table, after, until };
        Ok(Box::pin(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        let Place { era, xid, id } = Place::of(after, &self.table)?;
        let cap = i64::try_from(cap).unwrap_or(i64::MAX);
        let row = sqlx::query_as(self.table.lag()).bind(era).bind(xid.to_string()).bind(id).bind(cap);
        let row = row.fetch_one(&self.postgres.0.readers).await;
        let (events, oldest): (i64, Option<i64>) = row.map_err(|error| self.postgres.failed("read", error))?;
        Ok(Lag { events: events.unsigned_abs(), oldest: oldest.map(Timestamp) })
    }

    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>> {
        let Place { era, xid, id } = Place::of(cursor, &self.table)?;
        if cursor.is_start() {
            return Ok(None);
        }
        let row = sqlx::query(self.table.read_one()).bind(era).bind(xid.to_string()).bind(id);
        let row = row.fetch_one(&self.postgres.0.readers).await;
        let (mut events, _) =
            row.and_then(|row| chunk::events(&row)).map_err(|error| self.postgres.failed("read", error))?;
        events.pop().map(Some).ok_or_else(|| gone(&self.table.stream, cursor, "no event has it"))
    }

    async fn held_up(&self, after: &Cursor) -> Result<Option<HeldUp>> {
        self.postgres.held_up_by(&self.table, Place::of(after, &self.table)?).await
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        // Whatever is no place has an order too: that of its bytes, before all places.
        let key = |cursor: &Cursor| Place::parse(cursor).ok_or_else(|| cursor.0.clone());
        match (key(a), key(b)) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Err(a), Err(b)) => a.cmp(&b),
            (a, _) => {
                if a.is_err() {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

/// A reading that is under way.
struct Reading {
    postgres: Postgres,
    table: Arc<Table>,
    appended: watch::Receiver<()>,
    after: Place,
    until: Until,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        let (mut poll, mut asked) = (Poll::default(), Instant::now());
        // At first there may be anything.
        let mut is_told = true;
        loop {
            // Marked before the look, so that an event that comes in between ends the wait.
            self.appended.mark_unchanged();
            if is_told || self.is_behind().await? {
                let events = self.read().await?;
                if !events.is_empty() {
                    return Ok(Some(Chunk { events }));
                }
            }
            if self.until == Until::Head {
                return Ok(None);
            }
            if asked.elapsed() > HELD_UP_MIN {
                asked = Instant::now();
                self.tell_who_holds_it_up().await;
            }
            // What this process appended may wait for others, and other processes tell nobody.
            is_told = poll.wait(&mut self.appended).await;
        }
    }

    async fn tell_who_holds_it_up(&self) {
        // It is only told; what fails here fails the next reading, too.
        if let Ok(Some(held_up)) = self.postgres.held_up_by(&self.table, self.after).await {
            tracing::warn!(stream = %self.table.stream, "the stream is held up by {held_up}");
        }
    }

    async fn is_behind(&self) -> Result<bool> {
        let Place { era, xid, id } = self.after;
        let behind = sqlx::query_scalar(self.table.is_behind()).bind(era).bind(xid.to_string()).bind(id);
        behind.fetch_one(&self.postgres.0.readers).await.map_err(|error| self.postgres.failed("read", error))
    }

    async fn read(&mut self) -> Result<Vec<Event>> {
        let Place { era, xid, id } = self.after;
        let row = sqlx::query(self.table.read()).bind(era).bind(xid.to_string()).bind(id);
        let row = row.fetch_one(&self.postgres.0.readers).await;
        let (events, last) =
            row.and_then(|row| chunk::events(&row)).map_err(|error| self.postgres.failed("read", error))?;
        self.after = last.unwrap_or(self.after);
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_as_we_write_them_are_cursors() {
        let place = Place { era: 1, xid: 745, id: 12 };
        assert_eq!(place.cursor().to_string(), "1.745.12");
        assert_eq!(Place::parse(&place.cursor()), Some(place));
        assert_eq!(Place::parse(&Cursor::START), Some(Place::default()));
        assert_eq!(Place::parse(&Cursor("41".into())), Some(Place { era: 0, xid: 0, id: 41 }));
        for bad in ["0", "0.0.0", "0.0.1", "1.2", "1.2.3.4", "1.02.3", "+1.2.3", "1.-2.3", "1.2.9223372036854775808"] {
            assert_eq!(Place::parse(&Cursor(bad.into())), None, "{bad}");
        }
    }
}
