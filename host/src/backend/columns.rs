//! A chunk from the one row that it is read as. Every column becomes one piece of memory that its events share.

use std::fmt::Write as _;

use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    error::{Error, Result},
    event::{Cursor, Event, EventId, Headers, Timestamp},
};

/// The row: how many events, their first and last id, how many have headers; then types, timestamps, lengths of foreign
/// ids, foreign ids, lengths of payloads, payloads. (A row an event costs sqlx more than all else about an event.)
#[derive(sqlx::FromRow)]
pub(super) struct Columns(
    pub(super) i64,
    pub(super) Option<i64>,
    pub(super) Option<i64>,
    pub(super) i64,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Vec<u8>>,
    Option<String>,
    Option<Vec<u8>>,
);

/// What is read besides where ids have holes or events have headers: ids, lengths of headers (-1: none), headers.
#[derive(sqlx::FromRow)]
pub(super) struct More(Option<String>, Option<String>, Option<String>);

impl More {
    /// The ids alone: no event has headers.
    pub(super) fn ids(ids: String) -> Self {
        Self(Some(ids), None, None)
    }
}

impl Columns {
    /// Whether the row alone does not tell everything.
    pub(super) fn needs_more(&self) -> bool {
        let dense = match (self.1, self.2) {
            (Some(first), Some(last)) => last - first + 1 == self.0,
            _ => true,
        };
        !dense || self.3 > 0
    }

    /// The events, in order; none where they contradict each other.
    pub(super) fn into_events(self, more: Option<More>) -> Result<Vec<Event>> {
        let count = usize::try_from(self.0).unwrap_or_default();
        let events = self.decode(count, more).filter(|events| events.len() == count);
        events.ok_or_else(|| Error::corrupt("the columns of a chunk do not fit each other"))
    }

    fn decode(self, count: usize, more: Option<More>) -> Option<Vec<Event>> {
        let Self(_, first, last, _, types, timestamps, foreign_bytes, foreign_ids, metadata_bytes, metadata) = self;
        let (types, timestamps) = (types.unwrap_or_default(), timestamps.unwrap_or_default());
        let (foreign_bytes, metadata_bytes) = (foreign_bytes.unwrap_or_default(), metadata_bytes.unwrap_or_default());
        let mut numbers =
            numbers(&types).zip(numbers(&timestamps)).zip(numbers(&foreign_bytes).zip(numbers(&metadata_bytes)));
        let ids = match &more {
            Some(More(ids, ..)) => Ids::listed(ids.as_deref().unwrap_or_default())?,
            None => Ids::dense(first.unwrap_or_default(), last.unwrap_or(-1)),
        };
        let mut ids = ids.into_iter();
        let mut foreign_ids = Texts::new(String::from_utf8(foreign_ids.unwrap_or_default()).ok()?);
        let mut metadata = Bytes::from(metadata.unwrap_or_default());
        let mut headers = AllHeaders::new(more.as_ref())?;
        let mut events = Vec::with_capacity(count);
        while let Some(((r#type, timestamp), (foreign_bytes, metadata_bytes))) = numbers.next() {
            let metadata_bytes = usize::try_from(metadata_bytes?).ok().filter(|bytes| *bytes <= metadata.len())?;
            let id = ids.next()?;
            events.push(Event {
                cursor: Cursor(id.as_bytes().clone()),
                id: EventId(id),
                r#type: i32::try_from(r#type?).ok()?,
                foreign_id: foreign_ids.next(usize::try_from(foreign_bytes?).ok()?)?,
                timestamp: Timestamp(timestamp?),
                metadata: metadata.split_to(metadata_bytes),
                headers: headers.next()?,
            });
        }
        Some(events)
    }
}

/// The numbers of a list such as `1,2,3`.
fn numbers(list: &str) -> impl Iterator<Item = Option<i64>> {
    list.split(',').filter(|number| !number.is_empty()).map(|number| number.parse().ok())
}

/// Pieces of one text.
pub(super) struct Texts {
    text: ByteString,
    at: usize,
}

impl Texts {
    pub(super) fn new(text: String) -> Self {
        Self { text: text.into(), at: 0 }
    }

    /// The next piece; none where it is longer than what is left, or ends within a character.
    pub(super) fn next(&mut self, bytes: usize) -> Option<ByteString> {
        let end = self.at.checked_add(bytes)?;
        let piece = self.text.get(self.at..end)?;
        self.at = end;
        Some(self.text.slice_ref(piece))
    }
}

/// Ids as decimal text, all in one piece of memory.
struct Ids {
    text: Texts,
    ends: std::vec::IntoIter<usize>,
}

impl Ids {
    fn dense(first: i64, last: i64) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for id in first..=last {
            // Writing to a String cannot fail.
            let _ = write!(text, "{id}");
            ends.push(text.len());
        }
        Self { text: Texts::new(text), ends: ends.into_iter() }
    }

    /// None where they are not in order: what is in the other columns is not either.
    fn listed(list: &str) -> Option<Self> {
        let (mut text, mut ends) = (String::new(), Vec::new());
        let mut before = "";
        for id in list.split(',').filter(|id| !id.is_empty()) {
            if (id.len(), id) <= (before.len(), before) {
                return None;
            }
            text.push_str(id);
            ends.push(text.len());
            before = id;
        }
        Some(Self { text: Texts::new(text), ends: ends.into_iter() })
    }
}

impl Iterator for Ids {
    type Item = ByteString;

