//! A database on each of the servers, for what must hold on both.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Row as _};
use tendon::{
    backend::{Database, Options, foreign::ForeignTable},
    error::Result,
    event::{Cursor, Event},
    source::{Source, Until},
};

use crate::{
    gap::Connection,
    place::{read, stream},
    servers::{MariadbDatabase, MariadbKind, PostgresDatabase, has_mariadb_of, has_postgres},
};

/// A database.
pub enum Server {
    /// On MariaDB.
    Mysql(MariadbDatabase),
    /// On PostgreSQL.
    Postgres(PostgresDatabase),
}

impl Server {
    /// One on each server that can be had.
    pub async fn both() -> Vec<Self> {
        Self::both_on(MariadbKind::Plugin).await
    }

    /// One on each server, MariaDB's set up so.
    pub async fn both_on(kind: MariadbKind) -> Vec<Self> {
        let mut both = Vec::new();
        if has_mariadb_of(kind) {
            both.push(Self::Mysql(MariadbDatabase::fresh_on(kind).await));
        }
        if has_postgres() {
            both.push(Self::Postgres(PostgresDatabase::fresh().await));
        }
        both
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.either("MariaDB", "PostgreSQL")
    }

    /// Its URL.
    pub fn url(&self) -> String {
        match self {
            Self::Mysql(database) => database.url(),
            Self::Postgres(database) => database.url(),
        }
    }

    /// A connection of one's own.
    pub async fn connect(&self) -> Connection {
        match self {
            Self::Mysql(database) => Connection::Mysql(database.connect().await),
            Self::Postgres(database) => Connection::Postgres(database.connect().await),
        }
    }

    /// Runs a statement.
    pub async fn run(&self, sql: impl Into<String>) {
        self.connect().await.run(sql).await;
    }

    /// Opens it as a host does.
    pub async fn open(&self) -> Database {
        Database::open(&self.url(), Options::default()).await.unwrap()
    }

    /// One of two texts.
    pub fn either<'t>(&self, mysql: &'t str, postgres: &'t str) -> &'t str {
        match self {
            Self::Mysql(_) => mysql,
            Self::Postgres(_) => postgres,
        }
    }

    /// Makes a table of events.
    pub async fn table(&self, name: &str) {
        self.connect().await.create(name).await;
    }

    /// A host that reads the table `name` as the stream of that name.
    pub async fn adopted(&self, name: &str) -> (Database, Arc<dyn Source>) {
        let database = self.open().await;
        let source = adopt(&database, name, &named(name)).await.unwrap();
        (database, source)
    }

    /// The rows of a query, each as its columns' texts.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.connect().await {
            Connection::Mysql(mut connection) => {
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|n| row.get::<String, _>(n)).collect()).collect()
            }
            Connection::Postgres(mut connection) => {
                let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|n| row.get::<String, _>(n)).collect()).collect()
            }
        }
    }
}

/// A table with the columns of reflex.
pub fn named(name: &str) -> ForeignTable {
    ForeignTable::named(name.parse().unwrap())
}

/// Lets a table be a stream.
pub async fn adopt(database: &Database, name: &str, table: &ForeignTable) -> Result<Arc<dyn Source>> {
    database.adopt(&stream(name), table).await?;
    database.source(&stream(name)).await
}

/// The ids of the events after a cursor, up to the head.
pub async fn ids(source: &dyn Source, after: &Cursor) -> Vec<String> {
    read(source, after).await.into_iter().map(|event: Event| event.id.to_string()).collect()
}

/// What a reading ends with.
pub async fn failure(source: &dyn Source, after: &Cursor) -> tendon::error::Error {
    use futures_util::TryStreamExt as _;
    let chunks = source.stream(after.clone(), Until::Head).await.unwrap();
    match chunks.try_collect::<Vec<_>>().await {
        Ok(chunks) => panic!("{chunks:?} were read"),
        Err(error) => error,
    }
}
