//! A chunk, from the one row that it is read as: each column is the values of all its events, one behind the other, so
//! that no event costs a row. (Measured: a row an event costs sqlx as much as the guest's call.)

use std::fmt::Write as _;

use bytes::Bytes;
use bytestring::ByteString;
use sqlx::{Row as _, postgres::PgRow};

use super::source::Place;
use crate::{
    backend::{columns::Texts, row::decode},
    event::{Cursor, Event, EventId, Headers, Timestamp},
};

/// The one row of rows: how many; eras, xids, ids, types, times, lengths of foreign ids and of payloads as the server
/// holds numbers; foreign ids; payloads; the ids of those that have headers, and their headers.
pub(super) fn columns_sql(rows: &str) -> String {
    format!(
        "SELECT count(*), string_agg(int8send(era), ''), string_agg(xid8send(xid), ''), string_agg(int8send(id), ''),
            string_agg(int4send(type), ''), string_agg(int8send(timestamp), ''),
            string_agg(int4send(octet_length(foreign_id)), ''), string_agg(int4send(octet_length(metadata)), ''),
            string_agg(foreign_id, ''), string_agg(metadata, ''),
            array_agg(id) FILTER (WHERE headers IS NOT NULL), array_agg(headers) FILTER (WHERE headers IS NOT NULL)
        FROM ({rows}) AS chunk"
    )
}

/// The events of such a row, and the place after the last one.
pub(super) fn events(row: &PgRow) -> sqlx::Result<(Vec<Event>, Option<Place>)> {
    let count: i64 = row.try_get(0)?;
    let count = usize::try_from(count).map_err(decode)?;
    if count == 0 {
        return Ok((Vec::new(), None));
    }
    let mut places = Places::default();
    let (eras, xids, ids) = (longs(row, 1, count)?, longs(row, 2, count)?, longs(row, 3, count)?);
    for ((era, xid), id) in eras.zip(xids).zip(ids) {
        places.push(Place { era, xid, id })?;
    }
    let last = places.last;
    let numbers = ints(row, 4, count)?.zip(longs(row, 5, count)?);
    let lengths = ints(row, 6, count)?.zip(ints(row, 7, count)?);
    let foreign_ids: Vec<u8> = row.try_get(8)?;
    let mut foreign_ids = Texts::new(String::from_utf8(foreign_ids).map_err(decode)?);
    let mut metadata = Bytes::from(row.try_get::<Vec<u8>, _>(9)?);
    let mut headers = AllHeaders::new(row)?;
    let mut events = Vec::with_capacity(count);
    for (((number, cursor, id), (r#type, timestamp)), lengths) in places.finish().zip(numbers).zip(lengths) {
        let (Ok(foreign_bytes), Ok(metadata_bytes)) = (usize::try_from(lengths.0), usize::try_from(lengths.1)) else {
            return Err(unfit());
        };
        if metadata_bytes > metadata.len() {
            return Err(unfit());
        }
        events.push(Event {
            id,
            cursor,
            r#type,
            foreign_id: foreign_ids.next(foreign_bytes).ok_or_else(unfit)?,
            timestamp: Timestamp(timestamp),
            metadata: metadata.split_to(metadata_bytes),
            headers: headers.of(number)?,
        });
    }
    Ok((events, Some(last)))
}

fn unfit() -> sqlx::Error {
    decode("the columns of a chunk do not fit each other")
}

/// A column of numbers of 64 bits.
fn longs(row: &PgRow, column: usize, count: usize) -> sqlx::Result<impl Iterator<Item = i64>> {
    let (numbers, rest) = row.try_get::<&[u8], _>(column)?.as_chunks::<8>();
    let fits = numbers.len() == count && rest.is_empty();
    if fits { Ok(numbers.iter().map(|bytes| i64::from_be_bytes(*bytes))) } else { Err(unfit()) }
}

/// A column of numbers of 32 bits.
fn ints(row: &PgRow, column: usize, count: usize) -> sqlx::Result<impl Iterator<Item = i32>> {
    let (numbers, rest) = row.try_get::<&[u8], _>(column)?.as_chunks::<4>();
    let fits = numbers.len() == count && rest.is_empty();
    if fits { Ok(numbers.iter().map(|bytes| i32::from_be_bytes(*bytes))) } else { Err(unfit()) }
}

/// Cursors and ids of a chunk in one piece of memory: a cursor ends with its event's id.
#[derive(Default)]
struct Places {
    text: String,
    /// What the cursors of one transaction begin with.
    prefix: String,
    last: Place,
    /// The id, and where cursor and id begin and end in the text.
    marks: Vec<(i64, usize, usize, usize)>,
}

impl Places {
    /// Adds the next place. Who would take places out of order would pass others.
    fn push(&mut self, place: Place) -> sqlx::Result<()> {
        if place <= self.last {
            return Err(unfit());
        }
        if (place.era, place.xid) != (self.last.era, self.last.xid) {
            self.prefix = place.prefix();
        }
        self.last = place;
        let cursor_at = self.text.len();
        self.text.push_str(&self.prefix);
        let id_at = self.text.len();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{}", place.id);
        self.marks.push((place.id, cursor_at, id_at, self.text.len()));
        Ok(())
    }

    fn finish(self) -> impl Iterator<Item = (i64, Cursor, EventId)> {
        let text = ByteString::from(self.text);
        self.marks.into_iter().map(move |(number, cursor_at, id_at, end)| {
            let id = text.get(id_at..end).map(|id| text.slice_ref(id)).unwrap_or_default();
            (number, Cursor(text.as_bytes().slice(cursor_at..end)), EventId(id))
        })
    }
}

/// The headers of a chunk's events: of most chunks, none.
struct AllHeaders {
    ids: std::iter::Peekable<std::vec::IntoIter<i64>>,
    texts: std::vec::IntoIter<String>,
}

impl AllHeaders {
    fn new(row: &PgRow) -> sqlx::Result<Self> {
        let (ids, texts): (Option<Vec<i64>>, Option<Vec<String>>) = (row.try_get(10)?, row.try_get(11)?);
        let ids = ids.unwrap_or_default().into_iter().peekable();
        Ok(Self { ids, texts: texts.unwrap_or_default().into_iter() })
    }

    fn of(&mut self, id: i64) -> sqlx::Result<Headers> {
        if self.ids.next_if_eq(&id).is_none() {
            return Ok(Headers::new());
        }
        let text = self.texts.next().ok_or_else(unfit)?;
        serde_json::from_str(&text).map_err(decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_cursors_that_end_with_ids() {
        let mut places = Places::default();
        for (era, xid, id) in [(1, 7, 3), (1, 7, 12), (1, 9, 4), (2, 1, 1)] {
            places.push(Place { era, xid, id }).unwrap();
        }
        let found: Vec<_> = places.finish().map(|(number, cursor, id)| format!("{number} {cursor} {id}")).collect();
        assert_eq!(found, ["3 1.7.3 3", "12 1.7.12 12", "4 1.9.4 4", "1 2.1.1 1"]);
    }

    #[test]
    fn places_out_of_order_are_refused() {
        let mut places = Places::default();
        places.push(Place { era: 1, xid: 7, id: 3 }).unwrap();
        assert!(places.push(Place { era: 1, xid: 7, id: 3 }).is_err());
        assert!(places.push(Place { era: 1, xid: 6, id: 4 }).is_err());
    }
}
