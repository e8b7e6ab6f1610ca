//! A chunk from its rows. All texts of it are one piece of memory, and so are all payloads.

use bytes::Bytes;
use bytestring::ByteString;
use sqlx::{Row as _, postgres::PgRow};

use super::source::Place;
use crate::{
    backend::row::decode,
    event::{Cursor, Event, EventId, Headers, Timestamp},
};

/// The events of rows, and the place after the last one.
pub(super) fn events(rows: &[PgRow]) -> sqlx::Result<(Vec<Event>, Option<Place>)> {
    let (mut texts, mut payload, mut ends) = (String::new(), Vec::new(), Vec::with_capacity(rows.len()));
    let mut last = None;
    for row in rows {
        let place = Place { era: row.try_get(0)?, xid: row.try_get(1)?, id: row.try_get(2)? };
        let start = texts.len();
        texts.push_str(place.id.to_string().as_str());
        let id = texts.len();
        texts.push_str(std::str::from_utf8(row.try_get(4)?).map_err(|error| decode(error))?);
        payload.extend_from_slice(row.try_get(6)?);
        ends.push((start, id, texts.len(), payload.len(), place.cursor()));
        last = Some(place);
    }
    let (texts, payload) = (ByteString::from(texts), Bytes::from(payload));
    let mut from = 0;
    let event = |(row, (start, id, end, payload_end, cursor)): (&PgRow, (usize, usize, usize, usize, Cursor))| {
        let text = |from: usize, to: usize| texts.get(from..to).map(|piece| texts.slice_ref(piece)).unwrap_or_default();
        let headers: Option<&str> = row.try_get(7)?;
        let metadata = payload.slice(std::mem::replace(&mut from, payload_end)..payload_end);
        Ok(Event {
            id: EventId(text(start, id)),
            cursor,
            r#type: row.try_get(3)?,
            foreign_id: text(id, end),
            timestamp: Timestamp(row.try_get(5)?),
            metadata,
            headers: headers.map_or(Ok(Headers::new()), serde_json::from_str).map_err(decode)?,
        })
    };
    let events: sqlx::Result<Vec<Event>> = rows.iter().zip(ends).map(event).collect();
    Ok((events?, last))
}
