//! What was set aside and is to be handled again.
//!
//! Whoever wants it marks the dead letters, in a move that fences the shard: its loop begins anew, and finds them here. What is
//! marked is in the store, so a restart forgets none of it. A few are handled in each of the loop's turns; what is new goes on.

use std::time::Duration;

use tokio::time::Instant;

use super::Run;
use crate::{
    dead_letter::{DeadLetter, Letters, Wished},
    error::{Error, Kind, Result},
    handler::{Failure, FailureKind, Handled},
    policy::{self, OnExhausted},
};

/// How many are handled in a turn.
const LETTERS_A_TURN: u32 = 16;
/// When the next one is tried after a handler could not be made.
const START_AGAIN: Duration = Duration::from_secs(5);

/// When what was set aside is looked for.
pub(super) struct Redriving {
    /// When to look; never where nothing is left.
    look_at: Option<Instant>,
}

impl Redriving {
    /// At once: nobody knows what is there.
    pub(super) fn new() -> Self {
        Self { look_at: Some(Instant::now()) }
    }

    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    pub(super) fn is_due(&self) -> bool {
        self.look_at.is_some_and(|at| at <= Instant::now())
    }
}

impl Run<'_> {
    /// Handles some again: each in a commit of its own, which also takes it from what is set aside, or says why it stays.
    pub(super) async fn redrive(&mut self) -> Result<()> {
        let name = self.shard.id.consumer.name.clone();
        let way_out = |error: Error| match error.kind() {
            Kind::Fenced | Kind::Unavailable | Kind::Ambiguous => error,
            _ => {
                let cancel = format!("where a dead letter is the reason, `tendon dlq cancel {name} --all` leaves it");
                let own = error.way_out().map(|own| format!("{own}; ")).unwrap_or_default();
                error.help(own + &cancel)
            }
        };
        self.redrive_some().await.map_err(way_out)
    }

    async fn redrive_some(&mut self) -> Result<()> {
        let paced_from = self.shard.remembered.paced_from.filter(|from| *from > Instant::now());
        let letters = self.due(paced_from.map_or(Wished::Yes, |_| Wished::AtOnce)).await?;
        if letters.is_empty() {
            self.redriving.look_at = paced_from;
        }
        for letter in letters {
            let has_more = self.redriving.is_due() && !*self.shard.stop.borrow();
            if !has_more || self.shard.version.has_changed().unwrap_or(false) {
                break;
            }
            let pace = letter.redrive_pace.saturating_mul(self.version.spec.shards.count);
            self.handle_again(letter).await?;
            if !pace.is_zero() {
                self.shard.remembered.paced_from = Some(Instant::now() + pace);
                break;
            }
        }
        // The next turn reads what this one has left.
        self.settle().await
    }

    /// The next that are this shard's.
    async fn due(&mut self, wished: Wished) -> Result<Vec<DeadLetter>> {
        let mut due = Letters { wished, limit: LETTERS_A_TURN, after: None };
        loop {
            let mut letters = self.shard.store.dead_letters(&self.shard.id.consumer, &due).await?;
            let Some(last) = letters.last() else { return Ok(letters) };
            due.after = Some((last.at(), last.event.id.clone()));
            letters.retain(|letter| self.share.owns(&letter.event));
            if !letters.is_empty() {
                return Ok(letters);
            }
        }
    }

    async fn handle_again(&mut self, letter: DeadLetter) -> Result<()> {
        // What was gathered has a commit of its own: should this event fail, it stands.
        self.commit().await?;
        let events = std::slice::from_ref(&letter.event);
        let selected = self.share.filter(events);
        let handled = match selected.failure {
            Some(message) => Handled { failure: Some(Failure::of_filter(message)), ..Handled::default() },
            None if selected.matching.is_empty() => {
                let message = "the consumer's filter leaves it out now".to_owned();
                Handled { failure: Some(Failure::of_filter(message)), ..Handled::default() }
            }
            None => self.call(events, 1).await?,
        };
        match handled.failure {
            // Its turn was over before it began.
            None if handled.done == 0 => return Ok(()),
            None => {
                self.changes.merge(handled.changes);
                self.purged.push((self.shard.id.consumer.clone(), letter.event.id));
            }
            Some(failure) => return self.failed_again(failure, letter).await,
        }
        self.row_is_due = true;
        self.commit().await
    }

    /// It stays set aside, with its new error; the wish is spent.
    async fn failed_again(&mut self, failure: Failure, letter: DeadLetter) -> Result<()> {
        self.handler = None;
        if failure.is_of_start {
            // No event would fare better now.
            self.redriving.look_at = Some(Instant::now() + START_AGAIN);
            return Ok(());
        }
        if let FailureKind::Infrastructure(error) = failure.kind {
            self.shard.metrics.failed("infrastructure");
            return Err(error);
        }
        tracing::warn!(shard = %self.shard.id, event = %letter.event.id, kind = failure.kind.code(),
            "redriven event failed: {}", failure.message);
        self.shard.metrics.failed(failure.kind.code());
        let mut reason = policy::reason(&failure, &letter.event.id, self.shard.clock.now());
        if self.version.spec.retry.on_exhausted == OnExhausted::Skip {
            reason = policy::skipped(reason);
        }
        let (attempts, digest) = (letter.attempts.saturating_add(1), self.version.factory.digest());
        self.dead_letters.push(DeadLetter { reason, attempts, digest, ..letter });
        self.row_is_due = true;
        self.commit().await
    }
}
