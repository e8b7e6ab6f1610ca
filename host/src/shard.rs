//! A shard of a consumer: what its loop needs, what it runs, and why it ended.

use std::sync::Arc;

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    clock::Clock,
    committer::Committer,
    deployment::Spec,
    handler::HandlerFactory,
    metrics::ConsumerMetrics,
    owner::Owner,
    store::{Epoch, Reason, Store},
    suspicion::Suspicion,
    tailer::Tailer,
    tenant::ShardId,
};

/// One shard of a consumer, and all that its loop needs.
pub struct Shard {
    /// Which one.
    pub id: ShardId,
    /// Who claims it.
    pub owner: Owner,
    /// Where its position and state are.
    pub store: Arc<dyn Store>,
    /// The way to that store for writes.
    pub committer: Committer,
    /// Reads its stream.
    pub tailer: Arc<Tailer>,
    /// Tells the time.
    pub clock: Clock,
    /// What it counts.
    pub metrics: Arc<ConsumerMetrics>,
    /// Tells which deployment it has taken over.
    pub adopted: watch::Sender<Epoch>,
    /// Why it stands though it runs: it may park no more.
    pub full: watch::Sender<Option<Reason>>,
    /// What it is to run. When that changes, the new version takes over between two events.
    pub version: watch::Receiver<Arc<Version>>,
    /// Makes it look at its row again: an operator moved it.
    pub poke: Arc<Notify>,
    /// Turns true when it shall stop.
    pub stop: watch::Receiver<bool>,
    /// What one run leaves to the next.
    pub remembered: Remembered,
}

/// What a shard's runs in one process know of each other, beside its row.
#[derive(Default)]
pub struct Remembered {
    /// What a host before this one may have ended of.
    pub suspicion: Suspicion,
    /// Nothing of a redrive with a pace is handled before.
    pub paced_from: Option<Instant>,
}

/// A deployment that is ready to run.
pub struct Version {
    /// Its number.
    pub epoch: Epoch,
    /// Its whole spec.
    pub spec: Arc<Spec>,
    /// Makes its handlers.
    pub factory: Arc<dyn HandlerFactory>,
}

/// Why a loop ended in order.
#[derive(Debug)]
pub enum Stop {
    /// It was asked to; all that was handled is committed.
    Asked,
    /// A poison event is in its way.
    Blocked(Option<Reason>),
    /// An operator paused it.
    Paused(Option<Reason>),
}
