//! How a consumer is divided into shards, and what its shards of now know of those before them.

use std::{cmp::Ordering, collections::HashSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    deployment::{Spec, StateScope, cursor_as_hex},
    error::{Error, Result},
    event::{Cursor, Event, EventHash, EventId, Timestamp},
    store::{Fence, Position, Revision, Status},
    tenant::{ConsumerId, ShardId},
};

/// Shards that a consumer may have.
pub const SHARDS_MAX: u32 = 256;

/// How a consumer is divided: all events with one key are one shard's, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AsStored")]
pub struct Shards {
    /// What the key is.
    pub by: ShardBy,
    /// How many there are.
    pub count: u32,
}

/// As deployments hold it; those of before there were keys have a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum AsStored {
    Count(u32),
    Whole { by: ShardBy, count: u32 },
}

impl From<AsStored> for Shards {
    fn from(stored: AsStored) -> Self {
        match stored {
            AsStored::Count(count) => Self { by: ShardBy::default(), count },
            AsStored::Whole { by, count } => Self { by, count },
        }
    }
}

impl Default for Shards {
    fn default() -> Self {
        Self { by: ShardBy::default(), count: 1 }
    }
}

/// What of an event decides which shard it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ShardBy {
    /// What it is about.
    #[default]
    ForeignId,
    /// Its kind, as a decimal number.
    Type,
    /// Its id: no two events have an order then.
    Id,
    /// What a JSON pointer finds in its payload: a text as it is, else as JSON. Where it finds nothing, or the payload is not
    /// JSON, the key is empty.
    Metadata(String),
}

impl FromStr for ShardBy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("metadata:")) {
            ("foreign-id", _) => Ok(Self::ForeignId),
            ("type", _) => Ok(Self::Type),
            ("id", _) => Ok(Self::Id),
            (_, Some(pointer)) if pointer.is_empty() || pointer.starts_with('/') => {
                Ok(Self::Metadata(pointer.to_owned()))
            }
            _ => Err(Error::invalid(format!("`{text}` is nothing to divide by"))
                .help("write foreign-id, type, id, or metadata: with a JSON pointer, such as metadata:/customer/id")),
        }
    }
}

impl TryFrom<String> for ShardBy {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ShardBy> for String {
    fn from(by: ShardBy) -> Self {
        by.to_string()
    }
}

impl fmt::Display for ShardBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignId => f.write_str("foreign-id"),
            Self::Type => f.write_str("type"),
            Self::Id => f.write_str("id"),
            Self::Metadata(pointer) => write!(f, "metadata:{pointer}"),
        }
    }
}

impl ShardBy {
    /// The hash of an event's key: FNV-1 of 32 bits, as reflex has it, so that its shards' cursors can be taken over.
    pub fn hash(&self, event: &Event) -> u32 {
        match self {
            Self::ForeignId => fnv1(event.foreign_id.as_bytes()),
            Self::Type => fnv1(event.r#type.to_string().as_bytes()),
            Self::Id => fnv1(event.id.0.as_bytes()),
            Self::Metadata(pointer) => {
                let metadata: serde_json::Value = serde_json::from_slice(&event.metadata).unwrap_or_default();
                match metadata.pointer(pointer) {
                    None | Some(serde_json::Value::Null) => fnv1(b""),
                    Some(serde_json::Value::String(text)) => fnv1(text.as_bytes()),
                    Some(other) => fnv1(other.to_string().as_bytes()),
                }
            }
        }
    }
}

fn fnv1(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

impl Shards {
    /// The shard that an event belongs to, counted from 0.
    pub fn of(&self, event: &Event) -> u32 {
        if self.count <= 1 { 0 } else { self.of_hash(self.by.hash(event)) }
    }

    /// The same, from the hash of its key.
    pub fn of_hash(&self, hash: u32) -> u32 {
        hash % self.count.max(1)
    }

    /// The state that its handlers see unless somebody chose.
    pub fn state(&self) -> StateScope {
        let all = [StateScope::Consumer, StateScope::Key, StateScope::Shard];
        all.into_iter().find(|state| self.fit(*state)).unwrap_or_default()
    }

    /// Whether no two shards write to the same part of such a state.
    pub fn fit(&self, state: StateScope) -> bool {
        match state {
            _ if self.count <= 1 => true,
            StateScope::Consumer => false,
            StateScope::Key => self.by == ShardBy::ForeignId,
            StateScope::Shard => true,
        }
    }

    /// The name that a shard has in reflex.
    pub fn name(&self, base: &str, index: u32) -> String {
        if self.count <= 1 { base.to_owned() } else { format!("{base}_{}_of_{}", index + 1, self.count) }
    }
}

/// What positions alone do not say of events behind their cursors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// How often the consumer was divided anew or reset. Its positions have the same number: those of another are other shards'.
    pub number: u64,
    /// How far shards were that are no more: nothing of it is handled again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub handled: Vec<Marks>,
    /// How far it was before it was reset, if it is not to emit anything of that again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emitted: Vec<Marks>,
    /// What it had set aside then, and so had never emitted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<SetAside>,
}

/// An event that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Which.
    pub event: EventId,
    /// The place after it.
    #[serde(with = "cursor_as_hex")]
    pub cursor: Cursor,
}

