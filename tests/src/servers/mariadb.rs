//! MariaDB: all tests of a process share a server, each with a database of its own.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};

use super::{Running, folder_for, free_port, fresh_name, is_here, named, succeeds};

const URL: &str = "TENDON_TEST_MYSQL_URL";

struct Server {
    url: String,
    _running: Option<Running>,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A new database.
pub struct MariadbDatabase {
    server: &'static Server,
    name: String,
}

/// Whether tests can have a MariaDB server.
pub fn has_mariadb() -> bool {
    is_here(URL, programs().is_some(), "MariaDB is not installed: `apt-get install mariadb-server` as root")
}

impl MariadbDatabase {
    /// Makes one.
    pub async fn fresh() -> Self {
        let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(Server::start)).await.unwrap();
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

    /// A connection of one's own.
    pub async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.url()).await.unwrap()
    }
}

impl Server {
    fn start() -> Self {
        if let Some(url) = named(URL) {
            return Self { url, _running: None };
        }
        let Programs { install, server, admin } = programs().expect("MariaDB is not installed");
        let (folder, user) = folder_for("nobody");
        let port = free_port();
        let user = user.map(|user| format!("--user={user}")).unwrap_or_default();
        let (install, server) = (install.display(), server.display());
        let socket = folder.path().join("s").display().to_string();
        let script = format!(
            "{install} --no-defaults {user} --datadir=$PWD/data --auth-root-authentication-method=normal \
                --skip-test-db --skip-name-resolve > log 2>&1
            {server} --no-defaults {user} --datadir=$PWD/data --socket={socket} --pid-file=$PWD/pid \
                --bind-address=127.0.0.1 --port={port} --skip-name-resolve --max-connections=500 \
                --innodb-flush-method=nosync --sync-frm=0 --innodb-log-file-size=64M >> log 2>&1"
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
