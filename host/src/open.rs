//! The stores and streams that are open: for a host, each store for it alone; for reading, without a host.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use crate::{
    backend::{self, Database, Options, sqlite::HostLock},
    committer::Committer,
    config::{
        Config,
        resolved::{Consumer, Durability, Order, Store as StoreConfig, StoreUrl, Stream as StreamConfig},
    },
    deployment::{Deployment, Spec},
    error::{Error, Result},
    source::Source,
    tailer::Tailer,
    tenant::{ConsumerId, Name, StreamId},
};

/// The config and the open databases: what reading needs, with a host or without one.
#[derive(Clone)]
pub struct Catalog {
    /// What there is.
    pub config: Config,
    /// By the stores' names.
    pub databases: BTreeMap<Name, Database>,
}

impl Catalog {
    /// Opens the databases for reading only; there is no host.
    pub async fn read_only(config: Config) -> Result<Self> {
        let mut databases = BTreeMap::new();
        for (name, store) in &config.stores {
            if let StoreUrl::Sqlite(path) = &store.url
                && !path.exists()
            {
                return Err(Error::unavailable(format!("store `{name}` has no database yet at {}", path.display()))
                    .help("`tendon run` makes it, or `tendon dev` in a project's folder"));
            }
            databases.insert(name.clone(), database(store, true).await?);
        }
        Ok(Self { config, databases })
    }

    /// A store's database.
    pub fn database(&self, store: &Name) -> Result<&Database> {
        self.databases.get(store).ok_or_else(|| Error::not_found(format!("there is no store `{store}`")))
    }

    /// A stream of the config as a source.
    pub async fn source(&self, stream: &StreamId) -> Result<Arc<dyn Source>> {
        let stream = self.config.stream(stream)?;
        let database = self.database(&stream.store)?;
        if let Some(table) = &stream.table {
            database.adopt(&stream.id, table).await?;
        }
        database.source(&stream.id).await
    }
}

/// What a host has open. A clone is the same stores and streams.
#[derive(Clone, Default)]
pub(crate) struct Open {
    stores: BTreeMap<Name, Arc<OpenStore>>,
    streams: BTreeMap<StreamId, OpenStream>,
}

/// A store that is this host's.
pub(crate) struct OpenStore {
    /// Its name in the config.
    pub(crate) name: Name,
    config: StoreConfig,
    /// Its database.
    pub(crate) database: Database,
    /// What writes to it.
    pub(crate) committer: Committer,
    lock: Option<HostLock>,
}

#[derive(Clone)]
struct OpenStream {
    config: StreamConfig,
    tailer: Arc<Tailer>,
}

impl Open {
    /// These, and what a config has besides; streams that are not there yet are made. What is open stays as it is: a
    /// config that wants it to be different is refused.
    pub(crate) async fn with(&self, config: &Config) -> Result<Self> {
        self.check(config)?;
        let mut open = self.clone();
        for (name, store) in &config.stores {
            if !open.stores.contains_key(name) {
                open.stores.insert(name.clone(), Arc::new(OpenStore::open(name, store).await?));
            }
        }
        for stream in config.streams.values() {
            if !open.streams.contains_key(&stream.id) {
                let database = &open.store(&stream.store)?.database;
                match &stream.table {
                    Some(table) => database.adopt(&stream.id, table).await?,
                    None => database.create_stream(&stream.id, order(stream)).await?,
                }
                let tailer = Tailer::start(database.source(&stream.id).await?);
                open.streams.insert(stream.id.clone(), OpenStream { config: stream.clone(), tailer });
            }
        }
        Ok(open)
    }

    fn check(&self, config: &Config) -> Result<()> {
        for (name, store) in &config.stores {
            if self.stores.get(name).is_some_and(|open| open.config != *store) {
                return Err(needs_restart(&format!("another url or durability of store `{name}`")));
            }
        }
        for stream in config.streams.values() {
            let place = |stream: &StreamConfig| (stream.store.clone(), stream.order, stream.table.clone());
            if self.streams.get(&stream.id).is_some_and(|open| place(&open.config) != place(stream)) {
                return Err(needs_restart(&format!("another store, order or table of stream `{}`", stream.id.name)));
            }
        }
        Ok(())
    }

    /// A store.
    pub(crate) fn store(&self, name: &Name) -> Result<&OpenStore> {
        let found = self.stores.get(name).map(|store| &**store);
        found.ok_or_else(|| Error::not_found(format!("there is no store `{name}`")))
    }

    /// The database that a stream is in.
    pub(crate) fn stream_database(&self, stream: &StreamId) -> Result<&Database> {
        let found = self
            .streams
            .get(stream)
            .ok_or_else(|| Error::not_found(format!("there is no stream `{}`", stream.name)))?;
        Ok(&self.store(&found.config.store)?.database)
    }

