//! Events that wait: one could not be handled, and those of its key that came later queue behind it, so that other keys go on and
//! the order of this one is kept.

use std::time::Duration;

use bytestring::ByteString;

use crate::{
    dead_letter::DeadLetter,
    event::{EventId, Timestamp},
    store::{Digest, Reason},
    tenant::{ConsumerId, ShardId},
};

/// The code of the reason of an event that waits only for those before it.
pub const QUEUED: &str = "queued";

/// An event that waits. Written in the commit that moves the cursor past it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    /// Its place in the queue of its key, which is its foreign id; they rise.
    pub place: u64,
    /// The event, why it waits, and when it is tried again; never by itself where that is not said.
    pub letter: DeadLetter,
}

/// One of them, by its key and its place in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedId {
    /// Whose.
    pub consumer: ConsumerId,
    /// The key.
    pub key: ByteString,
    /// The place.
    pub place: u64,
}

/// A key that is parked.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedKey {
    /// The event that all others wait for, without its payload.
    pub head: DeadLetter,
    /// Its place.
    pub first: u64,
    /// That of the newest event.
    pub last: u64,
    /// How many events there are.
    pub events: u64,
}

impl Parked {
    /// One that waits for those before it, and for nothing else.
    pub(crate) fn queued(
        shard: &ShardId,
        place: u64,
        event: crate::event::Event,
        digest: Digest,
        now: Timestamp,
    ) -> Self {
        let reason = Reason {
            code: QUEUED.to_owned(),
            message: "it waits for the events of its key before it".to_owned(),
            event: Some(event.id.clone()),
            since: now,
            retry_at: None,
            logs: String::new(),
        };
        let shard = shard.clone();
        let (attempts, redrive_at, redrive_pace) = (0, Some(now), Duration::ZERO);
        let letter = DeadLetter { shard, event, reason, attempts, digest, redrive_at, redrive_pace };
        Self { place, letter }
    }

    /// What tells it from all others.
    pub fn id(&self) -> ParkedId {
        let DeadLetter { shard, event, .. } = &self.letter;
        ParkedId { consumer: shard.consumer.clone(), key: event.foreign_id.clone(), place: self.place }
    }

    /// The event's id.
    pub fn event(&self) -> &EventId {
        &self.letter.event.id
    }
}

impl ParkedKey {
    /// The key.
    pub fn key(&self) -> &ByteString {
        &self.head.event.foreign_id
    }
}
