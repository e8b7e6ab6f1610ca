//! A running host: its open stores, its streams' readers and its consumers. Everything that an operator can do to a
//! live host is a method here.

mod moves;
pub mod prune;
pub mod reset;
mod running;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::sync::{Mutex, RwLock};

use self::{moves::not_here, running::Running};
pub use crate::open::Catalog;
use crate::{
    clock::Clock,
    config::{Config, resolved::Consumer as ConsumerConfig},
    deploy::{Deployer, Proposed},
    deployment::Deployment,
    error::Result,
    notice::{Notice, Refused},
    open::{Open, needs_restart},
    owner::Owner,
    runtime::Engine,
    shard::{Remembered, Shard, Version},
    store::Commit,
    supervisor::{Standing, Supervised},
    telemetry::Telemetry,
    tenant::{ConsumerId, Name, ShardId},
};

/// How long a swap may take before whoever asked for it stops waiting; it still happens.
const SWAP_WAIT: Duration = Duration::from_secs(30);

/// See the module.
pub struct Host {
    /// Held by whoever changes what runs, also while a component compiles. Who only reads never waits for it.
    control: Mutex<()>,
    /// Written to by who holds `control`, and only to exchange what is in it.
    state: RwLock<State>,
    api: OnceLock<SocketAddr>,
    deployer: Deployer,
    clock: Clock,
    owner: Owner,
    /// What it counts.
    pub telemetry: Telemetry,
}

struct State {
    config: Config,
    open: Open,
    consumers: BTreeMap<ConsumerId, Running>,
    /// Consumers that are not what their files propose.
    refused: BTreeMap<ConsumerId, Refused>,
}

impl Host {
    /// Opens the stores, each for this host alone, and makes the streams that are not there yet.
    pub async fn open(config: Config, engine: Engine) -> Result<Self> {
        let clock = Clock::System;
        let open = Open::default().with(&config).await?;
        let telemetry = Telemetry::default().with_engine(engine.metrics());
        Ok(Self {
            control: Mutex::default(),
            state: RwLock::new(State { config, open, consumers: BTreeMap::new(), refused: BTreeMap::new() }),
            api: OnceLock::new(),
            deployer: Deployer::new(engine, clock),
            clock,
            owner: Owner::this_process(),
            telemetry,
        })
    }

    /// Starts every consumer of the config. One whose component is refused, and that has no active deployment to
    /// fall back to, is an error, and nothing is started.
    pub async fn start(&self) -> Result<Vec<Notice>> {
        let _control = self.control.lock().await;
        let (mut config, open) = self.snapshot().await;
        let active = open.active(config.consumers.values()).await?;
        // All at once, so that their deployments share transactions.
        let prepare = async |one: &ConsumerConfig| {
            let prepared = self.deployer.prepare(&open, one, active.get(&one.id)).await;
            prepared.map_err(|error| error.within(format!("consumer {}", one.id)))
        };
        let prepared = try_join_all(config.consumers.values().map(prepare)).await?;
        let (mut consumers, mut refused, mut notices) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (consumer, (version, notice)) in config.consumers.values_mut().zip(prepared) {
            consumer.settle(&version.spec);
            consumers.insert(consumer.id.clone(), self.supervise(&open, &consumer.id, version)?);
            let why = notice.as_ref().and_then(|notice| notice.refused(self.clock.now(), false));
            refused.extend(why.map(|why| (consumer.id.clone(), why)));
            notices.extend(notice);
        }
        let mut state = self.state.write().await;
        (state.config, state.consumers, state.refused) = (config, consumers, refused);
        Ok(notices)
    }

    /// Tells everybody where the API is.
    pub async fn announce(&self, api: SocketAddr) -> Result<()> {
        // Told once; stores that a later config brings are told then.
        let _ = self.api.set(api);
        self.state.read().await.open.announce(api)
    }

    /// What reading needs.
    pub async fn catalog(&self) -> Catalog {
        let state = self.state.read().await;
        Catalog { config: state.config.clone(), databases: state.open.databases() }
    }

    /// How each consumer's shards stand, in their order.
    pub async fn standings(&self) -> BTreeMap<ConsumerId, Vec<Standing>> {
        let state = self.state.read().await;
        state.consumers.iter().map(|(id, consumer)| (id.clone(), consumer.standings())).collect()
    }

    /// The consumers that are not what their files propose.
    pub async fn refused(&self) -> BTreeMap<ConsumerId, Refused> {
        self.state.read().await.refused.clone()
    }

