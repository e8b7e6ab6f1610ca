//! The one HTTP/JSON API: the command line, a dashboard and anyone else use this and nothing else.
//!
//! It listens on loopback only and refuses requests whose `Host` or `Origin` is not its own, so that a web page in a
//! browser on the same machine cannot reach it. Without a host the same routes, those that only read, can be served
//! in process over a database that is opened for reading.

mod consumers;
pub mod dead_letters;
mod failure;
pub mod fleet;
mod guard;
mod streams;
pub mod views;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::{get, post},
};
use tokio::net::TcpListener;

use crate::{
    error::{Error, Result},
    host::{Catalog, Host},
};

use failure::Failure;

/// The largest request body: an import goes in as one transaction.
pub const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What the routes work on.
#[derive(Clone)]
pub enum Api {
    /// A live host.
    Live(Arc<Host>),
    /// Databases without one: everything that changes is refused.
    ReadOnly(Arc<Catalog>),
}

impl Api {
    async fn catalog(&self) -> Catalog {
        match self {
            Self::Live(host) => host.catalog().await,
            Self::ReadOnly(catalog) => (**catalog).clone(),
        }
    }

    fn host(&self) -> Result<&Arc<Host>> {
        match self {
            Self::Live(host) => Ok(host),
            Self::ReadOnly(_) => Err(Error::unavailable("no host is running, and this changes something")
                .help("start one with `tendon run`, or `tendon dev` in a project's folder")),
        }
    }
}

/// The routes, without the guard of the listener.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/v1/streams", get(streams::list))
        .route("/v1/streams/{stream}/events", get(streams::events).post(streams::append))
        .route("/v1/streams/{stream}/tail", get(streams::tail))
        .route("/v1/streams/{stream}/check", get(streams::check))
        .route("/v1/streams/{stream}/prune", post(streams::prune))
        .route("/v1/consumers", get(consumers::list))
        .route("/v1/consumers/{consumer}", get(consumers::show))
        .route("/v1/consumers/{consumer}/pause", post(consumers::pause))
        .route("/v1/consumers/{consumer}/resume", post(consumers::resume))
        .route("/v1/consumers/{consumer}/skip", post(consumers::skip))
        .route("/v1/consumers/{consumer}/reset", post(consumers::reset))
        .route("/v1/consumers/{consumer}/remove", post(consumers::remove))
        .route("/v1/consumers/{consumer}/cursor", get(consumers::cursor))
        .route("/v1/consumers/{consumer}/state", get(consumers::state))
        .route("/v1/consumers/{consumer}/dead-letters", get(dead_letters::list))
        .route("/v1/consumers/{consumer}/purge-dead-letters", post(dead_letters::purge))
        .route("/v1/consumers/{consumer}/redrive-dead-letters", post(dead_letters::redrive))
        .route("/v1/consumers/{consumer}/cancel-redrives", post(dead_letters::cancel))
        .route("/v1/consumers/{consumer}/redrives", get(dead_letters::jobs))
        .route("/v1/consumers/{consumer}/dead-letters/{event}", get(dead_letters::show))
        .route("/v1/consumers/{consumer}/dead-letters/{event}/edit", post(dead_letters::edit))
        .fallback(|| async { Failure(Error::not_found("the API has no such route")) })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::map_response(failure::as_json))
        .with_state(api)
}

/// Binds the API's address.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| {
        Error::unavailable(format!("the API cannot listen on {listen}"))
            .because(error)
            .help("another process has the port: choose another one with `listen` under [host]")
    })
}

/// Serves the API until the process ends.
pub async fn serve(listener: TcpListener, host: Arc<Host>) -> Result<()> {
    let router = routes(Api::Live(host)).layer(middleware::from_fn(guard::same_origin));
    axum::serve(listener, router).await.map_err(|error| Error::unavailable("the API ended").because(error))
}

async fn metrics(State(api): State<Api>) -> Result<String, Failure> {
    let host = api.host()?;
    let readings = fleet::consumers(&api, None).await.iter().map(views::ConsumerView::reading).collect::<Vec<_>>();
    let streams = views::streams(&api.catalog().await, None).await;
    let streams = streams.iter().map(views::StreamView::reading).collect::<Vec<_>>();
    Ok(host.telemetry.scrape(&readings, &streams)?)
}
