//! Events that wait for others: a handler that takes many a call gets them together once that call is due, by their number, their
//! bytes, or the time that the first of them has waited.

use std::time::Duration;

use tokio::time::Instant;

use super::{Run, Worked};
use crate::{batch::BatchPolicy, error::Result, event::Event, filter::Selected, shard::Stop, tailer::Piece};

/// What was looked at behind the last event that is handled.
#[derive(Default)]
pub(super) struct Seen {
    /// The last of it.
    pub(super) last: Option<Event>,
    /// Events that the filter left out, or that are other shards'.
    pub(super) skipped: usize,
    /// How many of those are other shards'.
    pub(super) others: usize,
    /// The next event, and why the filter has no answer for it.
    pub(super) failure: Option<(String, Event)>,
}

impl Seen {
    pub(super) fn of(piece: &Piece, selected: &mut Selected<'_>) -> Self {
        let (seen, unseen) = piece.events().split_at(selected.seen);
        let failure = selected.failure.take().zip(unseen.first().cloned());
        let skipped = seen.len().saturating_sub(selected.matching.len());
        Self { last: seen.last().cloned(), skipped, others: selected.others, failure }
    }
}

/// See the module.
pub(super) struct Held {
    events: Vec<Event>,
    bytes: u64,
    since: Instant,
    /// When the last of them came.
    last_came: Instant,
    seen: Seen,
}

impl Default for Held {
    fn default() -> Self {
        let now = Instant::now();
        Self { events: Vec::new(), bytes: 0, since: now, last_came: now, seen: Seen::default() }
    }
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn add(&mut self, matching: &[Event], seen: Seen) {
        self.last_came = Instant::now();
        if self.events.is_empty() {
            self.since = self.last_came;
        }
        self.bytes += bytes(matching);
        self.events.extend_from_slice(matching);
        let Seen { last, skipped, others, failure } = seen;
        let before = std::mem::take(&mut self.seen);
        let (skipped, others) = (before.skipped + skipped, before.others + others);
        self.seen = Seen { last: last.or(before.last), skipped, others, failure };
    }

    /// How much longer they wait at the most; none where nothing does.
    pub(super) fn wait(&self, linger: Duration) -> Option<Duration> {
        (!self.is_empty()).then(|| linger.saturating_sub(self.since.elapsed()))
    }

    /// How many of the events are due: whole calls, or all of them. None where they wait.
    fn due(&self, policy: &BatchPolicy) -> Option<usize> {
        let count = self.events.len();
        let is_over = self.bytes >= policy.bytes || self.since.elapsed() >= policy.linger;
        if count == 0 || is_over || self.seen.failure.is_some() {
            return Some(count);
        }
        let call = policy.call_events_max();
        Some(count - count % call).filter(|due| *due > 0)
    }
}

fn bytes(events: &[Event]) -> u64 {
    events.iter().map(|event| event.bytes() as u64).sum()
}

impl Run<'_> {
    /// Handles what is due of the events that wait.
    pub(super) async fn handle_held(&mut self) -> Result<Option<Stop>> {
        let Some(due) = self.held.due(&self.version.spec.batch) else { return Ok(None) };
        let mut held = std::mem::take(&mut self.held);
        match self.work(held.events.get(..due).unwrap_or_default()).await? {
            Worked::All if due < held.events.len() => {
                held.events.drain(..due);
                (held.bytes, held.since) = (bytes(&held.events), held.last_came);
                self.held = held;
                Ok(None)
            }
            Worked::All => self.pass_over(held.seen).await,
            Worked::Swapped => Ok(None),
            Worked::Stopped(stop) => Ok(Some(stop)),
        }
    }
}
