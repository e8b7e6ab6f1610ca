//! Real database servers for tests: started when the first test asks, and ended with this process, however it ends.
//! `TENDON_TEST_POSTGRES_URL` and `TENDON_TEST_MYSQL_URL` name other servers to be used.

mod mariadb;
mod postgres;

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use self::{
    mariadb::{Kind as MariadbKind, MariadbDatabase, has_mariadb, has_mariadb_of},
    postgres::{PostgresDatabase, copy, has_postgres},
};

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(60);

static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A server's programs that run. The shell that started them waits for the end of its input: that comes with the end of
/// this process, even of one that is killed.
struct Running {
    folder: TempDir,
    _life: (ChildStdin, Child),
}

impl Running {
    /// Runs a script in which a server's last program goes to the background, and its output to `log`; then waits until
    /// `ready` says so. The signal ends the program.
    fn start(folder: TempDir, script: &str, signal: &str, ready: impl Fn() -> bool) -> Self {
        let path = folder.path().display();
        // The folder goes with it: what this process does not live to drop would stay for ever.
        let script = format!(
            "set -e; cd {path}\n{script} &\nread _ || true\nkill -{signal} $!; wait $! || true; cd /; rm -rf {path}"
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A ctrl-c in the terminal is for the tests; the server ends after them.
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut shell = shell.spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        let began = Instant::now();
        while !ready() {
            if began.elapsed() > START_MAX {
                let log = std::fs::read(folder.path().join("log")).unwrap_or_default();
                panic!("a server did not start: {}", String::from_utf8_lossy(&log));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Self { folder, _life: (input, shell) }
    }

    /// Where it is.
    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Whether tests can have a server. Where it is missing they say so and pass, unless the environment has
/// `TENDON_TEST_REQUIRE_ALL=1`.
fn is_here(here: bool, message: &str) -> bool {
    let required = std::env::var("TENDON_TEST_REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(here || !required, "{message}");
    if !here {
        eprintln!("skipped: {message}");
    }
    here
}

/// The server that the environment names. A database in the URL is left out: each test makes one of its own.
fn named(url_variable: &str) -> Option<String> {
    let mut url = url::Url::parse(&std::env::var(url_variable).ok()?).unwrap();
    url.set_path("");
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// The same place for another user, who has no password.
fn as_user(url: &str, user: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(user).unwrap();
    url.set_password(None).unwrap();
    url.into()
}

/// A database's name that nobody used before.
fn fresh_name() -> String {
    format!("test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Relaxed))
}

/// A folder with a short path, which a server's user may use; that user, where this process is root: servers refuse it.
fn folder_for(user: &'static str) -> (TempDir, Option<&'static str>) {
    let folder = tempfile::Builder::new().prefix("tendon-db").tempdir().unwrap();
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0\n");
    if is_root {
        run(Command::new("chown").arg(user).arg(folder.path()));
    }
    (folder, is_root.then_some(user))
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?} failed");
}

/// Whether a program says that all is well, and nothing else.
fn succeeds(program: &Path, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.unwrap().success()
}
