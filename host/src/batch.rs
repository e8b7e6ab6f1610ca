//! When a commit is due.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Progress that carries no effect, because every event was filtered out, is committed this often.
pub const QUIET_COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Events that a handler gets at once, and with them a guest that takes many in one call.
pub const CALL_EVENTS_MAX: u32 = 1_024;

/// How many events share a commit. It is due as well when no further event is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPolicy {
    /// Events per commit, at the most. A handler that takes many gets as many in a call, up to [`CALL_EVENTS_MAX`].
    pub max: u32,
    /// Bytes of changes after which there are no more events in a commit, and of events in a call of such a handler.
    pub bytes: u64,
    /// The time from a batch's first event to its commit, unless the commit before it is still being written: then the
    /// batch goes on growing, so that a store that cannot keep up gets fewer and bigger commits. The events of a handler that takes
    /// many wait so long for others.
    pub linger: Duration,
}

impl BatchPolicy {
    /// Events that a handler which takes many gets in a call, at the most.
    pub fn call_events_max(&self) -> usize {
        self.max.clamp(1, CALL_EVENTS_MAX) as usize
    }
}

impl Default for BatchPolicy {
    fn default() -> Self {
        Self { max: 16_384, bytes: 4 * 1024 * 1024, linger: Duration::from_millis(5) }
    }
}

/// What has been gathered since the last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Events that were handled.
    pub handled: u32,
    /// Events that were filtered out.
    pub skipped: u32,
    /// Bytes of changes.
    pub bytes: u64,
    /// Time since the first of them.
    pub age: Duration,
}

/// Whether a commit is due; `is_free` when none is being written.
pub fn is_due(policy: &BatchPolicy, gathered: &Gathered, is_free: bool) -> bool {
    if gathered.handled == 0 {
        return is_free && gathered.skipped > 0 && gathered.age >= QUIET_COMMIT_INTERVAL;
    }
    let is_full = gathered.handled >= policy.max || gathered.bytes >= policy.bytes;
    is_full || is_free && gathered.age >= policy.linger
}

/// How much longer the loop may wait for a further event before `is_due`; none when nothing was gathered.
pub fn wait(policy: &BatchPolicy, gathered: &Gathered) -> Option<Duration> {
    match (gathered.handled, gathered.skipped) {
        (0, 0) => None,
        (0, _) => Some(QUIET_COMMIT_INTERVAL.saturating_sub(gathered.age)),
        _ => Some(policy.linger.saturating_sub(gathered.age)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(handled: u32, bytes: u64, age_ms: u64) -> Gathered {
        Gathered { handled, skipped: 0, bytes, age: Duration::from_millis(age_ms) }
    }

    #[test]
    fn each_bound_alone_makes_a_commit_due() {
        let policy = BatchPolicy::default();
        assert!(!is_due(&policy, &gathered(policy.max - 1, policy.bytes - 1, 4), true));
        assert!(is_due(&policy, &gathered(policy.max, 0, 0), true));
        assert!(is_due(&policy, &gathered(1, policy.bytes, 0), true));
        assert!(is_due(&policy, &gathered(1, 0, 5), true));
    }

    #[test]
    fn while_a_commit_is_written_a_batch_grows_beyond_its_linger_and_never_beyond_its_bounds() {
        let policy = BatchPolicy::default();
        assert!(!is_due(&policy, &gathered(policy.max - 1, policy.bytes - 1, 60_000), false));
        assert!(is_due(&policy, &gathered(policy.max, 0, 0), false));
        assert!(is_due(&policy, &gathered(1, policy.bytes, 0), false));
    }

    #[test]
    fn nothing_handled_is_committed_once_a_second() {
        let policy = BatchPolicy::default();
        let skipped = |age_ms| Gathered { handled: 0, skipped: 9, ..gathered(0, 0, age_ms) };
        assert!(!is_due(&policy, &Gathered::default(), true));
        assert!(!is_due(&policy, &skipped(999), true));
        assert!(is_due(&policy, &skipped(1000), true));
        assert!(!is_due(&policy, &skipped(1000), false));
        assert_eq!(wait(&policy, &Gathered::default()), None);
        assert_eq!(wait(&policy, &skipped(400)), Some(Duration::from_millis(600)));
    }
}
