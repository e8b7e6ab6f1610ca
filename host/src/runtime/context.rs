//! What a `wasmtime::Store` holds for the guest in it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytesize::ByteSize;
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};

use super::{memory::MemoryBudget, meter::Meter, output::Output, trap::Stop};
use crate::{error::Error, event::Event, limits::Limits, view::View};

/// The most handles of WASI that a guest may hold.
const HANDLES_MAX: usize = 1_000;
/// How many lines of a call a failure tells of, and how much of each.
const KEPT_LINES: usize = 50;
const KEPT_LINE_CHARS: usize = 1_000;
/// The most random bytes that a guest gets at once.
const RANDOM_BYTES_MAX: u64 = 1024 * 1024;

/// One instance's side of the host.
pub(super) struct Ctx {
    /// The consumer's state, and what was asked for.
    pub(super) view: View,
    /// Time.
    pub(super) meter: Meter,
    /// Memory.
    pub(super) memory: MemoryBudget,
    /// Everything else that a call may use.
    pub(super) limits: Arc<Limits>,
    /// What the operator configured.
    pub(super) config: Arc<BTreeMap<String, String>>,
    /// stdout and stderr.
    pub(super) output: Output,
    /// The digest, as logs show it.
    pub(super) digest: String,
    /// The call that runs.
    pub(super) call: Call,
    wasi: WasiCtx,
    handles: ResourceTable,
}

/// What the call that runs has used.
#[derive(Default)]
pub(super) struct Call {
    /// How many events it handles; none in `init`.
    pub(super) events: u32,
    host_calls: u64,
    log: LogBudget,
}

/// The bytes of log lines of a call.
#[derive(Default)]
struct LogBudget {
    used_bytes: u64,
    is_spent: bool,
    /// The last lines, for a failure.
    kept: VecDeque<String>,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Whole(&'a str),
    Cut(&'a str),
    Dropped,
}

impl LogBudget {
    fn keep(&mut self, level: tracing::Level, message: &str) {
        let end = message.char_indices().nth(KEPT_LINE_CHARS).map_or(message.len(), |(at, _)| at);
        self.kept.push_back(format!("{level} {}", message.get(..end).unwrap_or_default()));
        if self.kept.len() > KEPT_LINES {
            self.kept.pop_front();
        }
    }

    /// The first line that does not fit is cut, those after it are dropped.
    fn admit<'a>(&mut self, message: &'a str, most_bytes: u64) -> Line<'a> {
        if self.is_spent {
            return Line::Dropped;
        }
        let left = usize::try_from(most_bytes.saturating_sub(self.used_bytes)).unwrap_or(usize::MAX);
        if message.len() <= left {
            self.used_bytes += message.len() as u64;
            return Line::Whole(message);
        }
        self.is_spent = true;
        Line::Cut((0..=left).rev().find_map(|at| message.get(..at)).unwrap_or_default())
    }
}

impl Ctx {
    /// A guest that was granted nothing: no files, no environment, no arguments, no network.
    pub(super) fn new(
        view: View,
        meter: Meter,
        limits: Arc<Limits>,
        config: Arc<BTreeMap<String, String>>,
        digest: String,
    ) -> Self {
        let output = Output::default();
        let wasi = WasiCtx::builder()
            .stdout(output.clone())
            .stderr(output.clone())
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        let mut handles = ResourceTable::new();
        handles.set_max_capacity(HANDLES_MAX);
        let memory = MemoryBudget::new(limits.memory_bytes);
        Self { view, meter, memory, limits, config, output, digest, call: Call::default(), wasi, handles }
    }

    /// A call with events begins.
    pub(super) fn begin(&mut self, events: &[Event]) {
        self.meter.begin();
        self.view.begin_batch(events);
        self.call = Call { events: u32::try_from(events.len()).unwrap_or(u32::MAX), ..Call::default() };
    }

    /// The call has ended well: what it asked for stands.
    pub(super) fn keep(&mut self) {
        self.view.keep();
        if self.output.is_written() {
            self.flush_output();
        }
    }

    /// What the guest wrote goes to its log, and is handed out.
    pub(super) fn flush_output(&mut self) -> String {
        let text = self.output.take();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            self.log(tracing::Level::INFO, line);
        }
        text
    }

    /// Counts a call of the guest to the host.
    pub(super) fn count_host_call(&mut self) -> Result<(), Stop> {
        self.call.host_calls += 1;
        let most = self.allowance(u64::from(self.limits.host_calls));
        if self.call.host_calls <= most {
            return Ok(());
        }
        let value = self.limits.host_calls.to_string();
        Err(Stop::limit("limits.host-calls", &value, "the guest called the host too often for one event".to_owned()))
    }

    /// State and events are for events: `init` has none, and would write again with every instance.
    pub(super) fn require_event(&self, what: &str) -> Result<(), Stop> {
        if self.call.events > 0 {
            return Ok(());
        }
        Err(Error::invalid(format!("{what} only while an event is handled: `init` has none")).into())
    }

    /// Writes a line to the guest's log, as far as its allowance goes.
    pub(super) fn log(&mut self, level: tracing::Level, message: &str) {
        self.call.log.keep(level, message);
        let most = self.allowance(self.limits.log_bytes);
        match self.call.log.admit(message, most) {
            Line::Whole(message) => self.write_line(level, message),
            Line::Cut(cut) => {
                let limit = ByteSize::b(self.limits.log_bytes).display().iec();
                let text = format!("{cut}… (the rest is cut: limits.log is {limit} for one event)");
                self.write_line(level, &text);
            }
            Line::Dropped => {}
        }
    }

    /// The last lines of the call.
    pub(super) fn take_logs(&mut self) -> String {
        std::mem::take(&mut self.call.log.kept).into_iter().collect::<Vec<_>>().join("\n")
    }

    fn write_line(&self, level: tracing::Level, message: &str) {
        let consumer = &self.view.shard().consumer;
        let event = self.view.event().map_or("", |event| &*event.0);
        let digest = self.digest.as_str();
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(target: "guest", tracing::Level::$level, %consumer, event, digest, "{message}")
            };
        }
        match level {
            tracing::Level::TRACE => line!(TRACE),
            tracing::Level::DEBUG => line!(DEBUG),
            tracing::Level::INFO => line!(INFO),
            tracing::Level::WARN => line!(WARN),
            tracing::Level::ERROR => line!(ERROR),
        }
    }

    /// What one event may use, times the events of the call.
    fn allowance(&self, per_event: u64) -> u64 {
        per_event.saturating_mul(u64::from(self.call.events.max(1)))
    }
}

impl WasiView for Ctx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.handles }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_written_up_to_their_limit_and_then_cut_at_a_character() {
        let mut budget = LogBudget::default();
        assert_eq!(budget.admit("abcd", 10), Line::Whole("abcd"));
        assert_eq!(budget.admit("efghij", 10), Line::Whole("efghij"));
        assert_eq!(budget.admit("", 10), Line::Whole(""));
        assert_eq!(budget.admit("k", 10), Line::Cut(""));
        assert_eq!(budget.admit("", 10), Line::Dropped);
        assert_eq!(LogBudget::default().admit("aää", 4), Line::Cut("aä"));
        assert_eq!(LogBudget::default().admit("aää", 5), Line::Whole("aää"));
    }
}
