//! Events, and the chunks in which they travel.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    tenant::Name,
};

/// The longest event id, in bytes.
pub const EVENT_ID_BYTES_MAX: usize = 255;

/// Stable for ever: what guests, keys and dead letters see. Unique within its stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub ByteString);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A source's own place after an event: opaque bytes, empty before the first event. Only sources and positions look
/// at it; its order is the source's.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Cursor(pub Bytes);

impl Cursor {
    /// Before the first event.
    pub const START: Self = Self(Bytes::new());

    /// Whether it stands before the first event.
    pub fn is_start(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Cursor {
    /// The text where it is text, hex otherwise, `start` when it is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok("") => f.write_str("start"),
            Ok(text) if !text.contains(char::is_control) => f.write_str(text),
            _ => write!(f, "0x{}", hex::encode(&self.0)),
        }
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({self})")
    }
}

/// Microseconds since 1970-01-01T00:00:00Z: the precision that every store keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Whole seconds, and the nanoseconds within that second.
    pub fn split(self) -> (i64, u32) {
        let nanoseconds = self.0.rem_euclid(1_000_000) * 1_000;
        (self.0.div_euclid(1_000_000), u32::try_from(nanoseconds).unwrap_or_default())
    }

    /// The moment so much later.
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Seconds since 1970, as metrics have them.
    pub fn seconds(self) -> f64 {
        Duration::from_micros(self.0.unsigned_abs()).as_secs_f64().copysign(if self.0 < 0 { -1.0 } else { 1.0 })
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, or the number of microseconds where a calendar cannot name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => write!(f, "{moment}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let moment: jiff::Timestamp = text.parse().map_err(|error| {
            Error::invalid(format!("`{text}` is not an RFC 3339 time such as 2026-11-24T08:30:00Z")).because(error)
        })?;
        Ok(Self(moment.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Names and values beside the payload.
pub type Headers = Vec<(ByteString, ByteString)>;

/// An immutable fact, as a stream holds it. Its texts and bytes are slices of the memory that its chunk came in, so a
/// clone costs no copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Stable for ever.
    pub id: EventId,
    /// The source's place after this event.
    pub cursor: Cursor,
    /// The kind, a number of the stream's owner.
    pub r#type: i32,
    /// The id of the thing that it is about.
    pub foreign_id: ByteString,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// The payload.
    pub metadata: Bytes,
    /// Names and values beside the payload.
    pub headers: Headers,
}

impl Event {
    /// How many bytes of payload and text it carries: what batches and limits count.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.id.0.len() + self.foreign_id.len() + self.metadata.len() + headers
    }

    /// A hash of everything in it but the cursor: a position remembers that of its last event, so that a stream that
    /// was changed under it is noticed.
    pub fn hash(&self) -> EventHash {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(self.id.0.as_bytes());
        field(&self.r#type.to_le_bytes());
        field(self.foreign_id.as_bytes());
        field(&self.timestamp.0.to_le_bytes());
        field(&self.metadata);
        for (name, value) in &self.headers {
            field(name.as_bytes());
            field(value.as_bytes());
        }
        EventHash(hasher.finalize().into())
    }
}

/// The SHA-256 of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EventHash(pub [u8; 32]);

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Events that follow each other in a stream, never none of them.
#[derive(Debug)]
pub struct Chunk {
    /// In the source's order.
    pub events: Vec<Event>,
}

impl Chunk {
    /// The place after its last event.
    pub fn end(&self) -> &Cursor {
        static START: Cursor = Cursor::START;
        self.events.last().map_or(&START, |event| &event.cursor)
    }

    /// How many bytes its events carry.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(Event::bytes).sum()
    }
}

/// An event that is to be appended; the stream gives it its id and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The kind.
    pub r#type: i32,
    /// The id of the thing that it is about.
    pub foreign_id: ByteString,
    /// When: the caller's clock.
    pub timestamp: Timestamp,
    /// The payload.
    pub metadata: Bytes,
    /// Names and values beside the payload.
    pub headers: Headers,
}

/// A UNIQUE key of an appended event: the same one is never appended twice to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKey(pub Uuid);

impl EventKey {
    /// A key from the parts of whatever makes the event unique, led by a time so that keys made together lie together
    /// in an index (uuid version 8: 48 bits of milliseconds, then bits of a SHA-256).
    pub fn new(led_by: Timestamp, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let milliseconds = led_by.0.div_euclid(1_000).to_be_bytes();
        let mut bytes = [0; 16];
        for (byte, from) in bytes.iter_mut().zip(milliseconds.iter().skip(2).chain(digest.iter())) {
            *byte = *from;
        }
        Self(Uuid::new_v8(bytes))
    }
}

/// The name of a stream within the consumer's own tenant, as a guest says it.
pub type StreamName = Name;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_splits_on_both_sides_of_1970() {
        assert_eq!(Timestamp(1_500_000).split(), (1, 500_000_000));
        assert_eq!(Timestamp(-1).split(), (-1, 999_999_000));
        assert_eq!(Timestamp(i64::MIN).split().0, i64::MIN.div_euclid(1_000_000));
    }

    #[test]
    fn a_timestamp_reads_what_it_prints() {
        for micros in [0, 1, -1, 1_517_363_399_650_000] {
            assert_eq!(Timestamp(micros).to_string().parse::<Timestamp>().unwrap(), Timestamp(micros));
        }
    }

    #[test]
    fn event_keys_are_led_by_time_and_differ_by_every_part() {
        let early = EventKey::new(Timestamp(1_000_000), &[b"a", b"b"]);
        let late = EventKey::new(Timestamp(2_000_000), &[b"a", b"b"]);
        assert!(early.0.as_bytes() < late.0.as_bytes());
        assert_eq!(early, EventKey::new(Timestamp(1_000_000), &[b"a", b"b"]));
        assert_ne!(early, EventKey::new(Timestamp(1_000_000), &[b"ab", b""]));
    }

    #[test]
    fn a_cursor_of_any_bytes_can_be_shown() {
        assert_eq!(Cursor::START.to_string(), "start");
        assert_eq!(Cursor(Bytes::from_static(b"41")).to_string(), "41");
        assert_eq!(Cursor(Bytes::from_static(&[0xff, 0])).to_string(), "0xff00");
    }
}
