//! How a component becomes what a consumer runs: verify, compile, try, activate. Whatever fails leaves the active
//! deployment as it is.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    clock::Clock,
    committer::Committer,
    consumer::Version,
    deployment::{Deployment, Spec},
    error::{Error, Result},
    limits::Limits,
    runtime::{Engine, GuestFactory},
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

    /// The version of a deployment that is active already, from the bytes in the store.
    pub async fn restore(&self, store: &Arc<dyn Store>, deployment: Deployment) -> Result<Version> {
        let Deployment { consumer, epoch, digest, spec, .. } = deployment;
        let component = store.component(&digest).await?;
        if Digest::of(&component) != digest {
            return Err(Error::corrupt(format!("the store's component of {consumer} is not the {digest} it says")));
        }
        let tried = self.try_out(store, &Proposal { consumer, spec: spec.clone(), component }).await?;
        Ok(Version { epoch, spec: Arc::new(spec), factory: Arc::new(tried.factory) })
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

/// Refuses what a consumer that exists cannot become: its cursor and its state would no longer mean the same.
pub fn check_change(active: &Spec, proposed: &Spec, consumer: &ConsumerId) -> Result<()> {
    let refuse = |what: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        Err(Error::invalid(format!("{consumer} cannot change its {what} from {from} to {to}"))
            .help("give the consumer another name: it then begins with a position and a state of its own"))
    };
    if active.stream != proposed.stream {
        return refuse("stream", &active.stream, &proposed.stream);
    }
    if active.state != proposed.state {
        return refuse("state scope", &format!("{:?}", active.state), &format!("{:?}", proposed.state));
    }
    if active.shards != proposed.shards {
        return refuse("number of shards", &active.shards, &proposed.shards);
    }
    Ok(())
}
