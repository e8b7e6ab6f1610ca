//! A foreign table as a source, in the order of ids, with what becomes visible late in its place.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Foreign, Tracked,
    barrier::{Barrier, readable},
};
use crate::{
    backend::{compare_numbers, cursor_at, gone, number_of, poll::Poll},
    error::{Error, Result},
    event::{Chunk, Cursor, Event},
    source::{Chunks, HeldUp, Lag, Source, Until},
};

/// How long the head is waited for where nothing is known of the table yet and others write to it all the time.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(5);
const HEAD_POLL: Duration = Duration::from_millis(2);
/// How often a reader at the head looks whether the row that it read last is still there.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// One table.
pub(in crate::backend) struct ForeignSource<F>(Arc<F>);

impl<F: Foreign> ForeignSource<F> {
    pub(in crate::backend) fn new(foreign: Arc<F>) -> Self {
        Self(foreign)
    }

    fn number_of(&self, cursor: &Cursor) -> Result<i64> {
        number_of(cursor, &self.0.tracked().stream)
    }
}

#[async_trait]
impl<F: Foreign> Source for ForeignSource<F> {
    /// Whatever is not committed is after it. Where that cannot be told from ids, because others have the table locked and
    /// nobody has read it yet, they are waited for a while.
    async fn head(&self) -> Result<Cursor> {
        let (table, began) = (&*self.0, Instant::now());
        let mut barrier = Barrier::begin(table).await?;
        loop {
            if barrier.has_fallen(table) {
                return Ok(cursor_at(barrier.upto));
            }
            let known = table.tracked().final_id();
            if known > 0 {
                return table.end_of_run(known).await.map(cursor_at);
            }
            if began.elapsed() > HEAD_WAIT_MAX {
                let HeldUp { by, way_out, .. } = table.held_up_by(&barrier.holders).await?;
                let stream = &table.tracked().stream;
                let error = Error::unavailable(format!("stream {stream} has no head yet: it waits for {by}"));
                return Err(error.help(way_out.unwrap_or_default()));
            }
            sleep(HEAD_POLL).await;
            barrier.look(&table.holders().await?);
        }
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        let after = self.number_of(&after)?;
        // Whoever stands there has passed all that is before it.
        self.0.tracked().is_final_up_to(after);
        let appended = self.0.tracked().appended.subscribe();
        let reading = Reading { table: self.0.clone(), appended, after, until, barrier: None };
        Ok(Box::pin(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })))
    }

    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>> {
        let id = self.number_of(cursor)?;
        match self.0.row(id).await? {
            None if id > 0 => must_follow(&*self.0, id).await.map(|()| None),
            row => Ok(row),
        }
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        self.0.lag(self.number_of(after)?, cap).await
    }

    async fn held_up(&self, after: &Cursor) -> Result<Option<HeldUp>> {
        let after = self.number_of(after)?;
        let final_id = self.0.tracked().final_id();
        match self.0.next_id(after).await? {
            Some(next) if readable(&[next], after, final_id) == 0 => {
                let holders = self.0.holders().await?;
                if holders.is_empty() { Ok(None) } else { self.0.held_up_by(&holders).await.map(Some) }
            }
            _ => Ok(None),
        }
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        compare_numbers(a, b)
    }
}

/// A reading that is under way.
struct Reading<F> {
    table: Arc<F>,
    appended: watch::Receiver<()>,
    after: i64,
    until: Until,
    /// What the hole after the last row waits for.
    barrier: Option<Barrier>,
}

impl<F: Foreign> Reading<F> {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        let (mut poll, mut looked_back) = (Poll::default(), Instant::now());
        loop {
            // Marked before the look, so that an event that comes in between ends the wait.
            self.appended.mark_unchanged();
            // Asked before the look, too: what is final now was visible before.
            let final_id = self.table.tracked().final_id();
            match self.table.next_id(self.after).await? {
                Some(next) if readable(&[next], self.after, final_id) == 1 => {
                    let events = self.read(final_id).await?;
                    if !events.is_empty() {
                        return Ok(Some(Chunk { events }));
                    }
                    continue;
                }
                Some(_) if self.is_hole_final().await? => continue,
                Some(_) => {}
                None if looked_back.elapsed() > LOOK_BACK => {
                    looked_back = Instant::now();
                    self.look_back().await?;
                }
                None => {}
            }
            if self.until == Until::Head {
                return Ok(None);
            }
            poll.wait(&mut self.appended).await;
        }
    }

    /// The rows up to the first open hole, without those that only fill one.
    async fn read(&mut self, final_id: i64) -> Result<Vec<Event>> {
        let (mut events, ids) = self.table.read(self.after).await?;
        let count = readable(&ids, self.after, final_id);
        self.after = count.checked_sub(1).and_then(|last| ids.get(last)).copied().unwrap_or(self.after);
        self.table.tracked().is_final_up_to(self.after);
        self.barrier = None;
        events.truncate(count);
        let Tracked { table, .. } = self.table.tracked();
        events.retain(|event| !table.hides(event.r#type, &event.foreign_id));
        Ok(events)
    }

    /// Whether all that could fill the hole have ended. What they left is to be read after that.
    async fn is_hole_final(&mut self) -> Result<bool> {
        let barrier = match &mut self.barrier {
            Some(barrier) => {
                barrier.look(&self.table.holders().await?);
                barrier
            }
            None => self.barrier.insert(Barrier::begin(&*self.table).await?),
        };
        let has_fallen = barrier.has_fallen(&*self.table);
        if has_fallen {
            self.barrier = None;
        }
        Ok(has_fallen)
    }

    /// A table that was emptied draws its ids anew, below the place of whoever read it.
    async fn look_back(&self) -> Result<()> {
        if self.after > 0 && self.table.row(self.after).await?.is_none() {
            return must_follow(&*self.table, self.after).await;
        }
        Ok(())
    }
}

impl Barrier {
    async fn begin(table: &dyn Foreign) -> Result<Self> {
        // In this order: whoever has drawn a lower id and cannot be seen yet is among the holders.
        let upto = table.last_id().await?;
        Ok(Self { upto, holders: table.holders().await? })
    }

    fn has_fallen(&self, table: &dyn Foreign) -> bool {
        if self.holders.is_empty() {
            table.tracked().is_final_up_to(self.upto);
        }
        self.holders.is_empty()
    }
}

/// Refuses a place whose row is gone, unless what comes next follows it.
async fn must_follow(table: &dyn Foreign, id: i64) -> Result<()> {
    let stream = &table.tracked().stream;
    match table.next_id(id).await? {
        Some(next) if id.checked_add(1) != Some(next) => Err(gone(stream, id, &format!("the next one is {next}"))),
        Some(_) => Ok(()),
        None => match table.undrawn_id().await? {
            Some(undrawn) if undrawn <= id => Err(gone(stream, id, &format!("its table draws {undrawn} next"))),
            _ => Ok(()),
        },
    }
}
