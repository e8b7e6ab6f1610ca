//! How a component becomes what a consumer runs: verify, compile, try, activate. Whatever fails leaves the active
//! deployment as it is.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    backend::Database,
    clock::Clock,
    committer::Committer,
    config::resolved::Consumer as ConsumerConfig,
    deployment::{Deployment, Spec},
    error::{Error, Result},
    event::Cursor,
    limits::Limits,
    notice::Notice,
    open::Open,
    runtime::{Engine, GuestFactory},
    shard::Version,
    start,
    store::{Commit, Digest, Epoch, Store},
    tenant::{ConsumerId, ShardId},
    view::{View, ViewSpec},
};

/// Turns proposals into versions.
pub struct Deployer {
    engine: Engine,
    clock: Clock,
}

/// What somebody wants a consumer to be.
pub struct Proposal {
    /// Whose.
    pub consumer: ConsumerId,
    /// Everything but the component.
    pub spec: Spec,
    /// The component.
    pub component: Bytes,
}

/// A component that was compiled and tried.
pub struct Tried {
    factory: GuestFactory,
    /// How long compiling took; zero when it was in the cache.
    pub compiled_in: Duration,
}

impl Deployer {
    /// A deployer that compiles with this engine.
    pub fn new(engine: Engine, clock: Clock) -> Self {
        Self { engine, clock }
    }

    /// Compiles a component and tries it: instantiates it and calls its `init`, under the limits of the spec. What
    /// it writes is dropped.
    pub async fn try_out(&self, store: &Arc<dyn Store>, proposal: &Proposal) -> Result<Tried> {
        let Proposal { consumer, spec, component } = proposal;
        let was_compiled = self.engine.remembered(&Digest::of(component)).is_some();
        let compiled = self.engine.compile(component.clone(), &spec.limits).await?;
        let compiled_in = if was_compiled { Duration::ZERO } else { compiled.compiled_in() };
        let factory = GuestFactory::new(&self.engine, compiled, spec.config.clone(), &spec.limits)?;
        factory.trial(self.trial_view(store, consumer, spec)).await?;
        Ok(Tried { factory, compiled_in })
    }

    /// Makes a proposal the consumer's active deployment: its spec and bytes are in the store from now on.
    pub async fn activate(&self, committer: &Committer, proposal: Proposal, tried: Tried) -> Result<Version> {
        let Proposal { consumer, spec, component } = proposal;
        let digest = Digest::of(&component);
        let deployment = Deployment { consumer, epoch: Epoch(0), digest, spec: spec.clone(), at: self.clock.now() };
        let commit = Commit { deployment: Some((deployment, component)), ..Commit::default() };
        let committed = committer.commit(commit).await?;
        let epoch = committed.epoch.ok_or_else(|| Error::corrupt("the store gave the deployment no epoch"))?;
        Ok(Version { epoch, spec: Arc::new(spec), factory: Arc::new(tried.factory) })
    }

    /// The version of a deployment that is active already, from the bytes in its store.
    pub(crate) async fn restore(&self, open: &Open, deployment: Deployment) -> Result<Version> {
        let Deployment { consumer, epoch, digest, spec, .. } = deployment;
        let store = open.store(&spec.store)?.database.store();
        let component = store.component(&digest).await?;
        if Digest::of(&component) != digest {
            return Err(Error::corrupt(format!("the store's component of {consumer} is not the {digest} it says")));
        }
        let tried = self.try_out(&store, &Proposal { consumer, spec: spec.clone(), component }).await?;
        Ok(Version { epoch, spec: Arc::new(spec), factory: Arc::new(tried.factory) })
    }