/// How far each shard of a topology was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The topology.
    pub shards: Shards,
    /// By the shards' indexes.
    #[serde(with = "cursors_as_hex")]
    pub cursors: Vec<Cursor>,
}

/// A source's order of two cursors.
pub type Compare<'a> = &'a dyn Fn(&Cursor, &Cursor) -> Ordering;

impl Marks {
    /// Whether the event's shard has passed it.
    pub fn cover(&self, event: &Event, compare: Compare<'_>) -> bool {
        if !self.reach(event, compare) {
            // Without asking for its key, which may be in its payload.
            return false;
        }
        let index = usize::try_from(self.shards.of(event)).unwrap_or(usize::MAX);
        self.cursors.get(index).is_some_and(|mark| compare(&event.cursor, mark).is_le())
    }

    /// Whether one of them is at an event or beyond it.
    pub fn reach(&self, event: &Event, compare: Compare<'_>) -> bool {
        self.cursors.iter().any(|mark| compare(&event.cursor, mark).is_le())
    }

    /// Moves each of them to where it is in others of the same topology, if that is further.
    fn raise(&mut self, others: &Self, compare: Compare<'_>) {
        for (mark, other) in self.cursors.iter_mut().zip(&others.cursors) {
            if compare(mark, other).is_lt() {
                *mark = other.clone();
            }
        }
    }

    /// Whether one of them is beyond a cursor, so that there may be events that they cover.
    fn is_beyond(&self, cursor: &Cursor, compare: Compare<'_>) -> bool {
        self.cursors.iter().any(|mark| compare(cursor, mark).is_lt())
    }
}

impl Past {
    /// Of shards that were never ours, and the place at which those begin that take over from them.
    pub fn after(marks: Marks, compare: Compare<'_>) -> (Cursor, Self) {
        let begin = marks.cursors.iter().min_by(|a, b| compare(a, b)).cloned().unwrap_or(Cursor::START);
        let mut handled = vec![marks];
        handled.retain(|marks| marks.is_beyond(&begin, compare));
        (begin, Self { handled, ..Self::default() })
    }

    /// Whether an event was handled before there were the shards of now.
    pub fn has_handled(&self, event: &Event, compare: Compare<'_>) -> bool {
        self.handled.iter().any(|marks| marks.cover(event, compare))
    }
}

