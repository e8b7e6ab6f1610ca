//! Files of events: one JSON object a line.
//!
//! ```text
//! {"type":1,"foreign_id":"us","timestamp":"2018-01-31T02:00:31.800Z","metadata":{"mag":5.3}}
//! ```
//!
//! | key | |
//! |---|---|
//! | `type` | required; a whole number of 32 bits |
//! | `foreign_id` | required; at most 255 bytes |
//! | `timestamp` | RFC 3339; the moment of reading where there is none |
//! | `metadata` | any JSON value: its text, without the white space, is the payload |
//! | `metadata_text` | instead: the payload as text |
//! | `metadata_base64` | instead: the payload as base64 |
//! | `headers` | an object of strings |
//! | `id` | ignored: an exported event has one, an appended one is given another |
//!
//! Each line's key is made from its stream, its content and how often the file had that content before, so that a
//! second import of the same file adds nothing, and two equal lines are two events.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, Read as _},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    changes::Emit,
    clock::Clock,
    error::{Error, Result},
    event::{EventKey, NewEvent, Timestamp},
    limits::EVENT_BYTES_MAX,
    tenant::StreamId,
};

/// The longest foreign id, in bytes.
pub const FOREIGN_ID_BYTES_MAX: usize = 255;
/// The longest line, in bytes: the largest event in base64, with room for the rest.
pub const LINE_BYTES_MAX: usize = 2 * EVENT_BYTES_MAX;

/// All events of a file: it is good as a whole, or the error names its first bad line. `name` is what the error calls
/// the file.
pub fn read(name: &str, input: impl BufRead, stream: &StreamId) -> Result<Vec<Emit>> {
    Lines::new(name, input, stream).collect()
}

/// Looks at one event, which is in no file.
pub fn check(event: &str, stream: &StreamId) -> Result<()> {
    Lines::new("the event", &[][..], stream).emit(event.as_bytes()).map(drop)
}

/// The events of a file, one by one. Ends after the first error.
pub struct Lines<'a, R> {
    name: &'a str,
    input: R,
    stream: &'a StreamId,
    line: u64,
    ended: bool,
    /// How often each content has been seen.
    seen: HashMap<Uuid, u32>,
}

impl<'a, R: BufRead> Lines<'a, R> {
    /// Begins at the input's first line.
    pub fn new(name: &'a str, input: R, stream: &'a StreamId) -> Self {
        Self { name, input, stream, line: 0, ended: false, seen: HashMap::new() }
    }

