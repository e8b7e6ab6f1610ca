//! How a component becomes what a consumer runs: verify, compile, try, activate. Whatever fails leaves the active
//! deployment as it is.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    backend::Database,
    clock::Clock,
    config::resolved::Consumer as ConsumerConfig,
    deployment::{Deployment, Spec, StateScope},
    error::{Error, Kind, Result},
    event::Cursor,
    limits::Limits,
    notice::Notice,
    open::Open,
    runtime::{Engine, GuestFactory},
    shard::Version,
    start,
    store::{Commit, Digest, Epoch, Rewrite, Store},
    tenant::{ConsumerId, ShardId},
    topology::{self, Marks, Past},
    view::{View, ViewSpec},
};

/// How often a consumer is tried to be divided anew while another host commits.
const DIVIDE_ATTEMPTS: u32 = 20;

/// Turns proposals into versions.
pub struct Deployer {
    engine: Engine,
    clock: Clock,
}

/// What somebody wants a consumer to be.
#[derive(Clone)]
pub struct Proposal {
    /// Whose.
    pub consumer: ConsumerId,
    /// Everything but the component.
    pub spec: Spec,
    /// The component.
    pub component: Bytes,
}

/// A proposal that was tried, and may become active.
pub(crate) struct Proposed {
    /// What it is.
    pub(crate) proposal: Proposal,
    tried: Tried,
    /// What it was made from.
    follows: Epoch,
    /// How long compiling took; zero when it was in the cache.
    pub(crate) compiled_in: Duration,
    /// Whether it has other shards than the active one, or keeps their state otherwise: nothing may run meanwhile.
    pub(crate) divides: bool,
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
    pub(crate) async fn activate(&self, open: &Open, proposed: Proposed) -> Result<Version> {
        let Proposed { proposal, tried, follows, .. } = proposed;
        let committer = &open.store(&proposal.spec.store)?.committer;
        let epoch = committer.commit(self.deployment(&proposal, follows)).await?.epoch;
        version(epoch, proposal.spec, tried)
    }

    /// The same, of a proposal that divides the consumer anew, whose shards have stopped: the commit also puts other positions
    /// in the place of theirs.
    pub(crate) async fn divide(
        &self,
        open: &Open,
        active: &Deployment,
        Proposed { mut proposal, tried, .. }: Proposed,
    ) -> Result<Version> {
        let (consumer, before) = (&active.consumer, &active.spec);
        let store = open.store(&before.store)?;
        let port = store.database.store();
        let source = open.tailer(&before.stream)?.source();
        let compare = |a: &Cursor, b: &Cursor| source.compare(a, b);
        for _ in 0..DIVIDE_ATTEMPTS {
            let mut from = port.positions().await?;
            from.retain(|position| position.shard.consumer == *consumer);
            // After the rows, so that the compare fails should one of them have written since.
            check_state(&*port, before, &proposal).await?;
            if let Some(row) = from.iter().find(|row| row.topology != before.past.number) {
                let shard = &row.shard;
                return Err(Error::unavailable(format!(
                    "{shard} is not of the deployment that this host knows: another one moved it"
                )));
            }
            let now = (&before.shards, &before.past, &before.start);
            let to = &proposal.spec.shards;
            let (to, past) = topology::divide_anew(consumer, now, to, &from, self.clock.now(), &compare);
            proposal.spec.past = past;
            let rewrite = Rewrite { consumer: consumer.clone(), from, to, clears_state: false };
            let commit = Commit { rewrite: Some(rewrite), ..self.deployment(&proposal, active.epoch) };
            match store.committer.commit(commit).await {
                Ok(committed) => return version(committed.epoch, proposal.spec, tried),
                Err(error) if error.kind() == Kind::Fenced => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::fenced(format!("another host runs {consumer}, which so cannot be divided anew"))
            .help("stop the other host, or give it the same config"))
    }

    fn deployment(&self, proposal: &Proposal, follows: Epoch) -> Commit {
        let Proposal { consumer, spec, component } = proposal.clone();
        let digest = Digest::of(&component);
        let deployment = Deployment { consumer, epoch: Epoch(0), digest, spec, at: self.clock.now() };
        Commit { deployment: Some((deployment, component)), follows: Some(follows), ..Commit::default() }
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
            Ok(Some(proposed)) => {
                let activated = match active.filter(|_| proposed.divides) {
                    Some(active) => self.divide(open, active, proposed).await,
                    None => self.activate(open, proposed).await,
                };
                match activated {
                    Ok(version) => return Ok((version, None)),
                    Err(error) => Some(error),
                }
            }
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
                // A division may have taken place all the same.
                let now = open.active_in(&active.spec.store, &consumer.id).await?;
                let version = self.restore(open, now.unwrap_or_else(|| active.clone())).await?;
                Ok((version, refused.map(|error| Notice::Refused { consumer: consumer.id.clone(), running, error })))
            }
        }
    }

    /// What a consumer's file and config propose, tried; none when that is active already.
    pub(crate) async fn propose(
        &self,
        open: &Open,
        consumer: &ConsumerConfig,
        active: Option<&Deployment>,
    ) -> Result<Option<Proposed>> {
        let store = open.store(&consumer.store)?;
        let component = read_settled(&consumer.component).await?;
        let (start, past) = match active {
            Some(active) => (active.spec.start.clone(), active.spec.past.clone()),
            None => begin(open, consumer).await?,
        };
        // Whichever state it has stays, unless somebody chose another, or it would be two shards'.
        let kept = active.map(|active| active.spec.state).filter(|state| consumer.fits(*state));
        let state = consumer.state.or(kept).unwrap_or_else(|| consumer.state());
        let spec = Spec { past, state, ..consumer.spec(start) };
        if let Some(active) = active {
            if active.digest == Digest::of(&component) && active.spec == spec {
                return Ok(None);
            }
            check_change(&active.spec, &spec, &consumer.id)?;
        }
        let proposal = Proposal { consumer: consumer.id.clone(), spec, component };
        let tried = self.try_out(&store.database.store(), &proposal).await?;
        let divides = active.is_some_and(|active| divides(&active.spec, &proposal.spec));
        let compiled_in = tried.compiled_in;
        let follows = active.map_or(Epoch(0), |active| active.epoch);
        Ok(Some(Proposed { proposal, tried, follows, compiled_in, divides }))
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
            emitted: None,
        })
    }
}

