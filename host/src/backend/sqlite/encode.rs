//! What a statement writes, however much it is, in two parameters: all bytes one after another, and JSON that says
//! where each piece is. JSON itself holds no bytes that a user chose. (Measured with 250 state writes: 1.2 µs a write; a
//! statement for each costs 9 to 13.)

use bytestring::ByteString;
use serde_json::{Value, json};

use crate::{
    backend::row,
    changes::{Emit, StateKey},
    error::{Error, Result},
    event::EventKey,
    limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX},
    store::{Move, Position},
    tenant::ConsumerId,
};

/// The most bytes of one statement; SQLite's own limit is 10⁹.
pub(super) const STATEMENT_BYTES_MAX: usize = 900_000_000;
/// A piece of a state's arena is one number: where it begins, and in the lower bits the lengths of key and value, which
/// `backend::check` has held to their limits.
const KEY_LENGTH_BITS: u32 = 11;
const VALUE_LENGTH_BITS: u32 = 21;
const _: () = assert!(STATE_KEY_BYTES_MAX < 1 << KEY_LENGTH_BITS && STATE_VALUE_BYTES_MAX < 1 << VALUE_LENGTH_BITS);

/// All bytes of a statement. It begins with a byte that means nothing: SQL counts from 1, and takes an empty blob for
/// NULL.
pub(super) struct Arena(Vec<u8>);

impl Arena {
    pub(super) fn new() -> Self {
        Self(vec![0])
    }

    /// Adds a piece; says where SQL finds it.
    fn push(&mut self, bytes: &[u8]) -> usize {
        let at = self.0.len() + 1;
        self.0.extend_from_slice(bytes);
        at
    }

    fn finish(self) -> Result<Vec<u8>> {
        if self.0.len() > STATEMENT_BYTES_MAX {
            let found = self.0.len();
            return Err(Error::limit(format!(
                "a commit holds {found} bytes, at most {STATEMENT_BYTES_MAX} are written at once"
            )));
        }
        Ok(self.0)
    }
}

/// A statement's two parameters.
pub(super) struct Parameters {
    pub(super) json: String,
    pub(super) bytes: Vec<u8>,
}

/// Sets the values of keys. REPLACE, not an upsert: in a table with this one index SQLite then looks for no conflict, but
/// overwrites the row where it finds it, in place when the new value is as long as the old one.
pub(super) const SET_STATE: &str = "
    WITH part AS MATERIALIZED (
        SELECT value->>0 AS tenant, value->>1 AS consumer, CAST(substr(?2, value->>2, value->>3) AS TEXT) AS part,
            value->4 AS writes
        FROM json_each(?1)
    )
    INSERT OR REPLACE INTO state (tenant, consumer, part, key, value)
    SELECT tenant, consumer, part, CAST(substr(?2, write.value >> 32, (write.value >> 21) & 2047) AS TEXT),
        substr(?2, (write.value >> 32) + ((write.value >> 21) & 2047), write.value & 2097151)
    FROM part, json_each(part.writes) AS write";

/// Deletes keys.
pub(super) const DELETE_STATE: &str = "
    WITH part AS MATERIALIZED (
        SELECT value->>0 AS tenant, value->>1 AS consumer, CAST(substr(?2, value->>2, value->>3) AS TEXT) AS part,
            value->4 AS writes
        FROM json_each(?1)
    )
    DELETE FROM state WHERE (tenant, consumer, part, key) IN (
        SELECT tenant, consumer, part, CAST(substr(?2, write.value >> 32, (write.value >> 21) & 2047) AS TEXT)
        FROM part, json_each(part.writes) AS write
    )";

/// One key of a state, with its value or none.
pub(super) type Write<'a> = (&'a ConsumerId, &'a StateKey, Option<&'a [u8]>);

