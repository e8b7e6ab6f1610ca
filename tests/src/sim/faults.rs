//! What goes wrong in a simulation: at the ports, now and then.

use std::{
    cmp::Ordering,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tendon::{
    dead_letter::{DeadLetter, Letters},
    deployment::Deployment,
    error::{Error, Kind, Result},
    event::{Cursor, Event, EventId, EventKey, Timestamp},
    owner::Owner,
    parked::{Parked, ParkedKey},
    source::{Chunks, Lag, Source, Until},
    store::{Commit, Committed, Digest, Key, Position, Scope, Store, Swap},
    tenant::{ConsumerId, ShardId},
};
use tokio::time::sleep;

use super::Plan;

/// Decides what goes wrong, and keeps the trace.
pub(super) struct Faults {
    pub(super) calm: AtomicBool,
    compares: bool,
    /// Whether an event may be emitted twice: a control is not to be saved by what the store refuses.
    doubles: bool,
    pub(super) injected: AtomicU64,
    trace: Mutex<Sha256>,
}

impl Faults {
    pub(super) fn new(plan: &Plan) -> Self {
        let (compares, doubles) = (plan.compares, !plan.compares || !plan.remembers);
        Self { calm: AtomicBool::new(false), compares, doubles, injected: AtomicU64::new(0), trace: Mutex::default() }
    }

    pub(super) fn trace(&self) -> String {
        format!("{:x}", self.trace.lock().unwrap().clone().finalize())
    }

    /// A call at a port: it takes a while, and once in `one_in` times it goes wrong.
    async fn strike(&self, call: &str, one_in: u32) -> bool {
        self.trace.lock().unwrap().update(call);
        if self.calm.load(Relaxed) {
            return false;
        }
        sleep(Duration::from_micros(fastrand::u64(0..8_000))).await;
        let strikes = fastrand::u32(0..one_in) == 0;
        self.injected.fetch_add(u64::from(strikes), Relaxed);
        strikes
    }
}

fn down() -> Error {
    Error::unavailable("injected: the port is down")
}

/// A store whose calls take a while, fail before they act, or act and lose the answer.
pub(super) struct FaultyStore {
    pub(super) inner: Arc<dyn Store>,
    pub(super) faults: Arc<Faults>,
}

#[async_trait]
impl Store for FaultyStore {
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position> {
        if self.faults.strike("claim", 20).await {
            return Err(down());
        }
        self.inner.claim(shard, owner).await
    }

    async fn load(&self, shard: &ShardId) -> Result<Position> {
        self.inner.load(shard).await
    }

    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        if self.faults.strike("get", 100).await {
            return Err(down());
        }
        self.inner.get(scope, keys).await
    }

    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        self.inner.scan(scope, prefix, after, limit).await
    }

    async fn has_state(&self, consumer: &ConsumerId) -> Result<bool> {
        self.inner.has_state(consumer).await
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        let fail = |kind| commits.iter().map(|_| Err(Error::new(kind, "injected: the answer is lost"))).collect();
        if self.faults.strike("commit", 20).await {
            return fail(Kind::Unavailable);
        }
        let mut commits = commits.to_vec();
        if !self.faults.compares {
            for r#move in commits.iter_mut().filter_map(|commit| commit.r#move.as_mut()) {
                r#move.from = self.inner.load(&r#move.from.shard).await.unwrap();
            }
        }
        if self.faults.doubles {
            for emit in commits.iter_mut().flat_map(|commit| &mut commit.changes.emits) {
                emit.key = EventKey::new(Timestamp(0), &[&fastrand::u64(..).to_le_bytes()]);
            }
        }
        let answers = self.inner.commit(&commits).await;
        let what = |commit: &Commit| (commit.r#move.clone(), commit.changes.writes.len(), commit.changes.emits.clone());
        let call = format!("{:?}", commits.iter().map(what).collect::<Vec<_>>());
        if self.faults.strike(&call, 20).await { fail(Kind::Ambiguous) } else { answers }
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        self.inner.positions().await
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        self.inner.deployments().await
    }

    async fn component(&self, digest: &Digest) -> Result<Bytes> {
        self.inner.component(digest).await
    }

    async fn dead_letters(&self, consumer: &ConsumerId, which: &Letters) -> Result<Vec<DeadLetter>> {
        self.inner.dead_letters(consumer, which).await
    }

    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter> {
        self.inner.dead_letter(consumer, event).await
    }

    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>> {
        self.inner.parked_keys(consumer).await
    }

    async fn parked(&self, consumer: &ConsumerId, key: &str, from: u64, limit: u32) -> Result<Vec<Parked>> {
        self.inner.parked(consumer, key, from, limit).await
    }

    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>> {
        self.inner.history(shard).await
    }
}

/// A source whose streams break off now and then.
pub(super) struct FaultySource {
    pub(super) inner: Arc<dyn Source>,
    pub(super) faults: Arc<Faults>,
}

#[async_trait]
impl Source for FaultySource {
    async fn head(&self) -> Result<Cursor> {
        self.inner.head().await
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        if self.faults.strike("stream", 20).await {
            return Err(down());
        }
        let faults = self.faults.clone();
        let chunks = self.inner.stream(after, until).await?;
        Ok(Box::pin(chunks.then(move |chunk| {
            let faults = faults.clone();
            async move { if faults.strike("chunk", 50).await { Err(down()) } else { chunk } }
        })))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        self.inner.lag(after, cap).await
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        self.inner.compare(a, b)
    }

    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>> {
        self.inner.event_at(cursor).await
    }
}
