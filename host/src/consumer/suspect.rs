//! What follows when a host has ended at work: the events that it may have ended of are handled alone, and the row says which
//! one it is. What a second host ended at is handled while nothing else of the whole process is; what a third one ends at
//! then is not handled any more.
//!
//! A host that is killed for another reason ends at some event, too, but hardly twice at the same. It costs a commit for each
//! of these events, and nothing where hosts end in order: those give their rows back.

use std::pin::pin;

use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use super::{Run, is_raised};
use crate::{
    error::Result,
    event::{Event, EventId},
    handler::{Failure, FailureKind, Handled},
    owner::Owner,
    policy,
};

/// Held by all calls of guests, and by that with what is accused alone.
static CALLS: RwLock<()> = RwLock::const_new(());

/// A call's right to run.
pub(super) enum Right {
    /// Beside others.
    Beside(#[expect(dead_code, reason = "what counts is that it is held")] RwLockReadGuard<'static, ()>),
    /// Alone: it lasts until the row no longer says what is handled.
    Alone(#[expect(dead_code, reason = "what counts is that it is held")] RwLockWriteGuard<'static, ()>),
}

impl Right {
    /// That of a call that nothing is known of.
    pub(super) async fn beside() -> Self {
        Self::Beside(CALLS.read().await)
    }
}

impl Run<'_> {
    /// Calls with the first of the events alone, unless it has ended two hosts so.
    pub(super) async fn call_alone(&mut self, events: &[Event]) -> Result<Handled> {
        let Some(event) = events.first() else { return Ok(Handled::default()) };
        if self.handler.is_none() {
            if self.shard.remembered.suspicion.convicts(None) {
                return Ok(crashed("a handler was made", true));
            }
            let Some(right) = self.suspect(None).await? else { return Ok(Handled::default()) };
            let failure = self.make_handler().await?;
            self.trust(right);
            if failure.is_some() {
                return Ok(Handled { failure, ..Handled::default() });
            }
        }
        if self.shard.remembered.suspicion.convicts(Some(&event.id)) {
            return Ok(crashed("this event was handled", false));
        }
        let Some(right) = self.suspect(Some(&event.id)).await? else { return Ok(Handled::default()) };
        let handled = self.handle_alone(event).await?;
        self.trust(right);
        if handled.done > 0 {
            self.shard.remembered.suspicion.count();
        }
        Ok(handled)
    }

    /// Handles it. Whoever is asked to stop meanwhile, and may then be killed, says so first: the event is to blame for nothing.
    async fn handle_alone(&mut self, event: &Event) -> Result<Handled> {
        let Some(mut handler) = self.handler.take() else { return Ok(Handled::default()) };
        let began = Instant::now();
        let handled = {
            let mut call = pin!(handler.handle(std::slice::from_ref(event)));
            tokio::select! {
                biased;
                handled = &mut call => handled,
                () = is_raised(&mut self.shard.stop) => {
                    self.next_row.reason = self.kept.clone();
                    self.give_back();
                    self.commit().await?;
                    self.settle().await?;
                    call.await
                }
            }
        };
        self.shard.metrics.call_seconds.observe(began.elapsed().as_secs_f64());
        self.handler = Some(handler);
        Ok(handled)
    }

    /// Writes into the row what is about to be done alone; what it said before is kept. Without an answer there is no time for it:
    /// the shard is to stop.
    async fn suspect(&mut self, event: Option<&EventId>) -> Result<Option<Right>> {
        if self.alone.is_some() {
            self.unmark().await?;
        }
        let is_accused = self.shard.remembered.suspicion.accuses(event);
        let right = async {
            match is_accused {
                true => Right::Alone(CALLS.write().await),
                false => Right::beside().await,
            }
        };
        let right = tokio::select! {
            biased;
            () = is_raised(&mut self.shard.stop) => return Ok(None),
            right = right => right,
        };
        let code = if is_accused { policy::SUSPECT_AGAIN } else { policy::SUSPECT };
        self.kept = self.next_row.reason.replace(policy::suspect(code, event, self.shard.clock.now()));
        self.row_is_due = true;
        self.commit().await?;
        self.settle().await?;
        (self.is_marked, self.row_is_due) = (true, true);
        Ok(Some(right))
    }

    /// That is over; the row says so with the next commit.
    fn trust(&mut self, right: Right) {
        self.next_row.reason = self.kept.take();
        self.alone = Some(right).filter(|right| matches!(right, Right::Alone(_)));
    }

    /// Makes the row say so now.
    pub(super) async fn unmark(&mut self) -> Result<()> {
        if self.is_marked {
            self.commit().await?;
            self.settle().await?;
            (self.is_marked, self.alone) = (false, None);
        }
        Ok(())
    }

    /// Nobody runs the shard from the next commit on.
    pub(super) fn give_back(&mut self) {
        self.next_row.owner = Owner::default();
        self.row_is_due = true;
    }
}

fn crashed(what: &str, is_of_start: bool) -> Handled {
    let message = format!(
        "host processes have ended while {what}, twice while it was done alone and the second time with nothing else at work: it is not \
         done again by itself. The hosts' logs and the system's (out of memory?) may tell why"
    );
    let failure = Failure {
        kind: FailureKind::Crash,
        index: 0,
        among: 1,
        message,
        after: None,
        logs: String::new(),
        is_of_start,
    };
    Handled { failure: Some(failure), ..Handled::default() }
}
