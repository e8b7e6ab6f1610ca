//! A running host: its open stores, its streams' readers and its consumers. Everything that an operator can do to a
//! live host is a method here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::RwLock;

use crate::{
    backend::{self, Database, Options, sqlite::HostLock},
    clock::Clock,
    committer::Committer,
    config::{
        Config,
        resolved::{Consumer as ConsumerConfig, Durability, Store as StoreConfig, StoreUrl},
    },
    consumer::{Shard, Version},
    deploy::{Deployer, Proposal, check_change},
    deployment::Deployment,
    error::{Error, Kind, Result},
    notice::Notice,
    runtime::Engine,
    start,
    store::{Commit, Digest, Move, Owner, Position, Reason, Status},
    supervisor::{Standing, Supervised},
    tailer::Tailer,
    telemetry::Telemetry,
    tenant::{ConsumerId, Name, ShardId, StreamId},
};

/// How long a swap may take before whoever asked for it stops waiting; it still happens.
const SWAP_WAIT: Duration = Duration::from_secs(30);
/// How often an operator's move is tried against a shard that commits at the same time.
const MOVE_ATTEMPTS: u32 = 20;

/// See the module.
pub struct Host {
    state: RwLock<State>,
    deployer: Deployer,
    clock: Clock,
    owner: Owner,
    /// What it counts.
    pub telemetry: Telemetry,
}

struct State {
    config: Config,
    stores: BTreeMap<Name, OpenStore>,
    tailers: BTreeMap<StreamId, Arc<Tailer>>,
    consumers: BTreeMap<ConsumerId, Supervised>,
}

struct OpenStore {
    database: Database,
    committer: Committer,
    lock: Option<HostLock>,
}

/// The config and the open databases: what reading needs, with a host or without one.
#[derive(Clone)]
pub struct Catalog {
    /// What there is.
    pub config: Config,
    /// By the stores' names.
    pub databases: BTreeMap<Name, Database>,
}

impl Catalog {
    /// Opens the databases for reading only; there is no host.
    pub async fn read_only(config: Config) -> Result<Self> {
        let mut databases = BTreeMap::new();
        for (name, store) in &config.stores {
            databases.insert(name.clone(), database(store, true).await?);
        }
        Ok(Self { config, databases })
    }

    /// A store's database.
    pub fn database(&self, store: &Name) -> Result<&Database> {
        self.databases.get(store).ok_or_else(|| Error::not_found(format!("there is no store `{store}`")))
    }

    /// The database that holds a stream.
    pub fn database_of(&self, stream: &StreamId) -> Result<&Database> {
        self.database(&self.config.stream(stream)?.store)
    }
}

impl Host {
    /// Opens the stores, each for this host alone, and makes the streams that are not there yet.
    pub async fn open(config: Config) -> Result<Self> {
        let clock = Clock::System;
        let mut state = State {
            config: config.clone(),
            stores: BTreeMap::new(),
            tailers: BTreeMap::new(),
            consumers: BTreeMap::new(),
        };
        state.open(&config).await?;
        Ok(Self {
            state: RwLock::new(state),
            deployer: Deployer::new(Engine::new()?, clock),
            clock,
            owner: Owner(format!("pid {}", std::process::id())),
            telemetry: Telemetry::default(),
        })
    }

    /// Starts every consumer of the config. One whose component is refused, and that has no active deployment to
    /// fall back to, is an error, and nothing is started.
    pub async fn start(&self) -> Result<Vec<Notice>> {
        let mut state = self.state.write().await;
        let active = state.active().await?;
        // All at once, so that their deployments share transactions.
        let consumers: Vec<ConsumerConfig> = state.config.consumers.values().cloned().collect();
        let prepared = consumers.iter().map(|consumer| self.prepare(&state, consumer, active.get(&consumer.id)));
        let mut notices = Vec::new();
        for (consumer, (version, notice)) in consumers.iter().zip(try_join_all(prepared).await?) {
            let supervised = self.supervise(&state, consumer, version)?;
            state.consumers.insert(consumer.id.clone(), supervised);
            notices.extend(notice);
        }
        Ok(notices)
    }