    /// The next line that is not empty; none at the end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            let most = LINE_BYTES_MAX as u64 + 1;
            let read = self.input.by_ref().take(most).read_until(b'\n', &mut line);
            let length =
                read.map_err(|error| Error::unavailable(format!("{} cannot be read", self.name)).because(error))?;
            if length == 0 {
                return Ok(None);
            }
            self.line += 1;
            if line.len() > LINE_BYTES_MAX {
                return Err(self.bad(format!("has more than {LINE_BYTES_MAX} bytes")));
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&line);
            if !text.trim_ascii().is_empty() {
                return Ok(Some(text.to_vec()));
            }
        }
    }

    fn emit(&mut self, line: &[u8]) -> Result<Emit> {
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err(self.bad("not a JSON object"));
        }
        let authored: Line<'_> = serde_json::from_slice(line).map_err(|error| {
            // serde_json counts within the line; its own line number would mislead.
            let text = error.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            self.bad(format!("column {}: {text}", error.column()))
        })?;
        let (event, stamped) = authored.event().map_err(|reason| self.bad(reason))?;
        let bytes = event.metadata.len() + event.foreign_id.len();
        if bytes > EVENT_BYTES_MAX {
            return Err(self.bad(format!("the event has {bytes} bytes, at most {EVENT_BYTES_MAX} are allowed")));
        }
        let key = self.key(&event, stamped);
        Ok(Emit { key, stream: self.stream.clone(), event })
    }

    /// The same whenever the same content comes for the n-th time.
    fn key(&mut self, event: &NewEvent, stamped: bool) -> EventKey {
        let led_by = if stamped { event.timestamp } else { Timestamp::default() };
        let (r#type, time) = (event.r#type.to_le_bytes(), led_by.0.to_le_bytes());
        let mut parts: Vec<&[u8]> = vec![
            b"file",
            self.stream.tenant.0.as_str().as_bytes(),
            self.stream.name.as_str().as_bytes(),
            &r#type,
            event.foreign_id.as_bytes(),
            if stamped { &time } else { &[] },
            &event.metadata,
        ];
        for (name, value) in &event.headers {
            parts.push(name.as_bytes());
            parts.push(value.as_bytes());
        }
        let content = EventKey::new(led_by, &parts).0;
        let occurrence = self.seen.entry(content).or_default();
        *occurrence += 1;
        EventKey::new(led_by, &[content.as_bytes(), &occurrence.to_le_bytes()])
    }

    fn bad(&self, reason: impl std::fmt::Display) -> Error {
        if self.line == 0 {
            return Error::invalid(format!("{}: {reason}", self.name));
        }
        Error::invalid(format!("{}, line {}: {reason}", self.name, self.line))
            .help("a line is {\"type\": 1, \"foreign_id\": \"…\", \"metadata\": …}; nothing of the file was taken")
    }
}

impl<R: BufRead> Iterator for Lines<'_, R> {
    type Item = Result<Emit>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let emit = match self.next_line() {
            Ok(None) => None,
            Ok(Some(line)) => Some(self.emit(&line)),
            Err(error) => Some(Err(error)),
        };
        self.ended = !matches!(emit, Some(Ok(_)));
        emit
    }
}

