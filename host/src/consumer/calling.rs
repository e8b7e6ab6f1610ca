//! Calls: the handler, its right to run, and how it is made and replaced.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Run, suspect::Right};
use crate::{
    batch,
    deployment::Spec,
    emitted::Emitted,
    error::Result,
    event::Event,
    handler::{Failure, Handled},
    view::{View, ViewSpec},
};

/// How many events the next calls may have.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Calls {
    /// As many as there are.
    #[default]
    Any,
    /// The next one so many: those before an event that failed, of a call that was undone.
    Prefix(usize),
    /// So many calls one event each: a call was undone, and nobody knows which event it was of.
    Singly(usize),
}

impl Calls {
    /// How a call that was undone is made again, if it was more than the event that failed.
    pub(super) fn after(failure: &Failure, undone: usize) -> Option<Self> {
        match (undone, failure.among) {
            (0, 0 | 1) => None,
            (0, among) => Some(Self::Singly(among)),
            (undone, _) => Some(Self::Prefix(undone)),
        }
    }

    /// The most events that the next call may have.
    pub(super) fn most(&mut self) -> usize {
        let (most, next) = match *self {
            Self::Any => (usize::MAX, Self::Any),
            Self::Prefix(most) => (most, Self::Any),
            Self::Singly(0 | 1) => (1, Self::Any),
            Self::Singly(calls) => (1, Self::Singly(calls - 1)),
        };
        *self = next;
        most
    }
}

impl Run<'_> {
    /// One turn of the handler, or one event where a host may have ended of it.
    pub(super) async fn call(&mut self, rest: &[Event], most: usize) -> Result<Handled> {
        if self.shard.remembered.suspicion.holds() {
            return self.call_alone(rest).await;
        }
        self.unmark().await?;
        let _right = Right::beside().await;
        self.call_together(rest, most).await
    }

    /// One turn of the handler, with as many events as the batch has room for.
    pub(super) async fn call_together(&mut self, rest: &[Event], most: usize) -> Result<Handled> {
        let policy = &self.version.spec.batch;
        let room = policy.max.saturating_sub(self.gathered.handled);
        let events = if self.version.factory.takes_many() {
            let most = most.min(policy.call_events_max());
            within(rest.get(..most).unwrap_or(rest), policy.bytes)
        } else {
            rest.get(..most.min(room.clamp(1, batch::CALL_EVENTS_MAX) as usize)).unwrap_or(rest)
        };
        if events.len() > room as usize {
            // A call is not divided because others came before it.
            self.commit().await?;
        }
        let failure = self.make_handler().await?;
        let Some(handler) = &mut self.handler else { return Ok(Handled { failure, ..Handled::default() }) };
        let began = Instant::now();
        let handled = handler.handle(events).await;
        self.shard.metrics.call_seconds.observe(began.elapsed().as_secs_f64());
        Ok(handled)
    }

    /// Makes a handler where there is none, or says why there is none.
    pub(super) async fn make_handler(&mut self) -> Result<Option<Failure>> {
        if self.handler.is_some() {
            return Ok(None);
        }
        let view = match self.known.take() {
            Some(view) => view.renewed(self.view_spec()),
            None => {
                // A new view reads from the store: what came before must be there.
                self.settle().await?;
                View::new(self.view_spec())
            }
        };
        match self.version.factory.create(view).await {
            Ok(handler) => self.handler = Some(handler),
            Err(failure) => return Ok(Some(Failure { is_of_start: true, ..failure })),
        }
        Ok(None)
    }

    /// Another version takes over: the old one's work is committed under its own digest first. Nothing is waited for:
    /// the new handler takes over what the old one's view knows, written or not.
    pub(super) async fn swap(&mut self) -> Result<()> {
        if self.in_flight.len() > 1 {
            self.settle().await?;
        }
        if self.has_something() {
            self.submit().await;
        }
        let version = self.shard.version.borrow_and_update().clone();
        // What was written and never taken is in no commit: a view that has such writes ends with its handler.
        let known = self.handler.take().map(|handler| handler.into_view()).filter(View::is_clean);
        let known = known.or_else(|| self.known.take());
        self.adopt(version);
        self.known = known;
        // The handler that the next event would need, so that a swap is over when it says so. A failure to make it is
        // left to that event.
        self.unmark().await?;
        let _right = Right::beside().await;
        self.make_handler().await?;
        self.shard.adopted.send_replace(self.version.epoch);
        self.shard.metrics.reloads.inc();
        Ok(())
    }

    fn view_spec(&self) -> ViewSpec {
        let Spec { state, stream, grants_emit, limits, .. } = &*self.version.spec;
        ViewSpec {
            store: self.shard.store.clone(),
            shard: self.shard.id.clone(),
            scope: *state,
            stream: stream.clone(),
            incarnation: (self.row.incarnation, self.row.generation),
            granted: Arc::new(grants_emit.iter().cloned().collect()),
            limits: Arc::new(limits.clone()),
            clock: self.shard.clock,
            emitted: Emitted::new(&self.version.spec.past, self.shard.tailer.source()),
        }
    }
}

/// The first of the events, as many as come to so many bytes; one at least.
fn within(events: &[Event], bytes: u64) -> &[Event] {
    let mut sum = 0;
    let fits = |event: &&Event| {
        sum += event.bytes() as u64;
        sum <= bytes
    };
    let count = events.iter().take_while(fits).count().max(1);
    events.get(..count).unwrap_or(events)
}
