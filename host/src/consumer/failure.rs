//! What becomes of an event that could not be handled.

use std::time::Duration;

use tokio::time::sleep;

use super::{Run, calling::Calls, is_raised, is_replaced};
use crate::{
    dead_letter::DeadLetter,
    error::Result,
    event::Event,
    handler::{Failure, FailureKind},
    policy::{self, Decision, OnExhausted},
    shard::Stop,
    store::{Reason, Status},
    view::View,
};

/// How it goes on after a failure.
pub(super) enum After {
    /// With the same event.
    Again,
    /// With the one behind it.
    Next,
    Stop(Stop),
}

impl Run<'_> {
    /// An event failed. What stands before it is committed together with the attempt; policy says how it goes on.
    /// The first `undone` events of the call were undone with it and are called again before anything counts.
    pub(super) async fn failed(&mut self, failure: Failure, undone: usize, event: &Event) -> Result<After> {
        // Where the guest says so itself, before it has written anything, nothing is dropped but its memory.
        let is_said = matches!(failure.kind, FailureKind::Retry | FailureKind::Reject) && !failure.is_of_start;
        self.known = self.handler.take().filter(|_| is_said).map(|handler| handler.into_view()).filter(View::is_clean);
        if let FailureKind::Infrastructure(error) = failure.kind {
            self.shard.metrics.failed("infrastructure");
            // What stands before it would be handled again with every try.
            self.commit().await?;
            self.settle().await?;
            return Err(error);
        }
        if let Some(calls) = Calls::after(&failure, undone) {
            self.undone(&failure, event);
            self.calls = calls;
            return self.commit().await.map(|()| After::Again);
        }
        let attempts = self.next_row.attempts + 1;
        let failure_is_of_start = failure.is_of_start;
        let decision = policy::after_failure(&self.version.spec.retry, attempts, &failure, fastrand::f64());
        tracing::warn!(shard = %self.shard.id, event = %event.id, digest = %self.version.factory.digest().short(),
            attempts, kind = failure.kind.code(), ?decision, "event failed: {}", failure.message);
        self.shard.metrics.failed(failure.kind.code());
        self.next_row.attempts = attempts;
        let reason = policy::reason(&failure, &event.id, self.shard.clock.now());
        self.next_row.reason = Some(reason.clone());
        self.row_is_due = true;
        let parks = self.version.spec.retry.on_exhausted == OnExhausted::ParkKey && !failure_is_of_start;
        match decision {
            Decision::Retry(wait) if parks => self.park_failed(event, Some(wait)).await,
            Decision::Retry(wait) => self.wait(wait).await,
            Decision::End(OnExhausted::ParkKey) => self.park_failed(event, None).await,
            Decision::End(OnExhausted::Block) => {
                self.next_row.status = Status::Blocked;
                Ok(After::Stop(Stop::Blocked(self.next_row.reason.clone())))
            }
            Decision::End(OnExhausted::DeadLetter) => self.set_aside(event, reason).await,
            Decision::End(OnExhausted::Skip) => self.set_aside(event, policy::skipped(reason)).await,
        }
    }

    /// Tells of a call that nobody is to blame for yet.
    pub(super) fn undone(&self, failure: &Failure, event: &Event) {
        tracing::warn!(shard = %self.shard.id, event = %event.id, kind = failure.kind.code(),
            "a call with many events was undone, and is made again with fewer: {}", failure.message);
        self.shard.metrics.undone(failure.kind.code());
    }

    /// Commits the attempt, and waits until it is time for the next one.
    async fn wait(&mut self, wait: Duration) -> Result<After> {
        if let Some(reason) = &mut self.next_row.reason {
            reason.retry_at = Some(self.shard.clock.now().after(wait));
        }
        self.commit().await?;
        self.settle().await?;
        self.shard.metrics.retries.inc();
        self.pause(wait).await
    }

    /// Waits, unless something else comes first that matters.
    pub(super) async fn pause(&mut self, wait: Duration) -> Result<After> {
        self.events.leave();
        tokio::select! {
            biased;
            () = sleep(wait) => Ok(After::Again),
            () = is_raised(&mut self.shard.stop) => Ok(After::Stop(Stop::Asked)),
            () = is_replaced(&mut self.shard.version) => Ok(After::Again),
            () = self.shard.poke.notified() => self.look_again().await,
        }
    }

    /// Goes on without the event's key, which is tried again after a wait, or when somebody helps.
    async fn park_failed(&mut self, event: &Event, wait: Option<Duration>) -> Result<After> {
        let Some(mut reason) = self.next_row.reason.clone() else { return Ok(After::Again) };
        self.shard.metrics.retries.inc_by(u64::from(wait.is_some()));
        let redrive_at = wait.map(|wait| self.shard.clock.now().after(wait));
        reason.retry_at = redrive_at;
        let letter = DeadLetter {
            shard: self.shard.id.clone(),
            event: event.clone(),
            reason,
            attempts: self.next_row.attempts,
            digest: self.version.factory.digest(),
            redrive_at,
            redrive_pace: Duration::ZERO,
        };
        let after = self.park(event, Some(letter)).await?;
        self.commit().await.map(|()| after)
    }

    /// Goes on without an event: it is set aside in the commit that moves the cursor past it.
    async fn set_aside(&mut self, event: &Event, reason: Reason) -> Result<After> {
        self.next_row.reason = None;
        self.dead_letters.push(DeadLetter {
            shard: self.shard.id.clone(),
            event: event.clone(),
            reason,
            attempts: std::mem::take(&mut self.next_row.attempts),
            digest: self.version.factory.digest(),
            redrive_at: None,
            redrive_pace: Duration::ZERO,
        });
        self.set_aside += 1;
        self.pass(event);
        self.commit().await.map(|()| After::Next)
    }
}
