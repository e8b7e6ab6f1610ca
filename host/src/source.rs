//! The port to a stream: order and replay, nothing else. The cursor lives with the consumer's state, not here.

use std::{cmp::Ordering, pin::Pin};

use async_trait::async_trait;
use futures_util::Stream;

use crate::{
    error::Result,
    event::{Chunk, Cursor, Timestamp},
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
}