    /// Writes something that is not a shard's own, such as a producer's events.
    pub async fn commit(&self, store: &Name, commit: Commit) -> Result<crate::store::Committed> {
        let committer = self.state.read().await.open.store(store)?.committer.clone();
        committer.commit(commit).await
    }

    /// Looks at a consumer's component file and, if it has changed, lets it take over.
    pub async fn reload(&self, id: &ConsumerId) -> Option<Notice> {
        let _control = self.control.lock().await;
        let (config, open) = self.snapshot().await;
        let consumer = config.consumer(id).ok()?;
        let renewed = match open.active(std::iter::once(consumer)).await {
            Ok(active) => self.renew(&open, consumer, active.get(id)).await,
            Err(error) => Err(error),
        };
        let notice = match renewed {
            Ok(notice) => notice,
            Err(error) => Some(Notice::Refused { consumer: id.clone(), running: self.running(id).await, error }),
        };
        self.remember(id, notice.as_ref(), false).await;
        notice
    }

    /// Remembers what came of a consumer's last change: of its config, or of its component under the config that was taken.
    async fn remember(&self, id: &ConsumerId, notice: Option<&Notice>, is_of_config: bool) {
        let now = notice.and_then(|notice| notice.refused(self.clock.now(), is_of_config));
        let refused = &mut self.state.write().await.refused;
        if !is_of_config && refused.get(id).is_some_and(|before| before.is_of_config) {
            return;
        }
        let Some(mut now) = now else {
            refused.remove(id);
            return;
        };
        if let Some(before) = refused.get(id).filter(|before| before.message == now.message) {
            // It is tried again and again.
            now.since = before.since;
        }
        refused.insert(id.clone(), now);
    }

    /// Takes another config: consumers that are the same run on, the others are stopped, started or changed, and one
    /// whose change is refused stays as it was. An error means that nothing was changed.
    pub async fn reconfigure(&self, mut config: Config) -> Result<Vec<Notice>> {
        let _control = self.control.lock().await;
        let (before, open) = self.snapshot().await;
        config.keep_states(&before);
        if config.host != before.host {
            return Err(needs_restart("another `listen` or `code-cache` under [host]"));
        }
        let open = open.with(&config).await?;
        let changed = self.changed(&before, &config).await;
        let active = open.active(changed.iter().filter_map(|id| config.consumer(id).ok())).await?;
        if let Some(api) = self.api.get() {
            open.announce(*api)?;
        }
        // From here on what fails concerns one consumer only.
        self.state.write().await.open = open.clone();
        let mut notices = Vec::new();
        for id in changed {
            let Ok(consumer) = config.consumer(&id).cloned() else {
                let running = self.state.write().await.consumers.remove(&id);
                if let Some(running) = running {
                    running.stop().await;
                }
                self.remember(&id, None, true).await;
                notices.push(Notice::Stopped { consumer: id });
                continue;
            };
            let notice = match self.renew(&open, &consumer, active.get(&id)).await {
                Ok(notice) => {
                    self.settle(&mut config, &id).await;
                    notice
                }
                Err(error) => {
                    config.keep(&before, &id);
                    Some(Notice::Refused { running: self.running(&id).await, consumer: id.clone(), error })
                }
            };
            self.remember(&id, notice.as_ref(), true).await;
            notices.extend(notice);
        }
        self.state.write().await.config = config;
        Ok(notices)
    }

    /// Stops everything in order: what was handled is committed.
    pub async fn stop(&self) {
        let _control = self.control.lock().await;
        let (consumers, open) = {
            let mut state = self.state.write().await;
            (std::mem::take(&mut state.consumers), std::mem::take(&mut state.open))
        };
        consumers.values().for_each(Running::ask_to_stop);
        for (_, consumer) in consumers {
            consumer.stop().await;
        }
        open.close().await;
    }

    /// Takes over into a config what a consumer's deployment has decided.
    async fn settle(&self, config: &mut Config, id: &ConsumerId) {
        let version = self.state.read().await.consumers.get(id).map(Running::version);
        if let Some((consumer, version)) = config.consumers.get_mut(&id.name).zip(version) {
            consumer.settle(&version.spec);
        }
    }

    async fn snapshot(&self) -> (Config, Open) {
        let state = self.state.read().await;
        (state.config.clone(), state.open.clone())
    }

    /// The short digest of what a consumer runs.
    async fn running(&self, id: &ConsumerId) -> Option<String> {
        self.state.read().await.consumers.get(id).map(|running| running.version().factory.digest().short())
    }

