//! What the commands and the API say at their edges: nothing there yet, nothing asked for, nonsense asked for.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Output,
};

use serde_json::{Value, json};
use tendon_tests::project::{Host, Project, wait};

const CONFIG: &str = r#"
    [host]
    listen = "127.0.0.1:0"
    [store.main]
    url = "sqlite://test.db"
    [store.other]
    url = "sqlite://other/other.db"
    [stream.events]
    store = "main"
    [stream.theirs]
    store = "main"
    tenant = "acme"
    [consumer.subject]
    component = "guest.wasm"
    stream = "events"
    store = "main"
    config = { behaviour = "counter" }
    [consumer.foreign]
    tenant = "acme"
    component = "guest.wasm"
    stream = "theirs"
    store = "other"
    config = { behaviour = "counter" }
"#;

fn project() -> Project {
    let project = Project::new(CONFIG);
    std::fs::create_dir(project.path("other")).unwrap();
    project
}

fn ends(output: &Output, code: i32, says: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "`{says}` is not in: {stderr}");
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[test]
fn a_database_that_is_not_there_yet_is_an_environment_that_is_missing() {
    let project = project();
    for arguments in [["consumer", "list"], ["stream", "list"]] {
        let output = project.run(&arguments);
        ends(&output, 3, "no database yet");
        ends(&output, 3, "tendon run");
    }
    ends(&project.run(&["consumer", "list", "--api", "foo"]), 2, "expected a URL");
    ends(&project.run(&["event", "append", "events", "--type", "1", "--fid", &"x".repeat(256)]), 2, "at most 255");
}

#[test]
fn run_check_looks_at_components_and_stores() {
    let project = project();
    ends(&project.run(&["run", "--check"]), 0, "are good");
    assert!(!project.path("test.db").exists(), "nothing is written");
    project.write("guest.wasm", "no component");
    ends(&project.run(&["run", "--check"]), 2, "consumer `foreign`");
    let project = Project::new(CONFIG);
    ends(&project.run(&["run", "--check"]), 3, "store other");
    let project = self::project();
    project.write("test.db", "this is no database, whatever its name says".repeat(100));
    assert_ne!(project.run(&["run", "--check"]).status.code(), Some(0));
}

#[test]
fn lists_are_of_all_tenants_or_of_the_one_that_is_named() {
    let project = project();
    let _host = project.host();
    assert_eq!(names(&project.json(&["consumer", "list"])), ["foreign", "subject"]);
    assert_eq!(names(&project.json(&["consumer", "list", "--tenant", "acme"])), ["foreign"]);
    assert_eq!(names(&project.json(&["consumer", "list", "--tenant", "default"])), ["subject"]);
    assert_eq!(names(&project.json(&["stream", "list", "--tenant", "acme"])), ["theirs"]);
}

#[test]
fn a_payload_that_is_text_is_shown_as_text_and_can_be_imported_again() {
    let project = project();
    let _host = project.host();
    let append = ["event", "append", "events", "--type", "1", "--metadata"];
    assert!(project.run(&[&append[..], &["grüezi"]].concat()).status.success());
    let events = project.json(&["event", "list", "events"]);
    assert_eq!(events[0]["metadata_text"], "grüezi");
    project.write("again.jsonl", events[0].to_string());
    assert_eq!(project.json(&["event", "import", "events", "again.jsonl"])["appended"], 1);
    assert!(project.run(&["event", "tail", "events", "--limit", "0"]).status.success());
}

#[test]
fn every_refusal_of_the_api_is_json() {
    let project = project();
    let host = Host::start(&project, &["run"]);
    let line = host.line("http://");
    let api = line.split("http://").nth(1).unwrap().trim_end_matches(['"', '}']);
    for (method, path, status) in [
        ("GET", "/v1/streams/events/events?limit=many", 400),
        ("GET", "/v1/consumers?tenant=A%20B", 400),
        ("DELETE", "/v1/consumers", 405),
        ("POST", "/v1/consumers/subject/pause", 415),
    ] {
        let mut stream = TcpStream::connect(api).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["code"], "invalid", "{body}");
    }
}

#[test]
fn a_broken_store_hides_only_its_own_consumers() {
    let project = project();
    let host = project.host();
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    assert_eq!(host.terminate(), Some(0));
    // A table of the other store goes away: what is read from there fails.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
        let options = SqliteConnectOptions::new().filename(project.path("other/other.db"));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT name FROM sqlite_master WHERE name LIKE '%position%' AND type = 'table'")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        for table in tables {
            sqlx::query(sqlx::AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut connection).await.unwrap();
        }
    });
    let list = wait("the list", || Some(project.json(&["consumer", "list"])));
    let one = |name: &str| list.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!(one("subject")["lag_events"], 0);
    assert_eq!(one("foreign")["lag_events"], json!(null));
    assert!(one("foreign")["problem"].as_str().unwrap().contains("store `other`"));
}
