//! What a view remembers of a state: parts, keys and values.
//!
//! A look-up costs two misses of the processor's caches at the most, that of the table and that of the entry: part, key
//! and value lie in one piece of memory.

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry as Slot};
use std::hash::BuildHasher as _;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 96;

/// See the module.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashTable<Entry>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

/// A key with the part of the state that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyRef<'a> {
    pub(crate) part: &'a str,
    pub(crate) key: &'a str,
}

struct Entry {
    /// Part, key, value.
    bytes: Box<[u8]>,
    part_bytes: usize,
    key_bytes: usize,
    /// Whether there is a value: a key that is known not to be there has none.
    is_set: bool,
}

impl Entry {
    fn new(KeyRef { part, key }: KeyRef<'_>, value: Option<&[u8]>) -> Self {
        let bytes = [part.as_bytes(), key.as_bytes(), value.unwrap_or_default()].concat().into();
        Self { bytes, part_bytes: part.len(), key_bytes: key.len(), is_set: value.is_some() }
    }

    fn key(&self) -> KeyRef<'_> {
        let (part, rest) = self.bytes.split_at_checked(self.part_bytes).unwrap_or_default();
        let key = rest.get(..self.key_bytes).unwrap_or_default();
        // They were texts when they came.
        let text = |bytes| str::from_utf8(bytes).unwrap_or_default();
        KeyRef { part: text(part), key: text(key) }
    }

    fn is_of(&self, KeyRef { part, key }: KeyRef<'_>) -> bool {
        let text = self.bytes.get(..self.part_bytes + self.key_bytes).unwrap_or_default();
        self.part_bytes == part.len() && text.strip_prefix(part.as_bytes()) == Some(key.as_bytes())
    }

    fn value(&self) -> Option<&[u8]> {
        self.bytes.get(self.part_bytes + self.key_bytes..).filter(|_| self.is_set)
    }

    /// A value as long as the one before takes its place.
    fn put(&mut self, key: KeyRef<'_>, value: Option<&[u8]>) {
        let held = self.bytes.get_mut(self.part_bytes + self.key_bytes..).unwrap_or_default();
        match value {
            Some(value) if self.is_set && held.len() == value.len() => held.copy_from_slice(value),
            value => *self = Self::new(key, value),
        }
    }
}

impl Cache {
    /// A key's value, or that there is none; nothing where that is not known.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Option<Option<&[u8]>> {
        self.entries.find(self.hasher.hash_one(key), |entry| entry.is_of(key)).map(Entry::value)
    }

    /// Remembers a key's value, or that there is none.
    pub(crate) fn put(&mut self, key: KeyRef<'_>, value: Option<&[u8]>) {
        let hasher = &self.hasher;
        let (hash, again) = (hasher.hash_one(key), |entry: &Entry| hasher.hash_one(entry.key()));
        match self.entries.entry(hash, |entry| entry.is_of(key), again) {
            Slot::Occupied(mut slot) => {
                let entry = slot.get_mut();
                self.bytes -= entry.bytes.len();
                entry.put(key, value);
                self.bytes += entry.bytes.len();
            }
            Slot::Vacant(slot) => {
                let entry = Entry::new(key, value);
                self.bytes += entry.bytes.len() + ENTRY_BYTES;
                slot.insert(entry);
            }
        }
    }

    /// All that is known, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (KeyRef<'_>, Option<&[u8]>)> {
        self.entries.iter().map(|entry| (entry.key(), entry.value()))
    }

    /// How much memory it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_another_one_in_another_part_and_its_last_value_counts() {
        let mut cache = Cache::default();
        let (ab, a) = (KeyRef { part: "a", key: "b" }, KeyRef { part: "", key: "ab" });
        for value in [Some(&b"1"[..]), Some(b"2"), Some(b"longer"), None, Some(b"")] {
            cache.put(ab, value);
            assert_eq!(cache.get(ab), Some(value));
            assert_eq!(cache.get(a), None);
            assert_eq!(cache.bytes(), 2 + value.map_or(0, <[u8]>::len) + ENTRY_BYTES);
        }
        cache.put(a, None);
        assert_eq!((cache.get(a), cache.get(ab)), (Some(None), Some(Some(&b""[..]))));
        assert_eq!(cache.iter().count(), 2);
    }

    #[test]
    fn many_keys_are_all_found_again() {
        let mut cache = Cache::default();
        let keys: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        for key in &keys {
            cache.put(KeyRef { part: "p", key }, Some(key.as_bytes()));
        }
        assert!(keys.iter().all(|key| cache.get(KeyRef { part: "p", key }) == Some(Some(key.as_bytes()))));
    }
}
