//! PostgreSQL. A test has a server to itself while it runs, and a database that nobody used before: a transaction that is
//! open in one database of a PostgreSQL server holds up the readers of all its databases. The tests of a server that the
//! environment names, such as `postgres://postgres@db.example`, should run one at a time.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{Running, as_user, folder_for, free_port, fresh_name, is_here, named, run, succeeds};

const URL: &str = "TENDON_TEST_POSTGRES_URL";

struct Server {
    url: String,
    /// None where the environment names it.
    running: Option<Running>,
}

/// Servers that no test uses now.
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// A new database on a server that is this test's alone, until it is dropped.
pub struct PostgresDatabase {
    server: Option<Server>,
    name: String,
}

/// Whether tests can have a PostgreSQL server.
pub fn has_postgres() -> bool {
    is_here(
        named(URL).is_some() || programs().is_some(),
        "PostgreSQL is not installed: `apt-get install postgresql` as root",
    )
}

impl PostgresDatabase {
    /// Makes one.
    pub async fn fresh() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let server = match idle {
            Some(server) => server,
            None => tokio::task::spawn_blocking(Server::start).await.unwrap(),
        };
        let name = fresh_name();
        let mut connection = server.connect().await;
        let create = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self { server: Some(server), name }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}/{}", self.server().url, self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL for another user.
    pub fn url_of(&self, user: &str) -> String {
        as_user(&self.url(), user)
    }

    /// A connection of one's own.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }

    /// The database after `pg_upgrade` has moved its whole server to another cluster; none where the server is not ours.
    pub async fn upgraded(mut self) -> Option<Self> {
        let old = self.server.take()?.running?;
        let new = tokio::task::spawn_blocking(move || Server::upgraded(&old)).await.unwrap();
        self.server = Some(new);
        Some(self)
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.server.take());
    }
}

impl Server {
    fn start() -> Self {
        if let Some(url) = named(URL) {
            return Self { url, running: None };
        }
        Self::start_with("")
    }

    /// Ends a server for good, and starts one on what `pg_upgrade` makes of its data.
    fn upgraded(old: &Running) -> Self {
        let data = old.folder().join("data");
        Self::start_with(&format!(
            "$user $bin/pg_ctl stop -m fast -w -D {data} >> log 2>&1
            $user $bin/pg_upgrade --no-sync -U postgres -b $bin -B $bin -d {data} -D data \
                -o '-c max_prepared_transactions=20' >> log 2>&1",
            data = data.display()
        ))
    }

    /// A server on a cluster of its own, after some commands.
    fn start_with(commands: &str) -> Self {
        let programs = programs().expect("PostgreSQL is not installed");
        let (folder, user) = folder_for("postgres");
        let port = free_port();
        let user = user.map(|user| format!("setpriv --reuid={user} --regid={user} --clear-groups")).unwrap_or_default();
        let script = format!(
            "user='{user}'; bin={bin}
            $user $bin/initdb -D data -U postgres -A trust --no-sync --locale=C.UTF-8 -E UTF8 > log 2>&1
            {commands}
            $user $bin/postgres -D data -c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=$PWD \
                -c fsync=off -c autovacuum=off -c max_prepared_transactions=20 -c max_connections=300 -c shared_buffers=32MB >> log 2>&1",
            bin = programs.display(),
        );
        let port = port.to_string();
        let ready = || succeeds(&programs.join("pg_isready"), &["-q", "-h", "127.0.0.1", "-p", &port]);
        let running = Running::start(folder, &script, "QUIT", ready);
        Self { url: format!("postgres://postgres@127.0.0.1:{port}"), running: Some(running) }
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&format!("{}/postgres", self.url)).await.unwrap()
    }
}

/// Where the newest PostgreSQL's programs are.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let version = |path: PathBuf| Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")));
    let found: Vec<(u32, PathBuf)> = versions.flatten().filter_map(|entry| version(entry.path())).collect();
    let (_, newest) = found.into_iter().filter(|(_, bin)| bin.join("initdb").exists()).max()?;
    Some(newest)
}

/// Copies a database to another server, as a dump that is restored.
pub fn copy(from: &PostgresDatabase, to: &PostgresDatabase) {
    let programs = programs().expect("PostgreSQL is not installed");
    let mut dump = Command::new(programs.join("pg_dump"));
    let mut dump = dump.arg(from.url()).stdout(Stdio::piped()).spawn().unwrap();
    let mut restore = Command::new(programs.join("psql"));
    restore.args(["--quiet", "--set", "ON_ERROR_STOP=1"]).arg(to.url()).stdin(dump.stdout.take().unwrap());
    run(restore.stdout(Stdio::null()));
    assert!(dump.wait().unwrap().success());
}
