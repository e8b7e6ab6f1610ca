//! The host, as a guest calls it.

use crate::{
    Entry, NewEvent,
    bindings::imports::tendon::consumer::{config, emit as emits, log as lines, state},
};

pub(crate) fn state_get(key: &str) -> Option<Vec<u8>> {
    state::get(key)
}

pub(crate) fn state_get_many(keys: &[String]) -> Vec<Option<Vec<u8>>> {
    state::get_many(keys)
}

pub(crate) fn state_set(key: &str, value: &[u8]) {
    state::set(key, value);
}

pub(crate) fn state_set_many(entries: &[Entry]) {
    state::set_many(entries);
}

pub(crate) fn state_delete(key: &str) {
    state::delete(key);
}

pub(crate) fn state_scan(prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
    state::scan(prefix, after, limit)
}

pub(crate) fn emit(event: &NewEvent, cause: u32) {
    emits::emit(event, cause);
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    config::get(key)
}

pub(crate) fn config_all() -> Vec<(String, String)> {
    config::get_all()
}

pub(crate) fn log(level: log::Level, message: &str) {
    let level = match level {
        log::Level::Trace => lines::Level::Trace,
        log::Level::Debug => lines::Level::Debug,
        log::Level::Info => lines::Level::Info,
        log::Level::Warn => lines::Level::Warn,
        log::Level::Error => lines::Level::Error,
    };
    lines::log(level, message);
}
