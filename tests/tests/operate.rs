//! What an operator reads and follows, and how a host is stopped.

use serde_json::{Value, json};
use tendon_tests::project::{Host, Project};

const CONFIG: &str = r#"
    [host]
    listen = "127.0.0.1:0"
    [stream.events]
    [stream.out]
    [consumer.subject]
    component = "guest.wasm"
    stream = "events"
    config = { behaviour = "echo" }
    grants = { emit = ["out"] }
    [consumer.counter]
    component = "guest.wasm"
    stream = "events"
    state = "key"
    config = { behaviour = "counter" }
"#;

/// A host that has handled three events.
fn project() -> Project {
    let project = Project::new(CONFIG);
    let lines =
        (0..3).map(|n| json!({"type": n, "foreign_id": format!("f{n}"), "metadata": {"n": n}}).to_string() + "\n");
    project.write("events.jsonl", lines.collect::<String>());
    project
}

fn filled(project: &Project) -> Host<'_> {
    let host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    for consumer in ["subject", "counter"] {
        project.consumer(consumer, "at the head", |consumer| consumer["cursor"] == "3");
    }
    host
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap()).collect()
}

#[test]
fn events_are_listed_by_type_thing_time_and_id() {
    let project = project();
    let _host = filled(&project);
    let list = |arguments: &[&str]| project.json(&[&["event", "list", "events"], arguments].concat());
    assert_eq!(ids(&list(&[])), ["1", "2", "3"]);
    assert_eq!(ids(&list(&["--type", "1"])), ["2"]);
    assert_eq!(ids(&list(&["--fid", "f2"])), ["3"]);
    assert_eq!(ids(&list(&["--id", "1"])), ["1"]);
    assert_eq!(ids(&list(&["--limit", "2"])), ["1", "2"]);
    assert_eq!(ids(&list(&["--since", "2999-01-01T00:00:00Z"])), Vec::<&str>::new());
    assert_eq!(list(&["--id", "2"])[0]["metadata"], json!({"n": 1}));
    let emitted = project.json(&["event", "list", "out"]);
    assert_eq!(ids(&emitted), ["1", "2", "3"], "what was emitted is an ordinary stream");
}

/// Whatever a consumer may use is shown, by the name that the config has for it.
#[test]
fn every_limit_is_shown() {
    let project = project();
    let _host = filled(&project);
    let shown = String::from_utf8(project.run(&["consumer", "show", "subject"]).stdout).unwrap();
    let schema = project.json(&["config", "schema"]);
    let limits = schema
        .pointer("/properties/consumer/additionalProperties/properties/limits/properties")
        .and_then(Value::as_object)
        .unwrap();
    assert!(limits.len() >= 13, "{limits:?}");
    for name in limits.keys() {
        assert!(shown.contains(&format!("{name} ")), "{name} in {shown}");
    }
    assert!(shown.contains("memory 64MiB") && shown.contains("compile-cpu 1m"), "{shown}");
}

#[test]
fn events_are_followed_as_they_come() {
    let project = project();
    let _host = filled(&project);
    let tail = Host::start(&project, &["event", "tail", "events", "--since", "2000-01-01T00:00:00Z", "--limit", "4"]);
    for n in 0..3 {
        assert!(tail.line(&format!("\"f{n}\"")).starts_with('{'), "each line is an event that can be imported");
    }
    project.append("events", &json!({"late": true}));
    tail.line("\"late\":true");
    assert_eq!(tail.code(), Some(0), "it has had enough");
}

#[test]
fn streams_cursors_and_state_are_shown() {
    let project = project();
    let host = filled(&project);
    let look = || {
        let streams = project.json(&["stream", "list"]);
        let events =
            |name: &str| streams.as_array().unwrap().iter().find(|s| s["name"] == name).unwrap()["events"].clone();
        assert_eq!((events("events"), events("out")), (json!(3), json!(3)));
        assert_eq!(project.json(&["cursor", "get", "subject"])["cursor"], "3");
        let of_one = ["--of", "f1"];
        let state = |verb: &[&str]| project.json(&[verb, &of_one].concat());
        assert_eq!(state(&["state", "list", "counter"]), json!([{"key": "f1", "value": 1}]));
        assert_eq!(state(&["state", "get", "counter", "f1", "--as", "hex"])["value"], "31");
        let missing = project.run(&["state", "get", "counter", "f1", "--of", "f2"]);
        assert_eq!(missing.status.code(), Some(1), "another thing's state is not seen");
    };
    look();
    // The same without a host, from the store.
    assert_eq!(host.terminate(), Some(0));
    look();
}

#[test]
fn what_is_not_there_is_named() {
    let project = project();
    let _host = filled(&project);
    for (arguments, says) in [
        (&["consumer", "show", "nobody"][..], "there is no consumer default/nobody"),
        (&["consumer", "resume", "nobody"], "there is no consumer default/nobody"),
        (&["event", "list", "nowhere"], "there is no stream default/nowhere"),
        (&["state", "get", "subject", "nothing"], "nothing"),
    ] {
        let output = project.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(says), "{stderr}");
    }
}

#[test]
fn ctrl_c_drains() {
    let project = project();
    let host = filled(&project);
    assert_eq!(host.interrupt(), Some(0));
    let _host = filled(&project);
    assert_eq!(project.json(&["event", "list", "out"]).as_array().unwrap().len(), 3, "nothing was handled again");
}