/// The parameters of `SET_STATE` and `DELETE_STATE`. The writes are in the table's order, so that neighbours meet the same
/// page, and a part is named once.
pub(super) fn state(writes: &[Write<'_>]) -> Result<Parameters> {
    let (mut arena, mut parts) = (Arena::new(), Vec::new());
    for same in writes.chunk_by(|(a, a_key, _), (b, b_key, _)| a == b && a_key.part == b_key.part) {
        let Some((consumer, StateKey { part, .. }, _)) = same.first() else { continue };
        let at = arena.push(part.as_bytes());
        let mut packed = Vec::with_capacity(same.len());
        for (_, StateKey { key, .. }, value) in same {
            packed.push(pack(&mut arena, key, value.unwrap_or_default()));
        }
        parts.push(json!([consumer.tenant, consumer.name, at, part.len(), packed]));
    }
    Ok(Parameters { json: Value::from(parts).to_string(), bytes: arena.finish()? })
}

fn pack(arena: &mut Arena, key: &ByteString, value: &[u8]) -> usize {
    let at = arena.push(key.as_bytes());
    arena.push(value);
    at << (KEY_LENGTH_BITS + VALUE_LENGTH_BITS) | key.len() << VALUE_LENGTH_BITS | value.len()
}

/// A move as `commit.rs` binds it: the row to be found, then what it becomes.
pub(super) fn move_json(r#move: &Move, to: &Position) -> Result<Value> {
    let from = &r#move.from;
    let reason = to.reason.as_ref().map(serde_json::to_string).transpose();
    let reason = reason.map_err(|error| Error::corrupt("a reason is not JSON").because(error))?;
    Ok(json!([
        from.shard.consumer.tenant,
        from.shard.consumer.name,
        from.shard.index,
        from.fence.0.cast_signed(),
        from.revision.0.cast_signed(),
        from.epoch.0.cast_signed(),
        hex::encode(&to.cursor.0),
        to.fence.0.cast_signed(),
        to.generation,
        to.epoch.0.cast_signed(),
        row::status_text(to.status),
        reason,
        to.attempts,
        to.digest.map(|digest| hex::encode(digest.0)),
        to.last_event.map(|hash| hex::encode(hash.0)),
        hex::encode(&to.high_water.0),
        to.features.cast_signed(),
        to.updated_at.0,
        &*to.owner.0,
    ]))
}

/// The parameters of a table's `append`.
pub(super) fn events(emits: &[&Emit]) -> Result<Parameters> {
    let (mut arena, mut rows) = (Arena::new(), Vec::with_capacity(emits.len()));
    for Emit { event, .. } in emits {
        let headers = match event.headers.as_slice() {
            [] => Ok(String::new()),
            headers => serde_json::to_string(headers),
        };
        let headers = headers.map_err(|error| Error::corrupt("headers are not JSON").because(error))?;
        let at = arena.push(event.foreign_id.as_bytes());
        arena.push(&event.metadata);
        arena.push(headers.as_bytes());
        let (foreign_bytes, metadata_bytes) = (event.foreign_id.len(), event.metadata.len());
        rows.push(json!([event.r#type, event.timestamp.0, at, foreign_bytes, metadata_bytes, headers.len()]));
    }
    Ok(Parameters { json: Value::from(rows).to_string(), bytes: arena.finish()? })
}

/// Keeps the keys of events.
pub(super) const INSERT_KEYS: &str = "INSERT INTO event_key (key) SELECT substr(?2, value, 16) FROM json_each(?1)";

/// The numbers of the keys that are there already, as one JSON array.
pub(super) const KNOWN_KEYS: &str = "SELECT json_group_array(key) FROM json_each(?1) AS wanted
    WHERE EXISTS (SELECT 1 FROM event_key WHERE event_key.key = substr(?2, wanted.value, 16))";

/// The parameters of `INSERT_KEYS` and `KNOWN_KEYS`.
pub(super) fn event_keys(keys: &[&EventKey]) -> Result<Parameters> {
    let mut arena = Arena::new();
    let at: Vec<usize> = keys.iter().map(|key| arena.push(key.0.as_bytes())).collect();
    Ok(Parameters { json: Value::from(at).to_string(), bytes: arena.finish()? })
}

/// The newest row of the log, and the values of keys with their numbers.
pub(super) const GET_STATE: &str = "
    SELECT (SELECT ifnull(max(id), 0) FROM state_log), wanted.key, state.value
    FROM json_each(?1) AS wanted LEFT JOIN state
    ON state.tenant = ?3 AND state.consumer = ?4 AND state.part = ?5
        AND state.key = CAST(substr(?2, wanted.value->>0, wanted.value->>1) AS TEXT)";

/// The first two parameters of `GET_STATE`.
pub(super) fn keys(keys: &[ByteString]) -> Result<Parameters> {
    let mut arena = Arena::new();
    let rows: Vec<Value> = keys.iter().map(|key| json!([arena.push(key.as_bytes()), key.len()])).collect();
    Ok(Parameters { json: Value::from(rows).to_string(), bytes: arena.finish()? })
}
