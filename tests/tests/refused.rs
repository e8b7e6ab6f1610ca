//! Tables that cannot be read without losing an event, and users who may not do what that needs: each is told so, with what
//! to do about it.

use tendon::{
    backend::{Database, Options, foreign::ForeignTable},
    error::Kind,
};
use tendon_tests::{
    both::{Server, adopt, named},
    servers::MariadbKind,
};

#[tokio::test]
async fn a_table_that_cannot_be_read_safely_is_refused_with_a_way_out() {
    for server in Server::both().await {
        let rest = server.either(
            "foreign_id VARCHAR(9), timestamp DATETIME, type INT",
            "foreign_id text, timestamp timestamp, type int",
        );
        let id = server.either("id BIGINT AUTO_INCREMENT PRIMARY KEY", "id bigserial PRIMARY KEY");
        server.run(format!("CREATE TABLE good ({id}, {rest})")).await;
        server.run("CREATE VIEW seen AS SELECT * FROM good").await;
        server.run(format!("CREATE TABLE drawn (id BIGINT PRIMARY KEY, {rest})")).await;
        server.run(format!("CREATE TABLE floating ({}, {rest})", id.replace("id ", "number "))).await;
        let mut wrong = vec![
            ("nothing", "does not exist"),
            ("seen", "it is no table"),
            ("drawn", server.either("no AUTO_INCREMENT", "nobody knows where the ids")),
            ("floating", "it has no column `id`"),
        ];
        if let Server::Mysql(_) = server {
            server.run(format!("CREATE TABLE old ({id}, {rest}) ENGINE=MyISAM")).await;
            wrong.push(("old", "its engine is MyISAM"));
        } else {
            server.run("CREATE SEQUENCE many CACHE 20").await;
            server.run(format!("CREATE TABLE cached (id bigint PRIMARY KEY DEFAULT nextval('many'), {rest})")).await;
            wrong.push(("cached", "20 ids at once"));
            server.run(format!("CREATE TABLE bare (id bigserial, {rest})")).await;
            wrong.push(("bare", "no unique index"));
        }
        let database = server.open().await;
        for (table, what) in wrong {
            let error = adopt(&database, table, &named(table)).await.err().unwrap();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(what), "{table}: {error}");
            assert!(!error.way_out().unwrap().is_empty());
        }
        adopt(&database, "good", &named("good")).await.unwrap();
        if let Server::Postgres(_) = server {
            server.run("CREATE SEQUENCE mine").await;
            let table = ForeignTable { sequence: Some("mine".parse().unwrap()), ..named("drawn") };
            adopt(&database, "drawn", &table).await.unwrap();
        }
    }
}

/// Makes a user who has everything but those tables; his name and his URL.
async fn poor(server: &Server, tables: &str) -> (String, String) {
    match server {
        Server::Mysql(database) => {
            let (name, user) = (database.name(), format!("poor_{}", database.name()));
            server
                .run(format!(
                    "CREATE USER {user}; GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER ON {name}.{tables} TO {user}"
                ))
                .await;
            let url = database.url_of(&user);
            (user, url)
        }
        Server::Postgres(database) => {
            let (name, user) = (database.name(), format!("poor_{}", database.name()));
            server.run(format!("CREATE ROLE {user} LOGIN; GRANT ALL ON DATABASE {name} TO {user}")).await;
            let url = database.url_of(&user);
            (user, url)
        }
    }
}

async fn refusal(url: &str) -> (String, String) {
    let database = Database::open(url, Options::default()).await.unwrap();
    let error = adopt(&database, "events", &named("events")).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Invalid);
    database.close().await;
    (error.to_string(), error.way_out().unwrap().to_owned())
}

#[tokio::test]
async fn a_user_without_the_rights_is_told_what_to_grant() {
    // Without the plugin MariaDB's user needs the right to lock tables; PostgreSQL's needs to read.
    for server in Server::both_on(MariadbKind::Bare).await {
        server.table("events").await;
        let (user, url) = poor(&server, "*").await;
        let (what, help) = refusal(&url).await;
        let wanted = server.either("nobody tells this user who writes to it", "this user may not read it");
        assert!(what.contains(wanted), "{what}");
        assert!(help.contains("GRANT"), "{help}");
        let grant = server.either("LOCK TABLES", "SELECT");
        assert!(help.contains(grant), "{help}");
        match &server {
            Server::Mysql(database) => {
                server.run(format!("GRANT LOCK TABLES ON {}.* TO {user}", database.name())).await
            }
            Server::Postgres(_) => server.run(format!("GRANT SELECT ON events TO {user}")).await,
        }
        let database = Database::open(&url, Options::default()).await.unwrap();
        adopt(&database, "events", &named("events")).await.unwrap();
        database.close().await;
    }
}

#[tokio::test]
async fn a_server_that_leaves_ids_out_is_refused() {
    // A server that no other test here uses: it is another one's setting as well.
    for server in Server::both_on(MariadbKind::PerformanceSchema).await {
        let Server::Mysql(_) = server else { continue };
        server.table("events").await;
        server.run("SET GLOBAL auto_increment_increment = 2").await;
        let (what, help) = refusal(&server.url()).await;
        server.run("SET GLOBAL auto_increment_increment = 1").await;
        assert!(what.contains("auto_increment_increment"), "{what}");
        assert!(!help.is_empty());
    }
}
