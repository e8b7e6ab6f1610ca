//! What the proofs measure: a guest that does nothing, parses, counts, emits, or computes, as its config key `does` says.

use std::{
    collections::{HashMap, hash_map::Entry as Place},
    sync::OnceLock,
};

use serde::Deserialize;
use tendon_sdk::{Entry, Error, Event, Result, config, emit, state};

/// Bytes of a value of the state.
const VALUE_BYTES: usize = 64;
/// The key that `count-but-one` cannot handle.
const POISON: &str = "key-00000";
/// Rounds over the payload of an event that is computed with: some ten microseconds.
const ROUNDS: usize = 200;

#[derive(Clone, Copy)]
enum Work {
    Nothing,
    Parse,
    Count,
    /// The same, but for the events of one key.
    CountButOne,
    /// The same, and looks whether ids rise.
    CountInOrder,
    Emit,
    Compute,
}

static WORK: OnceLock<Work> = OnceLock::new();

/// The payload.
#[derive(Deserialize)]
struct Quake<'a> {
    quake: &'a str,
    mag: f64,
    place: &'a str,
    depth_km: f64,
}

/// Learns what to do.
pub fn init() -> Result<()> {
    let work = match config::get("does").as_deref() {
        Some("empty") => Work::Nothing,
        Some("parse") => Work::Parse,
        Some("count") => Work::Count,
        Some("count-but-one") => Work::CountButOne,
        Some("count-in-order") => Work::CountInOrder,
        Some("emit") => Work::Emit,
        Some("compute") => Work::Compute,
        other => return Err(Error::reject(format!("`does` is {other:?}"))),
    };
    // An instance is initialised once.
    let _ = WORK.set(work);
    Ok(())
}

/// One event.
pub fn handle(event: &Event) -> Result<()> {
    match WORK.get() {
        Some(Work::Parse) => parse(event),
        Some(Work::Count) => {
            parse(event)?;
            count(&event.foreign_id)
        }
        Some(Work::CountButOne) => {
            parse(event)?;
            if event.foreign_id == POISON {
                return Err(Error::retry("never this one"));
            }
            count(&event.foreign_id)
        }
        Some(Work::CountInOrder) => {
            parse(event)?;
            count_in_order(event)
        }
        Some(Work::Compute) => {
            compute(event);
            Ok(())
        }
        Some(Work::Emit) => {
            parse(event)?;
            emit::emit("out", 2, &event.foreign_id, "");
            Ok(())
        }
        Some(Work::Nothing) | None => Ok(()),
    }
}

/// Many events: the same, but that the state is read and written with one call each.
pub fn handle_batch(events: &[Event]) -> Result<(), (usize, Error)> {
    let Some(Work::Count) = WORK.get() else {
        return events.iter().enumerate().try_for_each(|(index, event)| handle(event).map_err(|error| (index, error)));
    };
    for (index, event) in events.iter().enumerate() {
        parse(event).map_err(|error| (index, error))?;
    }
    count_all(events).map_err(|error| (0, error))
}

fn parse(event: &Event) -> Result<()> {
    let quake: Quake<'_> = event.json()?;
    if quake.mag + quake.depth_km < 0.0 || quake.quake.is_empty() || quake.place.is_empty() {
        return Err(Error::reject("not a quake"));
    }
    Ok(())
}

/// Takes CPU and nothing else.
fn compute(event: &Event) {
    let mut hash = 0_u64;
    for _ in 0..ROUNDS {
        for byte in &event.metadata {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
    }
    std::hint::black_box(hash);
}

/// Reads the key's value, counts in it, writes it.
fn count(key: &str) -> Result<()> {
    let mut value = state::get(key).unwrap_or_else(|| vec![0; VALUE_BYTES]);
    add(&mut value, 1)?;
    state::set(key, value);
    Ok(())
}

/// The same; the value has the last event's id as well, and how many came at a place that was not behind the one before.
fn count_in_order(event: &Event) -> Result<()> {
    let mut value = state::get(&event.foreign_id).unwrap_or_else(|| vec![0; VALUE_BYTES]);
    let id: u64 = event.id.parse().map_err(|_| Error::reject("an id that is no number"))?;
    let (_, places) = value.split_at_mut(8);
    let (last, wrong) = places.split_at_mut(8);
    let is_wrong = id <= number(last);
    last.copy_from_slice(&id.to_le_bytes());
    add(wrong, is_wrong.into())?;
    add(&mut value, 1)?;
    state::set(&event.foreign_id, value);
    Ok(())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Reads the values of all keys, counts in them, writes them.
fn count_all(events: &[Event]) -> Result<()> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(events.len());
    let (mut keys, mut counts) = (Vec::new(), Vec::new());
    for event in events {
        match places.entry(&event.foreign_id) {
            Place::Occupied(place) => counts[*place.get()] += 1,
            Place::Vacant(place) => {
                place.insert(keys.len());
                keys.push(event.foreign_id.as_str());
                counts.push(1);
            }
        }
    }
    let mut entries = Vec::with_capacity(keys.len());
    for ((key, count), value) in keys.iter().zip(counts).zip(state::get_many(&keys)) {
        let mut value = value.unwrap_or_else(|| vec![0; VALUE_BYTES]);
        add(&mut value, count)?;
        entries.push(Entry { key: (*key).to_owned(), value });
    }
    state::set_many(&entries);
    Ok(())
}

/// The count is in the first eight bytes.
fn add(value: &mut [u8], more: u64) -> Result<()> {
    let (count, _) = value.split_first_chunk_mut::<8>().ok_or_else(|| Error::reject("a short value"))?;
    *count = (u64::from_le_bytes(*count) + more).to_le_bytes();
    Ok(())
}
