//! Makes instances of a compiled component, under the limits of its consumer.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{
    engine::{Compiled, Engine},
    gate,
    inspection::HandlerKind,
    instance::Instance,
};
use crate::{
    error::{Error, Result},
    handler::{Failure, FailureKind, Handler, HandlerFactory},
    limits::Limits,
    store::Digest,
    view::View,
};

/// A compiled component with what its consumer configured.
pub struct GuestFactory {
    engine: Engine,
    compiled: Compiled,
    config: Arc<BTreeMap<String, String>>,
    limits: Arc<Limits>,
}

impl GuestFactory {
    /// Makes instances that see this config, under these limits. A component that is too large for them is `Limit`:
    /// what is remembered may have been compiled for another consumer.
    pub fn new(engine: &Engine, compiled: Compiled, config: BTreeMap<String, String>, limits: &Limits) -> Result<Self> {
        gate::check_size(compiled.inspection().size_bytes, limits)?;
        Ok(Self { engine: engine.clone(), compiled, config: Arc::new(config), limits: Arc::new(limits.clone()) })
    }

    /// The component.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Instantiates and initialises once, under the limits, and throws the instance away: what a component must pass
    /// before it may replace another one. One that does not pass is `Invalid`.
    pub async fn trial(&self, view: View) -> Result<()> {
        match self.instance(view).await {
            Ok(_) => Ok(()),
            Err(Failure { kind: FailureKind::Infrastructure(error), .. }) => Err(error),
            Err(failure) => Err(Error::invalid(format!("the component does not start: {}", failure.message))),
        }
    }

    async fn instance(&self, view: View) -> Result<Instance, Failure> {
        Instance::new(&self.engine, &self.compiled, view, self.config.clone(), self.limits.clone()).await
    }
}

#[async_trait]
impl HandlerFactory for GuestFactory {
    fn digest(&self) -> Digest {
        self.compiled.digest()
    }

    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure> {
        Ok(Box::new(self.instance(view).await?))
    }

    fn takes_many(&self) -> bool {
        self.compiled.inspection().handler == HandlerKind::BatchHandler
    }
}
