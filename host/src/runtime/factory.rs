//! Makes instances of a compiled component, under the limits of its consumer.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{
    engine::{Compiled, Engine},
    instance::Instance,
};
use crate::{
    handler::{Failure, Handler, HandlerFactory},
    limits::Limits,
    store::Digest,
    view::View,
};

/// A compiled component with what its consumer configured.
pub struct GuestFactory {
    engine: Engine,
    compiled: Arc<Compiled>,
    config: Arc<BTreeMap<String, String>>,
    limits: Arc<Limits>,
}

impl GuestFactory {
    /// Makes instances that see this config and these limits.
    pub fn new(
        engine: &Engine,
        compiled: Arc<Compiled>,
        config: BTreeMap<String, String>,
        limits: Arc<Limits>,
    ) -> Self {
        Self { engine: engine.clone(), compiled, config: Arc::new(config), limits }
    }

    /// The component.
    pub fn compiled(&self) -> &Arc<Compiled> {
        &self.compiled
    }

    /// Instantiates and initialises once, under the limits, and throws the instance away: what a component must pass
    /// before it may replace another one.
    pub async fn trial(&self, view: View) -> Result<(), Failure> {
        self.instance(view).await.map(drop)
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
}
