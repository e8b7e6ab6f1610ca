//! The real binary whose config is edited: what is refused leaves everything as it is, and is tried again where that
//! may help.

use serde_json::json;
use tendon_tests::project::{Project, wait};

fn config(consumer: &str) -> String {
    format!(
        r#"
        [host]
        listen = "127.0.0.1:0"
        [store.main]
        url = "sqlite://test.db"
        [store.other]
        url = "sqlite://other.db"
        [stream.events]
        store = "main"
        [stream.more]
        store = "main"
        [consumer.subject]
        component = "guest.wasm"
        config = {{ behaviour = "counter" }}
        {consumer}
        "#
    )
}

fn before() -> String {
    config("stream = \"events\"\nstore = \"main\"")
}

/// A config that a running consumer cannot take, and what is said about it.
fn is_refused(edited: &str, says: &str) {
    let project = Project::new(&before());
    let host = project.host();
    project.append("events", &json!({}));
    let at_first = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    project.write("tendon.toml", edited);
    let line = host.line(says);
    project.append("events", &json!({}));
    let after = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "2");
    assert_eq!(after["fence"], at_first["fence"], "it was not stopped: {line}");
    assert_eq!(after["epoch"], at_first["epoch"]);
    assert_eq!(after["stream"], "events", "what it reads is shown, not what was proposed");
    assert_eq!(after["lag_events"], 0);
    assert!(!line.contains("nothing… runs on"), "{line}");
    if line.starts_with("refused subject") {
        let refused = project.consumer("subject", "refused", |consumer| !consumer["refused"].is_null());
        assert!(refused["refused"]["message"].as_str().unwrap().contains(says), "{refused}");
        project.write("tendon.toml", before());
        project.consumer("subject", "what its files propose", |consumer| consumer["refused"].is_null());
    }
    drop(host);
}

#[test]
fn another_stream_is_refused_and_the_consumer_runs_on() {
    is_refused(&config("stream = \"more\"\nstore = \"main\""), "cannot change its stream");
}

#[test]
fn another_store_is_refused_and_the_consumer_runs_on() {
    is_refused(&config("stream = \"events\"\nstore = \"other\""), "cannot change its store");
}

#[test]
fn a_stream_that_a_refused_consumer_still_reads_stays() {
    let edited = config("stream = \"more\"\nstore = \"main\"").replace("[stream.events]\n        store = \"main\"", "");
    let project = Project::new(&before());
    let host = project.host();
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    project.write("tendon.toml", edited);
    host.line("cannot change its stream");
    let shown = project.consumer("subject", "shown", |consumer| consumer["status"] == "running");
    assert_eq!((&shown["stream"], &shown["lag_events"]), (&json!("events"), &json!(0)));

    // At a start there is nothing that it could go on with.
    assert_eq!(host.terminate(), Some(0));
    let started = project.run(&["run", "--until-head"]);
    assert_eq!(started.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&started.stderr).contains("cannot change its stream"));
}

#[test]
fn after_a_restart_with_another_stream_the_deployment_reads_its_own() {
    let project = Project::new(&before());
    let host = project.host();
    project.append("events", &json!({}));
    project.append("more", &json!({}));
    project.append("more", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    assert_eq!(host.terminate(), Some(0));
    project.write("tendon.toml", config("stream = \"more\"\nstore = \"main\""));
    let host = project.host();
    project.append("events", &json!({}));
    let after = project.consumer("subject", "at the head of its own stream", |consumer| consumer["cursor"] == "2");
    assert_eq!((&after["stream"], &after["lag_events"]), (&json!("events"), &json!(0)));
    assert_eq!(project.json(&["state", "get", "subject", "a", "--as", "text"])["value"], "2");
    drop(host);
}

#[test]
fn what_needs_a_restart_is_refused_as_a_whole() {
    for edited in [
        before().replace("sqlite://other.db", "sqlite://another.db"),
        before().replace("[stream.more]\n        store = \"main\"", "[stream.more]\n        store = \"other\""),
        before().replace("127.0.0.1:0", "127.0.0.1:1"),
    ] {
        // Nothing of it is taken, also not what could be.
        is_refused(&edited.replace("behaviour = \"counter\"", "behaviour = \"panic\""), "needs a restart");
    }
}

#[test]
fn a_store_that_cannot_be_had_is_tried_again() {
    let project = Project::new(&before());
    let host = project.host();
    project.write("taken", "");
    let third = "\n[store.third]\nurl = \"sqlite://taken/third.db\"\n[stream.third]\nstore = \"third\"\n";
    project.write("tendon.toml", before() + third);
    host.line("config refused");
    // Its folder was a file; nobody touches the config again.
    std::fs::remove_file(project.path("taken")).unwrap();
    std::fs::create_dir(project.path("taken")).unwrap();
    wait("the third stream", || {
        let streams = project.json(&["stream", "list"]);
        streams.as_array()?.iter().any(|stream| stream["name"] == "third").then_some(())
    });
    drop(host);
}

#[test]
fn a_pause_before_the_first_commit_keeps_the_start() {
    let project = Project::new(&before());
    let host = project.host();
    project.append("events", &json!({}));
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "2");
    let late = "\n[consumer.late]\ncomponent = \"guest.wasm\"\nstream = \"events\"\nstore = \"main\"\nstart = \"latest\"\n\
                config = { behaviour = \"counter\" }\n";
    project.write("tendon.toml", before() + late);
    host.line("started late");
    let paused = project.json(&["consumer", "pause", "late"]);
    assert_eq!(paused["summary"]["cursor"], "2", "it begins at the head, as it was at its start");
    project.json(&["consumer", "resume", "late"]);
    project.append("events", &json!({}));
    project.consumer("late", "at the head", |consumer| consumer["cursor"] == "3");
    assert_eq!(project.json(&["state", "get", "late", "a", "--as", "text"])["value"], "1", "only the last event");
    drop(host);
}

/// Alone it keeps the host from starting; beside others it is refused, and they run.
#[test]
fn a_consumer_that_is_to_begin_behind_an_event_that_is_not_there_is_refused() {
    let project = Project::new(&before());
    let host = project.host();
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    let late = |start: &str| {
        let late = "[consumer.late]\ncomponent = \"guest.wasm\"\nstream = \"events\"\nstore = \"main\"\nconfig = { behaviour = \"counter\" }";
        format!("{}\n{late}\nstart = \"{start}\"", before())
    };
    project.write("tendon.toml", late("id:7"));
    host.line("the stream has no event 7");
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "2");
    let refused = project.status("late", "stopped");
    assert_eq!((&refused["revision"], &refused["epoch"]), (&json!(0), &json!(0)), "nothing was written");
    let why = &refused["refused"];
    assert_eq!(why["message"], "the stream has no event 7");
    assert_eq!(why["help"], refused["next_step"], "what to do about it, and not to start a host");
    assert_eq!(host.terminate(), Some(0));

    let refused = project.run(&["run", "--until-head"]);
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{says}");
    assert!(says.contains("late") && says.contains("no event 7") && says.contains("tendon event list"), "{says}");

    project.write("tendon.toml", late("id:1"));
    let _host = project.host();
    let late = project.consumer("late", "at the head", |consumer| consumer["cursor"] == "2");
    assert!(late["refused"].is_null());
    let counted = project.json(&["state", "list", "late"]);
    assert_eq!(counted[0]["value"], 1, "it began behind the first");
}
