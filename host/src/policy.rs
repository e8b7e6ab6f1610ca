//! The decisions of the loop, as pure functions.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{EventId, Timestamp},
    handler::{Failure, FailureKind},
    store::{Digest, Epoch, Position, Reason, Status},
};

/// Bytes of a failure's message, and of what the guest logged, that are kept: a position carries them.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What happens when an event fails: exponential backoff, then its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How often an event is tried, the first time included.
    pub attempts: u32,
    /// The wait after the first failure.
    pub base: Duration,
    /// What each further wait is multiplied by.
    pub factor: f64,
    /// The longest wait, the guest's own wishes included.
    pub cap: Duration,
    /// Whether a wait is shortened by a random part, up to half of it, so that consumers do not retry in step.
    pub jitter: bool,
    /// What becomes of an event whose attempts have run out.
    #[serde(default)]
    pub on_exhausted: OnExhausted,
    /// Keys that a shard parks at the most.
    #[serde(default = "parked_keys")]
    pub parked_keys: u32,
    /// Events that it parks at the most.
    #[serde(default = "parked_events")]
    pub parked_events: u32,
}

fn parked_keys() -> u32 {
    1_000
}

fn parked_events() -> u32 {
    10_000
}

/// What becomes of an event that is not tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnExhausted {
    /// The consumer stops in front of it until somebody helps.
    #[default]
    Block,
    /// It is set aside, for somebody to look at; the consumer goes on.
    DeadLetter,
    /// The same, and nobody is expected to look.
    Skip,
    /// Its key waits, with all later events of it, from the first failure on; other keys go on meanwhile.
    ParkKey,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 8,
            base: Duration::from_millis(100),
            factor: 2.0,
            cap: Duration::from_secs(60),
            jitter: true,
            on_exhausted: OnExhausted::Block,
            parked_keys: parked_keys(),
            parked_events: parked_events(),
        }
    }
}

/// What to do about a failed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try it again after a wait.
    Retry(Duration),
    /// It is not tried again.
    End(OnExhausted),
}

/// What to do about an event that has now failed `attempts` times; `random` is in 0..1.
pub fn after_failure(policy: &RetryPolicy, attempts: u32, failure: &Failure, random: f64) -> Decision {
    use FailureKind::{Crash, Denied, Filter, Reject};
    if matches!(failure.kind, Reject | Denied | Filter | Crash) || attempts >= policy.attempts {
        // Without a handler no event could be handled: none is set aside for that.
        return Decision::End(if failure.is_of_start { OnExhausted::Block } else { policy.on_exhausted });
    }
    let wait = backoff(policy, attempts, random);
    Decision::Retry(failure.after.map_or(wait, |after| wait.max(after)).min(policy.cap))
}

/// The wait after the n-th failure in a row, n from 1.
pub fn backoff(policy: &RetryPolicy, n: u32, random: f64) -> Duration {
    let exponent = i32::try_from(n.saturating_sub(1)).unwrap_or(i32::MAX);
    let seconds = policy.base.as_secs_f64() * policy.factor.powi(exponent);
    let capped = seconds.clamp(0.0, policy.cap.as_secs_f64());
    let share = if policy.jitter { 1.0 - random / 2.0 } else { 1.0 };
    Duration::from_secs_f64(capped * share)
}