    /// What a consumer is to run at its start: what its file proposes if that can be activated, and what is active
    /// otherwise.
    pub(crate) async fn prepare(
        &self,
        open: &Open,
        consumer: &ConsumerConfig,
        active: Option<&Deployment>,
    ) -> Result<(Version, Option<Notice>)> {
        let refused = match self.propose(open, consumer, active).await {
            Ok(Some((version, _))) => return Ok((version, None)),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        match (active, refused) {
            (None, None) => Err(Error::corrupt(format!("the active deployment of {} is gone", consumer.id))),
            (None, Some(error)) => Err(error),
            // What it reads or where it is kept is no longer in the config: there is nothing to fall back to.
            (Some(active), Some(error)) if !open.has(&active.spec) => Err(error),
            (Some(active), refused) => {
                let running = Some(active.digest.short());
                let version = self.restore(open, active.clone()).await?;
                Ok((version, refused.map(|error| Notice::Refused { consumer: consumer.id.clone(), running, error })))
            }
        }
    }

    /// Activates what a consumer's file and config propose; none when that is active already.
    pub(crate) async fn propose(
        &self,
        open: &Open,
        consumer: &ConsumerConfig,
        active: Option<&Deployment>,
    ) -> Result<Option<(Version, Duration)>> {
        let store = open.store(&consumer.store)?;
        let component = read_settled(&consumer.component).await?;
        let start = match active {
            Some(active) => active.spec.start.clone(),
            None => match legacy_cursor(&store.database, consumer).await? {
                Some(cursor) => cursor,
                None => start::resolve(&consumer.start, &**open.tailer(&consumer.stream)?.source()).await?,
            },
        };
        let spec = consumer.spec(start);
        if let Some(active) = active {
            if active.digest == Digest::of(&component) && active.spec == spec {
                return Ok(None);
            }
            check_change(&active.spec, &spec, &consumer.id)?;
        }
        let proposal = Proposal { consumer: consumer.id.clone(), spec, component };
        let tried = self.try_out(&store.database.store(), &proposal).await?;
        let compiled_in = tried.compiled_in;
        let version = self.activate(&store.committer, proposal, tried).await?;
        Ok(Some((version, compiled_in)))
    }

    fn trial_view(&self, store: &Arc<dyn Store>, consumer: &ConsumerId, spec: &Spec) -> View {
        View::new(ViewSpec {
            store: store.clone(),
            shard: ShardId { consumer: consumer.clone(), index: 0 },
            scope: spec.state,
            stream: spec.stream.clone(),
            incarnation: (0, 0),
            granted: Arc::new(HashSet::new()),
            limits: Arc::new(Limits::clone(&spec.limits)),
            clock: self.clock,
        })
    }
}

/// Where reflex left a consumer that begins here.
async fn legacy_cursor(database: &Database, consumer: &ConsumerConfig) -> Result<Option<Cursor>> {
    let Some(legacy) = &consumer.legacy_cursor else { return Ok(None) };
    let cursor = database.legacy_cursor(legacy).await?;
    match &cursor {
        Some(cursor) => tracing::info!(consumer = %consumer.id, %cursor, "begins where reflex left it"),
        None => tracing::warn!(consumer = %consumer.id, "table {} has no cursor of `{}`", legacy.table, legacy.name),
    }
    Ok(cursor)
}

/// Refuses what a consumer that exists cannot become: its cursor and its state would no longer mean the same.
pub fn check_change(active: &Spec, proposed: &Spec, consumer: &ConsumerId) -> Result<()> {
    let refuse = |what: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        Err(Error::invalid(format!("{consumer} cannot change its {what} from {from} to {to}"))
            .help("give the consumer another name: it then begins with a position and a state of its own"))
    };
    if active.stream != proposed.stream {
        return refuse("stream", &active.stream, &proposed.stream);
    }
    if active.store != proposed.store {
        return refuse("store", &active.store, &proposed.store);
    }
    if active.state != proposed.state {
        return refuse("state scope", &format!("{:?}", active.state), &format!("{:?}", proposed.state));
    }
    if active.shards != proposed.shards {
        return refuse("number of shards", &active.shards, &proposed.shards);
    }
    Ok(())
}

/// A file's bytes once nobody writes to it any more: its size and time must stand still for a moment, and while it is
/// read.
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
            let bytes = tokio::fs::read(path).await.map(Bytes::from).map_err(failed)?;
            if stamp().await.map_err(failed)? == now {
                return Ok(bytes);
            }
        }
        before = now;
    }
    Err(Error::unavailable(format!("component {} is still being written", path.display())))
}
