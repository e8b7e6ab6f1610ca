//! Events that were set aside: a consumer that cannot handle one goes on without it, and nothing of it is lost.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    event::{Cursor, Event, EventId, Headers, Timestamp},
    store::{Digest, Reason},
    tenant::{ConsumerId, ShardId},
};

/// An event that was set aside, with all that is known of why. Written in the commit that moves the cursor past it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The shard that set it aside.
    pub shard: ShardId,
    /// The event, whole: it outlives its stream's.
    pub event: Event,
    /// What happened at the last attempt, when, and what the guest logged; a trap's message has its backtrace. Of what was skipped
    /// the code says so, and the message begins with what it was.
    pub reason: Reason,
    /// How often it was tried.
    pub attempts: u32,
    /// The component that failed.
    pub digest: Digest,
    /// Since when it is to be handled again. One that is set aside is not, whatever stands here.
    pub redrive_at: Option<Timestamp>,
    /// The least time that its redrive leaves between two of its events, those of all shards together; none where that is zero.
    pub redrive_pace: Duration,
}

/// Which of them are wished to be handled again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wished {
    /// Whether they are or not.
    #[default]
    Either,
    /// Those that are.
    Yes,
    /// Those that are, and without a pace.
    AtOnce,
}

/// Which dead letters of a consumer are read.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    /// Those that were set aside after this event, which was then.
    pub after: Option<(Timestamp, EventId)>,
    /// Whether they are to be handled again.
    pub wished: Wished,
    /// At most so many.
    pub limit: u32,
}

impl Letters {
    /// The moment and the event behind which they begin; nothing is set aside before that.
    pub(crate) fn begin(&self) -> (Timestamp, EventId) {
        self.after.clone().unwrap_or((Timestamp(i64::MIN), EventId(ByteString::new())))
    }
}

/// A wish that a dead letter be handled again, or that it be not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// Whose.
    pub consumer: ConsumerId,
    /// Which event.
    pub event: EventId,
    /// Since when it is wished; none takes the wish back.
    pub at: Option<Timestamp>,
    /// See [`DeadLetter::redrive_pace`].
    pub pace: Duration,
}

/// All of a dead letter but for what has columns of its own, as stores keep it: JSON, so that it can grow.
#[derive(Serialize, Deserialize)]
struct Record {
    cursor: String,
    r#type: i32,
    foreign_id: ByteString,
    /// Microseconds since 1970: a calendar does not name all that an event may have.
    timestamp: i64,
    headers: Headers,
    reason: Reason,
    attempts: u32,
    digest: Digest,
}

impl DeadLetter {
    /// When it was set aside.
    pub fn at(&self) -> Timestamp {
        self.reason.since
    }

    /// Its column `record`.
    pub(crate) fn record(&self) -> Result<String> {
        let Self { event, reason, attempts, digest, .. } = self.clone();
        let record = Record {
            cursor: hex::encode(&event.cursor.0),
            r#type: event.r#type,
            foreign_id: event.foreign_id,
            timestamp: event.timestamp.0,
            headers: event.headers,
            reason,
            attempts,
            digest,
        };
        serde_json::to_string(&record).map_err(|error| Error::corrupt("a dead letter is not JSON").because(error))
    }

    /// Reads it back from its columns.
    pub(crate) fn read(
        shard: ShardId,
        id: EventId,
        metadata: Bytes,
        redrive_at: Option<Timestamp>,
        record: &str,
    ) -> Result<Self> {
        let corrupt = || Error::corrupt(format!("the dead letter of event {id} of {shard}"));
        let record: Record = serde_json::from_str(record).map_err(|error| corrupt().because(error))?;
        let cursor = hex::decode(record.cursor).map_err(|error| corrupt().because(error))?;
        let event = Event {
            id,
            cursor: Cursor(cursor.into()),
            r#type: record.r#type,
            foreign_id: record.foreign_id,
            timestamp: Timestamp(record.timestamp),
            metadata,
            headers: record.headers,
        };
        let Record { reason, attempts, digest, .. } = record;
        Ok(Self { shard, event, reason, attempts, digest, redrive_at, redrive_pace: Duration::ZERO })
    }
}
