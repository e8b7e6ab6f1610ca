//! The state that was written lately: in the log, and not in the table yet.
//!
//! Scattered keys touch almost as many pages of a table as there are keys, and SQLite writes every page that a commit
//! touches. So a commit appends its writes to a log, as one row. Once the log is long a sweep folds it into the table,
//! in the order of the table's keys and a slice with each commit: a slice's neighbours share their pages, and a key
//! that was written many times is folded once. What is not folded yet is held here too, so that nothing reads the log
//! but a host that starts, or that finds that another process has written.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use bytestring::ByteString;
use hashbrown::HashMap;

use crate::{
    changes::{StateKey, Write},
    error::{Error, Result},
    scan::Held,
    store::{Key, Scope},
    tenant::ConsumerId,
};

/// A log of this weight is folded. It is also about what of the log is held in memory, at the most twice that.
const LOG_WEIGHT_MAX: usize = 8 * 1024 * 1024;
/// A slice weighs at least this, and twice what its commit adds to the log: a sweep always comes to its end.
const SLICE_WEIGHT_MIN: usize = 96 * 1024;
/// What a write weighs beside its key and value.
const WRITE_WEIGHT: usize = 96;

/// The writes of one row of the log, by consumers.
pub(super) type Logged<'a> = Vec<(&'a ConsumerId, Vec<Write<'a>>)>;

/// What a part of a state holds.
type Entries = HashMap<Key, Option<Box<[u8]>>>;

/// What a consumer has written, by parts of its state.
type Parts = HashMap<ByteString, Entries>;

/// See the module.
#[derive(Default)]
pub(super) struct Recent {
    entries: HashMap<ConsumerId, Parts>,
    /// The newest row of the log that is in `entries`.
    last: i64,
    /// A row that a transaction of ours has added and not committed.
    writing: Option<i64>,
    /// Moves when another process's rows were taken in: what was looked up before may be old.
    reloads: u64,
    /// The rows of the log, and what each weighs.
    log: VecDeque<(i64, usize)>,
    log_weight: usize,
    sweep: Option<Sweep>,
}

/// A folding that is under way.
struct Sweep {
    /// What is still to be folded, in the order of the table.
    keys: VecDeque<(ConsumerId, StateKey)>,
    /// Once it is, so are the rows of the log up to this one.
    until: i64,
}

/// What a commit folds.
pub(super) struct Slice {
    pub(super) writes: Vec<(ConsumerId, StateKey, Option<Box<[u8]>>)>,
    /// The rows of the log up to this one have no more to tell.
    pub(super) done: Option<i64>,
}

/// What becomes true here with a commit.
pub(super) struct Written {
    /// The row that it adds to the log, and its bytes.
    pub(super) row: i64,
    pub(super) bytes: Vec<u8>,
    pub(super) slice: Option<Slice>,
}

impl Recent {
    /// What is held of keys, and a mark for `covers`.
    pub(super) fn look(&self, scope: &Scope, keys: &[Key]) -> (Vec<Option<Option<Bytes>>>, u64) {
        let part = self.part(scope);
        (keys.iter().map(|key| Some(shared(part?.get(key)?))).collect(), self.reloads)
    }

    /// What is held of a scope with this prefix, after a key. With it the mark.
    pub(super) fn range(&self, scope: &Scope, prefix: &str, after: Option<&str>) -> (Held, u64) {
        let wanted = |key: &Key| key.starts_with(prefix) && after.is_none_or(|after| &**key > after);
        let entries = self.part(scope).into_iter().flatten().filter(|(key, _)| wanted(key));
        (entries.map(|(key, value)| (key.clone(), shared(value))).collect(), self.reloads)
    }

