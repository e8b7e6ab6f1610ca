//! The consumer's own state: keys and values that are committed with the cursor.
//!
//! Reads see what this event and those before it wrote. A key has at most 1 KiB, a value 1 MiB; which part of the
//! state is seen (the consumer's, the key's, the shard's) the operator decides.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Entry, Error, Result, host};

/// The most entries that [`scan`] returns at once.
const PAGE: u32 = 1_000;

/// The value of a key.
pub fn get(key: &str) -> Option<Vec<u8>> {
    host::state_get(key)
}

/// The values of several keys, in their order, with one question to the store.
pub fn get_many(keys: &[&str]) -> Vec<Option<Vec<u8>>> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    host::state_get_many(&keys)
}

/// The value of a key, read as JSON. A value that is not such JSON is an error that is tried again: another version
/// of the component may read it.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    let Some(value) = get(key) else { return Ok(None) };
    let value = serde_json::from_slice(&value);
    value.map(Some).map_err(|error| Error::retry(format!("the state of key `{key}` is not what was expected: {error}")))
}

/// Sets a key.
pub fn set(key: &str, value: impl AsRef<[u8]>) {
    host::state_set(key, value.as_ref());
}

/// Sets a key to a value as JSON.
pub fn set_json<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<()> {
    set(key, serde_json::to_vec(value)?);
    Ok(())
}

/// Sets several keys with one call to the host.
pub fn set_many(entries: &[Entry]) {
    host::state_set_many(entries);
}

/// Deletes a key; one that is not there is no error.
pub fn delete(key: &str) {
    host::state_delete(key);
}

/// At most `limit` entries (and at most 1,000) whose keys begin with `prefix` and come after `after`, in the order of
/// the keys' bytes.
pub fn scan(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
    host::state_scan(prefix, after, limit)
}

/// All entries whose keys begin with `prefix`, in the order of the keys' bytes, read page by page.
pub fn scan_all(prefix: &str) -> impl Iterator<Item = Entry> {
    let mut page = scan(prefix, None, PAGE).into_iter();
    let mut full = page.len() == PAGE as usize;
    let mut last: Option<String> = None;
    let prefix = prefix.to_owned();
    std::iter::from_fn(move || {
        if page.len() == 0 && full {
            page = scan(&prefix, last.as_deref(), PAGE).into_iter();
            full = page.len() == PAGE as usize;
        }
        let entry = page.next()?;
        if page.len() == 0 {
            last = Some(entry.key.clone());
        }
        Some(entry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Host, event};

    #[test]
    fn a_scan_of_everything_crosses_its_pages() {
        let mut host = Host::new();
        let fill = |_: &crate::Event| {
            for n in 0..2_500 {
                set(&format!("a/{n:05}"), n.to_string());
            }
            set("b", "");
            assert_eq!(scan_all("a/").count(), 2_500);
            assert_eq!(scan_all("").last().unwrap().key, "b");
            assert_eq!(scan("a/", Some("a/00010"), 2)[1].key, "a/00012");
            assert_eq!(get_many(&["a/00001", "no"]), [Some(b"1".to_vec()), None]);
            Ok(())
        };
        host.handle(fill, &event(1, "a", "")).unwrap();
    }

    #[test]
    fn a_state_that_is_no_such_json_is_tried_again() {
        let mut host = Host::new().with_state("total", "x");
        let error = host.handle(|_| get_json::<u64>("total").map(|_| ()), &event(1, "a", "")).unwrap_err();
        assert!(!error.is_reject());
        assert!(error.to_string().contains("`total`"), "{error}");
    }
}
