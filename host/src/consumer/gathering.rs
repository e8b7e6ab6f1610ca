//! What a run has gathered since its last commit, and how that is committed.

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{Run, held::Seen};
use crate::{
    batch,
    changes::Changes,
    error::Result,
    event::Event,
    in_flight::Submitted,
    store::{Commit, Duplicates, Move, Revision},
    suspicion::is_suspect,
};

impl Run<'_> {
    /// Merges what a call did: its events stand, once the commit does.
    pub(super) fn gather(&mut self, done: &[Event], changes: Changes) {
        let Some(last) = done.last() else { return };
        self.gathered.bytes += changes.bytes() as u64;
        self.changes.merge(changes);
        self.pass(last);
        self.gathered.handled += u32::try_from(done.len()).unwrap_or(u32::MAX);
    }

    /// Moves over the events that the filter left out, or that are other shards'.
    pub(super) fn skip(&mut self, seen: &Seen) {
        if let (Some(last), 1..) = (&seen.last, seen.skipped) {
            self.pass(last);
            self.gathered.skipped += u32::try_from(seen.skipped).unwrap_or(u32::MAX);
            self.shard.metrics.skipped.inc_by(seen.skipped.saturating_sub(seen.others) as u64);
        }
    }

    pub(super) fn pass(&mut self, last: &Event) {
        if self.gathered.handled + self.gathered.skipped == 0 {
            self.since = Instant::now();
        }
        self.gathered.age = self.since.elapsed();
        self.next_row.cursor = last.cursor.clone();
        // They were of an event that is passed now.
        self.next_row.attempts = 0;
        self.next_row.reason = None;
        self.last = Some(last.clone());
    }

    /// Commits what was gathered once that is due.
    pub(super) async fn commit_if_due(&mut self) -> Result<()> {
        self.take_answers()?;
        if batch::is_due(&self.version.spec.batch, &self.gathered, self.in_flight.is_empty()) {
            self.commit().await?;
        }
        Ok(())
    }

    /// Takes in what stands by now, without waiting.
    pub(super) fn take_answers(&mut self) -> Result<()> {
        while let Some(commit) = self.in_flight.next().now_or_never() {
            self.settled(&commit?);
        }
        Ok(())
    }

    /// Commits what was gathered: position, state and events, all or nothing.
    pub(super) async fn commit(&mut self) -> Result<()> {
        if self.has_something() {
            self.settle().await?;
            self.submit().await;
        }
        Ok(())
    }

    pub(super) fn has_something(&self) -> bool {
        self.gathered.handled + self.gathered.skipped > 0 || self.row_is_due
    }

    pub(super) async fn submit(&mut self) {
        let to = &mut self.next_row;
        to.updated_at = self.shard.clock.now();
        to.last_event = self.last.take().map(|event| event.hash()).or(to.last_event);
        if self.shard.tailer.source().compare(&to.cursor, &to.high_water).is_gt() {
            to.high_water = to.cursor.clone();
        }
        let r#move = Move { from: self.row.clone(), to: to.clone(), takes_fence: false };
        to.revision = Revision(self.row.revision.0 + 1);
        self.row = to.clone();
        let changes = std::mem::take(&mut self.changes);
        let (gathered, emitted) = (std::mem::take(&mut self.gathered).handled, changes.emits.len());
        let (queued, drained) = (std::mem::take(&mut self.queued), std::mem::take(&mut self.drained));
        let handled = gathered.saturating_sub(queued) + drained;
        let set_aside = std::mem::take(&mut self.set_aside);
        let source = self.shard.tailer.source().clone();
        let mirror = self.share.mirror(&to.cursor, &|a, b| source.compare(a, b));
        let dead_letters = std::mem::take(&mut self.dead_letters);
        let purged = std::mem::take(&mut self.purged);
        let (parked, unparked) = (std::mem::take(&mut self.parked), std::mem::take(&mut self.unparked));
        let r#move = Some(r#move);
        // Of what was set aside before a reset it may have emitted some since.
        let duplicates = if self.share.may_repeat() { Duplicates::Skip } else { Duplicates::Refuse };
        let commit =
            Commit { r#move, changes, duplicates, dead_letters, purged, parked, unparked, mirror, ..Commit::default() };
        let unqueued = commit.unparked.len();
        let pending = self.shard.committer.submit(commit).await;
        let at = Instant::now();
        self.in_flight.push(Submitted { pending, at, handled, emitted, set_aside, queued, unqueued });
        self.row_is_due = false;
    }

    /// Waits until all that was submitted stands.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            let commit = self.in_flight.next().await?;
            self.settled(&commit);
        }
        Ok(())
    }

    pub(super) fn settled(&mut self, commit: &Submitted) {
        let metrics = &self.shard.metrics;
        metrics.commit_seconds.observe(commit.at.elapsed().as_secs_f64());
        metrics.batch_events.observe(f64::from(commit.handled));
        metrics.events.inc_by(u64::from(commit.handled));
        metrics.emitted.inc_by(commit.emitted as u64);
        metrics.dead_letters.inc_by(commit.set_aside as u64);
        metrics.parked.inc_by(u64::from(commit.queued));
        metrics.unparked.inc_by(commit.unqueued as u64);
        if commit.queued > 0 || commit.unqueued > 0 {
            self.parking.show();
        }
        if self.in_flight.is_empty() && !self.row.reason.as_ref().is_some_and(is_suspect) {
            // The row says no more what was handled alone: others need not wait any longer.
            (self.is_marked, self.alone) = (false, None);
        }
        if let Some(handler) = self.handler.as_mut().filter(|_| self.in_flight.is_empty()) {
            handler.committed();
            metrics.memory_bytes.set(i64::try_from(handler.memory_bytes()).unwrap_or(i64::MAX));
        }
    }
}
