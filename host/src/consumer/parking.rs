//! Keys that are parked: an event of theirs failed, and what comes after it waits in the store, so that the others go on.
//!
//! The rows are written in the commit that moves the cursor past their events, and taken away in the one that has their effects.
//! What is held here is only where each queue begins and ends, and when it is tried again.

use std::collections::HashMap;

use bytestring::ByteString;

use super::{Run, failure::After, share::Share};
use crate::{
    dead_letter::DeadLetter,
    error::Result,
    event::{Event, Timestamp},
    handler::{Failure, FailureKind, Handled},
    parked::{Parked, ParkedId, ParkedKey},
    policy::{self, Decision, OnExhausted},
    shard::Stop,
    store::{Digest, Store},
    tenant::ConsumerId,
};

/// Keys that are tried again in a turn of the loop.
const KEYS_A_TURN: usize = 8;
/// Events of a key that are read at once.
const EVENTS_A_PAGE: u32 = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Parking {
    queues: HashMap<ByteString, Queue>,
    events: u64,
}

/// The events of one key.
struct Queue {
    /// The place of the first of them.
    first: u64,
    /// Where the next one queues.
    next: u64,
    /// When the first one is tried again; not by itself where there is no such time.
    due: Option<Timestamp>,
    /// The component that could not handle it.
    digest: Digest,
}

impl Parking {
    /// The keys that are a shard's.
    pub(super) async fn load(store: &dyn Store, consumer: &ConsumerId, share: &Share) -> Result<Self> {
        let mut parking = Self::default();
        for ParkedKey { head, first, last, events } in store.parked_keys(consumer).await? {
            if share.owns(&head.event) {
                let queue = Queue { first, next: last + 1, due: head.redrive_at, digest: head.digest };
                parking.queues.insert(head.event.foreign_id, queue);
                parking.events += events;
            }
        }
        Ok(parking)
    }

    /// Another component may help: it is tried at once.
    pub(super) fn renew(&mut self, digest: Digest) {
        for queue in self.queues.values_mut().filter(|queue| queue.digest != digest) {
            queue.due = Some(Timestamp(i64::MIN));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether an event must wait.
    pub(super) fn holds(&self, event: &Event) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&*event.foreign_id)
    }

    /// When the next key is tried again.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.queues.values().filter_map(|queue| queue.due).min()
    }

    /// Some of the keys that may be tried again, those that have waited longest first.
    fn due(&self, now: Timestamp) -> Vec<ByteString> {
        let due = self.queues.iter().filter_map(|(key, queue)| Some((queue.due.filter(|due| *due <= now)?, key)));
        let mut due: Vec<(Timestamp, &ByteString)> = due.collect();
        due.sort_unstable();
        due.into_iter().take(KEYS_A_TURN).map(|(_, key)| key.clone()).collect()
    }

    /// How many keys and events there are.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.queues.len(), self.events)
    }
}

