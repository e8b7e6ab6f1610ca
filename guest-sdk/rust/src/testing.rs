//! A host in memory, for unit tests of a handler: no wasm, no store, the same calls.
//!
//! ```
//! use tendon_sdk::{Event, Result, emit, state, testing::{Host, event}};
//!
//! fn handle(event: &Event) -> Result<()> {
//!     let number: u64 = event.json()?;
//!     state::set_json(&event.foreign_id, &number)?;
//!     emit::json("numbers", 1, &event.foreign_id, &(number + 1))
//! }
//!
//! let mut host = Host::new();
//! host.handle(handle, &event(1, "a", "41"))?;
//! assert_eq!(host.json::<u64>("a"), Some(41));
//! assert_eq!(host.emitted()[0].metadata, b"42");
//! assert!(host.handle(handle, &event(1, "b", "no number")).is_err());
//! assert_eq!(host.get("b"), None); // what a failed event wrote is undone
//! # Ok::<(), tendon_sdk::Error>(())
//! ```

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use serde::de::DeserializeOwned;

use crate::{Entry, Error, Event, NewEvent, Result, Timestamp, logger};

thread_local! {
    /// The host of the handler that runs on this thread; an empty one where a handler is called without a host.
    static CURRENT: RefCell<Host> = const { RefCell::new(Host::new()) };
}

/// The most entries that a scan returns, as with the real host.
const SCAN_ENTRIES_MAX: u32 = 1_000;

/// A host in memory. It enforces no grants and no limits.
#[derive(Clone, Debug)]
pub struct Host {
    state: BTreeMap<String, Vec<u8>>,
    config: BTreeMap<String, String>,
    emitted: Vec<NewEvent>,
    logs: Vec<(log::Level, String)>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host without state or config.
    pub const fn new() -> Self {
        Self { state: BTreeMap::new(), config: BTreeMap::new(), emitted: Vec::new(), logs: Vec::new() }
    }

    /// Adds a value of the consumer's config.
    #[must_use]
    pub fn with_config(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a key of the state.
    #[must_use]
    pub fn with_state(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.state.insert(key.to_owned(), value.into());
        self
    }

    /// Runs a handler with an event. What it wrote and emitted stays if it returns `Ok`, and is undone otherwise; log
    /// lines stay.
    pub fn handle(&mut self, handler: impl FnOnce(&Event) -> Result<()>, event: &Event) -> Result<()> {
        self.run(|| handler(event))
    }

    /// Runs a batch handler with events, all or nothing.
    pub fn handle_batch(
        &mut self,
        handler: impl FnOnce(&[Event]) -> Result<(), (usize, Error)>,
        events: &[Event],
    ) -> Result<(), (usize, Error)> {
        self.run(|| handler(events))
    }

    /// Runs `init`.
    pub fn init(&mut self, init: impl FnOnce() -> Result<()>) -> Result<()> {
        self.run(init)
    }

    fn run<E>(&mut self, call: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        logger::install();
        let before = (self.state.clone(), self.emitted.len());
        let outer = CURRENT.replace(std::mem::take(self));
        let result = catch_unwind(AssertUnwindSafe(call));
        *self = CURRENT.replace(outer);
        if !matches!(result, Ok(Ok(()))) {
            self.state = before.0;
            self.emitted.truncate(before.1);
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The value of a key of the state.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.state.get(key).map(Vec::as_slice)
    }

    /// The value of a key of the state, read as JSON; none, too, where it is not such JSON.
    pub fn json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.get(key).and_then(|value| serde_json::from_slice(value).ok())
    }

    /// The keys and values of the state.
    pub fn state(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.state
    }

    /// The events that were emitted, in order.
    pub fn emitted(&self) -> &[NewEvent] {
        &self.emitted
    }

    /// The lines that were logged, in order.
    pub fn logs(&self) -> &[(log::Level, String)] {
        &self.logs
    }
}

/// An event with the id `1`, at 1970-01-01. Its fields can be set to anything else.
pub fn event(r#type: i32, foreign_id: &str, metadata: impl AsRef<[u8]>) -> Event {
    Event {
        id: "1".to_owned(),
        type_: r#type,
        foreign_id: foreign_id.to_owned(),
        timestamp: Timestamp { seconds: 0, nanoseconds: 0 },
        metadata: metadata.as_ref().to_vec(),
        headers: Vec::new(),
    }
}

pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
    CURRENT.with_borrow(|host| host.state.get(key).cloned())
}

pub(crate) fn state_get_many(keys: &[String]) -> Vec<Option<Vec<u8>>> {
    keys.iter().map(|key| state_get(key)).collect()
}

pub(crate) fn state_set(key: &str, value: &[u8]) {
    CURRENT.with_borrow_mut(|host| host.state.insert(key.to_owned(), value.to_vec()));
}

pub(crate) fn state_set_many(entries: &[Entry]) {
    for entry in entries {
        state_set(&entry.key, &entry.value);
    }
}

pub(crate) fn state_delete(key: &str) {
    CURRENT.with_borrow_mut(|host| host.state.remove(key));
}

pub(crate) fn state_scan(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
    CURRENT.with_borrow(|host| {
        let wanted = host
            .state
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let entry = |(key, value): (&String, &Vec<u8>)| Entry { key: key.clone(), value: value.clone() };
        wanted.take(limit.min(SCAN_ENTRIES_MAX) as usize).map(entry).collect()
    })
}

pub(crate) fn emit(event: &NewEvent, _cause: u32) {
    CURRENT.with_borrow_mut(|host| host.emitted.push(event.clone()));
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    CURRENT.with_borrow(|host| host.config.get(key).cloned())
}

pub(crate) fn config_all() -> Vec<(String, String)> {
    CURRENT.with_borrow(|host| host.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

pub(crate) fn log(level: log::Level, message: &str) {
    CURRENT.with_borrow_mut(|host| host.logs.push((level, message.to_owned())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, state};

    #[test]
    fn a_failed_event_leaves_only_its_log_lines() {
        let mut host = Host::new().with_config("limit", "3");
        let handler = |event: &Event| {
            state::set("seen", &event.id);
            crate::emit::emit("out", 1, "x", "y");
            log::warn!("limit {}", config::get("limit").unwrap_or_default());
            Err(Error::reject("no"))
        };
        assert!(host.handle(handler, &event(1, "a", "")).unwrap_err().is_reject());
        assert!(host.state().is_empty() && host.emitted().is_empty());
        assert_eq!(host.logs(), [(log::Level::Warn, "limit 3".to_owned())]);
    }

    #[test]
    fn a_panic_in_a_handler_undoes_it_and_goes_on() {
        let mut host = Host::new();
        let call = AssertUnwindSafe(|| {
            let _ = host.handle(
                |_| {
                    state::set("a", "1");
                    std::panic::panic_any("boom")
                },
                &event(1, "a", ""),
            );
        });
        assert!(catch_unwind(call).is_err());
        assert!(host.state().is_empty());
    }
}
