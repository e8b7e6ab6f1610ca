//! A table of every kind of failure under every policy in every form of call, and what must be left of each.

use std::{collections::BTreeMap, fmt, time::Duration};

use bytes::Bytes;
use tendon::{
    deployment::{Spec, StateScope},
    error::Error,
    event::{Cursor, Event, EventId, Timestamp},
    filter::Filter,
    handler::FailureKind,
    policy::{OnExhausted, RetryPolicy},
    store::Status,
    tenant::{ConsumerId, Name, ShardId},
    topology::Shards,
};

use crate::{
    bench,
    place::{consumer, name, stream},
};

/// Events, numbered from 1, by turns of keys `a` and `b`; the third one, of key `a`, fails.
pub(crate) const EVENTS: u64 = 6;
/// The one that fails.
pub(crate) const POISON: u64 = 3;
/// How often an event is tried.
const ATTEMPTS: u32 = 3;

/// How a failure looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    Retry,
    Reject,
    Trap,
    Timeout,
    Limit,
    Denied,
    Filter,
    Crash,
    Infrastructure,
}

pub(crate) const FAILS: [Fails; 9] = [
    Fails::Retry,
    Fails::Reject,
    Fails::Trap,
    Fails::Timeout,
    Fails::Limit,
    Fails::Denied,
    Fails::Filter,
    Fails::Crash,
    Fails::Infrastructure,
];

impl Fails {
    pub(crate) fn kind(self) -> FailureKind {
        match self {
            Self::Retry => FailureKind::Retry,
            Self::Reject => FailureKind::Reject,
            Self::Trap => FailureKind::Trap,
            Self::Timeout => FailureKind::Timeout,
            Self::Limit => FailureKind::Limit,
            Self::Denied => FailureKind::Denied,
            Self::Filter => FailureKind::Filter,
            Self::Crash => FailureKind::Crash,
            Self::Infrastructure => FailureKind::Infrastructure(Error::unavailable("the store is down")),
        }
    }

    /// How often it is tried before its policy's end.
    fn attempts(self) -> u32 {
        match self {
            Self::Retry | Self::Trap | Self::Timeout | Self::Limit => ATTEMPTS,
            Self::Reject | Self::Denied | Self::Filter | Self::Crash => 1,
            Self::Infrastructure => 0,
        }
    }

    /// Whether a batch that ends so says which event it was.
    pub(crate) fn names_its_event(self) -> bool {
        !matches!(self, Self::Trap | Self::Timeout | Self::Limit | Self::Denied)
    }
}

const POLICIES: [OnExhausted; 4] =
    [OnExhausted::Block, OnExhausted::DeadLetter, OnExhausted::Skip, OnExhausted::ParkKey];

/// In which form events are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One event after the other.
    Single,
    /// Many a call, all of them or none.
    Batch,
    /// One after the other, each key in a shard of its own.
    Sharded,
}

const FORMS: [Form; 3] = [Form::Single, Form::Batch, Form::Sharded];

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) fails: Fails,
    pub(crate) policy: OnExhausted,
    pub(crate) form: Form,
}

/// What is left of a case.
#[derive(PartialEq, Eq, Default)]
pub(crate) struct Left {
    /// Of the shard of each key the event that it has passed last, 0 before the first, with its status and attempts.
    pub(crate) rows: BTreeMap<&'static str, (u64, Status, u32)>,
    /// Events that were emitted for, and those that each key's state has counted.
    pub(crate) emitted: Vec<u64>,
    pub(crate) counted: BTreeMap<&'static str, String>,
    /// What was set aside, with its attempts and its reason.
    pub(crate) set_aside: Vec<(u64, u32, String)>,
    /// What is parked, the first with its attempts.
    pub(crate) parked: Vec<(u64, u32)>,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, emitted, counted, set_aside, parked } = self;
        write!(
            f,
            "\n  rows {rows:?}\n  emitted {emitted:?}\n  counted {counted:?}\n  set aside {set_aside:?}\n  parked {parked:?}"
        )
    }
}