/// A line, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
struct Line<'a> {
    #[serde(default, rename = "id")]
    _id: IgnoredAny,
    r#type: i32,
    foreign_id: String,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(borrow, default, deserialize_with = "present")]
    metadata: Option<&'a RawValue>,
    #[serde(default)]
    metadata_text: Option<String>,
    #[serde(default)]
    metadata_base64: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// A value that is there, `null` included.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Line<'_> {
    /// The event, and whether the line had a timestamp.
    fn event(self) -> Result<(NewEvent, bool), String> {
        let Self { _id, r#type, foreign_id, timestamp, metadata, metadata_text, metadata_base64, headers } = self;
        if foreign_id.len() > FOREIGN_ID_BYTES_MAX {
            let length = foreign_id.len();
            return Err(format!("`foreign_id` has {length} bytes, at most {FOREIGN_ID_BYTES_MAX} are allowed"));
        }
        let metadata = match (metadata, metadata_text, metadata_base64) {
            (None, None, None) => Bytes::new(),
            (Some(json), None, None) => compact(json.get()).into(),
            (None, Some(text), None) => text.into(),
            (None, None, Some(text)) => {
                STANDARD.decode(text).map_err(|error| format!("`metadata_base64` is not base64: {error}"))?.into()
            }
            _ => return Err("`metadata`, `metadata_text` and `metadata_base64` exclude each other".to_owned()),
        };
        let headers = headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let stamped = timestamp.is_some();
        let timestamp = timestamp.unwrap_or_else(|| Clock::System.now());
        Ok((NewEvent { r#type, foreign_id: foreign_id.into(), timestamp, metadata, headers }, stamped))
    }
}

/// A JSON text without the white space between its tokens; numbers and the order of keys stay as they were written.
fn compact(json: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string || !byte.is_ascii_whitespace() {
            bytes.push(byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> StreamId {
        StreamId { tenant: Default::default(), name: "quakes".parse().unwrap() }
    }

    fn events(text: &str) -> Result<Vec<Emit>> {
        read("events.jsonl", text.as_bytes(), &stream())
    }

    fn refused(text: &str) -> String {
        events(text).unwrap_err().to_string()
    }

    #[test]
    fn metadata_keeps_its_numbers_and_its_order_and_loses_its_white_space() {
        let line = r#" { "type":1, "foreign_id":"a", "metadata": {"b": 2.50, "a": [1e3, " \" x "], "n": null} } "#;
        let event = events(line).unwrap().remove(0).event;
        assert_eq!(event.metadata, r#"{"b":2.50,"a":[1e3," \" x "],"n":null}"#.as_bytes());
        let of = |metadata: &str| {
            events(&format!("{{\"type\":1,\"foreign_id\":\"\"{metadata}}}")).unwrap().remove(0).event.metadata
        };
        assert_eq!(of(",\"metadata\":null"), "null");
        assert_eq!(of(""), "");
        assert_eq!(of(",\"metadata_text\":\"é\\n\""), "é\n");
        assert_eq!(of(",\"metadata_base64\":\"/wA=\""), [0xff, 0].as_slice());
    }

    #[test]
    fn the_same_file_gives_the_same_keys_and_equal_lines_are_different_events() {
        let line = r#"{"type":1,"foreign_id":"a","timestamp":"2018-01-31T01:49:59.650Z","metadata":{"x":1}}"#;
        let spaced = line.replace(":{", ": { ");
        let other = line.replace("\"a\"", "\"b\"");
        let keys = |text: &str| events(text).unwrap().iter().map(|emit| emit.key).collect::<Vec<_>>();
        let twice = keys(&format!("{line}\n\n{line}\r\n{other}"));
        assert_eq!(twice.len(), 3);
        assert_ne!(twice[0], twice[1]);
        assert_eq!(keys(&format!("\u{feff}{other}\n{spaced}\n{line}\n")), [twice[2], twice[0], twice[1]]);
        let unstamped = r#"{"type":1,"foreign_id":"a"}"#;
        assert_eq!(keys(unstamped), keys(unstamped));
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_is_taken() {
        let good = r#"{"type":1,"foreign_id":"a"}"#;
        for (bad, reason) in [
            (r#"{"type":1}"#, "missing field `foreign_id`"),
            (r#"{"type":1,"foreign_id":"a","kind":2}"#, "unknown field `kind`"),
            (r#"{"type":3000000000,"foreign_id":"a"}"#, "3000000000"),
            (r#"{"type":1,"foreign_id":"a","timestamp":"yesterday"}"#, "not an RFC 3339 time"),
            (r#"{"type":1,"foreign_id":"a","metadata":1,"metadata_text":"1"}"#, "exclude each other"),
            (r#"{"type":1,"foreign_id":"a","metadata_base64":"?"}"#, "not base64"),
            (r#"{"type":1,"foreign_id":"a"} x"#, "trailing characters"),
            (r#"{"type":1,"foreign_id":"a","metadata":{"x":}}"#, "expected value"),
            ("[1,2]", "not a JSON object"),
        ] {
            let message = refused(&format!("{good}\n\n{bad}\n{good}"));
            assert!(message.starts_with("events.jsonl, line 3: "), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(!message.contains("at line"), "{message}");
        }
        assert!(read("f", [b'"', 0xff].as_slice(), &stream()).is_err());
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let line = |fid: usize, metadata: usize| {
            format!(r#"{{"type":1,"foreign_id":"{}","metadata_text":"{}"}}"#, "f".repeat(fid), "m".repeat(metadata))
        };
        assert!(events(&line(255, 0)).is_ok());
        assert!(refused(&line(256, 0)).contains("at most 255"));
        assert!(events(&line(1, EVENT_BYTES_MAX - 1)).is_ok());
        assert!(refused(&line(1, EVENT_BYTES_MAX)).contains("at most 16777216"));
        assert!(refused(&" ".repeat(LINE_BYTES_MAX + 1)).contains("more than"));
    }
}
