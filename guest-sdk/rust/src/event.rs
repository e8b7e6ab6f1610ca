//! What an event offers beside its fields.

use serde::Deserialize;

use crate::{Error, Event, Result};

impl Event {
    /// The payload, read as JSON. A payload that is not such JSON will not be at the next attempt either, so the
    /// error is a reject. What borrows (`&str`) costs no copy.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.metadata).map_err(|error| {
            Error::reject(format!("the metadata of event {} is not what was expected: {error}", self.id))
        })
    }

    /// The payload, read as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.metadata)
            .map_err(|error| Error::reject(format!("the metadata of event {} is not text: {error}", self.id)))
    }

    /// The value of a header, the first one of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::event;

    #[test]
    fn a_payload_that_is_no_such_json_is_rejected() {
        assert_eq!(event(1, "a", "[1,2]").json::<Vec<u8>>().unwrap(), [1, 2]);
        let error = event(1, "a", "{").json::<Vec<u8>>().unwrap_err();
        assert!(error.is_reject());
        assert!(error.to_string().starts_with("the metadata of event 1 is not what was expected"), "{error}");
        assert!(event(1, "a", [0xff]).text().unwrap_err().is_reject());
    }

    #[test]
    fn the_first_header_of_a_name_is_found() {
        let mut event = event(1, "a", "");
        event.headers = vec![("a".into(), "1".into()), ("b".into(), "2".into()), ("b".into(), "3".into())];
        assert_eq!(event.header("b"), Some("2"));
        assert_eq!(event.header("c"), None);
    }
}