impl Case {
    /// All cases.
    pub(crate) fn all() -> Vec<Self> {
        let policies = || POLICIES.into_iter().flat_map(|policy| FORMS.map(move |form| (policy, form)));
        let with = |fails| policies().map(move |(policy, form)| Self { fails, policy, form });
        FAILS.into_iter().flat_map(with).collect()
    }

    /// What the case's consumer and the stream that it emits to are called: many share a database.
    fn word(self) -> String {
        format!("{:?}-{:?}-{:?}", self.fails, self.policy, self.form).to_lowercase()
    }

    pub(crate) fn consumer(self) -> ConsumerId {
        consumer(&self.word())
    }

    pub(crate) fn out(self) -> Name {
        name(&self.word())
    }

    pub(crate) fn keys(self) -> &'static [&'static str] {
        if self.form == Form::Sharded { &["a", "b"] } else { &["both"] }
    }

    pub(crate) fn shard(self, key: &str) -> ShardId {
        let event = Event {
            id: EventId("1".into()),
            cursor: Cursor::START,
            r#type: 1,
            foreign_id: key.into(),
            timestamp: Timestamp(0),
            metadata: Bytes::new(),
            headers: Vec::new(),
        };
        ShardId { consumer: self.consumer(), index: self.spec().shards.of(&event) }
    }

    pub(crate) fn spec(self) -> Spec {
        let count = if self.form == Form::Sharded { 2 } else { 1 };
        let base = Duration::from_millis(1);
        // It has no answer for the poison alone.
        let r#where = (self.fails == Fails::Filter).then(|| format!("1 / (metadata - {POISON}) < 1000"));
        Spec {
            filter: Filter { r#where, ..Filter::default() },
            state: StateScope::Key,
            shards: Shards { count, ..Shards::default() },
            retry: RetryPolicy { attempts: ATTEMPTS, base, on_exhausted: self.policy, ..RetryPolicy::default() },
            grants_emit: vec![self.out()],
            ..bench::spec(stream("in"))
        }
    }

    /// What must be left, worked out from what the policies promise.
    pub(crate) fn expected(self) -> Left {
        let attempts = self.fails.attempts();
        let stops = self.policy == OnExhausted::Block || self.fails == Fails::Infrastructure;
        let status = if stops && attempts > 0 { Status::Blocked } else { Status::Running };
        let mut left = Left::default();
        let (a, b): (&[u64], &[u64]) = match (self.policy, stops, self.form) {
            // The call was undone, and nobody is to blame.
            (_, true, Form::Batch) if attempts == 0 => (&[], &[]),
            (_, true, Form::Sharded) => (&[1], &[2, 4, 6]),
            (_, true, _) => (&[1], &[2]),
            (OnExhausted::ParkKey, ..) => (&[1], &[2, 4, 6]),
            _ => (&[1, 5], &[2, 4, 6]),
        };
        left.emitted = [a, b].concat();
        left.counted = [("a", a), ("b", b)].map(|(key, events)| (key, text(events))).into();
        for key in self.keys() {
            let here = match (stops, self.form, *key) {
                (true, Form::Sharded, "b") | (false, ..) => (EVENTS, Status::Running, 0),
                // After what is the other's, and before what the filter has no answer for.
                (true, Form::Sharded, _) if self.fails == Fails::Filter => (2, status, attempts),
                // After what it has handled last.
                (true, Form::Sharded, _) => (1, status, attempts),
                (true, Form::Batch, _) if attempts == 0 => (0, status, 0),
                (true, ..) => (2, status, attempts),
            };
            left.rows.insert(key, here);
        }
        let code = self.fails.kind().code().to_owned();
        match self.policy {
            _ if stops => {}
            OnExhausted::DeadLetter => left.set_aside = vec![(POISON, attempts, code)],
            OnExhausted::Skip => left.set_aside = vec![(POISON, attempts, "skipped".to_owned())],
            OnExhausted::ParkKey => left.parked = vec![(POISON, attempts), (5, 0)],
            OnExhausted::Block => {}
        }
        left
    }
}

/// Events as their key's state has them.
fn text(events: &[u64]) -> String {
    events.iter().map(|n| format!("{n} ")).collect()
}