    /// The consumers that two configs do not agree about, those that should run and do not, and those that were refused what they
    /// are to be: that may be over.
    async fn changed(&self, before: &Config, after: &Config) -> BTreeSet<ConsumerId> {
        let state = self.state.read().await;
        let all = before.consumers.values().chain(after.consumers.values()).map(|consumer| consumer.id.clone());
        let is_same = |id: &ConsumerId| {
            before.consumer(id).ok() == after.consumer(id).ok()
                && state.consumers.contains_key(id)
                && !state.refused.contains_key(id)
        };
        all.filter(|id| !is_same(id)).collect()
    }

    /// Lets a consumer become what its file and its config propose. An error leaves it as it is.
    async fn renew(
        &self,
        open: &Open,
        consumer: &ConsumerConfig,
        active: Option<&Deployment>,
    ) -> Result<Option<Notice>> {
        let id = consumer.id.clone();
        let running = self.state.read().await.consumers.get(&id).map(Running::version);
        let Some(running) = running else {
            let (version, refused) = self.deployer.prepare(open, consumer, active).await?;
            let running = self.supervise(open, &id, version)?;
            self.state.write().await.consumers.insert(id.clone(), running);
            return Ok(Some(refused.unwrap_or(Notice::Started { consumer: id })));
        };
        let (version, compiled_in) = match (self.deployer.propose(open, consumer, active).await?, active) {
            (Some(proposed), Some(active)) if proposed.divides => {
                return self.divide(open, active, proposed).await.map(Some);
            }
            (Some(proposed), _) => {
                let compiled_in = proposed.compiled_in;
                (self.deployer.activate(open, proposed).await?, compiled_in)
            }
            // It was activated, but the answer was lost; or by another host.
            (None, Some(active)) if active.epoch != running.epoch => {
                let version = self.deployer.restore(open, active.clone()).await?;
                if version.spec.past.number != running.spec.past.number {
                    return self.replace(open, &id, version).await.map(|()| None);
                }
                (version, Duration::ZERO)
            }
            (None, _) => return Ok(None),
        };
        let (from, to) = (running.factory.digest().short(), version.factory.digest().short());
        let began = Instant::now();
        // Nobody waits for this lock to write: that would need `control`.
        let state = self.state.read().await;
        let Some(shards) = state.consumers.get(&id) else { return Ok(None) };
        let swap = shards.swap(version, SWAP_WAIT).await.then(|| began.elapsed());
        Ok(Some(Notice::Reloaded { consumer: id, from, to, swap, compiled_in }))
    }

    /// Runs a version in other shards than those that run.
    async fn replace(&self, open: &Open, id: &ConsumerId, version: Version) -> Result<()> {
        let running = self.state.write().await.consumers.remove(id);
        if let Some(running) = running {
            running.stop().await;
        }
        let running = self.supervise(open, id, version)?;
        self.state.write().await.consumers.insert(id.clone(), running);
        Ok(())
    }

    /// Lets other shards take the place of those that run. They stop first, each where it is: nobody waits for one that is
    /// behind. An error leaves them as they were.
    async fn divide(&self, open: &Open, active: &Deployment, proposed: Proposed) -> Result<Notice> {
        let id = active.consumer.clone();
        let (from, to) = (active.spec.shards.count, proposed.proposal.spec.shards.count);
        let Some(running) = self.state.write().await.consumers.remove(&id) else { return Err(not_here(&id)) };
        let before = running.version();
        running.stop().await;
        let (version, error) = match self.deployer.divide(open, active, proposed).await {
            Ok(version) => (version, None),
            Err(error) => (self.active_or(open, &id, &before).await, Some(error)),
        };
        self.replace(open, &id, version).await?;
        error.map_or(Ok(Notice::Divided { consumer: id, from, to }), Err)
    }

    /// Runs a version: its spec says on which stream and in which store, whatever a config proposes.
    fn supervise(&self, open: &Open, id: &ConsumerId, version: Version) -> Result<Running> {
        let store = open.store(&version.spec.store)?;
        let tailer = open.tailer(&version.spec.stream)?.clone();
        let metrics = self.telemetry.metrics().of(id);
        Ok(Running::start(version, |version, index| {
            Supervised::start(version, |ends| Shard {
                id: ShardId { consumer: id.clone(), index },
                owner: self.owner.clone(),
                store: store.database.store(),
                committer: store.committer.clone(),
                tailer: tailer.clone(),
                clock: self.clock,
                metrics: metrics.clone(),
                version: ends.version,
                poke: ends.poke,
                stop: ends.stop,
                adopted: ends.adopted,
                full: ends.full,
                remembered: Remembered::default(),
            })
        }))
    }
}
