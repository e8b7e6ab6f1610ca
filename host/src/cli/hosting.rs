//! A host in this process: what `run` and `dev` share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use super::engine::engine;
use crate::{
    config::Config,
    error::{Error, Result},
    head,
    host::{Host, prune},
    notice::Notice,
    server,
    tenant::ConsumerId,
    watch,
};

/// A host that runs, its API and what watches its files.
pub(super) struct Hosting {
    /// The host.
    pub(super) host: Arc<Host>,
    /// Where its API listens.
    pub(super) api: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

/// Why a host that was waited for may end.
pub(super) enum End {
    /// Everything is at its head, but for consumers that stand still.
    Head(Vec<ConsumerId>),
    /// Somebody asked the process to stop.
    Asked,
}

impl Hosting {
    /// Opens the stores and serves the API there; no consumer runs yet.
    pub(super) async fn open(config: Config, listen: SocketAddr) -> Result<Self> {
        let engine = engine(config.host.code_cache.as_deref())?;
        let host = Arc::new(Host::open(config, engine).await?);
        let listener = server::bind(listen).await?;
        let api = listener.local_addr().map_err(|error| Error::unavailable("the API has no address").because(error))?;
        host.announce(api).await?;
        let served = host.clone();
        let serve = tokio::spawn(async move {
            if let Err(error) = server::serve(listener, served).await {
                tracing::error!("{}", error.chain());
            }
        });
        Ok(Self { host, api, tasks: vec![serve] })
    }

    /// Starts the consumers and follows their files.
    pub(super) async fn start(
        &mut self,
        debounce: Duration,
        tell: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<()> {
        let file = self.host.catalog().await.config.file;
        let seen = watch::Files::look(&self.host, &file).await;
        self.host.start().await?.into_iter().for_each(&tell);
        self.tasks.push(tokio::spawn(prune::retain(self.host.clone())));
        self.tasks.push(tokio::spawn(watch::follow(self.host.clone(), seen, debounce, tell)));
        Ok(())
    }

    /// Ends with the host when this task does.
    pub(super) fn attach(&mut self, task: JoinHandle<()>) {
        self.tasks.push(task);
    }

    /// Waits until somebody asks the process to stop, or until the head is reached if that is the end.
    pub(super) async fn wait(&self, until_head: bool) -> Result<End> {
        tokio::select! {
            asked = asked() => asked.map(|()| End::Asked),
            stuck = head::reach(&self.host), if until_head => stuck.map(End::Head),
        }
    }

    /// Drains: what was handled is committed, then everything is closed. A second signal ends the process at once.
    #[expect(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait for the drain")]
    pub(super) async fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        tokio::select! {
            () = self.host.stop() => {}
            _ = asked() => std::process::exit(130),
        }
    }
}

/// Waits for ctrl-c or SIGTERM.
async fn asked() -> Result<()> {
    let failed = |error| Error::unavailable("signals cannot be waited for").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}
