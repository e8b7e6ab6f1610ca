//! The way to the API: over HTTP to the host that runs, or in this process over databases opened for reading.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Uri},
};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;

use super::Ctx;
use crate::{
    backend::sqlite::holder,
    config::{Components, Config, Problem, resolved::StoreUrl},
    error::{Error, Kind, Result},
    host::Catalog,
    server::{Api, routes},
};

/// How long a host on this machine may take to answer a call.
const LISTENS_MAX: Duration = Duration::from_millis(500);

/// Names and values of a query.
pub(super) type Query = Vec<(&'static str, String)>;

/// See the module.
pub(super) enum Client {
    /// A host's address, such as `http://127.0.0.1:7070`.
    Live(String),
    /// The same routes without a host.
    ReadOnly(Router),
}

impl Client {
    /// The host that `--api` names, or that holds one of the config's databases; without one, the databases.
    pub(super) async fn connect(ctx: &Ctx) -> Result<Self> {
        if let Some(api) = &ctx.globals.api {
            return Ok(Self::Live(api.trim_end_matches('/').to_owned()));
        }
        let config = ctx.config(Components::MayBeMissing)?;
        if let Some(api) = running(&config) {
            return Ok(Self::Live(api));
        }
        let catalog = Catalog::read_only(config).await?;
        Ok(Self::ReadOnly(routes(Api::ReadOnly(catalog.into()))))
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: Query) -> Result<T> {
        parse(self.answer("GET", path, query, Vec::new()).await?)
    }

    /// Changes something.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, query: Query, body: Vec<u8>) -> Result<T> {
        parse(self.answer("POST", path, query, body).await?)
    }

    /// Hears the lines of an answer as they come, until `hear` has enough.
    pub(super) async fn lines(
        &self,
        path: &str,
        query: Query,
        mut hear: impl FnMut(&str) -> Result<bool> + Send + 'static,
    ) -> Result<()> {
        match self {
            Self::Live(api) => {
                let url = format!("{api}{}", target(path, &query));
                blocking(move || {
                    let mut response = send("GET", &url, &[])?;
                    for line in BufReader::new(response.body_mut().as_reader()).lines() {
                        let line = line.map_err(|error| Error::unavailable("the host went away").because(error))?;
                        if !hear(&line)? {
                            break;
                        }
                    }
                    Ok(())
                })
                .await
            }
            Self::ReadOnly(router) => {
                let response = ask(router, "GET", &target(path, &query), Vec::new()).await?;
                let mut chunks = response.into_body().into_data_stream();
                while let Some(Ok(chunk)) = chunks.next().await {
                    for line in String::from_utf8_lossy(&chunk).lines() {
                        if !hear(line)? {
                            return Ok(());
                        }
                    }
                }
                Ok(())
            }
        }
    }

    async fn answer(&self, method: &'static str, path: &str, query: Query, body: Vec<u8>) -> Result<Vec<u8>> {
        match self {
            Self::Live(api) => {
                let url = format!("{api}{}", target(path, &query));
                blocking(move || {
                    let mut response = send(method, &url, &body)?;
                    let whole = response.body_mut().with_config().limit(u64::MAX).read_to_vec();
                    whole.map_err(|error| Error::unavailable("the host went away").because(error))
                })
                .await
            }
            Self::ReadOnly(router) => {
                let response = ask(router, method, &target(path, &query), body).await?;
                Ok(collect(response).await?)
            }
        }
    }
}

/// The API of the host that holds one of the config's databases. Nobody holds one on a server alone: there it is whoever
/// listens where the config says.
pub(super) fn running(config: &Config) -> Option<String> {
    let listen = config.host.listen;
    let api = |store: &crate::config::resolved::Store| match &store.url {
        StoreUrl::Sqlite(path) => holder(path)?.api,
        StoreUrl::Server(_) if listen.port() == 0 => None,
        StoreUrl::Server(_) => TcpStream::connect_timeout(&listen, LISTENS_MAX).ok().map(|_| listen),
    };
    config.stores.values().find_map(api).map(|api| format!("http://{api}"))
}

/// A path with its query, everything in it escaped.
fn target(path: &str, query: &Query) -> String {
    let pairs = query.iter().map(|(name, value)| format!("{name}={}", escape(value)));
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Escapes all but what is plain in a URL.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn send(method: &str, url: &str, body: &[u8]) -> Result<ureq::http::Response<ureq::Body>> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let sent = match method {
        "GET" => agent.get(url).call(),
        _ => agent.post(url).content_type("application/json").send(body),
    };
    let mut response = sent.map_err(|error| {
        Error::unavailable(format!("no host answers at {url}")).because(error).help("start one with `tendon run`")
    })?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refused(&response.body_mut().read_to_vec().unwrap_or_default()))
}

async fn ask(router: &Router, method: &str, target: &str, body: Vec<u8>) -> Result<axum::response::Response> {
    let uri: Uri = target.parse().map_err(|error| Error::invalid(format!("`{target}` is no path")).because(error))?;
    let request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    let request = request.body(Body::from(body)).map_err(|error| Error::invalid("not a request").because(error))?;
    // A router never fails: its errors are answers.
    let response = router.clone().oneshot(request).await.unwrap_or_default();
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refused(&collect(response).await?))
}

async fn collect(response: axum::response::Response) -> Result<Vec<u8>> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(|error| Error::unavailable("the answer broke off").because(error))?.to_bytes().into())
}

/// The error that an answer stands for.
fn refused(body: &[u8]) -> Error {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return Error::unavailable(format!("the host answered {}", String::from_utf8_lossy(body)))
            .help("is that address a tendon host's?");
    };
    let kind = match &*problem.code {
        "invalid" => Kind::Invalid,
        "not-found" => Kind::NotFound,
        "denied" => Kind::Denied,
        "limit" => Kind::Limit,
        "fenced" => Kind::Fenced,
        "unavailable" => Kind::Unavailable,
        "ambiguous" => Kind::Ambiguous,
        _ => Kind::Corrupt,
    };
    let error = Error::new(kind, problem.message);
    match problem.suggestion {
        Some(suggestion) => error.help(suggestion),
        None => error,
    }
}

fn parse<T: DeserializeOwned>(body: Vec<u8>) -> Result<T> {
    serde_json::from_slice(&body).map_err(|error| {
        Error::corrupt("the host's answer is not what this version expects")
            .because(error)
            .help("use the `tendon` of the host's version")
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::corrupt("a request panicked").because(error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        let query = vec![("key", "a b&c=ä/?".to_owned())];
        assert_eq!(target("/v1", &query), "/v1?key=a%20b%26c%3D%C3%A4%2F%3F");
        assert_eq!(target("/v1", &Vec::new()), "/v1");
    }
}
