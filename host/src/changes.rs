//! What guest calls asked for, held in memory until the commit.

use bytestring::ByteString;
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    event::{EventKey, NewEvent},
    store::Key,
    tenant::{ConsumerId, StreamId},
};

/// A key of a consumer's state, with the part of the state that it is in (see [`crate::store::Scope`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    /// Which part of the consumer's state.
    pub part: ByteString,
    /// Which key in it.
    pub key: Key,
}

/// One write of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write<'a> {
    /// Which part of the consumer's state.
    pub part: &'a str,
    /// Which key in it.
    pub key: &'a str,
    /// Its value, or none where it is deleted.
    #[serde(serialize_with = "as_bytes")]
    pub value: Option<&'a [u8]>,
}

/// Writes, in the order in which they were made: of a key that is there more than once the last one counts.
///
/// All their bytes lie one behind the other. A write costs no allocation, and whoever reads or sorts them all walks
/// through memory once; a map of texts and values scatters them, and the misses are dearer than what it saves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Parts and keys.
    text: String,
    values: Vec<u8>,
    ends: Vec<End>,
}

/// Where a write ends; it begins where the one before it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    part: usize,
    key: usize,
    value: usize,
    is_set: bool,
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

/// State writes and emitted events of many calls, all in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whose state the writes go to; there are none without it.
    pub consumer: Option<ConsumerId>,
    /// State.
    pub writes: Writes,
    /// In the order in which they were emitted.
    pub emits: Vec<Emit>,
}

impl Writes {
    /// Adds a write.
    pub fn push(&mut self, Write { part, key, value }: Write<'_>) {
        self.text.push_str(part);
        let part = self.text.len();
        self.text.push_str(key);
        self.values.extend_from_slice(value.unwrap_or_default());
        self.ends.push(End { part, key: self.text.len(), value: self.values.len(), is_set: value.is_some() });
    }

    /// Adds writes that were made later.
    pub fn append(&mut self, later: &Self) {
        let (text, value) = (self.text.len(), self.values.len());
        self.text.push_str(&later.text);
        self.values.extend_from_slice(&later.values);
        let moved = |end: &End| End { part: text + end.part, key: text + end.key, value: value + end.value, ..*end };
        self.ends.extend(later.ends.iter().map(moved));
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Write<'_>> {
        self.since(0)
    }

    /// Those after the first `count`.
    pub fn since(&self, count: usize) -> impl DoubleEndedIterator<Item = Write<'_>> {
        let write = move |at: usize| {
            let begin = self.end(at);
            let end = self.end(at + 1);
            let value = self.values.get(begin.value..end.value).filter(|_| end.is_set);
            let text = |from, to| self.text.get(from..to).unwrap_or_default();
            Write { part: text(begin.key, end.part), key: text(end.part, end.key), value }
        };
        (count..self.ends.len()).map(write)
    }

    /// Forgets all but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        let End { key, value, .. } = self.end(count);
        self.text.truncate(key);
        self.values.truncate(value);
        self.ends.truncate(count);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes of keys and values they have.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.values.len()
    }

    /// Where the first `count` end.
    fn end(&self, count: usize) -> End {
        let last = count.min(self.ends.len()).checked_sub(1);
        last.and_then(|last| self.ends.get(last)).copied().unwrap_or_default()
    }
}

/// What stands of writes: each key once with its last value, in the order of parts and keys.
pub fn latest<'a>(writes: impl IntoIterator<Item = Write<'a>>) -> impl Iterator<Item = Write<'a>> {
    let writes: Vec<_> = writes.into_iter().collect();
    let mut order: Vec<(u64, usize)> = leads(&writes).zip(0..).collect();
    let place = |at: usize| writes.get(at).map(|Write { part, key, .. }| (*part, *key));
    order.sort_unstable_by(|&(a_lead, a), &(b_lead, b)| {
        // The last one of a key comes first.
        a_lead.cmp(&b_lead).then_with(|| place(a).cmp(&place(b))).then(b.cmp(&a))
    });
    order.dedup_by(|&mut (a_lead, a), &mut (b_lead, b)| a_lead == b_lead && place(a) == place(b));
    order.into_iter().filter_map(move |(_, at)| writes.get(at).copied())
}

/// What tells most of the writes apart, in their order: of each the eight bytes after those with which all begin. Numbers
/// are compared at once, where texts would have to be fetched from all over the memory.
fn leads<'a>(writes: &[Write<'a>]) -> impl Iterator<Item = u64> {
    let first = writes.first().copied();
    let is_one_part = first.is_some_and(|first| writes.iter().all(|write| write.part == first.part));
    let text = move |write: &Write<'a>| if is_one_part { write.key.as_bytes() } else { write.part.as_bytes() };
    let shared = |begin: &[u8], write| begin.iter().zip(text(write)).take_while(|(a, b)| a == b).count();
    let begin = first.map_or(&b""[..], |first| text(&first));
    let begin = writes.iter().fold(begin, |begin, write| begin.get(..shared(begin, write)).unwrap_or_default()).len();
    writes.iter().map(move |write| {
        let mut lead = [0; 8];
        lead.iter_mut().zip(text(write).iter().skip(begin)).for_each(|(lead, byte)| *lead = *byte);
        u64::from_be_bytes(lead)
    })
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
        self.writes.append(&later.writes);
        self.emits.extend(later.emits);
    }

    /// How much memory it takes, about: keys, values, payloads, and what each write and event has beside them.
    pub fn bytes(&self) -> usize {
        let emit = |emit: &Emit| size_of::<Emit>() + emit.event.foreign_id.len() + emit.event.metadata.len();
        self.writes.bytes() + self.writes.len() * size_of::<End>() + self.emits.iter().map(emit).sum::<usize>()
    }
}

/// A value is written as bytes, not as numbers.
fn as_bytes<S: Serializer>(value: &Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    struct Raw<'a>(&'a [u8]);
    impl Serialize for Raw<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
    value.map(Raw).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(part: &'static str, key: &'static str, value: Option<&'static str>) -> Write<'static> {
        Write { part, key, value: value.map(str::as_bytes) }
    }

    fn writes(all: &[Write<'_>]) -> Writes {
        let mut writes = Writes::default();
        all.iter().for_each(|write| writes.push(*write));
        writes
    }

    #[test]
    fn writes_are_read_as_they_were_made() {
        let all =
            [write("", "ä", Some("1")), write("p", "", None), write("", "", Some("")), write("ab", "c", Some("23"))];
        let mut held = writes(&all);
        assert_eq!(held.iter().collect::<Vec<_>>(), all);
        assert_eq!(held.since(3).collect::<Vec<_>>(), all[3..]);
        assert_eq!((held.len(), held.bytes()), (4, 9));
        for count in (0..4).rev() {
            held.truncate(count);
            assert_eq!(held, writes(&all[..count]));
        }
        assert!(held.is_empty() && held.bytes() == 0);
    }

    #[test]
    fn the_later_write_of_a_key_wins() {
        let changes = |all: &[Write<'_>]| Changes { writes: writes(all), ..Changes::default() };
        let mut all = changes(&[write("b", "", Some("1")), write("a", "bc", Some("1")), write("ab", "c", None)]);
        all.merge(changes(&[write("a", "b", Some("1")), write("a", "bc", None), write("ab", "c", Some("2"))]));
        let stands = [
            write("a", "b", Some("1")),
            write("a", "bc", None),
            write("ab", "c", Some("2")),
            write("b", "", Some("1")),
        ];
        assert_eq!(latest(all.writes.iter()).collect::<Vec<_>>(), stands);
    }
}
