//! Streams whose oldest events go, with the real binary.

use serde_json::{Value, json};
use tendon_tests::project::{Project, event};

fn config(retain: &str) -> String {
    format!(
        r#"
        [host]
        listen = "127.0.0.1:0"
        [store.main]
        url = "sqlite://test.db"
        [stream.events]
        {retain}
        [consumer.fast]
        component = "guest.wasm"
        stream = "events"
        [consumer.slow]
        component = "guest.wasm"
        stream = "events"
        config = {{ behaviour = "by-event" }}
        retry = {{ attempts = 1 }}
        "#
    )
}

/// Ten events, a day apart; the seventh cannot be handled.
fn import(project: &Project) {
    let event = |day: i32| {
        let text = if day == 7 { "reject" } else { "append" };
        let timestamp = format!("2026-01-{day:02}T00:00:00Z");
        json!({"type": 1, "foreign_id": "a", "timestamp": timestamp, "metadata_text": text})
    };
    project.import("events.jsonl", (1..=10).map(event));
}

fn prune(project: &Project, arguments: &[&str]) -> Value {
    project.json(&[&["stream", "prune", "events"], arguments].concat())
}

fn first(project: &Project) -> Value {
    project.json(&["event", "list", "events", "--limit", "1"])[0]["id"].clone()
}

#[test]
fn events_go_as_far_as_no_consumer_needs_them() {
    let project = Project::new(&config(""));
    let host = project.host();
    import(&project);
    project.status("slow", "blocked");
    project.consumer("fast", "at the head", |consumer| consumer["cursor"] == "10");
    let counted = prune(&project, &["--before", "@2026-01-04T00:00:00Z", "--dry-run"]);
    assert_eq!((counted, first(&project)), (json!({"events": 3, "dry_run": true}), json!("1")));
    let unknown = project.run(&["stream", "prune", "events", "--before", "id:77"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    assert_eq!(prune(&project, &["--before", "@2026-01-04T00:00:00Z"])["events"], 3);
    assert_eq!(first(&project), "4");
    // The event by which the slow one knows its place is of id 6.
    let held = prune(&project, &["--before", "latest"]);
    assert_eq!((&held["events"], &held["held_back_by"]), (&json!(2), &json!("default/slow")));
    assert_eq!(first(&project), "6");
    // A restart finds every place.
    assert_eq!(host.terminate(), Some(0));
    let _host = project.host();
    assert_eq!(project.status("slow", "blocked")["reason"]["event"], "7");
    let forced = prune(&project, &["--before", "latest", "--force"]);
    assert_eq!((&forced["events"], &forced["held_back_by"]), (&json!(4), &Value::Null));
    assert_eq!(first(&project), "10", "the newest one stays");
    assert!(project.run(&["consumer", "resume", "slow"]).status.success());
    let stalled = project.status("slow", "stalled");
    let said = stalled["reason"]["message"].as_str().unwrap();
    assert!(said.contains("has lost the event at cursor 6"), "never a silent jump: {said}");
}

#[test]
fn what_is_kept_no_longer_goes_by_itself() {
    let project = Project::new(&config("retain = \"30d\""));
    let host = project.host();
    import(&project);
    project.status("slow", "blocked");
    assert!(project.run(&["consumer", "skip", "slow", "7"]).status.success());
    for name in ["fast", "slow"] {
        project.consumer(name, "at the head", |consumer| consumer["cursor"] == "10");
    }
    assert_eq!(host.terminate(), Some(0));
    let _host = project.host();
    tendon_tests::project::wait("all but the newest to go", || (first(&project) == "10").then_some(()));
    let letters = project.json(&["dlq", "list", "slow"]);
    assert_eq!(letters[0]["event"]["metadata_text"], "reject", "what is set aside outlives its stream");
}

/// It has passed no event by which it could notice that its next one is gone.
#[test]
fn a_consumer_that_has_passed_nothing_is_never_pruned_past() {
    let project = Project::new(&config(""));
    let _host = project.host();
    project.import("events.jsonl", ["reject", "append", "append"].map(|text| event("a", text)));
    assert_eq!(project.status("slow", "blocked")["cursor"], "start");
    project.consumer("fast", "at the head", |consumer| consumer["cursor"] == "3");
    let held = prune(&project, &["--before", "latest", "--force"]);
    assert_eq!((&held["events"], &held["held_back_by"]), (&json!(0), &json!("default/slow")));
    assert_eq!(first(&project), "1");
}
