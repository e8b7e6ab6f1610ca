//! A stream in memory as a source.

use std::{cmp::Ordering, pin::pin, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::Notify;

use super::{Memory, no_stream};
use crate::{
    backend::{CHUNK_BYTES_MAX, CHUNK_EVENTS_MAX, compare_numbers, cursor_at, gone, number_of},
    error::Result,
    event::{Chunk, Cursor, Event},
    source::{Chunks, Lag, Source, Until},
    tenant::StreamId,
};

/// One stream.
pub struct MemorySource {
    memory: Memory,
    stream: StreamId,
    appended: Arc<Notify>,
}

/// A reading that is under way.
struct Reading {
    memory: Memory,
    stream: StreamId,
    appended: Arc<Notify>,
    after: usize,
    until: Until,
}

impl MemorySource {
    pub(super) fn new(memory: Memory, stream: StreamId, appended: Arc<Notify>) -> Self {
        Self { memory, stream, appended }
    }

    fn after(&self, cursor: &Cursor) -> Result<usize> {
        Ok(usize::try_from(number_of(cursor, &self.stream)?).unwrap_or(usize::MAX))
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn head(&self) -> Result<Cursor> {
        let tables = self.memory.tables.lock().await;
        let log = tables.streams.get(&self.stream).ok_or_else(|| no_stream(&self.stream))?;
        Ok(cursor_at(i64::try_from(log.pruned + log.events.len()).unwrap_or(i64::MAX)))
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        let after = self.after(&after)?;
        let (memory, stream, appended) = (self.memory.clone(), self.stream.clone(), self.appended.clone());
        let reading = Reading { memory, stream, appended, after, until };
        Ok(Box::pin(stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        })))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        let after = self.after(after)?;
        let tables = self.memory.tables.lock().await;
        let log = tables.streams.get(&self.stream).ok_or_else(|| no_stream(&self.stream))?;
        let unread = log.events.get(after.saturating_sub(log.pruned)..).unwrap_or_default();
        Ok(Lag { events: cap.min(unread.len() as u64), oldest: unread.first().map(|event| event.timestamp) })
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        compare_numbers(a, b)
    }

    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>> {
        let Some(at) = self.after(cursor)?.checked_sub(1) else { return Ok(None) };
        let tables = self.memory.tables.lock().await;
        let event = tables.streams.get(&self.stream).and_then(|log| log.events.get(at.checked_sub(log.pruned)?));
        event.cloned().map(Some).ok_or_else(|| gone(&self.stream, cursor, "no event has it"))
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            let notify = self.appended.clone();
            let mut appended = pin!(notify.notified());
            // Enabled before the look, so that an event that comes in between ends the wait.
            appended.as_mut().enable();
            let events = self.read().await?;
            if !events.is_empty() {
                return Ok(Some(Chunk { events }));
            }
            if self.until == Until::Head {
                return Ok(None);
            }
            appended.await;
        }
    }

    async fn read(&mut self) -> Result<Vec<Event>> {
        let tables = self.memory.tables.lock().await;
        let log = tables.streams.get(&self.stream).ok_or_else(|| no_stream(&self.stream))?;
        let mut bytes = 0;
        let fits = |(n, event): &(usize, &Event)| {
            bytes += event.bytes();
            *n == 0 || bytes <= CHUNK_BYTES_MAX
        };
        let unread = log.events.get(self.after.saturating_sub(log.pruned)..).unwrap_or_default();
        let unread = unread.iter().take(CHUNK_EVENTS_MAX).enumerate().take_while(fits);
        let events: Vec<Event> = unread.map(|(_, event)| event.clone()).collect();
        self.after = self.after.max(log.pruned) + events.len();
        Ok(events)
    }
}