/// The positions of other shards in the place of these, and what they then know of the past.
///
/// `rows` are the consumer's positions; a shard of `before` that has none, or never moved, is at `start`. The new ones all begin
/// with whoever is furthest behind, and pass over what the others have handled: nobody waits for anybody. A pause stays; what
/// was blocked is tried anew.
pub fn divide_anew(
    consumer: &ConsumerId,
    (before, past, start): (&Shards, &Past, &Cursor),
    to: &Shards,
    rows: &[Position],
    now: Timestamp,
    compare: Compare<'_>,
) -> (Vec<Position>, Past) {
    let shard = |index| ShardId { consumer: consumer.clone(), index };
    let old: Vec<Position> = (0..before.count).map(|index| row_or_start(rows, shard(index), start)).collect();
    let Some(last) = old.iter().min_by(|a, b| compare(&a.cursor, &b.cursor)).cloned() else {
        return (Vec::new(), past.clone());
    };
    let cursors = old.iter().map(|row| row.cursor.clone()).collect();
    let mut handled = past.handled.clone();
    handled.push(Marks { shards: before.clone(), cursors });
    handled.retain(|marks| marks.is_beyond(&last.cursor, compare));
    let paused = old.iter().find(|row| row.status == Status::Paused);
    let newest = rows.iter().map(|row| row.revision.0).max().unwrap_or_default();
    let marks = old.iter().flat_map(|row| [&row.cursor, &row.high_water]);
    let high_water = marks.max_by(|a, b| compare(a, b)).cloned().unwrap_or(Cursor::START);
    let position = |index| Position {
        shard: shard(index),
        revision: Revision(newest + 1),
        incarnation: incarnation(rows),
        generation: old.iter().map(|row| row.generation).max().unwrap_or_default(),
        status: paused.map_or(Status::Running, |row| row.status),
        reason: paused.and_then(|row| row.reason.clone()),
        attempts: 0,
        digest: None,
        high_water: high_water.clone(),
        topology: past.number + 1,
        updated_at: now,
        ..last.clone()
    };
    ((0..all(rows, to)).map(position).collect(), Past { number: past.number + 1, handled, ..past.clone() })
}

/// Where a reset sends a consumer.
pub struct Target {
    /// The place.
    pub cursor: Cursor,
    /// The hash of the event before it.
    pub last_event: Option<EventHash>,
    /// Whether it emits again what it has emitted beyond that.
    pub emits_again: bool,
    /// All that it has set aside.
    pub set_aside: Vec<SetAside>,
}

/// The positions of a consumer that goes on from another place, and what they then know of the past: nothing that was handled,
/// but what was emitted where that is not wanted again. A pause stays; what was blocked is tried anew.
pub fn move_all(
    (consumer, spec): (&ConsumerId, &Spec),
    target: Target,
    rows: &[Position],
    now: Timestamp,
    compare: Compare<'_>,
) -> (Vec<Position>, Past) {
    let Target { cursor, last_event, emits_again, set_aside } = target;
    let past = &spec.past;
    let mut then = Past { number: past.number + 1, ..Past::default() };
    if !emits_again {
        let cursors = cursors(spec, rows);
        let last = cursors.iter().min_by(|a, b| compare(a, b)).cloned().unwrap_or(Cursor::START);
        let now = Marks { shards: spec.shards.clone(), cursors };
        for marks in
            past.emitted.iter().chain(&past.handled).chain([&now]).filter(|one| one.is_beyond(&cursor, compare))
        {
            match then.emitted.iter_mut().find(|other| other.shards == marks.shards) {
                Some(other) => other.raise(marks, compare),
                None => then.emitted.push(marks.clone()),
            }
        }
        then.set_aside = set_aside;
        // What was set aside before an earlier reset, and may not have been handled since.
        let known: HashSet<&EventId> = then.set_aside.iter().map(|letter| &letter.event).collect();
        let is_new = |letter: &&SetAside| compare(&letter.cursor, &last).is_gt() && !known.contains(&letter.event);
        let before = past.set_aside.iter().filter(is_new);
        let before: Vec<SetAside> = before.cloned().collect();
        then.set_aside.extend(before);
    }
    let newest = rows.iter().map(|row| row.revision.0).max().unwrap_or_default();
    let generation = rows.iter().map(|row| row.generation).max().unwrap_or_default() + u32::from(emits_again);
    let position = |index| {
        let row = row_or_start(rows, ShardId { consumer: consumer.clone(), index }, &spec.start);
        let is_paused = row.status == Status::Paused;
        Position {
            cursor: cursor.clone(),
            revision: Revision(newest + 1),
            incarnation: incarnation(rows),
            generation,
            status: if is_paused { Status::Paused } else { Status::Running },
            reason: row.reason.filter(|_| is_paused),
            attempts: 0,
            last_event,
            topology: then.number,
            updated_at: now,
            ..row
        }
    };
    ((0..all(rows, &spec.shards)).map(position).collect(), then)
}

/// Where a consumer's shards are, in their order.
pub fn cursors(spec: &Spec, rows: &[Position]) -> Vec<Cursor> {
    let cursor = |index| {
        let row = rows.iter().find(|row| row.shard.index == index && row.revision > Revision(0));
        row.map_or(&spec.start, |row| &row.cursor).clone()
    };
    (0..spec.shards.count).map(cursor).collect()
}

