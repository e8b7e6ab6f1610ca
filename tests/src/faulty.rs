//! A store and a source that fail at the k-th call, before it or after it: what a host sees of a broken connection.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tendon::{
    dead_letter::{DeadLetter, Letters},
    deployment::Deployment,
    error::{Error, Kind, Result},
    event::{Cursor, Event, EventId},
    owner::Owner,
    parked::{Parked, ParkedKey},
    source::{Chunks, Lag, Source, Until},
    store::{Commit, Committed, Digest, Key, Position, Scope, Store, Swap},
    tenant::{ConsumerId, ShardId},
};

/// When the k-th call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it does anything.
    Before,
    /// When it has done everything: only its answer is lost.
    After,
}

/// The calls of a store and of its sources, counted together. Clones count together.
#[derive(Clone)]
pub struct Fault {
    calls: Arc<AtomicUsize>,
    at: usize,
    when: When,
}

impl Fault {
    /// A fault at the k-th call, counted from 0.
    pub fn at(k: usize, when: When) -> Self {
        Self { calls: Arc::default(), at: k, when }
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Counts a call; whether this is the one.
    fn is_now(&self) -> bool {
        self.calls.fetch_add(1, Relaxed) == self.at
    }

    async fn through<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let now = self.is_now();
        if now && self.when == When::Before {
            return Err(Error::unavailable("the call was not made"));
        }
        let answer = call.await;
        if now { Err(Error::unavailable("the answer was lost")) } else { answer }
    }
}

/// A store that fails once.
pub struct FaultyStore {
    /// The one that does the work.
    pub inner: Arc<dyn Store>,
    /// When it fails.
    pub fault: Fault,
}

#[async_trait]
impl Store for FaultyStore {
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position> {
        self.fault.through(self.inner.claim(shard, owner)).await
    }

    async fn load(&self, shard: &ShardId) -> Result<Position> {
        self.fault.through(self.inner.load(shard)).await
    }

    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        self.fault.through(self.inner.get(scope, keys)).await
    }

    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        self.fault.through(self.inner.scan(scope, prefix, after, limit)).await
    }

    async fn has_state(&self, consumer: &ConsumerId) -> Result<bool> {
        self.fault.through(self.inner.has_state(consumer)).await
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        let now = self.fault.is_now();
        let fail = |kind, text: &str| commits.iter().map(|_| Err(Error::new(kind, text))).collect();
        if now && self.fault.when == When::Before {
            return fail(Kind::Unavailable, "the commit was not sent");
        }
        let answers = self.inner.commit(commits).await;
        if now { fail(Kind::Ambiguous, "the answer to a commit was lost") } else { answers }
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        self.fault.through(self.inner.positions()).await
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        self.fault.through(self.inner.deployments()).await
    }

    async fn component(&self, digest: &Digest) -> Result<Bytes> {
        self.fault.through(self.inner.component(digest)).await
    }

    async fn dead_letters(&self, consumer: &ConsumerId, which: &Letters) -> Result<Vec<DeadLetter>> {
        self.fault.through(self.inner.dead_letters(consumer, which)).await
    }

    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter> {
        self.fault.through(self.inner.dead_letter(consumer, event)).await
    }

    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>> {
        self.fault.through(self.inner.parked_keys(consumer)).await
    }

    async fn parked(&self, consumer: &ConsumerId, key: &str, from: u64, limit: u32) -> Result<Vec<Parked>> {
        self.fault.through(self.inner.parked(consumer, key, from, limit)).await
    }

    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>> {
        self.fault.through(self.inner.history(shard)).await
    }
}

/// A source that fails once; each chunk that is asked for is a call.
pub struct FaultySource {
    /// The one that does the work.
    pub inner: Arc<dyn Source>,
    /// When it fails.
    pub fault: Fault,
}

#[async_trait]
impl Source for FaultySource {
    async fn head(&self) -> Result<Cursor> {
        self.fault.through(self.inner.head()).await
    }

    async fn stream(&self, after: Cursor, until: Until) -> Result<Chunks> {
        let chunks = self.fault.through(self.inner.stream(after, until)).await?;
        let fault = self.fault.clone();
        Ok(Box::pin(
            chunks.map(move |chunk| if fault.is_now() { Err(Error::unavailable("the stream broke")) } else { chunk }),
        ))
    }

    async fn lag(&self, after: &Cursor, cap: u64) -> Result<Lag> {
        self.fault.through(self.inner.lag(after, cap)).await
    }

    fn compare(&self, a: &Cursor, b: &Cursor) -> Ordering {
        self.inner.compare(a, b)
    }

    async fn event_at(&self, cursor: &Cursor) -> Result<Option<Event>> {
        self.fault.through(self.inner.event_at(cursor)).await
    }
}
