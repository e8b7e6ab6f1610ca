//! Hosts of two versions on one database: an older one goes on beside the next, and refuses what is further ahead.

use tendon::{
    backend::{Database, Options, Order, mysql, postgres},
    error::Kind,
    event::Cursor,
};
use tendon_tests::{
    both::Server,
    place::{advance, append, claim, commit, emit, read, shard, stream},
};

/// As a newer host would: it has added something everywhere, and said so.
async fn migrate_to(server: &Server, version: i64) {
    let tables = ["position", "state", "event_key", "stream", "events_1"];
    for table in tables {
        let name = server.either("tendon_", "tendon.").to_owned() + table;
        server.run(format!("ALTER TABLE {name} ADD COLUMN added bigint DEFAULT 7")).await;
    }
    server.run(format!("UPDATE {} SET version = {version}", server.either(VERSION_MYSQL, VERSION_POSTGRES))).await;
}

const VERSION_MYSQL: &str = "tendon_schema_version";
const VERSION_POSTGRES: &str = "tendon.schema_version";

fn version(server: &Server) -> i64 {
    match server {
        Server::Mysql(_) => mysql::SCHEMA_VERSION,
        Server::Postgres(_) => postgres::SCHEMA_VERSION,
    }
}

#[tokio::test]
async fn an_older_host_works_beside_the_next_version_and_leaves_its_schema_alone() {
    for server in Server::both().await {
        let database = server.open().await;
        database.create_stream(&stream("in"), Order::Native).await.unwrap();
        let position = claim(&database, &shard("c")).await;
        migrate_to(&server, version(&server) + 1).await;

        // One that runs, and one that is started now.
        for (database, n) in [(database, 1), (server.open().await, 2)] {
            let appended = commit(&*database.store(), append(vec![emit(&stream("in"), n)])).await.unwrap();
            assert_eq!(appended.appended, 1);
            let source = database.source(&stream("in")).await.unwrap();
            assert_eq!(read(&*source, &Cursor::START).await.len(), usize::try_from(n).unwrap());
            let found = database.store().load(&position.shard).await.unwrap();
            commit(&*database.store(), advance(&found, &n.to_string())).await.unwrap();
            database.close().await;
        }
        let table = server.either(VERSION_MYSQL, VERSION_POSTGRES);
        let found = server.rows(&format!("SELECT CAST(version AS char(3)) FROM {table}")).await;
        assert_eq!(found[0][0].trim(), (version(&server) + 1).to_string());
    }
}

#[tokio::test]
async fn a_schema_two_versions_ahead_is_refused() {
    for server in Server::both().await {
        server.open().await.close().await;
        let ahead = version(&server) + 2;
        server.run(format!("UPDATE {} SET version = {ahead}", server.either(VERSION_MYSQL, VERSION_POSTGRES))).await;
        let Err(error) = Database::open(&server.url(), Options::default()).await else { panic!("it was opened") };
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains(&format!("schema version {ahead}")), "{error}");
        assert!(error.way_out().unwrap().contains("newer tendon"), "{error:?}");
    }
}
