//! What guest calls asked for, held in memory until the commit.

use bytes::Bytes;
use bytestring::ByteString;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::{
    event::{EventKey, NewEvent},
    store::Key,
    tenant::{ConsumerId, StreamId},
};

/// A key of a consumer's state, with the part of the state that it is in (see [`crate::store::Scope`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateKey {
    /// Which part of the consumer's state.
    pub part: ByteString,
    /// Which key in it.
    pub key: Key,
}

/// An event to be appended to a stream of the same store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit {
    /// What makes it unique in the store.
    pub key: EventKey,
    /// Where to.
    pub stream: StreamId,
    /// The event.
    pub event: NewEvent,
}

/// State writes and emitted events, merged over many calls: of a key that was written twice the last value, of the
/// events all, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whose state the writes go to; there are none without it.
    pub consumer: Option<ConsumerId>,
    /// A value, or none where the key is deleted.
    pub writes: HashMap<StateKey, Option<Bytes>>,
    /// In the order in which they were emitted.
    pub emits: Vec<Emit>,
}

impl Changes {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.emits.is_empty()
    }

    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        self.consumer = later.consumer.or(self.consumer.take());
        self.writes.extend(later.writes);
        self.emits.extend(later.emits);
    }

    /// How many bytes of keys, values and payloads are in it.
    pub fn bytes(&self) -> usize {
        let write = |(key, value): (&StateKey, &Option<Bytes>)| {
            key.part.len() + key.key.len() + value.as_ref().map_or(0, Bytes::len)
        };
        let emit = |emit: &Emit| emit.event.foreign_id.len() + emit.event.metadata.len();
        self.writes.iter().map(write).sum::<usize>() + self.emits.iter().map(emit).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: Option<&'static str>) -> Changes {
        let key = StateKey { part: ByteString::new(), key: key.to_owned().into() };
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        Changes { writes: HashMap::from_iter([(key, value)]), ..Changes::default() }
    }

    #[test]
    fn the_later_write_of_a_key_wins() {
        let mut changes = write("a", Some("1"));
        changes.merge(write("b", Some("2")));
        changes.merge(write("a", None));
        assert_eq!(changes.writes.len(), 2);
        assert_eq!(changes.writes.get(write("a", None).writes.keys().next().unwrap()), Some(&None));
    }
}
