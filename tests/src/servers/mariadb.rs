//! MariaDB: all tests of a process share a server of each kind, each with a database of its own.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};

use super::{Running, as_user, folder_for, free_port, fresh_name, is_here, named, succeeds};

const URL: &str = "TENDON_TEST_MYSQL_URL";

struct Server {
    url: String,
    _running: Option<Running>,
}

/// How a server is set up, where that makes a difference to who reads a table that others insert into.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The plugin that shows metadata locks; `innodb_autoinc_lock_mode` 1, as MariaDB has it. Where the environment names a
    /// server it is that one, however it is set up.
    Plugin,
    /// The performance schema, which shows them, too; `innodb_autoinc_lock_mode` 2, as MySQL 8 has it.
    PerformanceSchema,
    /// Neither.
    Bare,
}

static SERVERS: [OnceLock<Server>; 3] = [const { OnceLock::new() }; 3];

/// A new database.
pub struct MariadbDatabase {
    server: &'static Server,
    name: String,
}

/// Whether tests can have a MariaDB server.
pub fn has_mariadb() -> bool {
    has_mariadb_of(Kind::Plugin)
}

/// Whether tests can have one that is set up so.
pub fn has_mariadb_of(kind: Kind) -> bool {
    let is_here_already = kind.is_named() || programs().is_some();
    is_here(is_here_already, "MariaDB is not installed: `apt-get install mariadb-server` as root")
}

impl Kind {
    /// Whether it is the server that the environment names.
    pub fn is_named(self) -> bool {
        matches!(self, Self::Plugin) && named(URL).is_some()
    }
}

impl MariadbDatabase {
    /// Makes one.
    pub async fn fresh() -> Self {
        Self::fresh_on(Kind::Plugin).await
    }

    /// Makes one on a server that is set up so.
    pub async fn fresh_on(kind: Kind) -> Self {
        let start = move || SERVERS[kind as usize].get_or_init(|| Server::start(kind));
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let name = fresh_name();
        let mut connection = MySqlConnection::connect(&format!("{}/", server.url)).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self { server, name }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}/{}", self.server.url, self.name)
    }

    /// Its URL for another user.
    pub fn url_of(&self, user: &str) -> String {
        as_user(&self.url(), user)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection of one's own.
    pub async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.url()).await.unwrap()
    }
}

impl Server {
    fn start(kind: Kind) -> Self {
        if let (Kind::Plugin, Some(url)) = (kind, named(URL)) {
            return Self { url, _running: None };
        }
        let Programs { install, server, admin } = programs().expect("MariaDB is not installed");
        let (folder, user) = folder_for("nobody");
        let port = free_port();
        let user = user.map(|user| format!("--user={user}")).unwrap_or_default();
        let (install, server) = (install.display(), server.display());
        let settings = match kind {
            Kind::Plugin => "--innodb-autoinc-lock-mode=1 --plugin-load-add=metadata_lock_info",
            Kind::PerformanceSchema => {
                "--innodb-autoinc-lock-mode=2 --performance-schema=ON \
                --performance-schema-instrument=wait/lock/metadata/sql/mdl=ON"
            }
            Kind::Bare => "--innodb-autoinc-lock-mode=2",
        };
        let socket = folder.path().join("s").display().to_string();
        let script = format!(
            "{install} --no-defaults {user} --datadir=$PWD/data --tmpdir=$PWD --auth-root-authentication-method=normal \
                --skip-test-db --skip-name-resolve > log 2>&1
            {server} --no-defaults {user} --datadir=$PWD/data --tmpdir=$PWD --socket={socket} --pid-file=$PWD/pid \
                --bind-address=127.0.0.1 --port={port} --skip-name-resolve --max-connections=500 \
                {settings} --innodb-flush-method=nosync --sync-frm=0 --innodb-log-file-size=64M >> log 2>&1"
        );
        let ready = || succeeds(&admin, &["--no-defaults", "-uroot", &format!("-S{socket}"), "ping"]);
        let running = Running::start(folder, &script, "KILL", ready);
        Self { url: format!("mysql://root@127.0.0.1:{port}"), _running: Some(running) }
    }
}

struct Programs {
    install: PathBuf,
    server: PathBuf,
    admin: PathBuf,
}

fn programs() -> Option<Programs> {
    let find = |name: &str| ["/usr/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    let find = |name: &str| find(name).into_iter().find(|path| path.exists());
    Some(Programs { install: find("mariadb-install-db")?, server: find("mariadbd")?, admin: find("mariadb-admin")? })
}
