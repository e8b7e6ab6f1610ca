//! A chunk from its rows.

use sqlx::{Row as _, postgres::PgRow};

use super::source::Place;
use crate::{
    backend::{pieces::Pieces, row::decode},
    event::{Event, EventId, Headers, Timestamp},
};

/// The events of rows, and the place after the last one.
pub(super) fn events(rows: &[PgRow]) -> sqlx::Result<(Vec<Event>, Option<Place>)> {
    let (mut pieces, mut places) = (Pieces::default(), Vec::with_capacity(rows.len()));
    for row in rows {
        let place = Place { era: row.try_get(0)?, xid: row.try_get(1)?, id: row.try_get(2)? };
        pieces.push(place.id, row.try_get(4)?, row.try_get(6)?)?;
        places.push(place);
    }
    let last = places.last().copied();
    let event = |((row, place), (id, foreign_id, metadata)): ((&PgRow, Place), _)| {
        let headers: Option<&str> = row.try_get(7)?;
        Ok(Event {
            id: EventId(id),
            cursor: place.cursor(),
            r#type: row.try_get(3)?,
            foreign_id,
            timestamp: Timestamp(row.try_get(5)?),
            metadata,
            headers: headers.map_or(Ok(Headers::new()), serde_json::from_str).map_err(decode)?,
        })
    };
    let events: sqlx::Result<Vec<Event>> = rows.iter().zip(places).zip(pieces.finish()).map(event).collect();
    Ok((events?, last))
}