    /// All stores.
    pub(crate) fn stores(&self) -> impl Iterator<Item = &OpenStore> {
        self.stores.values().map(|store| &**store)
    }

    /// A stream's reader.
    pub(crate) fn tailer(&self, stream: &StreamId) -> Result<&Arc<Tailer>> {
        let found = self.streams.get(stream).map(|stream| &stream.tailer);
        found.ok_or_else(|| Error::not_found(format!("there is no stream `{}`", stream.name)))
    }

    /// Whether a deployment has its stream and its store here.
    pub(crate) fn has(&self, spec: &Spec) -> bool {
        self.streams.contains_key(&spec.stream) && self.stores.contains_key(&spec.store)
    }

    /// The databases, by the stores' names.
    pub(crate) fn databases(&self) -> BTreeMap<Name, Database> {
        self.stores.iter().map(|(name, store)| (name.clone(), store.database.clone())).collect()
    }

    /// The active deployments of consumers: the one in the store that the config names, else the one in another
    /// store, where the consumer then still is. A store that cannot be read is an error to whom it may concern.
    pub(crate) async fn active(
        &self,
        consumers: impl Iterator<Item = &Consumer>,
    ) -> Result<BTreeMap<ConsumerId, Deployment>> {
        let mut rows = BTreeMap::new();
        for (name, store) in &self.stores {
            let found = store.database.store().deployments().await;
            let by_id = |found: Vec<Deployment>| -> BTreeMap<ConsumerId, Deployment> {
                found.into_iter().map(|row| (row.consumer.clone(), row)).collect()
            };
            rows.insert(name, found.map(by_id));
        }
        let mut active = BTreeMap::new();
        for consumer in consumers {
            let named = rows.get_key_value(&consumer.store).into_iter();
            let others = rows.iter().filter(|(name, _)| ***name != consumer.store);
            for (_, rows) in named.chain(others) {
                let rows = rows.as_ref().map_err(|error| Error::new(error.kind(), error.chain()))?;
                if let Some(deployment) = rows.get(&consumer.id) {
                    active.insert(consumer.id.clone(), deployment.clone());
                    break;
                }
            }
        }
        Ok(active)
    }

    /// A consumer's active deployment in a store.
    pub(crate) async fn active_in(&self, store: &Name, consumer: &ConsumerId) -> Result<Option<Deployment>> {
        let deployments = self.store(store)?.database.store().deployments().await?;
        Ok(deployments.into_iter().find(|deployment| deployment.consumer == *consumer))
    }

    /// Tells everybody where the host's API is.
    pub(crate) fn announce(&self, api: SocketAddr) -> Result<()> {
        self.stores.values().filter_map(|store| store.lock.as_ref()).try_for_each(|lock| lock.set_api(api))
    }

    /// Ends the reading of streams, then the connections.
    pub(crate) async fn close(self) {
        drop(self.streams);
        for store in self.stores.values() {
            store.database.close().await;
        }
    }
}

/// Makes a stream of a config, or the table that it is to be, unless it is there.
pub(crate) async fn create_stream(config: &Config, stream: &StreamId) -> Result<()> {
    let stream = config.stream(stream)?;
    let store = config.stores.get(&stream.store);
    let store = store.ok_or_else(|| Error::not_found(format!("there is no store `{}`", stream.store)))?;
    let open = OpenStore::open(&stream.store, store).await?;
    match &stream.table {
        Some(table) => open.database.create_table(table).await?,
        None => open.database.create_stream(&stream.id, order(stream)).await?,
    }
    open.database.close().await;
    Ok(())
}

fn order(stream: &StreamConfig) -> backend::Order {
    match stream.order {
        Order::Native => backend::Order::Native,
        Order::Id => backend::Order::Id,
    }
}

/// What a host that runs cannot do.
pub(crate) fn needs_restart(what: &str) -> Error {
    Error::invalid(format!("{what} needs a restart")).help("stop the host and start it again, or undo the edit")
}

impl OpenStore {
    async fn open(name: &Name, config: &StoreConfig) -> Result<Self> {
        let lock = match &config.url {
            StoreUrl::Sqlite(path) => Some(HostLock::acquire(path, None)?),
            // Hosts may share a server: each shard's fence says whose it is.
            StoreUrl::Server(_) => None,
        };
        let database = database(config, false).await?;
        let committer = Committer::start(database.store());
        Ok(Self { name: name.clone(), config: config.clone(), database, committer, lock })
    }
}

async fn database(config: &StoreConfig, read_only: bool) -> Result<Database> {
    let url = match &config.url {
        StoreUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
        StoreUrl::Server(url) => url.0.to_string(),
    };
    let durability = match config.durability {
        Durability::Full => backend::Durability::Full,
        Durability::Relaxed => backend::Durability::Relaxed,
    };
    Database::open(&url, Options { durability, read_only }).await
}
