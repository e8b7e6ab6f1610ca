//! Handlers without a guest: plain Rust over the same view, for the simulation and as the yardstick of benchmarks.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use tendon::{
    event::Event,
    handler::{Failure, FailureKind, Handled, Handler, HandlerFactory},
    store::Digest,
    view::View,
};

/// What a consumer does with an event.
pub trait Logic: Send + Sync + 'static {
    /// Handles one event.
    fn handle(&self, event: &Event, view: &mut View) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Makes handlers of a logic, under the digest of a name.
pub struct Native<L> {
    logic: Arc<L>,
    digest: Digest,
}

impl<L: Logic> Native<L> {
    /// A factory; two names are two versions.
    pub fn new(name: &str, logic: L) -> Arc<dyn HandlerFactory> {
        Arc::new(Self { logic: Arc::new(logic), digest: Digest::of(name.as_bytes()) })
    }
}

#[async_trait]
impl<L: Logic> HandlerFactory for Native<L> {
    fn digest(&self) -> Digest {
        self.digest
    }

    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure> {
        Ok(Box::new(NativeHandler { logic: self.logic.clone(), view }))
    }
}

struct NativeHandler<L> {
    logic: Arc<L>,
    view: View,
}

#[async_trait]
impl<L: Logic> Handler for NativeHandler<L> {
    async fn handle(&mut self, events: &[Event]) -> Handled {
        for (index, event) in events.iter().enumerate() {
            self.view.begin(event);
            if let Err(failure) = self.logic.handle(event, &mut self.view).await {
                let failure = Some(Failure { index, ..failure });
                return Handled { changes: self.view.take(), done: index, failure };
            }
            self.view.keep();
        }
        Handled { changes: self.view.take(), done: events.len(), failure: None }
    }

    fn committed(&mut self) {
        self.view.committed();
    }

    fn into_view(self: Box<Self>) -> View {
        self.view
    }
}

/// A failure of a kind, as a logic returns it.
pub fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure {
        kind,
        index: 0,
        among: 1,
        message: message.to_owned(),
        after: None,
        logs: String::new(),
        is_of_start: false,
    }
}

/// An error of the view, as a failure of the event.
pub fn infrastructure(error: tendon::error::Error) -> Failure {
    let message = error.chain();
    failure(FailureKind::Infrastructure(error), &message)
}