    /// Whether a value of a consumer is held, and the keys of which it is held that there is none. With it the mark.
    pub(super) fn of(&self, consumer: &ConsumerId) -> (bool, HashSet<StateKey>, u64) {
        let parts = self.entries.get(consumer).into_iter().flatten();
        let all = parts.flat_map(|(part, entries)| entries.iter().map(move |(key, value)| (part, key, value)));
        let (set, deleted): (Vec<_>, Vec<_>) = all.partition(|(.., value)| value.is_some());
        let key = |(part, key, _): (&ByteString, &Key, _)| StateKey { part: part.clone(), key: key.clone() };
        (!set.is_empty(), deleted.into_iter().map(key).collect(), self.reloads)
    }

    fn part(&self, scope: &Scope) -> Option<&Entries> {
        self.entries.get(&scope.consumer)?.get(&scope.part)
    }

    /// Whether what was looked up under a mark is as new as a read that saw this row as the log's last.
    pub(super) fn covers(&self, row: i64, mark: u64) -> bool {
        mark == self.reloads && row <= self.last.max(self.writing.unwrap_or_default())
    }

    /// A transaction of ours has added a row to the log. Whether all rows before it are known here: only then may readers
    /// take it for one that is.
    pub(super) fn begin(&mut self, row: i64) -> bool {
        self.writing = Some(row).filter(|row| *row == self.last + 1);
        self.writing.is_some()
    }

    /// The transaction has ended, and took place if there is something written.
    pub(super) fn end(&mut self, written: Option<Written>) {
        self.writing = None;
        let Some(Written { row, bytes, slice }) = written else { return };
        if let Some(slice) = slice {
            self.fold(slice);
        }
        // A row that cannot be read is one that is not known here: whoever reads next takes the log in, and says so.
        let _ = self.take_in(row, &bytes);
    }

    /// Takes the whole log in, as another process has left it.
    pub(super) fn load(&mut self, rows: Vec<(i64, Vec<u8>)>) -> Result<()> {
        let mut fresh = Self { reloads: self.reloads + 1, writing: self.writing, ..Self::default() };
        for (row, bytes) in rows {
            fresh.take_in(row, &bytes)?;
        }
        *self = fresh;
        Ok(())
    }

    /// What the next commit folds, which itself adds this much to the log.
    pub(super) fn slice(&mut self, logged: &Logged<'_>) -> Option<Slice> {
        if self.sweep.is_none() && self.log_weight > LOG_WEIGHT_MAX {
            self.sweep = Some(Sweep { keys: self.keys(), until: self.last });
        }
        let Sweep { keys, until } = self.sweep.as_ref()?;
        let budget = SLICE_WEIGHT_MIN.max(2 * weight(logged));
        let (mut writes, mut weight) = (Vec::new(), 0);
        for (consumer, key) in keys {
            if weight >= budget {
                break;
            }
            let entry = self.entries.get(consumer).and_then(|parts| parts.get(&key.part)?.get(&key.key));
            let value = entry.cloned().unwrap_or_default();
            weight += weight_of(&Write { part: &key.part, key: &key.key, value: value.as_deref() });
            writes.push((consumer.clone(), key.clone(), value));
        }
        let done = (writes.len() == keys.len()).then_some(*until);
        Some(Slice { writes, done })
    }

    /// Everything that is held.
    pub(super) fn all(&self) -> Vec<(ConsumerId, StateKey, Option<Box<[u8]>>)> {
        let entry = |(consumer, key): (ConsumerId, StateKey)| {
            let held = self.entries.get(&consumer).and_then(|parts| parts.get(&key.part)?.get(&key.key)).cloned();
            (consumer, key, held.flatten())
        };
        self.keys().into_iter().map(entry).collect()
    }

    /// All keys, in the order of the table.
    fn keys(&self) -> VecDeque<(ConsumerId, StateKey)> {
        let mut consumers: Vec<(&ConsumerId, &Parts)> = self.entries.iter().collect();
        consumers.sort_unstable_by_key(|(consumer, _)| *consumer);
        let mut all = VecDeque::new();
        for (consumer, parts) in consumers {
            let keys = |(part, entries): (&ByteString, &Entries)| -> Vec<StateKey> {
                entries.keys().map(|key| StateKey { part: part.clone(), key: key.clone() }).collect()
            };
            let mut keys: Vec<StateKey> = parts.iter().flat_map(keys).collect();
            keys.sort_unstable();
            all.extend(keys.into_iter().map(|key| (consumer.clone(), key)));
        }
        all
    }

