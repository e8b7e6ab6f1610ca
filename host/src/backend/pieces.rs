//! The texts and payloads of a chunk, each kind in one piece of memory that its events share.

use bytes::Bytes;
use bytestring::ByteString;

use super::row::decode;

/// What is gathered of a chunk's rows.
#[derive(Default)]
pub(super) struct Pieces {
    texts: String,
    payload: Vec<u8>,
    /// Where an event's id and foreign id end in `texts`, and its metadata in `payload`.
    ends: Vec<(usize, usize, usize)>,
}

impl Pieces {
    /// Adds an event's.
    pub(super) fn push(&mut self, id: i64, foreign_id: &[u8], metadata: &[u8]) -> sqlx::Result<()> {
        self.texts.push_str(&id.to_string());
        let id = self.texts.len();
        self.texts.push_str(std::str::from_utf8(foreign_id).map_err(|error| decode(error))?);
        self.payload.extend_from_slice(metadata);
        self.ends.push((id, self.texts.len(), self.payload.len()));
        Ok(())
    }

    /// Id, foreign id and metadata of each, in the order in which they were added.
    pub(super) fn finish(self) -> impl Iterator<Item = (ByteString, ByteString, Bytes)> {
        let (texts, payload) = (ByteString::from(self.texts), Bytes::from(self.payload));
        let (mut text_at, mut payload_at) = (0, 0);
        self.ends.into_iter().map(move |(id, foreign_id, metadata)| {
            let text =
                |from: usize, to: usize| texts.get(from..to).map(|piece| texts.slice_ref(piece)).unwrap_or_default();
            let pieces = (text(text_at, id), text(id, foreign_id), payload.slice(payload_at..metadata));
            (text_at, payload_at) = (foreign_id, metadata);
            pieces
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_as_they_were_added() {
        let mut pieces = Pieces::default();
        for (id, foreign_id, metadata) in [(9, "", &b"\0\xff"[..]), (10, "ä\0b", b""), (11, "c", b"x")] {
            pieces.push(id, foreign_id.as_bytes(), metadata).unwrap();
        }
        let found: Vec<_> =
            pieces.finish().map(|(id, foreign_id, metadata)| format!("{id}|{foreign_id}|{metadata:?}")).collect();
        assert_eq!(found, [r#"9||b"\0\xff""#, "10|ä\0b|b\"\"", r#"11|c|b"x""#]);
        assert!(Pieces::default().push(1, b"\xff", b"").is_err());
    }
}
