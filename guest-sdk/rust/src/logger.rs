//! What `log::info!` and its like do: a line for the operator, with the consumer, the event and the component.
//!
//! The consumer's config key `log` chooses the least level that is written: `off`, `error`, `warn`, `info` (the
//! default), `debug` or `trace`.

use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

use crate::host;

struct HostLogger;

impl Log for HostLogger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        host::log(record.level(), &record.args().to_string());
    }

    fn flush(&self) {}
}

/// Installs the logger, once; one that the author installed before stays.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        if log::set_logger(&HostLogger).is_ok() {
            let wanted = host::config_get("log").and_then(|level| level.parse().ok());
            log::set_max_level(wanted.unwrap_or(LevelFilter::Info));
        }
    });
}