fn version(epoch: Option<Epoch>, spec: Spec, tried: Tried) -> Result<Version> {
    let epoch = epoch.ok_or_else(|| Error::corrupt("the store gave the deployment no epoch"))?;
    Ok(Version { epoch, spec: Arc::new(spec), factory: Arc::new(tried.factory) })
}

/// Where a consumer begins that is new.
async fn begin(open: &Open, consumer: &ConsumerConfig) -> Result<(Cursor, Past)> {
    let source = open.tailer(&consumer.stream)?.source();
    if let Some(marks) = legacy_cursors(&open.store(&consumer.store)?.database, consumer).await? {
        return Ok(Past::after(marks, &|a, b| source.compare(a, b)));
    }
    Ok((start::resolve(&consumer.start, &**source).await?, Past::default()))
}

/// Where reflex left a consumer's shards that begin here; none where it knows none of them. One that it does not know has not
/// begun.
async fn legacy_cursors(database: &Database, consumer: &ConsumerConfig) -> Result<Option<Marks>> {
    let Some(legacy) = &consumer.legacy_cursor else { return Ok(None) };
    let mut cursors = Vec::new();
    for index in 0..consumer.shards.count {
        let row = legacy.of(&consumer.shards, index);
        let cursor = database.legacy_cursor(&row).await?;
        match &cursor {
            Some(cursor) => {
                tracing::info!(consumer = %consumer.id, name = row.name, %cursor, "begins where reflex left it")
            }
            None => tracing::warn!(consumer = %consumer.id, "table {} has no cursor of `{}`", row.table, row.name),
        }
        cursors.push(cursor);
    }
    if cursors.iter().all(Option::is_none) {
        return Ok(None);
    }
    let cursors = cursors.into_iter().map(|cursor| cursor.unwrap_or(Cursor::START)).collect();
    Ok(Some(Marks { shards: consumer.shards.clone(), cursors }))
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
    if active.legacy_cursor.as_ref().is_some_and(|legacy| legacy.mirror) && divides(active, proposed) {
        return Err(Error::invalid(format!(
            "{consumer} moves reflex's cursors, too, which has others for other shards"
        ))
        .help("leave `shards` as they are, or set `mirror = false`: then there is no way back to reflex"));
    }
    Ok(())
}

/// Whether a consumer's shards become others, or the same ones with other states.
fn divides(active: &Spec, proposed: &Spec) -> bool {
    let is_one = active.shards.count <= 1 && proposed.shards.count <= 1;
    active.state != proposed.state || active.shards != proposed.shards && !is_one
}

/// Refuses to leave a state behind that nobody would see any more, or that would be another shard's.
async fn check_state(store: &dyn Store, active: &Spec, Proposal { consumer, spec, .. }: &Proposal) -> Result<()> {
    let stays = active.state == spec.state && active.state != StateScope::Shard;
    if !stays && store.has_state(consumer).await? {
        let (kept, name) = (active.state.word(), &consumer.name);
        return Err(Error::invalid(format!("{consumer} has a state by {kept}, which others cannot take over")).help(
            format!(
                "leave `shards` and `state` as they are; or, where the state may go: `tendon consumer pause {name}`, `tendon \
                 consumer reset {name} --to … --state clear --emits suppress`, then change the config and resume it"
            ),
        ));
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
