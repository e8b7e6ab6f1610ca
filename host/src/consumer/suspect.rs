//! What follows when a host has ended at work: the events that it may have ended of are handled alone, and the row says which
//! one it is. One that was handled alone when two hosts ended is not given to a third.
//!
//! A host that is killed for another reason ends at some event, too, but hardly twice at the same. Shards go through what is
//! suspected side by side; what a second host ended at they handle in turn, so that one has nothing to do with what another's
//! event does. It costs a commit for each of these events, and nothing where hosts end in order: those give their rows back.

use tokio::sync::{Mutex, MutexGuard};

use super::Run;
use crate::{
    batch::BatchPolicy,
    error::Result,
    event::{Cursor, Event, EventId},
    handler::{Failure, FailureKind, Handled},
    owner::Owner,
    policy,
    source::Source,
    store::{Position, Reason},
};

/// Whose turn it is, of all shards of the process, to handle what it is accused of.
static TURN: Mutex<()> = Mutex::const_new(());

/// A turn: it lasts until the row no longer says so.
pub(super) type Turn = MutexGuard<'static, ()>;

/// What a host may have ended of.
#[derive(Default)]
pub(super) struct Suspicion {
    /// At what it ended while nothing else was going on: an event, or the making of a handler.
    accused: Option<Option<EventId>>,
    /// Whether another one had before.
    is_again: bool,
    /// Events that are still to be handled alone: what a host gathers between two commits.
    left: u32,
    /// Where the stream ended when this began: what a host may have been at before is not behind it.
    until: Cursor,
}

impl Suspicion {
    /// What the row tells that was there before this host took it.
    pub(super) async fn of(before: Option<&Position>, batch: &BatchPolicy, source: &dyn Source) -> Result<Self> {
        let Some(row) = before.filter(|row| row.owner.has_died()) else { return Ok(Self::default()) };
        let code_is = |reason: &Reason, codes: &[&str]| codes.contains(&reason.code.as_str());
        let suspect = row.reason.as_ref().filter(|reason| code_is(reason, &[policy::SUSPECT, policy::SUSPECT_AGAIN]));
        tracing::warn!(shard = %row.shard, owner = %row.owner, event = ?suspect.map(|reason| &reason.event),
            "a host has ended at work: what it may have been at is handled one by one");
        let is_again = suspect.is_some_and(|reason| code_is(reason, &[policy::SUSPECT_AGAIN]));
        let accused = suspect.map(|reason| reason.event.clone());
        Ok(Self { accused, is_again, left: batch.max, until: source.head().await? })
    }

    /// Nothing is ready at this place: nothing may be left of what the host was at.
    pub(super) fn rest(&mut self, cursor: &Cursor, source: &dyn Source) {
        if self.left > 0 && source.compare(cursor, &self.until).is_ge() {
            self.left = 0;
        }
    }

    /// Another component may do better.
    pub(super) fn acquit(&mut self) {
        self.accused = None;
    }

    /// Whether events are handled alone.
    pub(super) fn holds(&self) -> bool {
        self.left > 0
    }

    fn accuses(&self, event: Option<&EventId>) -> bool {
        self.accused.as_ref().is_some_and(|accused| accused.as_ref() == event)
    }

    fn convicts(&self, event: Option<&EventId>) -> bool {
        self.is_again && self.accuses(event)
    }
}

impl Run<'_> {
    /// Calls with the first of the events alone, unless it has ended two hosts before.
    pub(super) async fn call_alone(&mut self, events: &[Event]) -> Result<Handled> {
        let Some(event) = events.first() else { return Ok(Handled::default()) };
        if self.handler.is_none() {
            if self.suspicion.convicts(None) {
                return Ok(crashed("a handler was made", true));
            }
            let kept = self.suspect(None).await?;
            let failure = self.make_handler().await?;
            self.next_row.reason = kept;
            if failure.is_some() {
                return Ok(Handled { failure, ..Handled::default() });
            }
        }
        if self.suspicion.convicts(Some(&event.id)) {
            return Ok(crashed("this event was handled", false));
        }
        let kept = self.suspect(Some(&event.id)).await?;
        let handled = self.call_together(std::slice::from_ref(event), 1).await?;
        self.next_row.reason = kept;
        self.suspicion.left = self.suspicion.left.saturating_sub(1);
        Ok(handled)
    }

    /// Writes into the row what is about to be done alone. What it said before is given back.
    async fn suspect(&mut self, event: Option<&EventId>) -> Result<Option<Reason>> {
        let is_accused = self.suspicion.accuses(event);
        let turn = match self.turn.take() {
            None if is_accused => Some(TURN.lock().await),
            turn => turn,
        };
        let code = if is_accused { policy::SUSPECT_AGAIN } else { policy::SUSPECT };
        let kept = self.next_row.reason.replace(policy::suspect(code, event, self.shard.clock.now()));
        self.row_is_due = true;
        self.commit().await?;
        self.settle().await?;
        self.turn = turn.filter(|_| is_accused);
        // It is no longer true once this is over.
        self.row_is_due = true;
        Ok(kept)
    }

    /// Nobody runs the shard from the next commit on.
    pub(super) fn give_back(&mut self) {
        self.next_row.owner = Owner::default();
        self.row_is_due = true;
    }
}

fn crashed(what: &str, is_of_start: bool) -> Handled {
    let message = format!(
        "two host processes have ended while {what} and nothing else of this shard: it is not done a third time. The hosts' logs \
         and the system's (out of memory?) may tell why"
    );
    let failure =
        Failure { kind: FailureKind::Crash, index: 0, message, after: None, logs: String::new(), is_of_start };
    Handled { failure: Some(failure), ..Handled::default() }
}
