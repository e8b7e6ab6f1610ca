//! The config as the host uses it: defaults filled in, paths absolute, names checked against each other.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use url::Url;

pub use super::authored::{Durability, Order};
use super::start::Start;
use crate::{
    backend::foreign::ForeignTable,
    batch::BatchPolicy,
    deployment::{LegacyCursor, Spec, StateScope},
    error::{Error, Result},
    event::Cursor,
    filter::Filter,
    limits::Limits,
    policy::{OnExhausted, RetryPolicy},
    tenant::{ConsumerId, Name, StreamId},
    topology::{Past, Shards},
};

/// Where the API listens unless the file says otherwise.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

/// A whole `tendon.toml`. It only proposes: deployments say what runs. The default one has nothing in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The file that it was read from, absolute.
    pub file: PathBuf,
    /// The process.
    pub host: Host,
    /// Databases, at least one.
    pub stores: BTreeMap<Name, Store>,
    /// Streams, by their names in the file.
    pub streams: BTreeMap<Name, Stream>,
    /// Consumers, by their names in the file.
    pub consumers: BTreeMap<Name, Consumer>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where the API and the metrics are served; a loopback address. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where machine code is kept; in the user's cache folder where that is not said.
    pub code_cache: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self { listen: LISTEN, code_cache: None }
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Which and where.
    pub url: StoreUrl,
    /// When a commit counts as done.
    pub durability: Durability,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A file, absolute.
    Sqlite(PathBuf),
    /// A database on a server.
    Server(ServerUrl),
}

/// The URL of a database on a server. It may hold a password, so it is never shown whole.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(pub Url);

impl StoreUrl {
    /// Whether it is a MySQL or MariaDB database.
    pub fn is_mysql(&self) -> bool {
        matches!(self, Self::Server(url) if matches!(url.0.scheme(), "mysql" | "mariadb"))
    }
}

impl ServerUrl {
    /// Host and port, as a connection is made to them.
    pub fn address(&self) -> String {
        let port = self.0.port().unwrap_or(if self.0.scheme().starts_with("postgres") { 5432 } else { 3306 });
        format!("{}:{port}", self.0.host_str().unwrap_or("localhost"))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Only a URL without a host refuses a password, and that has none.
            let _ = shown.set_password(Some("***"));
        }
        shown.fmt(f)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its tenant and name.
    pub id: StreamId,
    /// The store that holds it.
    pub store: Name,
    /// Events that `tendon dev` imports once; absolute. Nobody has looked whether the file is there.
    pub sample: Option<PathBuf>,
    /// How long its events are kept, where that is not for ever.
    pub retain: Option<Duration>,
    /// The order of its events.
    pub order: Order,
    /// The table that was there before; none where it is one of tendon's own.
    pub table: Option<ForeignTable>,
}

/// A consumer: everything of a [`Spec`], but the start has yet to be looked up and the component to be read. Two that
/// are equal need no restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    /// Its tenant and name.
    pub id: ConsumerId,
    /// The component's file, absolute.
    pub component: PathBuf,
    /// The stream that it reads.
    pub stream: StreamId,
    /// The store of its position, its state and what it emits.
    pub store: Name,
    /// Where it begins when it is deployed for the first time.
    pub start: Start,
    /// Which events it is called with.
    pub filter: Filter,
    /// How old an event must be before it is handled.
    pub lag: Duration,
    /// Which state its handler sees; none where it may be whichever fits.
    pub state: Option<StateScope>,
    /// How it is divided.
    pub shards: Shards,
    /// When a commit is due.
    pub batch: BatchPolicy,
    /// What happens when an event fails.
    pub retry: RetryPolicy,
    /// What it may use.
    pub limits: Limits,
    /// Streams that it may emit to, sorted.
    pub grants_emit: Vec<Name>,
    /// What `tendon:consumer/config` answers.
    pub config: BTreeMap<String, String>,
    /// Version of the state's layout.
    pub state_version: u32,
    /// The row of reflex's that it begins at, where there is one.
    pub legacy_cursor: Option<Arc<LegacyCursor>>,
}

impl Config {
    /// The folder that relative paths begin at.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// A stream that the file declares, else `NotFound`.
    pub fn stream(&self, id: &StreamId) -> Result<&Stream> {
        let found = self.streams.get(&id.name).filter(|stream| stream.id == *id);
        found.ok_or_else(|| missing("stream", id, self.streams.values().map(|stream| &stream.id)))
    }

