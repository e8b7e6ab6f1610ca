//! A folder with a config and the hostile guest, and the real binary that works on it: what end-to-end tests share.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    marker::PhantomData,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{binary, guests::Guest};

/// How long anything may take, a guest's first build on a busy machine included, before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(300);

/// The config of one consumer, `subject`, that does with each event of stream `events` what the event says, and may emit to `out`.
pub fn subject(consumer: &str) -> String {
    format!(
        r#"
        [host]
        listen = "127.0.0.1:0"
        [store.main]
        url = "sqlite://test.db"
        [stream.events]
        [stream.out]
        [consumer.subject]
        component = "guest.wasm"
        stream = "events"
        config = {{ behaviour = "by-event" }}
        grants = {{ emit = ["out"] }}
        {consumer}
        "#
    )
}

/// An event of type 1 that says what is done with it.
pub fn event(key: &str, behaviour: &str) -> Value {
    json!({"type": 1, "foreign_id": key, "metadata_text": behaviour})
}

/// See the module. The folder goes away with it.
pub struct Project {
    folder: TempDir,
}

impl Project {
    /// A project with this config; `guest.wasm` is the hostile guest, whose behaviour the config chooses.
    pub fn new(config: &str) -> Self {
        let project = Self { folder: TempDir::new().unwrap() };
        project.write("tendon.toml", config);
        project.write("guest.wasm", Guest::Hostile.component().unwrap());
        project
    }

    /// A file of the project.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file the way editors and build tools do: beside it, then renamed over it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let beside = self.path(&format!("{name}.new"));
        fs::write(&beside, content).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    /// The binary, to be run in the project.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary::command();
        command.args(arguments).current_dir(self.folder.path()).env_remove("TENDON_CONFIG").stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and gives what it says as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts `tendon run` and waits until its API answers.
    pub fn host(&self) -> Host<'_> {
        let host = Host::start(self, &["run"]);
        host.line("running");
        host
    }

    /// The consumer's line in `consumer list`, once it is as it should be.
    pub fn consumer(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait(&format!("{name}: {what}"), || {
            let output = self.run(&["consumer", "show", name, "-o", "json"]);
            let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
            is_so(&shown["summary"]).then(|| shown["summary"].clone())
        })
    }

    /// Waits until a consumer has this status.
    pub fn status(&self, name: &str, status: &str) -> Value {
        self.consumer(name, status, |consumer| consumer["status"] == status)
    }

    /// Imports events into stream `events`, from a file of this name: events of another file are others, whatever they say.
    pub fn import(&self, file: &str, events: impl IntoIterator<Item = Value>) {
        let line = |mut event: Value| {
            event["headers"] = json!({ "file": file });
            event.to_string() + "\n"
        };
        self.write(file, events.into_iter().map(line).collect::<String>());
        let imported = self.run(&["event", "import", "events", file]);
        assert!(imported.status.success(), "{imported:?}");
    }

    /// Waits until `subject` is at the head of its stream, which is there.
    pub fn at_head(&self, cursor: &str) -> Value {
        self.consumer("subject", "at the head", |consumer| consumer["lag_events"] == 0 && consumer["cursor"] == cursor)
    }

    /// The ids of events that `subject` has appended to its state, or to that of a key, in the order in which it handled them.
    pub fn ids(&self, of: Option<&str>) -> Vec<usize> {
        let of = of.map(|of| vec!["--of", of]).unwrap_or_default();
        let asked = [&["state", "get", "subject", "ids", "--as", "text", "-o", "json"], &of[..]].concat();
        // There may be none yet.
        let value: Value = serde_json::from_slice(&self.run(&asked).stdout).unwrap_or_default();
        value["value"].as_str().unwrap_or_default().split_whitespace().map(|id| id.parse().unwrap()).collect()
    }

    /// Appends an event with this payload.
    pub fn append(&self, stream: &str, metadata: &Value) {
        let metadata = metadata.to_string();
        let output = self.run(&["event", "append", stream, "--type", "1", "--fid", "a", "--metadata", &metadata]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Waits for something, and fails with its name when it does not come.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// An address that was free a moment ago: whoever else is started then takes another one. Where the stores are on a server,
/// only the config says where a host's API is.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The answer to a GET request with these headers, byte for byte.
pub fn get(address: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A host that runs, and the lines that it prints. It is killed when this is dropped.
pub struct Host<'p> {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// The project's folder outlives the host.
    project: PhantomData<&'p Project>,
}

impl<'p> Host<'p> {
    /// Starts a command of a project that goes on.
    pub fn start(project: &'p Project, arguments: &[&str]) -> Self {
        Self::spawn(project.command(arguments))
    }

    /// Starts a command that goes on.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let forward = |lines: mpsc::Sender<String>, stream: Box<dyn std::io::Read + Send>| {
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = lines.send(line);
                }
            });
        };
        forward(sender.clone(), Box::new(out));
        forward(sender, Box::new(err));
        Self { child, lines, project: PhantomData }
    }

    /// The address that it says it listens on.
    pub fn address(&self) -> String {
        self.line("http://").split("http://").nth(1).unwrap().trim_end_matches(['"', '}']).to_owned()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that has this text in it.
    pub fn line(&self, text: &str) -> String {
        let mut seen = Vec::new();
        wait(&format!("a line with `{text}`"), || {
            let found = self.lines.try_iter().inspect(|line| seen.push(line.clone())).find(|line| line.contains(text));
            found
        })
    }

    /// Kills it without warning.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop as a service manager does, and gives its exit code.
    pub fn terminate(self) -> Option<i32> {
        self.signal("-TERM")
    }

    /// Asks it to stop as somebody at a terminal does, and gives its exit code.
    pub fn interrupt(self) -> Option<i32> {
        self.signal("-INT")
    }

    /// Asks it to stop, and does not wait until it has.
    pub fn ask_to_stop(&self) {
        self.send("-TERM");
    }

    fn signal(mut self, signal: &str) -> Option<i32> {
        self.send(signal);
        self.child.wait().unwrap().code()
    }

    fn send(&self, signal: &str) {
        let asked = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(asked.success());
    }

    /// Waits until it ends by itself.
    pub fn code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
