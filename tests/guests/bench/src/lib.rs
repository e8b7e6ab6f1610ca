//! What the proofs measure: a guest that does nothing, parses, counts or emits, as its config key `does` says.

use std::sync::OnceLock;

use serde::Deserialize;
use tendon_sdk::{Error, Event, Result, config, emit, state};

/// Bytes of a value of the state.
const VALUE_BYTES: usize = 64;

#[derive(Clone, Copy)]
enum Work {
    Nothing,
    Parse,
    Count,
    Emit,
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

fn init() -> Result<()> {
    let work = match config::get("does").as_deref() {
        Some("empty") => Work::Nothing,
        Some("parse") => Work::Parse,
        Some("count") => Work::Count,
        Some("emit") => Work::Emit,
        other => return Err(Error::reject(format!("`does` is {other:?}"))),
    };
    // An instance is initialised once.
    let _ = WORK.set(work);
    Ok(())
}

fn handle(event: &Event) -> Result<()> {
    match WORK.get() {
        Some(Work::Parse) => parse(event),
        Some(Work::Count) => {
            parse(event)?;
            count(&event.foreign_id)
        }
        Some(Work::Emit) => {
            parse(event)?;
            emit::emit("out", 2, &event.foreign_id, "");
            Ok(())
        }
        Some(Work::Nothing) | None => Ok(()),
    }
}

fn parse(event: &Event) -> Result<()> {
    let quake: Quake<'_> = event.json()?;
    if quake.mag + quake.depth_km < 0.0 || quake.quake.is_empty() || quake.place.is_empty() {
        return Err(Error::reject("not a quake"));
    }
    Ok(())
}

/// Reads the key's value, counts in its first eight bytes, writes it.
fn count(key: &str) -> Result<()> {
    let mut value = state::get(key).unwrap_or_else(|| vec![0; VALUE_BYTES]);
    let (count, _) = value.split_first_chunk_mut::<8>().ok_or_else(|| Error::reject("a short value"))?;
    *count = (u64::from_le_bytes(*count) + 1).to_le_bytes();
    state::set(key, value);
    Ok(())
}

tendon_sdk::handler!(handle, init = init);