    /// A consumer that the file declares, else `NotFound`.
    pub fn consumer(&self, id: &ConsumerId) -> Result<&Consumer> {
        let found = self.consumers.get(&id.name).filter(|consumer| consumer.id == *id);
        found.ok_or_else(|| missing("consumer", id, self.consumers.values().map(|consumer| &consumer.id)))
    }

    /// Where the file leaves it open which state a consumer has, it has the same as before, if that still fits.
    pub fn keep_states(&mut self, before: &Self) {
        for consumer in self.consumers.values_mut().filter(|consumer| consumer.state.is_none()) {
            let kept = before.consumer(&consumer.id).ok().and_then(|before| before.state);
            consumer.state = kept.filter(|state| consumer.fits(*state));
        }
    }

    /// Leaves a consumer as it was in another config, where that had it, with the stream and the stores that it needs.
    pub fn keep(&mut self, before: &Self, id: &ConsumerId) {
        let Ok(consumer) = before.consumer(id) else { return };
        let mut stores = vec![&consumer.store];
        if let Ok(stream) = before.stream(&consumer.stream) {
            self.streams.entry(stream.id.name.clone()).or_insert_with(|| stream.clone());
            stores.push(&stream.store);
        }
        for (name, store) in stores.into_iter().filter_map(|name| before.stores.get_key_value(name)) {
            self.stores.entry(name.clone()).or_insert_with(|| store.clone());
        }
        self.consumers.insert(id.name.clone(), consumer.clone());
    }
}

impl Consumer {
    /// One with every default, that reads the stream of this name.
    pub fn of(id: ConsumerId, stream: Name) -> Self {
        Self {
            stream: StreamId { tenant: id.tenant.clone(), name: stream.clone() },
            id,
            component: PathBuf::new(),
            store: stream,
            start: Start::default(),
            filter: Filter::default(),
            lag: Duration::ZERO,
            state: None,
            shards: Shards::default(),
            batch: BatchPolicy::default(),
            retry: RetryPolicy::default(),
            limits: Limits::default(),
            grants_emit: Vec::new(),
            config: BTreeMap::new(),
            state_version: 1,
            legacy_cursor: None,
        }
    }

    /// Takes over what a deployment has fixed for good, where the file proposes something else.
    pub fn settle(&mut self, spec: &Spec) {
        self.stream = spec.stream.clone();
        self.store = spec.store.clone();
        self.state = Some(spec.state);
        self.shards = spec.shards.clone();
    }

    /// The states that it may have: no two shards write to the same one, and parked keys do not share theirs.
    fn fitting(&self) -> impl Iterator<Item = StateScope> {
        let parks = self.retry.on_exhausted == OnExhausted::ParkKey;
        let all = [StateScope::Consumer, StateScope::Key, StateScope::Shard].into_iter();
        all.filter(move |state| self.shards.fit(*state) && (!parks || *state == StateScope::Key))
    }

    /// Whether it may have such a state.
    pub fn fits(&self, state: StateScope) -> bool {
        self.fitting().any(|fitting| fitting == state)
    }

    /// Which state its handler sees, where no deployment says that yet.
    pub fn state(&self) -> StateScope {
        self.state.unwrap_or_else(|| self.fitting().next().unwrap_or_default())
    }

    /// The part of a deployment that the file decides, once `start` is looked up.
    pub fn spec(&self, start: Cursor) -> Spec {
        Spec {
            stream: self.stream.clone(),
            store: self.store.clone(),
            start,
            filter: self.filter.clone(),
            lag: self.lag,
            state: self.state(),
            shards: self.shards.clone(),
            past: Past::default(),
            batch: self.batch.clone(),
            retry: self.retry.clone(),
            limits: self.limits.clone(),
            grants_emit: self.grants_emit.clone(),
            config: self.config.clone(),
            state_version: self.state_version,
            legacy_cursor: self.legacy_cursor.clone(),
        }
    }
}

fn missing<T: std::fmt::Display>(what: &str, wanted: &T, known: impl Iterator<Item = impl std::fmt::Display>) -> Error {
    let known: Vec<String> = known.map(|id| id.to_string()).collect();
    let error = Error::not_found(format!("there is no {what} {wanted}"));
    if known.is_empty() {
        error.help(format!("the config declares no {what}"))
    } else {
        error.help(format!("there are: {}", known.join(", ")))
    }
}
