//! A source that counts what is read of it.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tendon::{
    event::{Cursor, Event},
    source::{Chunks, Lag, Source, Until},
};

/// A stream whose events are counted as they are read.
pub struct Counting {
    /// The stream.
    pub inner: Arc<dyn Source>,
    /// How many events were read of it, however often.
    pub read: Arc<AtomicU64>,
}

#[async_trait]
impl Source for Counting {
    async fn head(&self) -> tendon::error::Result<Cursor> {
        self.inner.head().await
    }

    async fn stream(&self, after: Cursor, until: Until) -> tendon::error::Result<Chunks> {
        let read = self.read.clone();
        let chunks = self.inner.stream(after, until).await?;
        Ok(Box::pin(chunks.inspect(move |chunk| {
            read.fetch_add(chunk.as_ref().map_or(0, |chunk| chunk.events.len() as u64), Relaxed);
        })))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> tendon::error::Result<Lag> {
        self.inner.lag(after, cap).await
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        self.inner.compare(a, b)
    }

    async fn event_at(&self, cursor: &Cursor) -> tendon::error::Result<Option<Event>> {
        self.inner.event_at(cursor).await
    }
}