/// A guest may say as much as it hands to the host in a call; an operator reads the beginning.
fn cut(message: &str) -> &str {
    let end = (0..=message.len().min(MESSAGE_BYTES_MAX)).rev().find(|end| message.is_char_boundary(*end));
    message.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Of what a guest logged the end matters.
fn tail(logs: &str) -> &str {
    let begin = logs.len().saturating_sub(MESSAGE_BYTES_MAX);
    let begin = (begin..=logs.len()).find(|begin| logs.is_char_boundary(*begin));
    logs.get(begin.unwrap_or_default()..).unwrap_or_default()
}

/// When an event that has failed is tried again, whoever runs the shard by then; none where that may be at once. It never waits
/// longer than the policy lets any event wait: a later moment was written under another policy, or by another clock.
pub fn retry_at(reason: Option<&Reason>, event: &EventId, policy: &RetryPolicy, now: Timestamp) -> Option<Timestamp> {
    let reason = reason.filter(|reason| reason.event.as_ref() == Some(event))?;
    reason.retry_at.filter(|at| *at <= now.after(policy.cap))
}

/// The reason that a position carries after a failure.
pub fn reason(failure: &Failure, event: &EventId, now: Timestamp) -> Reason {
    Reason {
        code: failure.kind.code().to_owned(),
        message: cut(&failure.message).to_owned(),
        event: Some(event.clone()),
        since: now,
        retry_at: None,
        logs: tail(&failure.logs).to_owned(),
    }
}

/// The code of the reason of a dead letter that nobody is expected to look at.
pub const SKIPPED: &str = "skipped";

/// The reason of an event that is skipped: its message begins with what it was.
pub fn skipped(reason: Reason) -> Reason {
    if reason.code == SKIPPED {
        return reason;
    }
    Reason { code: SKIPPED.to_owned(), message: format!("{}: {}", reason.code, reason.message), ..reason }
}

/// The code of a reason why a shard stands that parks no more.
pub const FULL: &str = "full";

/// The code of a reason why a shard handles one event at a time.
pub const SUSPECT: &str = "suspect";
/// The same, where a host has ended before while that was handled alone.
pub const SUSPECT_AGAIN: &str = "suspect-again";

/// The reason that a position carries while an event, or the making of a handler, is under suspicion.
pub fn suspect(code: &str, event: Option<&EventId>, now: Timestamp) -> Reason {
    let message = "a host has ended at work: what it may have been at is handled one by one".to_owned();
    Reason { code: code.to_owned(), message, event: event.cloned(), since: now, retry_at: None, logs: String::new() }
}

/// A wait that something else ends.
pub const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The reason that a position carries whose shard parks no more.
pub fn full(message: String, event: &EventId, now: Timestamp) -> Reason {
    let (code, event) = (FULL.to_owned(), Some(event.clone()));
    Reason { code, message, event, since: now, retry_at: None, logs: String::new() }
}

/// The row as a deployment may run it: a component that has never run there starts anew where another one was blocked, and
/// so does a new filter where an older deployment's had no answer. A pause stays, whoever comes.
pub fn standing(position: &Position, digest: Digest, epoch: Epoch) -> Position {
    let mut position = position.clone();
    let is_of_the_filter = |reason: &Reason| reason.code == FailureKind::Filter.code();
    let is_new = position.digest.is_some_and(|before| before != digest)
        || position.epoch < epoch && position.reason.as_ref().is_some_and(is_of_the_filter);
    if let Some(reason) = position.reason.as_mut().filter(|_| position.epoch < epoch) {
        // Whatever was deployed may help: it is tried at once.
        reason.retry_at = None;
    }
    if is_new && position.status != Status::Paused {
        position.status = Status::Running;
        position.reason = None;
        position.attempts = 0;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::Fence,
        tenant::{ConsumerId, ShardId, TenantId},
    };

    fn failure(kind: FailureKind, after_ms: Option<u64>) -> Failure {
        let after = after_ms.map(Duration::from_millis);
        Failure { kind, index: 0, among: 1, message: String::new(), after, logs: String::new(), is_of_start: false }
    }

    fn steady() -> RetryPolicy {
        RetryPolicy { jitter: false, ..RetryPolicy::default() }
    }

    #[test]
    fn waits_grow_by_the_factor_up_to_the_cap() {
        let waits: Vec<u128> = (1..=12).map(|n| backoff(&steady(), n, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(backoff(&steady(), u32::MAX, 0.0), steady().cap);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        let policy = RetryPolicy::default();
        assert_eq!(backoff(&policy, 1, 0.0).as_millis(), 100);
        assert_eq!(backoff(&policy, 1, 1.0).as_millis(), 50);
    }

    #[test]
    fn the_last_attempt_a_reject_and_what_was_not_granted_block() {
        for kind in [FailureKind::Denied, FailureKind::Filter, FailureKind::Crash] {
            assert_eq!(after_failure(&steady(), 1, &failure(kind, None), 0.0), Decision::End(OnExhausted::Block));
        }
        let retry = failure(FailureKind::Retry, None);
        assert!(matches!(after_failure(&steady(), 7, &retry, 0.0), Decision::Retry(_)));
        assert_eq!(after_failure(&steady(), 8, &retry, 0.0), Decision::End(OnExhausted::Block));
        assert_eq!(
            after_failure(&steady(), 1, &failure(FailureKind::Reject, None), 0.0),
            Decision::End(OnExhausted::Block)
        );
    }

    #[test]
    fn what_was_blocked_runs_again_where_its_reason_is_gone() {
        let shard =
            ShardId { consumer: ConsumerId { tenant: TenantId::default(), name: "c".parse().unwrap() }, index: 0 };
        let (old, new) = (Digest([1; 32]), Digest([2; 32]));
        let blocked = |kind| Position {
            status: Status::Blocked,
            reason: Some(reason(&failure(kind, None), &EventId("7".into()), Timestamp(0))),
            attempts: 8,
            digest: Some(old),
            epoch: Epoch(3),
            ..Position::start(shard.clone(), Fence(1))
        };
        let stands = |kind, digest, epoch| standing(&blocked(kind), digest, epoch).status == Status::Blocked;
        assert!(stands(FailureKind::Trap, old, Epoch(4)), "another deployment of the same component");
        assert!(!stands(FailureKind::Trap, new, Epoch(4)), "another component");
        assert!(stands(FailureKind::Filter, old, Epoch(3)), "a host that starts again");
        assert!(!stands(FailureKind::Filter, old, Epoch(4)), "another deployment, and so perhaps another filter");
        let mut waiting = Position { status: Status::Running, ..blocked(FailureKind::Trap) };
        waiting.reason.as_mut().unwrap().retry_at = Some(Timestamp(9));
        let waits = |epoch| standing(&waiting, old, epoch).reason.unwrap().retry_at.is_some();
        assert!(waits(Epoch(3)) && !waits(Epoch(4)), "another deployment is tried at once");
        let paused = Position { status: Status::Paused, ..blocked(FailureKind::Filter) };
        assert_eq!(standing(&paused, new, Epoch(4)).status, Status::Paused);
    }

    #[test]
    fn what_is_not_the_event_s_fault_sets_nothing_aside() {
        let policy = RetryPolicy { on_exhausted: OnExhausted::DeadLetter, ..steady() };
        let reject = failure(FailureKind::Reject, None);
        assert_eq!(after_failure(&policy, 1, &reject, 0.0), Decision::End(OnExhausted::DeadLetter));
        let of_start = Failure { is_of_start: true, ..reject };
        assert_eq!(after_failure(&policy, 1, &of_start, 0.0), Decision::End(OnExhausted::Block));
    }

    #[test]
    fn a_failed_event_waits_as_its_row_says_and_never_longer_than_the_cap() {
        let (seven, now) = (EventId("7".into()), Timestamp(1_000_000));
        let wait = |at: Option<i64>, event: &EventId| {
            let failed = failure(FailureKind::Retry, None);
            let reason = Reason { retry_at: at.map(Timestamp), ..reason(&failed, &seven, now) };
            retry_at(Some(&reason), event, &steady(), now)
        };
        assert_eq!(wait(Some(2_000_000), &seven), Some(Timestamp(2_000_000)));
        assert_eq!(wait(Some(1), &seven), Some(Timestamp(1)), "it may be tried now");
        assert_eq!(wait(Some(2_000_000), &EventId("8".into())), None, "another event");
        assert_eq!(wait(Some(62_000_000), &seven), None, "a clock that was set back, or a cap that was lowered");
        assert_eq!((wait(None, &seven), retry_at(None, &seven, &steady(), now)), (None, None));
    }

    #[test]
    fn of_a_long_message_the_beginning_is_kept_and_of_long_logs_the_end() {
        let (message, logs) =
            (format!("{}z", "ä".repeat(MESSAGE_BYTES_MAX)), format!("a{}z", "ä".repeat(MESSAGE_BYTES_MAX)));
        let long = Failure { message, logs, ..failure(FailureKind::Retry, None) };
        let reason = reason(&long, &EventId("7".into()), Timestamp(0));
        assert_eq!(reason.message.len(), MESSAGE_BYTES_MAX);
        assert!(reason.logs.len() < MESSAGE_BYTES_MAX && reason.logs.ends_with('z'), "half a character is none");
    }

    #[test]
    fn a_guest_may_ask_for_a_longer_wait_up_to_the_cap() {
        let wait = |ms| after_failure(&steady(), 1, &failure(FailureKind::Retry, Some(ms)), 0.0);
        assert_eq!(wait(1), Decision::Retry(Duration::from_millis(100)));
        assert_eq!(wait(5_000), Decision::Retry(Duration::from_secs(5)));
        assert_eq!(wait(5_000_000), Decision::Retry(Duration::from_secs(60)));
    }
}