    fn next(&mut self) -> Option<ByteString> {
        let end = self.ends.next()?;
        self.text.next(end - self.text.at)
    }
}

/// The headers of a chunk's events: of most chunks, none.
struct AllHeaders<'a> {
    lengths: Option<std::vec::IntoIter<i64>>,
    text: &'a str,
}

impl<'a> AllHeaders<'a> {
    fn new(more: Option<&'a More>) -> Option<Self> {
        let Some(More(_, Some(lengths), text)) = more else { return Some(Self { lengths: None, text: "" }) };
        let lengths: Option<Vec<i64>> = numbers(lengths).collect();
        Some(Self { lengths: Some(lengths?.into_iter()), text: text.as_deref().unwrap_or_default() })
    }

    fn next(&mut self) -> Option<Headers> {
        let Some(lengths) = &mut self.lengths else { return Some(Headers::new()) };
        // -1 stands for none.
        let Ok(bytes) = usize::try_from(lengths.next()?) else { return Some(Headers::new()) };
        let (headers, rest) = self.text.split_at_checked(bytes)?;
        self.text = rest;
        serde_json::from_str(headers).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(foreign_ids: &str, lengths: &str) -> Columns {
        let some = |text: &str| Some(text.to_owned());
        let metadata = Some(b"\0\xff".to_vec());
        Columns(
            2,
            Some(9),
            Some(10),
            0,
            some("1,-2"),
            some("5,-6"),
            some(lengths),
            Some(foreign_ids.as_bytes().to_vec()),
            some("0,2"),
            metadata,
        )
    }

    #[test]
    fn columns_become_events() {
        let events = columns("äb", "2,1").into_events(None).unwrap();
        let ids: Vec<_> = events.iter().map(|event| event.id.to_string()).collect();
        assert_eq!(ids, ["9", "10"]);
        assert_eq!(events[0].foreign_id, "ä");
        assert_eq!((events[1].r#type, events[1].timestamp.0), (-2, -6));
        assert_eq!(&events[1].metadata[..], b"\0\xff");
    }

    #[test]
    fn columns_that_do_not_fit_are_an_error_and_no_panic() {
        for lengths in ["1,2", "2", "2,9", "2,x", ""] {
            assert!(columns("äb", lengths).into_events(None).is_err(), "{lengths}");
        }
    }

    #[test]
    fn listed_ids_and_headers_are_taken_from_what_was_read_besides() {
        let more = More(Some("9,12".into()), Some("-1,11".into()), Some(r#"[["a","b"]]"#.into()));
        let events = columns("ab", "1,1").into_events(Some(more)).unwrap();
        assert_eq!(events[1].id.to_string(), "12");
        assert_eq!((events[0].headers.len(), events[1].headers.len()), (0, 1));
        let events = columns("ab", "1,1").into_events(Some(More::ids("9,12".into()))).unwrap();
        assert!(events.iter().all(|event| event.headers.is_empty()));
    }

    #[test]
    fn rows_that_came_out_of_order_are_an_error() {
        for ids in ["10,9", "9,9", "9"] {
            assert!(columns("ab", "1,1").into_events(Some(More::ids(ids.into()))).is_err(), "{ids}");
        }
    }
}
