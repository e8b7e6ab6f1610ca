//! The port to a stream: order and replay, nothing else. The cursor lives with the consumer's state, not here.

use std::{cmp::Ordering, fmt, pin::Pin};

use async_trait::async_trait;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    event::{Chunk, Cursor, Event, Timestamp},
    store::Position,
};

/// The chunks of a stream, in order. Dropping it ends the reading and leaks nothing.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;

/// Where a stream of chunks ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At the head, as it is when it is reached.
    Head,
    /// Never: at the head it waits for more.
    Forever,
}

/// How far behind the head a cursor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// The events after the cursor: exact below the cap that was asked for, at least the cap otherwise.
    pub events: u64,
    /// The timestamp of the oldest event after the cursor.
    pub oldest: Option<Timestamp>,
}

/// What keeps events from being read that are there: nobody may read past a transaction that can still commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// Which session or transaction, for the operator.
    pub by: String,
    /// Since when it is open, where the server tells.
    pub since: Option<Timestamp>,
    /// How to end it.
    pub way_out: Option<String>,
}

impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.by)?;
        if let Some(since) = &self.since {
            write!(f, ", open since {since}")?;
        }
        match &self.way_out {
            Some(way_out) => write!(f, "; `{way_out}` ends it"),
            None => Ok(()),
        }
    }
}

/// One stream, as a backend reads it.
#[async_trait]
pub trait Source: Send + Sync {
    /// The place after the newest event that no late commit can precede.
    async fn head(&self) -> Result<Cursor>;

    /// The events strictly after a cursor, in order, in chunks bounded by events and by bytes. A cursor that is not
    /// this source's is `Invalid`.
    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks>;

    /// How far behind the head a cursor is; counts no further than `cap`.
    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag>;

    /// The source's own order of two cursors.
    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering;

    /// The event whose cursor this is: none at the start, and none where it was removed and whatever comes next still
    /// follows it. A place that the stream no longer has is `Corrupt`: it was truncated, pruned or restored.
    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>>;

    /// What holds up the events after a cursor; none where there are none, or where they can be read.
    async fn held_up(&self, _after: &Cursor) -> Result<Option<HeldUp>> {
        Ok(None)
    }
}

/// Refuses to read on from a position whose stream is not the one that it was read from.
pub async fn verify(source: &dyn Source, position: &Position) -> Result<()> {
    let event = source.event_at(&position.cursor).await?;
    match (event, position.last_event) {
        (Some(event), Some(hash)) if event.hash() != hash => Err(Error::corrupt(format!(
            "{}: event {} is not the one that was handled: its stream was restored, or its row was changed",
            position.shard, event.id
        ))
        .help(REPLACED)),
        _ => Ok(()),
    }
}

/// What to do about a stream that is not what it was.
pub const REPLACED: &str = "put back what was there; or give the consumer another name, so that it begins with a position and \
    a state of its own";
