//! Real database servers for tests: started when the first test asks, and ended with this process, however it ends.
//!
//! A test has a server to itself while it runs, and a database that nobody used before: a transaction that is open in
//! one database of a PostgreSQL server holds up the readers of all its databases. `TENDON_TEST_POSTGRES_URL` names
//! another server to be used, such as `postgres://postgres@db.example`; its tests should then run one at a time.

use std::{
    io::Read as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// A server that runs. The shell that started it waits for the end of its input: that comes with the end of this process,
/// even of one that is killed.
struct Server {
    url: String,
    _folder: Option<TempDir>,
    _life: Option<(ChildStdin, Child)>,
}

/// Servers that no test uses now.
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A new database on a server that is this test's alone, until it is dropped.
pub struct PostgresDatabase {
    server: Option<Server>,
    name: String,
}

/// Whether tests can have a PostgreSQL server. Where it is missing they say so and pass, unless the environment has
/// `TENDON_TEST_REQUIRE_ALL=1`.
pub fn has_postgres() -> bool {
    let here = std::env::var_os("TENDON_TEST_POSTGRES_URL").is_some() || postgres_folder().is_some();
    let required = std::env::var("TENDON_TEST_REQUIRE_ALL").is_ok_and(|value| value == "1");
    let message = "PostgreSQL is not installed: `apt-get install postgresql` as root";
    assert!(here || !required, "{message}");
    if !here {
        eprintln!("skipped: {message}");
    }
    here
}

impl PostgresDatabase {
    /// Makes one.
    pub async fn fresh() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let server = match idle {
            Some(server) => server,
            None => tokio::task::spawn_blocking(Server::start).await.unwrap(),
        };
        let name = format!("test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Relaxed));
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

    /// A connection of one's own.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
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
        if let Ok(url) = std::env::var("TENDON_TEST_POSTGRES_URL") {
            return Self { url: url.trim_end_matches('/').to_owned(), _folder: None, _life: None };
        }
        let programs = postgres_folder().expect("PostgreSQL is not installed");
        let folder = tempfile::Builder::new().prefix("tendon-pg").tempdir().unwrap();
        let path = folder.path().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // PostgreSQL refuses to run as root.
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0\n");
        let user = if is_root { "setpriv --reuid=postgres --regid=postgres --clear-groups" } else { "" };
        if is_root {
            run(Command::new("chown").arg("postgres").arg(&path));
        }
        let script = format!(
            "set -e; cd {folder}
            {user} {bin}/initdb -D data -U postgres -A trust --no-sync --locale=C.UTF-8 -E UTF8 > log 2>&1
            {user} {bin}/postgres -D data -c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} \
                -c fsync=off -c autovacuum=off -c max_connections=300 -c shared_buffers=32MB >> log 2>&1 &
            read _ || true
            kill -QUIT $!; wait $! || true",
            folder = path.display(),
            bin = programs.display(),
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A ctrl-c in the terminal is for the tests; the server ends after them.
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut shell = shell.spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        wait_until_ready(&programs, &path, port);
        let url = format!("postgres://postgres@127.0.0.1:{port}");
        Self { url, _folder: Some(folder), _life: Some((input, shell)) }
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&format!("{}/postgres", self.url)).await.unwrap()
    }
}

fn wait_until_ready(programs: &Path, folder: &Path, port: u16) {
    let began = Instant::now();
    loop {
        let mut ready = Command::new(programs.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        if ready.status().unwrap().success() {
            return;
        }
        if began.elapsed() > START_MAX {
            let mut log = String::new();
            let _ = std::fs::File::open(folder.join("log")).and_then(|mut file| file.read_to_string(&mut log));
            panic!("PostgreSQL did not start: {log}");
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}

/// Where the newest PostgreSQL's programs are.
fn postgres_folder() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let version = |path: PathBuf| Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")));
    let found: Vec<(u32, PathBuf)> = versions.flatten().filter_map(|entry| version(entry.path())).collect();
    let (_, newest) = found.into_iter().filter(|(_, bin)| bin.join("initdb").exists()).max()?;
    Some(newest)
}

/// Copies a database to another server, as a dump that is restored.
pub fn copy(from: &PostgresDatabase, to: &PostgresDatabase) {
    let programs = postgres_folder().expect("PostgreSQL is not installed");
    let mut dump = Command::new(programs.join("pg_dump"));
    let mut dump = dump.arg(from.url()).stdout(Stdio::piped()).spawn().unwrap();
    let mut restore = Command::new(programs.join("psql"));
    restore.args(["--quiet", "--set", "ON_ERROR_STOP=1"]).arg(to.url()).stdin(dump.stdout.take().unwrap());
    run(restore.stdout(Stdio::null()));
    assert!(dump.wait().unwrap().success());
}
