//! The real binary where something around it is wrong: components, databases, disks. A clear message, the right exit
//! code, nothing lost, and whoever is not concerned goes on.

use std::{path::Path, process::Command};

use bytes::Bytes;
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tendon_tests::{
    guests::Guest,
    project::{Host, Project, wait},
};

const CONFIG: &str = r#"
    [host]
    listen = "127.0.0.1:0"
    [store.main]
    url = "sqlite://data/test.db"
    [stream.events]
    [consumer.subject]
    component = "guest.wasm"
    stream = "events"
    config = { behaviour = "counter" }
"#;

fn project() -> Project {
    let project = Project::new(CONFIG);
    std::fs::create_dir(project.path("data")).unwrap();
    project
}

/// `tendon run` must end with this code and say all of this.
fn run_ends(project: &Project, code: i32, says: &[&str]) {
    let output = project.run(&["run", "--until-head"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for text in says {
        assert!(stderr.contains(text), "`{text}` is not in: {stderr}");
    }
}

#[test]
fn a_component_that_is_none_ends_with_2_and_nothing_is_deployed() {
    let whole = Guest::Hostile.component().unwrap();
    let other_world = wat::parse_str(r#"(component (instance $i) (export "other:thing/api@1.0.0" (instance $i)))"#);
    let bad: [(&str, Bytes, &str); 4] = [
        ("text", Bytes::from_static(b"fn main() {}"), "component"),
        ("core module", Bytes::from_static(b"\0asm\x01\0\0\0"), "core module"),
        ("truncated", whole.slice(..whole.len() / 2), "truncated file"),
        ("other world", other_world.unwrap().into(), "other:thing/api"),
    ];
    for (what, bytes, says) in bad {
        let project = project();
        project.write("guest.wasm", &bytes);
        run_ends(&project, 2, &[says, "error["]);
        assert_eq!(project.json(&["consumer", "show", "subject"])["spec"], json!(null), "{what} was deployed");
    }
}

#[test]
fn a_component_that_traps_in_init_ends_with_2_and_its_message() {
    let project = project();
    project.write("tendon.toml", CONFIG.replace("counter", "init-trap"));
    run_ends(&project, 2, &["no luck at all"]);
}

#[tokio::test]
async fn a_database_that_another_process_has_locked_ends_with_3() {
    let project = project();
    run_ends(&project, 0, &[]);
    let options = SqliteConnectOptions::new().filename(project.path("data/test.db"));
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    run_ends(&project, 3, &["test.db", "locked"]);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    run_ends(&project, 0, &[]);
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_left_alone() {
    let project = project();
    run_ends(&project, 0, &[]);
    let options = SqliteConnectOptions::new().filename(project.path("data/test.db"));
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("PRAGMA user_version = 999").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    run_ends(&project, 3, &["test.db", "999", "newer"]);
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let project = project();
    std::fs::write(project.path("data/test.db"), "this is a letter, and not a short one: ".repeat(100)).unwrap();
    run_ends(&project, 1, &["test.db", "not a database"]);
}

/// A file system of this size in the project's `data`; gone with this value. The tests run as root.
struct Disk<'p>(&'p Path);

impl<'p> Disk<'p> {
    fn mount(folder: &'p Path, size: &str) -> Self {
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).status().unwrap();
        assert!(mounted.success(), "a file system could not be mounted: is this root?");
        Self(folder)
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0).status().unwrap();
        assert!(done.success(), "the file system could not be remounted as {options}");
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Lazily: a host that is being killed may hold a file still.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_read_only_disk_ends_with_3() {
    let project = project();
    let folder = project.path("data");
    let disk = Disk::mount(&folder, "16m");
    run_ends(&project, 0, &[]);
    disk.remount("ro");
    run_ends(&project, 3, &["test.db", "Read-only file system"]);
    disk.remount("rw");
    run_ends(&project, 0, &[]);
}

#[test]
fn a_full_disk_refuses_an_import_as_a_whole_and_stalls_nothing_for_ever() {
    let project = project();
    let folder = project.path("data");
    let disk = Disk::mount(&folder, "2m");
    let host = Host::start(&project, &["run"]);
    host.line("running");
    project.append("events", &json!({}));
    project.consumer("subject", "past the event", |consumer| consumer["cursor"] == "1");

    let filling = json!("x".repeat(1_000));
    let line = json!({"type": 1, "foreign_id": "b", "metadata": filling}).to_string() + "\n";
    project.write("many.jsonl", line.repeat(5_000));
    let refused = project.run(&["event", "import", "events", "many.jsonl"]);
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("disk is full"));
    assert_eq!(project.json(&["event", "list", "events"]).as_array().unwrap().len(), 1, "nothing is half imported");

    disk.remount("size=64m");
    wait("the import to go in", || {
        project.run(&["event", "import", "events", "many.jsonl"]).status.success().then_some(())
    });
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "5001");
    assert_eq!(host.terminate(), Some(0));
}

#[test]
fn odd_payloads_go_through_whole() {
    let project = project();
    project.write("tendon.toml", CONFIG.replace("counter", "append"));
    let host = project.host();
    let big = "x".repeat(1024 * 1024);
    let lines = [
        json!({"type": 1, "foreign_id": "empty"}),
        json!({"type": 1, "foreign_id": "big", "metadata": big}),
        json!({"type": 1, "foreign_id": "binary", "metadata_base64": "AP+A"}),
    ];
    project.write("odd.jsonl", lines.map(|line| line.to_string() + "\n").concat());
    assert!(project.run(&["event", "import", "events", "odd.jsonl"]).status.success());
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "3");
    let events = project.json(&["event", "list", "events"]);
    assert_eq!(events[0].get("metadata"), None);
    assert_eq!(events[1]["metadata"], big);
    assert_eq!(events[2]["metadata_base64"], "AP+A");
    assert_eq!(project.json(&["state", "get", "subject", "ids", "--as", "text"])["value"], "1 2 3 ");
    drop(host);
}
