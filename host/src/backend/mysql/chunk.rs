//! A chunk from its rows.

use sqlx::{Row as _, mysql::MySqlRow};

use crate::{
    backend::{pieces::Pieces, row::decode},
    event::{Cursor, Event, EventId, Headers, Timestamp},
};

/// The events of rows, and the id of the last one.
pub(super) fn events(rows: &[MySqlRow]) -> sqlx::Result<(Vec<Event>, Option<i64>)> {
    let mut pieces = Pieces::default();
    let mut last = None;
    for row in rows {
        let id = row.try_get(0)?;
        pieces.push(id, row.try_get(2)?, row.try_get(4)?)?;
        last = Some(id);
    }
    let event = |(row, (id, foreign_id, metadata)): (&MySqlRow, (bytestring::ByteString, _, _))| {
        let headers: Option<&str> = row.try_get(5)?;
        Ok(Event {
            cursor: Cursor(id.as_bytes().clone()),
            id: EventId(id),
            r#type: row.try_get(1)?,
            foreign_id,
            timestamp: Timestamp(row.try_get(3)?),
            metadata,
            headers: headers.map_or(Ok(Headers::new()), serde_json::from_str).map_err(decode)?,
        })
    };
    let events: sqlx::Result<Vec<Event>> = rows.iter().zip(pieces.finish()).map(event).collect();
    Ok((events?, last))
}
