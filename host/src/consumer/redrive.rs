//! What was set aside and is to be handled again.
//!
//! Whoever wants it marks the dead letters and pokes the shard, so that its loop begins anew; and begins here. What is marked is
//! in the store: a restart forgets none of it.

use super::Run;
use crate::{
    dead_letter::{DeadLetter, Letters},
    error::Result,
    handler::{Failure, FailureKind, Handled},
    policy,
    shard::Stop,
};

/// How many are read at once.
const LETTERS_MAX: u32 = 100;

impl Run<'_> {
    /// Handles again what somebody wants to be, before anything new: each in a commit of its own, which also takes it from
    /// what is set aside, or says why it stays there.
    pub(super) async fn redrive(&mut self) -> Result<Option<Stop>> {
        let due = Letters { is_due: true, limit: LETTERS_MAX, after: None };
        loop {
            let letters = self.shard.store.dead_letters(&self.shard.id.consumer, &due).await?;
            if letters.is_empty() {
                return Ok(None);
            }
            for letter in letters {
                if *self.shard.stop.borrow() {
                    return Ok(Some(Stop::Asked));
                }
                self.handle_again(letter).await?;
            }
            self.settle().await?;
        }
    }

    async fn handle_again(&mut self, letter: DeadLetter) -> Result<()> {
        let events = std::slice::from_ref(&letter.event);
        let selected = self.matcher.select(events);
        let handled = match selected.failure {
            Some(message) => Handled { failure: Some(Failure::of_filter(message)), ..Handled::default() },
            // Another filter than before leaves it out.
            None if selected.matching.is_empty() => Handled::default(),
            None => self.call(events).await?,
        };
        match handled.failure {
            None => {
                self.changes.merge(handled.changes);
                self.purged.push((self.shard.id.consumer.clone(), letter.event.id));
            }
            Some(Failure { kind: FailureKind::Infrastructure(error), .. }) => return Err(error),
            Some(failure) => {
                self.handler = None;
                let reason = policy::reason(&failure, &letter.event.id, self.shard.clock.now());
                let (attempts, digest) = (letter.attempts.saturating_add(1), self.version.factory.digest());
                self.dead_letters.push(DeadLetter { reason, attempts, digest, logs: failure.logs, ..letter });
            }
        }
        self.row_is_due = true;
        self.commit().await
    }
}
