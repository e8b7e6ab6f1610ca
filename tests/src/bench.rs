//! What benchmarks share: the bench guest, and one consumer that runs without a config.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use tendon::{
    backend::Database,
    batch::BatchPolicy,
    clock::Clock,
    committer::Committer,
    deployment::{Spec, StateScope},
    event::Cursor,
    filter::Filter,
    handler::HandlerFactory,
    limits::Limits,
    metrics::ConsumerMetrics,
    owner::Owner,
    policy::RetryPolicy,
    runtime::{Compiler, Engine, GuestFactory},
    shard::{Remembered, Shard, Version},
    store::Store,
    supervisor::{Standing, Supervised},
    tailer::Tailer,
    tenant::{ConsumerId, Name, ShardId, StreamId, TenantId},
    topology::{Past, Shards},
};

use crate::guests::Guest;

/// An engine, and the bench guests' bytes.
pub struct Bench {
    /// The engine.
    pub engine: Engine,
    component: bytes::Bytes,
    batch: bytes::Bytes,
}

impl Bench {
    /// Builds the guests where that is needed.
    pub async fn new() -> Result<Self> {
        let (component, batch) = (Guest::Bench.component()?, Guest::BenchBatch.component()?);
        Ok(Self { engine: Engine::new(Compiler::Here, None)?, component, batch })
    }

    /// The guest, with what it shall do per event: `empty`, `parse`, `count` or `emit`.
    pub async fn guest(&self, does: &str) -> Result<Arc<dyn HandlerFactory>> {
        self.version_of(does, 0).await
    }

    /// The guest that does so with many events a call.
    pub async fn batch_guest(&self, does: &str) -> Result<Arc<dyn HandlerFactory>> {
        self.compile(self.batch.clone(), does).await
    }

    /// The same guest under another digest: a custom section tells the versions apart.
    pub async fn version_of(&self, does: &str, version: u8) -> Result<Arc<dyn HandlerFactory>> {
        let mut component = self.component.to_vec();
        // Section 0, four bytes: a name of one byte, and two of content.
        component.extend([0, 4, 1, b'v', version, 0]);
        self.compile(component.into(), does).await
    }

    async fn compile(&self, component: bytes::Bytes, does: &str) -> Result<Arc<dyn HandlerFactory>> {
        let limits = Limits::default();
        let compiled = self.engine.compile(component, &limits).await?;
        let config = BTreeMap::from([("does".to_owned(), does.to_owned())]);
        Ok(Arc::new(GuestFactory::new(&self.engine, compiled, config, &limits)?))
    }
}

/// The spec of a consumer that reads a stream from its start.
pub fn spec(stream: StreamId) -> Spec {
    Spec {
        stream,
        store: name("main"),
        start: Cursor::START,
        filter: Filter::default(),
        lag: Duration::ZERO,
        state: StateScope::Consumer,
        shards: Shards::default(),
        past: Past::default(),
        batch: BatchPolicy::default(),
        retry: RetryPolicy::default(),
        limits: Limits::default(),
        grants_emit: Vec::new(),
        config: BTreeMap::new(),
        state_version: 1,
        legacy_cursor: None,
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A consumer of the default tenant.
pub fn consumer(text: &str) -> ConsumerId {
    ConsumerId { tenant: TenantId::default(), name: name(text) }
}

/// A consumer that runs.
pub struct Running {
    /// The shard's supervisor.
    pub supervised: Supervised,
    store: Arc<dyn Store>,
    shard: ShardId,
    /// What it has counted.
    pub metrics: Arc<ConsumerMetrics>,
}

impl Running {
    /// Starts a consumer with its own position.
    pub fn start(
        text: &str,
        database: &Database,
        committer: Committer,
        tailer: Arc<Tailer>,
        version: Version,
    ) -> Result<Self> {
        Self::start_shard((text, 0), database, committer, tailer, version)
    }

    /// Starts one of its shards.
    pub fn start_shard(
        shard: (&str, u32),
        database: &Database,
        committer: Committer,
        tailer: Arc<Tailer>,
        version: Version,
    ) -> Result<Self> {
        Self::start_by(Clock::System, shard, database, committer, tailer, version)
    }

    /// The same, by another clock.
    pub fn start_by(
        clock: Clock,
        (text, index): (&str, u32),
        database: &Database,
        committer: Committer,
        tailer: Arc<Tailer>,
        version: Version,
    ) -> Result<Self> {
        let shard = ShardId { consumer: consumer(text), index };
        let metrics = ConsumerMetrics::unregistered(&shard.consumer);
        let store = database.store();
        let supervised = Supervised::start(Arc::new(version), |ends| Shard {
            id: shard.clone(),
            owner: Owner::this_process(),
            store: store.clone(),
            committer,
            tailer,
            clock,
            metrics: metrics.clone(),
            version: ends.version,
            poke: ends.poke,
            stop: ends.stop,
            adopted: ends.adopted,
            full: ends.full,
            remembered: Remembered::default(),
        });
        Ok(Self { supervised, store, shard, metrics })
    }

    /// Waits until it has made its first commit.
    pub async fn has_committed(&self) -> Result<()> {
        loop {
            match self.store.load(&self.shard).await {
                Ok(position) if position.digest.is_some() => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Waits until it has committed so many events. Only the counter is asked: what a store is asked meanwhile would be
    /// counted with what it costs to handle them.
    pub async fn until_handled(&self, events: u64) -> Result<()> {
        while self.handled() < events {
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.is_not_blocked()?;
        }
        Ok(())
    }

    /// Waits until its position is there.
    pub async fn until(&self, cursor: &Cursor) -> Result<()> {
        loop {
            match self.store.load(&self.shard).await {
                Ok(position) if position.cursor == *cursor => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
            self.is_not_blocked()?;
        }
    }

    fn is_not_blocked(&self) -> Result<()> {
        match self.supervised.standing() {
            Standing::Blocked(reason) => bail!("{} is blocked: {reason:?}", self.shard),
            _ => Ok(()),
        }
    }

    /// Events that it has counted so far.
    pub fn handled(&self) -> u64 {
        self.metrics.events.get()
    }

    /// Stops it in order; how many events it has committed.
    pub async fn stop(self) -> u64 {
        self.supervised.stop().await;
        self.metrics.events.get()
    }
}
