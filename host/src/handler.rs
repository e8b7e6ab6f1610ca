//! Whatever handles events: a guest instance in the runtime, a native closure in tests and benchmarks.

use std::time::Duration;

use async_trait::async_trait;

use crate::{changes::Changes, error::Error, event::Event, store::Digest, view::View};

/// Handles events, one shard's, in order. It owns its view of the state.
///
/// A handler whose changes were dropped may remember what never happened: the loop drops it, too, and makes a new one.
#[async_trait]
pub trait Handler: Send {
    /// Handles events until one fails, or until it has had its turn; the first `done` of them stand.
    async fn handle(&mut self, events: &[Event]) -> Handled;

    /// The commit before the one that is being gathered stands. See [`View::committed`].
    fn committed(&mut self) {}

    /// Ends, and leaves its view to the handler that takes over.
    fn into_view(self: Box<Self>) -> View;

    /// How many bytes of memory the guest holds now.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// What became of a call with events.
#[derive(Debug, Default)]
pub struct Handled {
    /// What the events that stand asked for.
    pub changes: Changes,
    /// How many events stand. Fewer than were given, and no failure: the turn was over, go on with the rest.
    pub done: usize,
    /// Why the next one does not.
    pub failure: Option<Failure>,
}

/// Makes handlers: a compiled component, or a closure.
#[async_trait]
pub trait HandlerFactory: Send + Sync {
    /// What makes them, as positions and the history name it.
    fn digest(&self) -> Digest;

    /// A handler with nothing in its memory, for one shard.
    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure>;

    /// Whether one call of theirs takes many events, so that it is worth waiting for more.
    fn takes_many(&self) -> bool {
        false
    }
}

/// Why an event could not be handled.
#[derive(Debug)]
pub struct Failure {
    /// What kind of failure; policy asks for it.
    pub kind: FailureKind,
    /// The event that failed, by its index in the call. Beyond `done` where a batch was undone as a whole: then the
    /// events before it must be called again, by themselves, and nothing counts as an attempt yet.
    pub index: usize,
    /// How many events from that one on it may have been: a batch that trapped does not say which one it was of, and each of them
    /// must be called again alone. 1 where it is known.
    pub among: usize,
    /// One sentence for the operator, and a backtrace where there is one.
    pub message: String,
    /// The guest asks to wait at least this long.
    pub after: Option<Duration>,
    /// The last lines that it logged and printed in the call.
    pub logs: String,
    /// Whether there was no handler yet to be given the event: no event would fare better.
    pub is_of_start: bool,
}

impl Failure {
    /// The filter has no answer.
    pub(crate) fn of_filter(message: String) -> Self {
        Self {
            kind: FailureKind::Filter,
            index: 0,
            among: 1,
            message,
            after: None,
            logs: String::new(),
            is_of_start: false,
        }
    }
}

/// The kinds of failure. All but the last count as attempts.
#[derive(Debug)]
pub enum FailureKind {
    /// The guest returned `retry`.
    Retry,
    /// The guest returned `reject`: no further attempt.
    Reject,
    /// The guest trapped: a panic, an overflow, a bad access.
    Trap,
    /// It ran longer than its limits of CPU or wall time.
    Timeout,
    /// It passed another limit.
    Limit,
    /// It used what was not granted: no further attempt, it would do so again.
    Denied,
    /// The filter has no answer for it: no further attempt, it would have none again.
    Filter,
    /// Two processes of hosts ended at it: no further attempt, a third might.
    Crash,
    /// The store or the host failed it. Not the event's fault.
    Infrastructure(Error),
}

impl FailureKind {
    /// The kind as reasons, logs and metrics name it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Denied => "denied",
            Self::Filter => "filter",
            Self::Crash => "crash",
            Self::Infrastructure(_) => "infrastructure",
        }
    }
}
