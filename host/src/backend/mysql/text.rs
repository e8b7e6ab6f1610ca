//! Statements as text, for rows whose number is not known before: one round trip, and nothing to prepare.
//!
//! Whatever a user can choose is in hexadecimal digits, and names have only letters, digits and dashes: there is nothing
//! to quote, and no collation or character set has a say.

use std::{borrow::Cow, fmt::Write as _};

use crate::error::{Error, Result};

/// What a packet has beside its statement, and some.
const PACKET_REST: usize = 1024;

/// So many bytes become digits at once.
const DIGITS_BYTES: usize = 64;

/// Rows, as few statements as the server's packets allow.
pub(super) struct Batches {
    head: String,
    tail: Cow<'static, str>,
    bytes_max: usize,
    open: String,
    full: Vec<String>,
}

impl Batches {
    /// Statements that begin and end so, with rows between them and commas between those.
    pub(super) fn new(head: impl Into<String>, tail: impl Into<Cow<'static, str>>, packet_bytes_max: usize) -> Self {
        let bytes_max = packet_bytes_max.saturating_sub(PACKET_REST);
        Self { head: head.into(), tail: tail.into(), bytes_max, open: String::new(), full: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: &str) -> Result<()> {
        let rest = self.tail.len() + 1;
        if self.head.len() + row.len() + rest > self.bytes_max {
            let (bytes, most) = (row.len(), self.bytes_max);
            return Err(Error::limit(format!(
                "an event or a value takes {bytes} bytes of a statement, and the server takes {most}"
            ))
            .help("raise max_allowed_packet on the server: twice the biggest event, and a little more"));
        }
        if self.open.len() + row.len() + rest > self.bytes_max {
            self.close();
        }
        if self.open.is_empty() {
            self.open.push_str(&self.head);
        } else {
            self.open.push(',');
        }
        self.open.push_str(row);
        Ok(())
    }

    /// The statements; none where there were no rows.
    pub(super) fn finish(mut self) -> Vec<String> {
        self.close();
        self.full
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.open.push_str(&self.tail);
            self.full.push(std::mem::take(&mut self.open));
        }
    }
}

/// A row in parentheses.
pub(super) struct Row(String);

impl Row {
    pub(super) fn new() -> Self {
        Self("(".to_owned())
    }

    /// A row that begins as this one does, with room for what follows.
    pub(super) fn copy(&self, room: usize) -> Self {
        let mut text = String::with_capacity(self.0.len() + room);
        text.push_str(&self.0);
        Self(text)
    }

    /// A name: letters, digits and dashes.
    pub(super) fn name(self, name: &str) -> Self {
        self.value(|text| write!(text, "'{name}'"))
    }

    pub(super) fn number(self, number: i64) -> Self {
        self.value(|text| write!(text, "{number}"))
    }

    /// An expression.
    pub(super) fn raw(self, expression: &str) -> Self {
        self.value(|text| text.write_str(expression))
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        self.value(|text| {
            push_literal(text, bytes);
            Ok(())
        })
    }

    pub(super) fn bytes_or_null(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.value(|text| text.write_str("NULL")),
        }
    }

    pub(super) fn end(mut self) -> String {
        self.0.push(')');
        self.0
    }

    fn value(mut self, write: impl FnOnce(&mut String) -> std::fmt::Result) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write(&mut self.0);
        self
    }
}

/// Bytes, as a statement has them.
pub(super) fn literal(bytes: &[u8]) -> String {
    let mut text = String::new();
    push_literal(&mut text, bytes);
    text
}

fn push_literal(text: &mut String, bytes: &[u8]) {
    text.reserve(2 * bytes.len() + 3);
    text.push_str("x'");
    let mut digits = [0; 2 * DIGITS_BYTES];
    for bytes in bytes.chunks(DIGITS_BYTES) {
        // Two digits for each byte have room, and are letters of ASCII.
        let digits = digits.get_mut(..2 * bytes.len()).unwrap_or_default();
        let _ = hex::encode_to_slice(bytes, digits);
        text.push_str(str::from_utf8(digits).unwrap_or_default());
    }
    text.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_below_the_packet() {
        let mut batches = Batches::new("V ", ";", PACKET_REST + 12);
        for row in ["(1)", "(2)", "(3)"] {
            batches.push(row).unwrap();
        }
        assert_eq!(batches.finish(), ["V (1),(2);", "V (3);"]);
        assert!(Batches::new("V ", ";", PACKET_REST + 12).push("(12345678)").is_err());
        assert_eq!(Batches::new("V ", ";", 0).finish(), Vec::<String>::new());
    }

    #[test]
    fn a_row_has_digits_in_place_of_bytes() {
        let row = Row::new().name("a-b").number(-1).bytes(b"'\0").bytes(b"").bytes_or_null(None).end();
        assert_eq!(row, "('a-b',-1,x'2700',x'',NULL)");
    }
}
