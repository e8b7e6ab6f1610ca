//! Parks events, and tries what is parked again.

use bytestring::ByteString;
use tokio::time::Instant;

use super::{Run, calling::Calls, failure::After, parking::TURN};
use crate::{
    dead_letter::DeadLetter,
    error::{Error, Result},
    event::{Event, Timestamp},
    handler::{Failure, FailureKind, Handled},
    parked::Parked,
    policy::{self, Decision, OnExhausted},
    shard::Stop,
    store::Reason,
};

/// Events of a key that are read at once.
const EVENTS_A_PAGE: u32 = 64;

impl Run<'_> {
    /// Parks an event whose key is parked, or that has just failed. Where too much is parked already the shard stands until there
    /// is room, or until it is time to try the event itself again.
    pub(super) async fn park(&mut self, event: &Event, failed: Option<DeadLetter>) -> Result<After> {
        let again_at = failed.as_ref().and_then(|letter| letter.redrive_at);
        if !self.parking.has_room(event, &self.version.spec.retry) {
            self.stand(event, failed.as_ref());
            self.commit().await?;
            self.settle().await?;
        }
        while !self.parking.has_room(event, &self.version.spec.retry) {
            if let Some(after) = self.wait_for_room(again_at).await? {
                self.shard.full.send_replace(None);
                return Ok(after);
            }
        }
        self.shard.full.send_replace(None);
        let now = self.shard.clock.now();
        let digest = self.version.factory.digest();
        let place = self.parking.push(event, failed.as_ref().map_or(Some(now), |_| again_at), failed.is_some(), digest);
        let parked = match failed {
            Some(letter) => Parked { place, letter },
            None => Parked::queued(&self.shard.id, place, event.clone(), digest, now),
        };
        if place == 1 {
            self.parking.failed(&parked);
        }
        self.parked.push(parked);
        self.gathered.bytes += event.bytes() as u64;
        self.pass(event);
        self.gathered.handled += 1;
        self.queued += 1;
        Ok(After::Next)
    }

    /// Says why the shard stands.
    fn stand(&mut self, event: &Event, failed: Option<&DeadLetter>) {
        let (keys, events) = self.parking.counts();
        let because = failed.map(|letter| format!("; it has failed: {}", letter.reason.message)).unwrap_or_default();
        let message =
            format!("there is no room to park event {}: {events} events of {keys} keys are parked{because}", event.id);
        let mut reason = policy::full(message, &event.id, self.shard.clock.now());
        let again = [failed.and_then(|letter| letter.redrive_at), self.parking.next_due()];
        reason.retry_at = again.into_iter().flatten().min();
        if self.shard.full.borrow().is_none() {
            tracing::error!(shard = %self.shard.id, event = %event.id, "blocked: {}", reason.message);
            self.shard.metrics.stopped("blocked");
        }
        self.shard.full.send_replace(Some(reason.clone()));
        self.next_row.reason = Some(reason);
        self.row_is_due = true;
    }

    /// Tries what is parked while there is no room. Says how it goes on where something else matters more than room.
    async fn wait_for_room(&mut self, again_at: Option<Timestamp>) -> Result<Option<After>> {
        let now = self.shard.clock.now();
        if *self.shard.stop.borrow() {
            return Ok(Some(After::Stop(Stop::Asked)));
        }
        if self.shard.version.has_changed().unwrap_or(false) || again_at.is_some_and(|at| at <= now) {
            return Ok(Some(After::Again));
        }
        if self.is_parked_due() {
            return self.retry_parked().await.map(|()| None);
        }
        if self.redriving.is_due() {
            return self.redrive().await.map(|()| None);
        }
        let next = [self.parking.next_due(), again_at].into_iter().flatten().min();
        // Whoever waits for long must know that what it has written stands.
        self.unmark().await?;
        self.settle().await?;
        let wait = next.map_or(policy::FOREVER, |next| next.since(now));
        let redrive = self.redriving.look_at().map(|at| at.saturating_duration_since(Instant::now()));
        match self.pause(redrive.map_or(wait, |redrive| redrive.min(wait))).await? {
            After::Again => Ok(None),
            after => Ok(Some(after)),
        }
    }

    /// Whether a key that is parked may be tried again. It waits for the commit in flight, in place of making everybody wait.
    pub(super) fn is_parked_due(&self) -> bool {
        self.in_flight.is_empty() && self.parking.next_due().is_some_and(|due| due <= self.shard.clock.now())
    }

    /// Tries keys whose time has come, for a turn.
    pub(super) async fn retry_parked(&mut self) -> Result<()> {
        let until = Instant::now() + TURN;
        for key in self.parking.due(self.shard.clock.now()) {
            loop {
                if !self.drain_some(&key).await? {
                    break;
                }
                if Instant::now() >= until || self.is_wanted_elsewhere() {
                    return self.commit().await;
                }
            }
            if Instant::now() >= until || self.is_wanted_elsewhere() {
                break;
            }
        }
        self.commit().await
    }

    /// Whether the shard is to stop or to run another version.
    fn is_wanted_elsewhere(&self) -> bool {
        *self.shard.stop.borrow() || self.shard.version.has_changed().unwrap_or(false)
    }

    /// Handles the next events of a key in their order. Whether there is more to do with it now.
    async fn drain_some(&mut self, key: &ByteString) -> Result<bool> {
        let Some(queue) = self.parking.queue(key) else { return Ok(false) };
        let (first_place, was_tried) = (queue.first, queue.was_tried);
        // What is read next must be there. What was gathered is of other keys, and so of other states: it waits for its commit.
        let is_head = |parked: &Parked| parked.place == first_place && parked.letter.event.foreign_id == *key;
        if !self.in_flight.is_empty() || self.parked.iter().any(is_head) {
            self.commit().await?;
            self.settle().await?;
        }
        // One that has failed before is tried alone.
        let limit = if was_tried { 1 } else { EVENTS_A_PAGE };
        let page = self.shard.store.parked(&self.shard.id.consumer, key, first_place, limit).await?;
        let Some(first) = page.first() else {
            self.parking.forget(key);
            return Ok(false);
        };
        // One that fails takes its handler with it: not that of the live keys, with all that its view remembers.
        let live = self.handler.take();
        let events: Vec<Event> = page.iter().map(|parked| parked.letter.event.clone()).collect();
        let wanted = self.share.filter(&events);
        let is_wanted = wanted.matching.first().is_some_and(|wanted| wanted.id == *first.event());
        let handled = match wanted.failure {
            Some(message) if wanted.seen == 0 => {
                Handled { failure: Some(Failure::of_filter(message)), ..Handled::default() }
            }
            // The filter leaves it out now.
            _ if !is_wanted => {
                self.handler = live;
                self.unpark(first);
                return Ok(true);
            }
            _ => {
                let run = wanted.matching.iter().zip(&events).take_while(|(a, b)| a.id == b.id).count();
                let most = self.parked_calls.most();
                self.call(events.get(..run).unwrap_or_default(), most).await?
            }
        };
        let done = handled.done.min(page.len());
        if done == 0 {
            // Nothing was written: what the live keys' handler knows of the state is still true.
            self.handler = live;
        }
        self.changes.merge(handled.changes);
        page.iter().take(done).for_each(|parked| self.unpark(parked));
        self.drained += u32::try_from(done).unwrap_or(u32::MAX);
        if done > 0 {
            // The live keys have another handler from here on, which reads what was gathered.
            self.commit().await?;
            self.settle().await?;
        }
        match (handled.failure, page.get(done)) {
            (Some(failure), Some(parked)) => {
                if done > 0 {
                    self.handler = None;
                }
                let undone = failure.index.saturating_sub(done);
                self.failed_parked(failure, undone, parked).await
            }
            _ => Ok(done > 0),
        }
    }

    /// It waits no longer, once the commit stands that is being gathered.
    fn unpark(&mut self, parked: &Parked) {
        self.has_begun(parked);
        self.unparked.push(parked.id());
        self.row_is_due = true;
        self.parking.pop(parked, self.shard.clock.now());
    }

    /// A handler could not be made for it, and now has been: the attempts at that are over.
    fn has_begun(&mut self, parked: &Parked) {
        let is_of_it = |reason: &Reason| reason.event.as_ref() == Some(parked.event());
        if self.next_row.reason.take_if(|reason| is_of_it(reason)).is_some() {
            self.next_row.attempts = 0;
            self.row_is_due = true;
        }
    }

    /// Whether there is more to do with its key now.
    async fn failed_parked(&mut self, failure: Failure, undone: usize, parked: &Parked) -> Result<bool> {
        if failure.is_of_start {
            // No event is at fault, and none would fare better: the shard itself waits, and in the end stands.
            let event = &parked.letter.event;
            if let After::Stop(Stop::Blocked(_)) = Box::pin(self.failed(failure, 0, event)).await? {
                self.commit().await?;
                self.settle().await?;
                return Err(Error::fenced(format!("{} is blocked from here on", self.shard.id)));
            }
            return Ok(false);
        }
        self.has_begun(parked);
        if let FailureKind::Infrastructure(error) = failure.kind {
            self.shard.metrics.failed("infrastructure");
            // What was gathered would be handled again with every try.
            self.commit().await?;
            self.settle().await?;
            return Err(error);
        }
        if let Some(calls) = Calls::after(&failure, undone) {
            self.undone(&failure, &parked.letter.event);
            self.parked_calls = calls;
            return Ok(true);
        }
        let (spec, digest, now) = (self.version.spec.clone(), self.version.factory.digest(), self.shard.clock.now());
        let mut letter = parked.letter.clone();
        let is_anew = letter.digest != digest || letter.reason.code == FailureKind::Filter.code();
        letter.attempts = if is_anew { 1 } else { letter.attempts.saturating_add(1) };
        let decision = policy::after_failure(&spec.retry, letter.attempts, &failure, fastrand::f64());
        tracing::warn!(shard = %self.shard.id, event = %letter.event.id, digest = %digest.short(),
            attempts = letter.attempts, kind = failure.kind.code(), ?decision, "parked event failed: {}", failure.message);
        self.shard.metrics.failed(failure.kind.code());
        letter.reason = policy::reason(&failure, &letter.event.id, now);
        letter.digest = digest;
        letter.shard = self.shard.id.clone();
        if let Decision::End(end @ (OnExhausted::DeadLetter | OnExhausted::Skip)) = decision {
            if end == OnExhausted::Skip {
                letter.reason = policy::skipped(letter.reason);
            }
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
        self.shard.metrics.retries.inc_by(u64::from(letter.redrive_at.is_some()));
        let parked = Parked { place: parked.place, letter };
        self.parking.failed(&parked);
        self.parked.push(parked);
        self.row_is_due = true;
        self.commit().await?;
        Ok(false)
    }
}