    /// The slice is in the table.
    fn fold(&mut self, slice: Slice) {
        let Some(sweep) = &mut self.sweep else { return };
        sweep.keys.drain(..slice.writes.len().min(sweep.keys.len()));
        for (consumer, key, _) in &slice.writes {
            if let Some(part) = self.entries.get_mut(consumer).and_then(|parts| parts.get_mut(&key.part)) {
                part.remove(&key.key);
            }
        }
        let Some(done) = slice.done else { return };
        self.sweep = None;
        self.entries.values_mut().for_each(|parts| parts.retain(|_, entries| !entries.is_empty()));
        while let Some((_, weight)) = self.log.pop_front_if(|(row, _)| *row <= done) {
            self.log_weight -= weight;
        }
    }

    /// Takes in the next row of the log.
    fn take_in(&mut self, row: i64, bytes: &[u8]) -> Result<()> {
        let logged: Vec<(ConsumerId, Vec<Write<'_>>)> = postcard::from_bytes(bytes)
            .map_err(|error| Error::corrupt(format!("row {row} of the state's log")).because(error))?;
        let mut weight = 0;
        for (consumer, writes) in logged {
            let parts = self.entries.entry(consumer).or_default();
            for write in writes {
                weight += weight_of(&write);
                let part = parts.entry_ref(write.part).or_default();
                overwrite(part.entry_ref(write.key).or_default(), write.value);
            }
        }
        self.log.push_back((row, weight));
        self.log_weight += weight;
        self.last = row;
        Ok(())
    }
}

/// Puts a value in the place of another one: where both are as long as each other, in its memory, too.
fn overwrite(held: &mut Option<Box<[u8]>>, value: Option<&[u8]>) {
    match (held, value) {
        (Some(held), Some(value)) if held.len() == value.len() => held.copy_from_slice(value),
        (held, value) => *held = value.map(Box::from),
    }
}

fn shared(value: &Option<Box<[u8]>>) -> Option<Bytes> {
    value.as_deref().map(Bytes::copy_from_slice)
}

fn weight(logged: &Logged<'_>) -> usize {
    logged.iter().flat_map(|(_, writes)| writes).map(weight_of).sum()
}

fn weight_of(Write { part, key, value }: &Write<'_>) -> usize {
    WRITE_WEIGHT + part.len() + key.len() + value.map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::TenantId;

    #[test]
    fn a_row_that_is_open_counts_only_once_all_before_it_are_known() {
        let consumer = ConsumerId { tenant: TenantId::default(), name: "c".parse().unwrap() };
        let scope = Scope { consumer: consumer.clone(), part: ByteString::new() };
        let theirs: Logged<'_> = vec![(&consumer, vec![Write { part: "", key: "k", value: Some(b"theirs") }])];
        let mut recent = Recent::default();
        let (_, before) = recent.look(&scope, &["k".into()]);
        // Another process has written row 1: until it is taken in, whoever sees it must not trust what was looked up.
        assert!(!recent.begin(2));
        assert!(!recent.covers(1, before));
        recent.load(vec![(1, postcard::to_allocvec(&theirs).unwrap())]).unwrap();
        assert!(recent.begin(2));
        assert!(!recent.covers(1, before));
        let (held, after) = recent.look(&scope, &["k".into()]);
        assert_eq!(held, [Some(Some(Bytes::from_static(b"theirs")))]);
        assert!(recent.covers(2, after));
        recent.end(None);
        assert!(recent.covers(1, after) && !recent.covers(2, after));
    }
}
