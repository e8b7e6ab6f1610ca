//! What is known, once a host has ended at work, of what it may have ended of.

use crate::{
    batch::BatchPolicy,
    error::Result,
    event::{Cursor, EventId},
    policy,
    source::Source,
    store::{Position, Reason},
};

/// Batches that a host may be ahead of its row: one is written, and one is gathered.
const BATCHES: u32 = 2;

/// See the module. Without anything in it nothing is suspected.
#[derive(Default)]
pub struct Suspicion {
    /// At what a host ended while its shard did nothing else: an event, or the making of a handler.
    accused: Option<Option<EventId>>,
    /// Whether another one had before.
    is_again: bool,
    /// Events that are still to be handled alone.
    left: u32,
    /// Where the stream ended when this began: what a host may have been at before is not behind it.
    until: Cursor,
}

impl Suspicion {
    /// What the row tells of an owner that is gone.
    pub(crate) async fn of(row: &Position, batch: &BatchPolicy, source: &dyn Source) -> Result<Self> {
        let suspect = row.reason.as_ref().filter(|reason| is_suspect(reason));
        tracing::warn!(shard = %row.shard, owner = %row.owner, event = ?suspect.map(|reason| &reason.event),
            "a host has ended at work: what it may have been at is handled one by one");
        let is_again = suspect.is_some_and(|reason| reason.code == policy::SUSPECT_AGAIN);
        let accused = suspect.map(|reason| reason.event.clone());
        Ok(Self { accused, is_again, left: batch.max.saturating_mul(BATCHES), until: source.head().await? })
    }

    /// Nothing is ready at this place: nothing may be left of what the host was at.
    pub(crate) fn rest(&mut self, cursor: &Cursor, source: &dyn Source) {
        if self.left > 0 && source.compare(cursor, &self.until).is_ge() {
            self.left = 0;
        }
    }

    /// An event was handled.
    pub(crate) fn count(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Another component may do better.
    pub(crate) fn acquit(&mut self) {
        self.accused = None;
    }

    /// Whether events are handled alone.
    pub(crate) fn holds(&self) -> bool {
        self.left > 0
    }

    /// Whether a host has ended while this was handled alone: an event, or the making of a handler.
    pub(crate) fn accuses(&self, event: Option<&EventId>) -> bool {
        self.accused.as_ref().is_some_and(|accused| accused.as_ref() == event)
    }

    /// Whether two have, and the second one did nothing else.
    pub(crate) fn convicts(&self, event: Option<&EventId>) -> bool {
        self.is_again && self.accuses(event)
    }
}

/// Whether a row says that it is at something that is suspected.
pub(crate) fn is_suspect(reason: &Reason) -> bool {
    [policy::SUSPECT, policy::SUSPECT_AGAIN].contains(&reason.code.as_str())
}