    /// Tells everybody where the API is.
    pub async fn announce(&self, api: std::net::SocketAddr) -> Result<()> {
        let mut state = self.state.write().await;
        state.stores.values_mut().filter_map(|store| store.lock.as_mut()).try_for_each(|lock| lock.set_api(api))
    }

    /// What reading needs.
    pub async fn catalog(&self) -> Catalog {
        let state = self.state.read().await;
        let databases = state.stores.iter().map(|(name, store)| (name.clone(), store.database.clone())).collect();
        Catalog { config: state.config.clone(), databases }
    }

    /// How each consumer stands.
    pub async fn standings(&self) -> BTreeMap<ConsumerId, Standing> {
        let state = self.state.read().await;
        state.consumers.iter().map(|(id, consumer)| (id.clone(), consumer.standing())).collect()
    }

    /// Writes something that is not a shard's own, such as a producer's events.
    pub async fn commit(&self, store: &Name, commit: Commit) -> Result<crate::store::Committed> {
        let committer = self.state.read().await.store(store)?.committer.clone();
        committer.commit(commit).await
    }

    /// Stops a consumer where it is, until it is resumed.
    pub async fn pause(&self, consumer: &ConsumerId, why: String) -> Result<Position> {
        let reason = Reason { code: "paused".into(), message: why, event: None, since: self.clock.now() };
        self.move_position(consumer, |position| {
            position.status = Status::Paused;
            position.reason = Some(reason.clone());
        })
        .await
    }

    /// Lets a blocked or paused consumer go on; the event in its way is tried anew.
    pub async fn resume(&self, consumer: &ConsumerId) -> Result<Position> {
        self.move_position(consumer, |position| {
            position.status = Status::Running;
            position.reason = None;
            position.attempts = 0;
        })
        .await
    }

