//! Appending to streams, in the transaction that moves the cursor: once for each event that is handled, whatever
//! happens. The operator grants the streams (`grants.emit`).

use serde::Serialize;

use crate::{NewEvent, Result, host};

/// Appends an event that the event in hand caused.
pub fn emit(stream: &str, r#type: i32, foreign_id: &str, metadata: impl Into<Vec<u8>>) {
    event(&new(stream, r#type, foreign_id, metadata.into()), 0);
}

/// Appends an event whose payload is a value as JSON.
pub fn json<T: Serialize + ?Sized>(stream: &str, r#type: i32, foreign_id: &str, value: &T) -> Result<()> {
    event(&new(stream, r#type, foreign_id, serde_json::to_vec(value)?), 0);
    Ok(())
}

/// Appends an event. In a batch handler `cause` is the index of the event that caused it, in a handler it is ignored.
pub fn event(event: &NewEvent, cause: u32) {
    host::emit(event, cause);
}

fn new(stream: &str, r#type: i32, foreign_id: &str, metadata: Vec<u8>) -> NewEvent {
    NewEvent {
        stream: stream.to_owned(),
        type_: r#type,
        foreign_id: foreign_id.to_owned(),
        metadata,
        headers: Vec::new(),
    }
}