impl Run<'_> {
    /// Parks an event whose key is parked, or that has just failed; the loop waits instead where too much is parked already.
    pub(super) async fn park(&mut self, event: &Event, failed: Option<DeadLetter>) -> Result<After> {
        let retry = &self.version.spec.retry;
        let (keys, events) = self.parking.counts();
        let is_new = !self.parking.holds(event);
        if events >= u64::from(retry.parked_events) || is_new && keys >= retry.parked_keys as usize {
            return self.wait_for_room(event).await;
        }
        let now = self.shard.clock.now();
        let key = ByteString::from(&*event.foreign_id);
        let digest = self.version.factory.digest();
        let due = failed.as_ref().map_or(Some(now), |letter| letter.redrive_at);
        let queue = self.parking.queues.entry(key).or_insert(Queue { first: 1, next: 1, due, digest });
        let place = queue.next;
        queue.next += 1;
        self.parking.events += 1;
        self.parked.push(match failed {
            Some(letter) => Parked { place, letter },
            None => Parked::queued(&self.shard.id, place, event.clone(), digest, now),
        });
        self.shard.metrics.parked.inc();
        self.gathered.bytes += event.bytes() as u64;
        self.pass(event);
        self.gathered.handled += 1;
        Ok(After::Next)
    }

    /// Too much is parked: the shard stands in front of an event, and tries what is parked meanwhile.
    async fn wait_for_room(&mut self, event: &Event) -> Result<After> {
        let (keys, events) = self.parking.counts();
        let message = format!("{keys} keys with {events} events are parked: there is no room for one more");
        if self.next_row.reason.as_ref().is_none_or(|reason| reason.message != message) {
            self.next_row.reason = Some(policy::full(message, &event.id, self.shard.clock.now()));
            self.row_is_due = true;
        }
        self.commit().await?;
        self.settle().await?;
        if self.parking.next_due().is_some_and(|due| due <= self.shard.clock.now()) {
            self.retry_parked().await?;
            return Ok(if *self.shard.stop.borrow() { After::Stop(Stop::Asked) } else { After::Again });
        }
        let wait = self.parking.next_due().map_or(policy::FOREVER, |due| due.since(self.shard.clock.now()));
        self.pause(wait).await
    }

    /// Tries some of the keys whose time has come.
    pub(super) async fn retry_parked(&mut self) -> Result<()> {
        let due = self.parking.due(self.shard.clock.now());
        for key in due {
            if *self.shard.stop.borrow() || self.shard.version.has_changed().unwrap_or(false) {
                break;
            }
            self.drain(key).await?;
        }
        Ok(())
    }

    /// Handles the events of a key in their order, until there are none or one fails.
    async fn drain(&mut self, key: ByteString) -> Result<()> {
        loop {
            // What was gathered stands, whatever becomes of these; and what was parked can be read.
            self.commit().await?;
            self.settle().await?;
            let Some(queue) = self.parking.queues.get(&key) else { return Ok(()) };
            let consumer = &self.shard.id.consumer;
            let page = self.shard.store.parked(consumer, &key, queue.first, EVENTS_A_PAGE).await?;
            let Some(first) = page.first() else {
                self.parking.queues.remove(&key);
                return Ok(());
            };
            let events: Vec<Event> = page.iter().map(|parked| parked.letter.event.clone()).collect();
            let wanted = self.share.filter(&events);
            let handled = match (wanted.failure, wanted.matching.first()) {
                (Some(message), None) if wanted.seen == 0 => {
                    Handled { failure: Some(Failure::of_filter(message)), ..Handled::default() }
                }
                // The filter leaves it out now.
                (_, first_wanted) if first_wanted.is_none_or(|wanted| wanted.id != *first.event()) => {
                    Handled { done: 1, ..Handled::default() }
                }
                _ => {
                    let run = wanted.matching.iter().zip(&events).take_while(|(a, b)| a.id == b.id).count();
                    self.call(events.get(..run).unwrap_or_default()).await?
                }
            };
            let done = handled.done.min(page.len());
            self.changes.merge(handled.changes);
            page.iter().take(done).for_each(|parked| self.unpark(parked));
            match (handled.failure, page.get(done)) {
                (Some(failure), Some(parked)) => {
                    let undone = failure.index.saturating_sub(done);
                    if !self.failed_parked(failure, undone, parked).await? {
                        return Ok(());
                    }
                }
                // Its turn was over.
                (None, _) if done == 0 => return Ok(()),
                _ => {}
            }
            if *self.shard.stop.borrow() || self.shard.version.has_changed().unwrap_or(false) {
                return self.commit().await;
            }
        }
    }

    /// It waits no longer, once the commit stands that is being gathered.
    fn unpark(&mut self, parked: &Parked) {
        let ParkedId { key, .. } = parked.id();
        self.unparked.push(parked.id());
        self.row_is_due = true;
        self.parking.events = self.parking.events.saturating_sub(1);
        self.shard.metrics.unparked.inc();
        if let Some(queue) = self.parking.queues.get_mut(&key) {
            queue.first = parked.place + 1;
            queue.due = Some(self.shard.clock.now());
            if queue.first >= queue.next {
                self.parking.queues.remove(&key);
            }
        }
    }

    /// Whether there is more to do with its key now.
    async fn failed_parked(&mut self, failure: Failure, undone: usize, parked: &Parked) -> Result<bool> {
        self.handler = None;
        if let FailureKind::Infrastructure(error) = failure.kind {
            return Err(error);
        }
        if undone > 0 {
            self.call_events_max = undone;
            return Ok(true);
        }
        let (spec, digest, now) = (self.version.spec.clone(), self.version.factory.digest(), self.shard.clock.now());
        let mut letter = parked.letter.clone();
        let is_anew = letter.digest != digest || letter.attempts >= spec.retry.attempts;
        letter.attempts = if is_anew { 1 } else { letter.attempts + 1 };
        let decision = policy::after_failure(&spec.retry, letter.attempts, &failure, fastrand::f64());
        tracing::warn!(shard = %self.shard.id, event = %letter.event.id, digest = %digest.short(),
            attempts = letter.attempts, kind = failure.kind.code(), ?decision, "parked event failed: {}", failure.message);
        self.shard.metrics.failed(failure.kind.code());
        letter.reason = policy::reason(&failure, &letter.event.id, now);
        letter.digest = digest;
        letter.shard = self.shard.id.clone();
        let goes_on = matches!(decision, Decision::End(OnExhausted::DeadLetter | OnExhausted::Skip));
        if goes_on {
            letter.is_skipped = decision == Decision::End(OnExhausted::Skip);
            self.dead_letters.push(letter);
            self.set_aside += 1;
            self.unpark(parked);
            return Ok(true);
        }
        letter.redrive_at = match decision {
            Decision::Retry(wait) => Some(now.after(wait)),
            Decision::End(_) => None,
        };
        letter.reason.retry_at = letter.redrive_at;
        if let Some(queue) = self.parking.queues.get_mut(&*letter.event.foreign_id) {
            (queue.due, queue.digest) = (letter.redrive_at, digest);
        }
        self.parked.push(Parked { place: parked.place, letter });
        self.row_is_due = true;
        self.commit().await?;
        Ok(false)
    }
}