/// A shard's row; at the start where it has none, or one that never moved.
fn row_or_start(rows: &[Position], shard: ShardId, start: &Cursor) -> Position {
    match rows.iter().find(|row| row.shard == shard) {
        Some(row) if row.revision > Revision(0) => row.clone(),
        Some(row) => Position { cursor: start.clone(), ..row.clone() },
        None => Position { cursor: start.clone(), ..Position::start(shard, Fence(0)) },
    }
}

/// How many rows there are then. Those of shards that are no more stay: a host that has not heard of it finds there that it is
/// behind.
fn all(rows: &[Position], shards: &Shards) -> u32 {
    rows.iter().map(|row| row.shard.index + 1).max().unwrap_or_default().max(shards.count)
}

/// The one that all shards have from now on: whichever of them handles an event, what it emits has the same key.
fn incarnation(rows: &[Position]) -> u64 {
    rows.iter().map(|row| row.incarnation).min().unwrap_or_default()
}

mod cursors_as_hex {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use crate::event::Cursor;

    pub(super) fn serialize<S: Serializer>(cursors: &[Cursor], serializer: S) -> Result<S::Ok, S::Error> {
        cursors.iter().map(|cursor| hex::encode(&cursor.0)).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Cursor>, D::Error> {
        let read = |digits: String| hex::decode(digits).map(|bytes| Cursor(bytes.into())).map_err(D::Error::custom);
        Vec::<String>::deserialize(deserializer)?.into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, kind: i32, foreign_id: &str, metadata: &'static str) -> Event {
        Event {
            id: EventId(id.into()),
            cursor: Cursor(id.to_owned().into()),
            r#type: kind,
            foreign_id: foreign_id.into(),
            timestamp: Timestamp(0),
            metadata: metadata.into(),
            headers: Vec::new(),
        }
    }

    fn shards(by: &str, count: u32) -> Shards {
        Shards { by: by.parse().unwrap(), count }
    }

    /// Reflex counts its shards from 1.
    fn number(by: &str, count: u32, event: &Event) -> u32 {
        shards(by, count).of(event) + 1
    }

    #[test]
    fn shards_are_those_of_reflex() {
        let of_id = |count, id| number("id", count, &event(id, 0, "", ""));
        assert_eq!(["0", "1", "2", "3"].map(|id| of_id(4, id)), [4, 3, 2, 1]);
        assert_eq!(["1", "2", "3", "4", "5"].map(|id| of_id(3, id)), [1, 3, 2, 1, 3]);
        let of_type = |count, kind| number("type", count, &event("1", kind, "", ""));
        assert_eq!([3, 2, 1].map(|kind| of_type(4, kind)), [1, 2, 3]);
        assert_eq!([1, 2, 3].map(|kind| of_type(3, kind)), [1, 3, 2]);
        let of_foreign_id = |count, id| number("foreign-id", count, &event("1", 0, id, ""));
        let four = ["2304", "124566", "140054", "123412455", "2342", "123"];
        assert_eq!(four.map(|id| of_foreign_id(4, id)), [1, 2, 2, 3, 3, 4]);
        assert_eq!(["100", "200", "300"].map(|id| of_foreign_id(3, id)), [1, 2, 2]);
        assert_eq!(of_foreign_id(3, "Hello, World"), 2);
        assert_eq!(shards("id", 8).name("x", 2), "x_3_of_8");
    }

    #[test]
    fn a_thousand_ids_are_spread_evenly() {
        let mut counts = [0_u32; 10];
        for id in 0..1_000 {
            counts[shards("id", 10).of(&event(&id.to_string(), 0, "", "")) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (90..=110).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_pointer_finds_a_text_a_number_or_nothing() {
        let of = |metadata| shards("metadata:/a/0", 1_000).of(&event("1", 0, "", metadata));
        let key = |text| shards("foreign-id", 1_000).of(&event("1", 0, text, ""));
        assert_eq!(of(r#"{"a":["Hello"]}"#), key("Hello"));
        assert_eq!(of(r#"{"a":[12]}"#), key("12"));
        for nothing in ["", "no JSON", "{}", r#"{"a":[null]}"#] {
            assert_eq!(of(nothing), key(""), "{nothing}");
        }
        for bad in ["", "x", "metadata", "metadata:a", "Type"] {
            assert!(bad.parse::<ShardBy>().is_err(), "{bad} was taken");
        }
        for good in ["foreign-id", "type", "id", "metadata:", "metadata:/a/0"] {
            assert_eq!(good.parse::<ShardBy>().unwrap().to_string(), good);
        }
    }

    /// Of numbers.
    fn compare(a: &Cursor, b: &Cursor) -> Ordering {
        a.0.len().cmp(&b.0.len()).then_with(|| a.0.cmp(&b.0))
    }

    fn rows(cursors: &[&'static str]) -> Vec<Position> {
        let consumer = ConsumerId { tenant: Default::default(), name: "c".parse().unwrap() };
        let row = |(index, cursor): (u32, &&'static str)| Position {
            cursor: Cursor((*cursor).into()),
            revision: Revision(7),
            ..Position::start(ShardId { consumer: consumer.clone(), index }, Fence(3))
        };
        (0..).zip(cursors).map(row).collect()
    }

    /// Divides again and again, each time after the shards have come as far as is said, and counts how often each event is
    /// handled: once, by the shards that are there in the end at the latest.
    #[test]
    fn whatever_is_divided_again_each_event_is_handled_once() {
        fastrand::seed(7);
        for _ in 0..200 {
            let events: Vec<Event> = (1..=60).map(|n| event(&n.to_string(), n, &format!("k{}", n % 11), "")).collect();
            let mut handled = vec![0; events.len()];
            let (mut now, mut past, mut begin) = (shards("foreign-id", 1), Past::default(), Cursor::START);
            for round in 0..5 {
                let mut after = Vec::new();
                for index in 0..now.count {
                    let until = if round == 4 { 60 } else { fastrand::i32(0..=60) };
                    let until = Cursor(until.to_string().into());
                    let end = if compare(&until, &begin).is_lt() { begin.clone() } else { until };
                    for (event, times) in events.iter().zip(&mut handled) {
                        let is_read = compare(&event.cursor, &begin).is_gt() && compare(&event.cursor, &end).is_le();
                        if is_read && now.of(event) == index && !past.has_handled(event, &compare) {
                            *times += 1;
                        }
                    }
                    after.push(end);
                }
                let mut positions = rows(&vec!["0"; after.len()]);
                positions.iter_mut().zip(after).for_each(|(row, cursor)| row.cursor = cursor);
                let to = Shards {
                    by: ["foreign-id", "type", "id"][fastrand::usize(0..3)].parse().unwrap(),
                    count: fastrand::u32(1..9),
                };
                let consumer = positions[0].shard.consumer.clone();
                let (next, known) =
                    divide_anew(&consumer, (&now, &past, &Cursor::START), &to, &positions, Timestamp(0), &compare);
                begin = next[0].cursor.clone();
                (now, past) = (to, known);
            }
            assert!(handled.iter().all(|times| *times == 1), "{handled:?}");
        }
    }

    #[test]
    fn a_pause_outlives_its_shard_and_nothing_else_does() {
        let mut positions = rows(&["5", "2", "9"]);
        let event = Some(EventId("6".into()));
        let (code, message, since) = ("trap".into(), String::new(), Timestamp(1));
        positions[0].reason =
            Some(crate::store::Reason { code, message, event, since, retry_at: None, logs: String::new() });
        positions[0].attempts = 4;
        positions[0].status = Status::Blocked;
        let consumer = positions[0].shard.consumer.clone();
        let divide = |positions: &[Position], to| {
            let before = shards("id", 3);
            let now = (&before, &Past::default(), &Cursor::START);
            divide_anew(&consumer, now, &shards("id", to), positions, Timestamp(8), &compare)
        };
        let (new, _) = divide(&positions, 2);
        assert_eq!(
            new.iter().map(|row| (row.shard.index, row.cursor.to_string())).collect::<Vec<_>>(),
            [(0, "2".to_owned()), (1, "2".to_owned()), (2, "2".to_owned())]
        );
        assert!(
            new.iter().all(|row| row.revision == Revision(8) && row.status == Status::Running && row.attempts == 0)
        );
        positions[2].status = Status::Paused;
        assert!(divide(&positions, 5).0.iter().all(|row| row.status == Status::Paused));
    }
}
