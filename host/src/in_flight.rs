//! A shard's commits that were submitted and are not answered yet, oldest first.
//!
//! While one version runs there is one at the most. A swap adds the old version's last one without waiting: should the
//! commit before it fail, its compare does, too.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::{committer::Pending, error::Result};

/// A commit that was submitted, and what there is to count once it stands.
pub(crate) struct Submitted {
    /// Its answer.
    pub(crate) pending: Pending,
    /// When it was submitted.
    pub(crate) at: Instant,
    /// How many events were handled.
    pub(crate) handled: u32,
    /// How many were emitted.
    pub(crate) emitted: usize,
    /// How many were set aside.
    pub(crate) set_aside: usize,
    /// How many were parked.
    pub(crate) queued: u32,
    /// How many wait no longer.
    pub(crate) unqueued: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct InFlight(VecDeque<Submitted>);

impl InFlight {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, commit: Submitted) {
        self.0.push_back(commit);
    }

    /// Waits until the oldest one stands; for ever, when there is none. May be given up.
    pub(crate) async fn next(&mut self) -> Result<Submitted> {
        loop {
            match self.0.front_mut() {
                Some(commit) => commit.pending.wait().await?,
                None => std::future::pending().await,
            };
            if let Some(commit) = self.0.pop_front() {
                return Ok(commit);
            }
        }
    }
}
