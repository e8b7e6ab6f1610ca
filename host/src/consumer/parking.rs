//! Keys that are parked: an event of theirs failed, and what comes after it waits in the store, so that the others go on.
//!
//! The rows are written in the commit that moves the cursor past their events, and taken away in the one that has their effects.
//! What is held here is only where each queue begins and ends, and when it is tried again.

use std::{sync::Arc, time::Duration};

use bytestring::ByteString;
use hashbrown::HashMap;

use super::share::Share;
use crate::{
    error::Result,
    event::{Event, Timestamp},
    handler::FailureKind,
    metrics::ConsumerMetrics,
    parked::{Parked, ParkedKey},
    policy::RetryPolicy,
    store::{Digest, Store},
    tenant::ConsumerId,
};

/// See the module.
pub(super) struct Parking {
    queues: HashMap<ByteString, Queue>,
    events: u64,
    metrics: Arc<ConsumerMetrics>,
    /// The keys and events that the metrics have of it.
    shown: (i64, i64),
}

/// The events of one key.
pub(super) struct Queue {
    /// The place of the first of them.
    pub(super) first: u64,
    /// Where the next one queues.
    next: u64,
    /// When the first one is tried again; not by itself where there is no such time.
    pub(super) due: Option<Timestamp>,
    /// Whether that one was tried before, by which component, and whether it was the filter that had no answer.
    pub(super) was_tried: bool,
    digest: Digest,
    is_of_filter: bool,
}

impl Parking {
    /// The keys that are a shard's.
    pub(super) async fn load(
        store: &dyn Store,
        consumer: &ConsumerId,
        share: &Share,
        metrics: &Arc<ConsumerMetrics>,
    ) -> Result<Self> {
        let mut parking = Self { queues: HashMap::new(), events: 0, metrics: metrics.clone(), shown: (0, 0) };
        for ParkedKey { head, first, last, events } in store.parked_keys(consumer).await? {
            if share.owns(&head.event) {
                let queue = Queue {
                    first,
                    next: last + 1,
                    due: head.redrive_at,
                    was_tried: head.attempts > 0,
                    digest: head.digest,
                    is_of_filter: head.reason.code == FailureKind::Filter.code(),
                };
                parking.queues.insert(head.event.foreign_id, queue);
                parking.events += events;
            }
        }
        parking.show();
        Ok(parking)
    }

    /// Another component may help, and so may another filter: they are tried at once. A deployment does not wait for what was to
    /// be tried under the one before, and nothing waits longer than its policy lets it.
    pub(super) fn renew(&mut self, digest: Digest, is_newer: bool, retry: &RetryPolicy, now: Timestamp) {
        for queue in self.queues.values_mut() {
            let may_help = queue.digest != digest || is_newer && (queue.is_of_filter || queue.due.is_some());
            let due = queue.due.map(|due| due.min(now.after(retry.cap)));
            queue.due = if may_help { Some(now) } else { due };
        }
    }

    /// Whether an event must wait.
    pub(super) fn holds(&self, event: &Event) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&*event.foreign_id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether one more event may be parked.
    pub(super) fn has_room(&self, event: &Event, retry: &RetryPolicy) -> bool {
        self.events < u64::from(retry.parked_events)
            && (self.queues.len() < retry.parked_keys as usize || self.holds(event))
    }

    /// When the next key is tried again.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.queues.values().filter_map(|queue| queue.due).min()
    }

    /// The keys that may be tried again, those that have waited longest first.
    pub(super) fn due(&self, now: Timestamp) -> Vec<ByteString> {
        let due = self.queues.iter().filter_map(|(key, queue)| Some((queue.due.filter(|due| *due <= now)?, key)));
        let mut due: Vec<(Timestamp, &ByteString)> = due.collect();
        due.sort_unstable();
        due.into_iter().map(|(_, key)| key.clone()).collect()
    }

    pub(super) fn queue(&self, key: &str) -> Option<&Queue> {
        self.queues.get(key)
    }

    /// How many keys and events there are.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.queues.len(), self.events)
    }

    /// The place at which an event queues. Its key is tried again then, where it is the first of it.
    pub(super) fn push(&mut self, event: &Event, due: Option<Timestamp>, was_tried: bool, digest: Digest) -> u64 {
        let key = ByteString::from(&*event.foreign_id);
        let fresh = || Queue { first: 1, next: 1, due, was_tried, digest, is_of_filter: false };
        let queue = self.queues.entry(key).or_insert_with(fresh);
        queue.next += 1;
        self.events += 1;
        queue.next - 1
    }

    /// The first event of its key waits no longer. What comes after it is tried at once.
    pub(super) fn pop(&mut self, parked: &Parked, now: Timestamp) {
        let key = &parked.letter.event.foreign_id;
        self.events = self.events.saturating_sub(1);
        let Some(queue) = self.queues.get_mut(key) else { return };
        (queue.first, queue.due, queue.was_tried) = (parked.place + 1, Some(now), false);
        if queue.first >= queue.next {
            self.queues.remove(key);
        }
    }

    /// The first event of its key has failed again.
    pub(super) fn failed(&mut self, parked: &Parked) {
        let letter = &parked.letter;
        if let Some(queue) = self.queues.get_mut(&letter.event.foreign_id) {
            (queue.due, queue.digest, queue.was_tried) = (letter.redrive_at, letter.digest, true);
            queue.is_of_filter = letter.reason.code == FailureKind::Filter.code();
        }
    }

    /// Nothing of a key is in the store any more.
    pub(super) fn forget(&mut self, key: &str) {
        if let Some(queue) = self.queues.remove(key) {
            self.events = self.events.saturating_sub(queue.next - queue.first);
        }
    }

    /// Tells the metrics, which many shards share.
    pub(super) fn show(&mut self) {
        let keys = i64::try_from(self.queues.len()).unwrap_or(i64::MAX);
        let now = (keys, i64::try_from(self.events).unwrap_or(i64::MAX));
        self.metrics.parked_keys.inc_by(now.0 - self.shown.0);
        self.metrics.parked_events.inc_by(now.1 - self.shown.1);
        self.shown = now;
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.metrics.parked_keys.dec_by(self.shown.0);
        self.metrics.parked_events.dec_by(self.shown.1);
    }
}

/// How long a turn of the loop may try what is parked, one call of any length apart: what is new waits meanwhile.
pub(super) const TURN: Duration = Duration::from_millis(50);
