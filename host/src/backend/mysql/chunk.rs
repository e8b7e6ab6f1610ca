//! A chunk from its rows. All texts of it are one piece of memory, and so are all payloads.

use bytes::Bytes;
use bytestring::ByteString;
use sqlx::{Row as _, mysql::MySqlRow};

use crate::{
    backend::row::decode,
    event::{Cursor, Event, EventId, Headers, Timestamp},
};

/// The events of rows, and the id of the last one.
pub(super) fn events(rows: &[MySqlRow]) -> sqlx::Result<(Vec<Event>, Option<i64>)> {
    let (mut texts, mut payload, mut ends) = (String::new(), Vec::new(), Vec::with_capacity(rows.len()));
    let mut last = None;
    for row in rows {
        let number: i64 = row.try_get(0)?;
        let start = texts.len();
        texts.push_str(number.to_string().as_str());
        let id = texts.len();
        texts.push_str(std::str::from_utf8(row.try_get(2)?).map_err(|error| decode(error))?);
        payload.extend_from_slice(row.try_get(4)?);
        ends.push((start, id, texts.len(), payload.len()));
        last = Some(number);
    }
    let (texts, payload) = (ByteString::from(texts), Bytes::from(payload));
    let mut from = 0;
    let event = |(row, (start, id, end, payload_end)): (&MySqlRow, (usize, usize, usize, usize))| {
        let text = |from: usize, to: usize| texts.get(from..to).map(|piece| texts.slice_ref(piece)).unwrap_or_default();
        let headers: Option<&str> = row.try_get(5)?;
        let metadata = payload.slice(std::mem::replace(&mut from, payload_end)..payload_end);
        let number = text(start, id);
        Ok(Event {
            cursor: Cursor(number.as_bytes().clone()),
            id: EventId(number),
            r#type: row.try_get(1)?,
            foreign_id: text(id, end),
            timestamp: Timestamp(row.try_get(3)?),
            metadata,
            headers: headers.map_or(Ok(Headers::new()), serde_json::from_str).map_err(decode)?,
        })
    };
    let events: sqlx::Result<Vec<Event>> = rows.iter().zip(ends).map(event).collect();
    Ok((events?, last))
}
