//! Where a suite's databases are: a constructor each, so that a property can open one twice (two hosts) or again (a
//! restart).

use std::future::Future;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tempfile::TempDir;
use tendon::{
    backend::{Database, Options, Order},
    changes::{Changes, Emit},
    event::{Cursor, Event, EventKey, NewEvent, Timestamp},
    owner::Owner,
    source::{Source, Until},
    store::{Commit, Committed, Move, Position, Store},
    tenant::{ConsumerId, Name, ShardId, StreamId, TenantId},
};

use crate::servers::{MariadbDatabase, PostgresDatabase, has_mariadb, has_postgres};

/// A place for one database, gone when it is dropped.
pub trait Place: Send + Sync + Sized {
    /// The order of the streams that are made there.
    const ORDER: Order = Order::Native;
    /// A place with nothing in it.
    fn fresh() -> impl Future<Output = Self> + Send;
    /// Opens the database there as a host that has just started does.
    fn open(&self) -> impl Future<Output = Database> + Send;
    /// Whether there can be one on this machine.
    fn is_here() -> bool {
        true
    }
}

/// A database in memory. A host that starts finds what the one before it left: the memory is the disk here.
pub struct MemoryPlace(Database);

impl Place for MemoryPlace {
    async fn fresh() -> Self {
        Self(Database::open("memory:", Options::default()).await.unwrap())
    }

    async fn open(&self) -> Database {
        self.0.failpoints().disarm();
        self.0.clone()
    }
}

/// A SQLite file in a folder of its own.
pub struct SqlitePlace(TempDir);

impl SqlitePlace {
    /// The URL of the file.
    pub fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    /// The file.
    pub fn path(&self) -> std::path::PathBuf {
        self.0.path().join("tendon.db")
    }
}

impl Place for SqlitePlace {
    async fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Database {
        let database = Database::open(&self.url(), Options::default()).await.unwrap();
        database.failpoints().disarm();
        database
    }
}

/// A PostgreSQL database on a real server.
pub struct PostgresPlace(pub PostgresDatabase);

impl Place for PostgresPlace {
    async fn fresh() -> Self {
        Self(PostgresDatabase::fresh().await)
    }

    async fn open(&self) -> Database {
        let database = Database::open(&self.0.url(), Options::default()).await.unwrap();
        database.failpoints().disarm();
        database
    }

    fn is_here() -> bool {
        has_postgres()
    }
}

/// The same, with streams in the order of ids.
pub struct PostgresByIdPlace(PostgresPlace);

impl Place for PostgresByIdPlace {
    const ORDER: Order = Order::Id;

    async fn fresh() -> Self {
        Self(PostgresPlace::fresh().await)
    }

    async fn open(&self) -> Database {
        self.0.open().await
    }

    fn is_here() -> bool {
        has_postgres()
    }
}

/// A MariaDB database on a real server.
pub struct MysqlPlace(pub MariadbDatabase);

impl Place for MysqlPlace {
    async fn fresh() -> Self {
        Self(MariadbDatabase::fresh().await)
    }

    async fn open(&self) -> Database {
        let database = Database::open(&self.0.url(), Options::default()).await.unwrap();
        database.failpoints().disarm();
        database
    }

    fn is_here() -> bool {
        has_mariadb()
    }
}

/// A name that is one.
pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A tenant.
pub fn tenant(text: &str) -> TenantId {
    TenantId(name(text))
}

/// A stream of the default tenant.
pub fn stream(text: &str) -> StreamId {
    StreamId { tenant: TenantId::default(), name: name(text) }
}

/// A consumer of the default tenant.
pub fn consumer(text: &str) -> ConsumerId {
    ConsumerId { tenant: TenantId::default(), name: name(text) }
}

/// The first shard of a consumer of the default tenant.
pub fn shard(text: &str) -> ShardId {
    ShardId { consumer: consumer(text), index: 0 }
}

/// Claims a shard.
pub async fn claim(database: &Database, shard: &ShardId) -> Position {
    database.store().claim(shard, &Owner("a test".into())).await.unwrap()
}

/// An event with a number in its text.
pub fn event(n: u64) -> NewEvent {
    NewEvent {
        r#type: 1,
        foreign_id: format!("key-{n}").into(),
        timestamp: Timestamp(1_800_000_000_000_000 + n as i64),
        metadata: Bytes::from(format!("{{\"n\":{n}}}")),
        headers: Vec::new(),
    }
}

/// An emit of that event; the same one for the same number.
pub fn emit(stream: &StreamId, n: u64) -> Emit {
    let event = event(n);
    let key = EventKey::new(event.timestamp, &[stream.name.as_str().as_bytes(), &n.to_le_bytes()]);
    Emit { key, stream: stream.clone(), event }
}

/// An emit with a key of its own.
pub fn emit_new(stream: &StreamId, event: NewEvent) -> Emit {
    let key = EventKey::new(event.timestamp, &[&fastrand::u128(..).to_le_bytes()]);
    Emit { key, stream: stream.clone(), event }
}

/// A commit that only appends.
pub fn append(emits: Vec<Emit>) -> Commit {
    Commit { changes: Changes { emits, ..Changes::default() }, ..Commit::default() }
}

/// A commit that moves a position to a cursor.
pub fn advance(from: &Position, cursor: &str) -> Commit {
    let to = Position { cursor: Cursor(Bytes::from(cursor.to_owned())), ..from.clone() };
    Commit { r#move: Some(Move { from: from.clone(), to, takes_fence: false }), ..Commit::default() }
}

/// The answer to one commit.
pub async fn commit(store: &dyn Store, commit: Commit) -> tendon::error::Result<Committed> {
    let mut answers = store.commit(&[commit]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// A database with a stream of that many events.
pub async fn filled<P: Place>(place: &P, text: &str, events: u64) -> (Database, std::sync::Arc<dyn Source>) {
    let database = place.open().await;
    let stream = stream(text);
    database.create_stream(&stream, P::ORDER).await.unwrap();
    if events > 0 {
        let emits = (0..events).map(|n| emit(&stream, n)).collect();
        commit(&*database.store(), append(emits)).await.unwrap();
    }
    let source = database.source(&stream).await.unwrap();
    (database, source)
}

/// The events after a cursor, up to the head.
pub async fn read(source: &dyn Source, after: &Cursor) -> Vec<Event> {
    let chunks: Vec<_> = source.stream(after.clone(), Until::Head).await.unwrap().try_collect().await.unwrap();
    assert!(chunks.iter().all(|chunk| !chunk.events.is_empty()), "a chunk had no events");
    chunks.into_iter().flat_map(|chunk| chunk.events).collect()
}

/// The first `count` events after a cursor of a stream that has no end.
pub async fn wait_for(source: &dyn Source, after: &Cursor, count: usize) -> Vec<Event> {
    let mut chunks = source.stream(after.clone(), Until::Forever).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(chunks.next().await.unwrap().unwrap().events);
    }
    events
}
