//! A consumer that is kept running: all of its shards.

use std::{iter, sync::Arc, time::Duration};

use futures_util::future::join_all;

use crate::{
    shard::Version,
    supervisor::{Standing, Supervised},
};

/// See the module.
pub(super) struct Running {
    first: Supervised,
    others: Vec<Supervised>,
}

impl Running {
    /// Runs the shards of a version, each of which `start` begins to run.
    pub(super) fn start(version: Version, start: impl Fn(Arc<Version>, u32) -> Supervised) -> Self {
        let version = Arc::new(version);
        let others = (1..version.spec.shards.count).map(|index| start(version.clone(), index)).collect();
        Self { first: start(version, 0), others }
    }

    fn shards(&self) -> impl Iterator<Item = &Supervised> {
        iter::once(&self.first).chain(&self.others)
    }

    /// What they run, or are about to.
    pub(super) fn version(&self) -> Arc<Version> {
        self.first.version()
    }

    /// How they stand, in their order.
    pub(super) fn standings(&self) -> Vec<Standing> {
        self.shards().map(Supervised::standing).collect()
    }

    /// Lets another version of as many shards take over, as `Supervised::swap` does.
    pub(super) async fn swap(&self, version: Version, most: Duration) -> bool {
        let version = Arc::new(version);
        let swaps = self.shards().map(|shard| shard.swap(version.clone(), most));
        join_all(swaps).await.into_iter().all(|is_over| is_over)
    }

    /// Lets a shard look at its row again.
    pub(super) fn poke(&self, index: u32) {
        let shard = usize::try_from(index).ok().and_then(|index| self.shards().nth(index));
        shard.into_iter().for_each(Supervised::poke);
    }

    /// Asks them to stop in order, without waiting.
    pub(super) fn ask_to_stop(&self) {
        self.shards().for_each(Supervised::ask_to_stop);
    }

    /// Stops them in order: what was handled is committed.
    pub(super) async fn stop(self) {
        self.ask_to_stop();
        for shard in iter::once(self.first).chain(self.others) {
            shard.stop().await;
        }
    }
}