    /// An operator's move: through the same compare as every commit, with a fence of its own.
    async fn move_position(&self, consumer: &ConsumerId, change: impl Fn(&mut Position)) -> Result<Position> {
        let state = self.state.read().await;
        state.config.consumer(consumer)?;
        let supervised = state.consumers.get(consumer);
        let supervised = supervised.ok_or_else(|| Error::not_found(format!("{consumer} does not run here")))?;
        let store = state.store(&supervised.version().spec.store)?;
        let shard = ShardId { consumer: consumer.clone(), index: 0 };
        for _ in 0..MOVE_ATTEMPTS {
            let from = store.database.store().load(&shard).await?;
            let mut to = from.clone();
            change(&mut to);
            to.updated_at = self.clock.now();
            let r#move = Some(Move { from, to, takes_fence: true });
            match store.committer.commit(Commit { r#move, ..Commit::default() }).await {
                Ok(committed) => {
                    supervised.poke();
                    return committed.position.ok_or_else(|| Error::corrupt("the store gave back no position"));
                }
                Err(error) if error.kind() == Kind::Fenced => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::fenced(format!("{consumer} commits faster than it can be moved; try again")))
    }

    /// Looks at a consumer's component file and, if it has changed, lets it take over.
    pub async fn reload(&self, id: &ConsumerId) -> Option<Notice> {
        let state = self.state.read().await;
        let consumer = state.config.consumer(id).ok()?;
        let running = state.consumers.get(id)?;
        let from = running.version().factory.digest();
        let active = state.active().await.ok()?;
        let (version, compiled_in) = match self.propose(&state, consumer, active.get(id)).await {
            Ok(Some(proposed)) => proposed,
            Ok(None) => return None,
            Err(error) => return Some(Notice::Refused { consumer: id.clone(), running: from.short(), error }),
        };
        let to = version.factory.digest();
        let began = Instant::now();
        running.swap(Arc::new(version), SWAP_WAIT).await;
        Some(Notice::Reloaded {
            consumer: id.clone(),
            from: from.short(),
            to: to.short(),
            swap: began.elapsed(),
            compiled_in,
        })
    }

    /// Takes another config: consumers that are the same run on, the others are stopped, started or restarted.
    pub async fn reconfigure(&self, config: Config) -> Result<Vec<Notice>> {
        let mut state = self.state.write().await;
        state.open(&config).await?;
        let before = std::mem::replace(&mut state.config, config);
        let changed: Vec<ConsumerId> = {
            let all = before.consumers.values().chain(state.config.consumers.values());
            let ids: BTreeSet<ConsumerId> = all.map(|consumer| consumer.id.clone()).collect();
            ids.into_iter().filter(|id| before.consumer(id).ok() != state.config.consumer(id).ok()).collect()
        };
        let active = state.active().await?;
        let mut notices = Vec::new();
        for id in changed {
            let Ok(consumer) = state.config.consumer(&id).cloned() else {
                if let Some(running) = state.consumers.remove(&id) {
                    running.stop().await;
                }
                notices.push(Notice::Stopped { consumer: id });
                continue;
            };
            match self.prepare(&state, &consumer, active.get(&id)).await {
                Ok((version, notice)) => {
                    notices.extend(notice);
                    if let Some(running) = state.consumers.remove(&id) {
                        running.stop().await;
                    }
                    let supervised = self.supervise(&state, &consumer, version)?;
                    state.consumers.insert(id.clone(), supervised);
                    notices.push(Notice::Started { consumer: id });
                }
                Err(error) => notices.push(Notice::Refused { consumer: id, running: "nothing".into(), error }),
            }
        }
        Ok(notices)
    }

    /// Stops everything in order: what was handled is committed.
    pub async fn stop(&self) {
        let mut state = self.state.write().await;
        state.consumers.values().for_each(Supervised::ask_to_stop);
        for (_, consumer) in std::mem::take(&mut state.consumers) {
            consumer.stop().await;
        }
        state.tailers.clear();
        for (_, store) in std::mem::take(&mut state.stores) {
            store.database.close().await;
        }
    }

    /// What a consumer is to run at its start: what its file proposes if that can be activated, and what is active
    /// otherwise.
    async fn prepare(
        &self,
        state: &State,
        consumer: &ConsumerConfig,
        active: Option<&Deployment>,
    ) -> Result<(Version, Option<Notice>)> {
        let refused = match self.propose(state, consumer, active).await {
            Ok(Some((version, _))) => return Ok((version, None)),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        match (active, refused) {
            (Some(active), refused) => {
                let running = active.digest.short();
                let store = state.store(&consumer.store)?.database.store();
                let version = self.deployer.restore(&store, active.clone()).await?;
                Ok((version, refused.map(|error| Notice::Refused { consumer: consumer.id.clone(), running, error })))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::corrupt(format!("the active deployment of {} is gone", consumer.id))),
        }
    }

    /// Activates what a consumer's file and config propose; none when that is active already.
    async fn propose(
        &self,
        state: &State,
        consumer: &ConsumerConfig,
        active: Option<&Deployment>,
    ) -> Result<Option<(Version, Duration)>> {
        let store = state.store(&consumer.store)?;
        let component = read_settled(&consumer.component).await?;
        let start = match active {
            Some(active) => active.spec.start.clone(),
            None => start::resolve(&consumer.start, &**state.tailer(&consumer.stream)?.source()).await?,
        };
        let spec = consumer.spec(start);
        if let Some(active) = active {
            if active.digest == Digest::of(&component) && active.spec == spec {
                return Ok(None);
            }
            check_change(&active.spec, &spec, &consumer.id)?;
        }
        let proposal = Proposal { consumer: consumer.id.clone(), spec, component };
        let tried = self.deployer.try_out(&store.database.store(), &proposal).await?;
        let compiled_in = tried.compiled_in;
        let version = self.deployer.activate(&store.committer, proposal, tried).await?;
        Ok(Some((version, compiled_in)))
    }

    fn supervise(&self, state: &State, consumer: &ConsumerConfig, version: Version) -> Result<Supervised> {
        let store = state.store(&consumer.store)?;
        let tailer = state.tailer(&consumer.stream)?.clone();
        Ok(Supervised::start(Arc::new(version), |ends| Shard {
            id: ShardId { consumer: consumer.id.clone(), index: 0 },
            owner: self.owner.clone(),
            store: store.database.store(),
            committer: store.committer.clone(),
            tailer,
            clock: self.clock,
            metrics: self.telemetry.metrics().of(&consumer.id),
            version: ends.version,
            poke: ends.poke,
            stop: ends.stop,
            adopted: ends.adopted,
        }))
    }
}

impl State {
    /// Opens the stores and streams of a config that are not open yet.
    async fn open(&mut self, config: &Config) -> Result<()> {
        for (name, store) in &config.stores {
            if !self.stores.contains_key(name) {
                self.stores.insert(name.clone(), OpenStore::open(store).await?);
            }
        }
        for stream in config.streams.values() {
            if !self.tailers.contains_key(&stream.id) {
                let database = &self.store(&stream.store)?.database;
                database.create_stream(&stream.id).await?;
                let tailer = Tailer::start(database.source(&stream.id).await?);
                self.tailers.insert(stream.id.clone(), tailer);
            }
        }
        Ok(())
    }

    fn store(&self, name: &Name) -> Result<&OpenStore> {
        self.stores.get(name).ok_or_else(|| Error::not_found(format!("there is no store `{name}`")))
    }

    fn tailer(&self, stream: &StreamId) -> Result<&Arc<Tailer>> {
        self.tailers.get(stream).ok_or_else(|| Error::not_found(format!("there is no stream `{}`", stream.name)))
    }

    /// The active deployment of every consumer, in the store that its config names.
    async fn active(&self) -> Result<BTreeMap<ConsumerId, Deployment>> {
        let mut active = BTreeMap::new();
        for (name, store) in &self.stores {
            let deployments = store.database.store().deployments().await?;
            let here = deployments.into_iter().filter(|deployment| deployment.spec.store == *name);
            active.extend(here.map(|deployment| (deployment.consumer.clone(), deployment)));
        }
        Ok(active)
    }
}

impl OpenStore {
    async fn open(config: &StoreConfig) -> Result<Self> {
        let lock = match &config.url {
            StoreUrl::Sqlite(path) => Some(HostLock::acquire(path, None)?),
        };
        let database = database(config, false).await?;
        let committer = Committer::start(database.store());
        Ok(Self { database, committer, lock })
    }
}

async fn database(config: &StoreConfig, read_only: bool) -> Result<Database> {
    let StoreUrl::Sqlite(path) = &config.url;
    let durability = match config.durability {
        Durability::Full => backend::Durability::Full,
        Durability::Relaxed => backend::Durability::Relaxed,
    };
    Database::open(&format!("sqlite://{}", path.display()), Options { durability, read_only }).await
}

/// A file's bytes once nobody writes to it any more: its size and time must stand still for a moment.
async fn read_settled(path: &Path) -> Result<Bytes> {
    const MOMENT: Duration = Duration::from_millis(20);
    const SETTLED: Duration = Duration::from_secs(2);
    let failed =
        |error: std::io::Error| Error::invalid(format!("component {} cannot be read", path.display())).because(error);
    let stamp = || async { tokio::fs::metadata(path).await.map(|file| (file.len(), file.modified().ok())) };
    let mut before = stamp().await.map_err(failed)?;
    let is_old = before.1.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > SETTLED);
    for _ in 0..250 {
        if !is_old {
            tokio::time::sleep(MOMENT).await;
        }
        let now = stamp().await.map_err(failed)?;
        if now == before {
            return tokio::fs::read(path).await.map(Bytes::from).map_err(failed);
        }
        before = now;
    }
    Err(Error::unavailable(format!("component {} is still being written", path.display())))
}
