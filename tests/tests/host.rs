//! The real binary with real components: what an operator sees when things go wrong.

use serde_json::{Value, json};
use tendon_tests::{
    guests::Guest,
    project::{Host, Project, wait},
};

/// Two consumers of one stream: `subject` behaves as asked, `witness` just counts.
fn config(behaviour: &str) -> String {
    format!(
        r#"
        [host]
        listen = "127.0.0.1:0"
        [store.main]
        url = "sqlite://test.db"
        [stream.events]
        [consumer.subject]
        component = "guest.wasm"
        stream = "events"
        retry = {{ attempts = 3, base = "10ms", cap = "50ms" }}
        limits = {{ memory = "16MiB", cpu = "50ms" }}
        config = {{ behaviour = "{behaviour}" }}
        [consumer.witness]
        component = "guest.wasm"
        stream = "events"
        config = {{ behaviour = "counter" }}
        "#
    )
}

fn events(project: &Project) -> usize {
    project.json(&["event", "list", "events", "--limit", "1000"]).as_array().unwrap().len()
}

/// The subject is blocked by the first event, with a reason of this code that says this; the witness goes on.
fn blocks(behaviour: &str, code: &str, says: &str) {
    let project = Project::new(&config(behaviour));
    let host = project.host();
    for n in 0..3 {
        project.append("events", &json!({ "n": n }));
    }
    let blocked = project.status("subject", "blocked");
    let reason = &blocked["reason"];
    assert_eq!(reason["code"], code, "{reason}");
    assert!(reason["message"].as_str().unwrap().contains(says), "{reason}");
    assert_eq!(reason["event"], "1", "{reason}");
    assert_eq!(blocked["cursor"], "start", "its cursor has not moved past the event");
    project.consumer("witness", "at the head", |consumer| consumer["lag_events"] == 0 && consumer["cursor"] == "3");
    assert_eq!(host.terminate(), Some(0));
}

#[test]
fn a_guest_that_returns_a_failure_blocks_only_itself() {
    blocks("fail", "retry", "");
}

#[test]
fn a_guest_that_rejects_is_blocked_at_once() {
    blocks("reject", "reject", "");
}

#[test]
fn a_guest_that_panics_blocks_only_itself_and_its_message_reaches_the_operator() {
    blocks("panic", "trap", "panicked");
}

#[test]
fn a_guest_that_loops_for_ever_blocks_only_itself() {
    blocks("loop", "timeout", "limits.cpu");
}

#[test]
fn a_guest_that_allocates_without_end_blocks_only_itself() {
    blocks("allocate", "limit", "limits.memory");
}

#[test]
fn a_guest_that_recurses_without_end_blocks_only_itself() {
    blocks("recurse", "trap", "recursion too deep");
}

#[test]
fn a_guest_that_emits_what_was_not_granted_blocks_only_itself() {
    blocks("emit-ungranted", "denied", "grants.emit");
}

#[test]
fn a_restart_does_not_unblock_but_resume_does_with_attempts_at_zero() {
    let project = Project::new(&config("fail"));
    let host = project.host();
    project.append("events", &json!({}));
    assert_eq!(project.status("subject", "blocked")["attempts"], 3);
    assert_eq!(host.terminate(), Some(0));

    let host = project.host();
    assert_eq!(project.status("subject", "blocked")["attempts"], 3);
    let resumed = project.json(&["consumer", "resume", "subject"]);
    assert_eq!(resumed["summary"]["attempts"], 0);
    assert_eq!(project.status("subject", "blocked")["attempts"], 3, "it was tried anew, three times");
    drop(host);
}

#[test]
fn a_config_that_can_handle_the_event_takes_over_while_the_host_runs() {
    let project = Project::new(&config("fail"));
    let host = project.host();
    project.append("events", &json!({}));
    project.status("subject", "blocked");
    project.write("tendon.toml", config("counter"));
    host.line("changed subject");
    project.json(&["consumer", "resume", "subject"]);
    project.consumer("subject", "past the event", |consumer| consumer["cursor"] == "1");
    drop(host);
}

#[test]
fn pause_stops_an_idle_consumer_and_resume_lets_it_go_on() {
    let project = Project::new(&config("counter"));
    let _host = project.host();
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    project.json(&["consumer", "pause", "subject", "--reason", "lunch"]);
    let paused = project.status("subject", "paused");
    assert_eq!(paused["reason"]["message"], "lunch");
    project.append("events", &json!({}));
    project.consumer("witness", "at the head", |consumer| consumer["cursor"] == "2");
    assert_eq!(project.status("subject", "paused")["cursor"], "1");
    project.json(&["consumer", "resume", "subject"]);
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "2");
}

/// The guest under another digest: a custom section is put behind it.
fn another_version(mark: u8) -> Vec<u8> {
    let mut component = Guest::Hostile.component().unwrap().to_vec();
    component.extend([0, 4, 1, b'v', mark, 0]);
    component
}

#[test]
fn a_changed_component_takes_over_and_a_bad_one_does_not() {
    let project = Project::new(&config("counter"));
    let host = project.host();
    project.append("events", &json!({}));
    let before = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    project.write("guest.wasm", another_version(1));
    host.line("reloaded subject");
    let history = |project: &Project| project.json(&["consumer", "show", "subject"])["history"].clone();
    wait("the history to name the new digest", || (history(&project).as_array()?.len() == 2).then_some(()));

    for (bad, says) in [
        (&b"not wasm at all"[..], "not a component"),
        (&another_version(1)[..5_000], ""),
        (&b"\0asm\x01\0\0\0"[..], "core module"),
    ] {
        project.write("guest.wasm", bad);
        let line = host.line("refused subject");
        assert!(line.contains(says), "{line}");
    }
    project.append("events", &json!({}));
    let after = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "2");
    assert_ne!(before["digest"], after["digest"]);
    assert_eq!(history(&project).as_array().unwrap().len(), 2);

    // The broken file is still there: the active deployment is what starts.
    assert_eq!(host.terminate(), Some(0));
    let _host = project.host();
    project.append("events", &json!({}));
    let restarted = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "3");
    assert_eq!(restarted["digest"], after["digest"]);
}

#[test]
fn an_edited_config_restarts_what_changed_and_an_invalid_one_changes_nothing() {
    let project = Project::new(&config("counter"));
    let host = project.host();
    let epoch = |name: &str| project.status(name, "running")["epoch"].clone();
    let fence = |name: &str| project.status(name, "running")["fence"].clone();
    let (subject, witness) = (epoch("subject"), fence("witness"));
    project.write("tendon.toml", config("counter").replace("attempts = 3", "attempts = 4"));
    wait("the changed consumer's new deployment", || (epoch("subject") != subject).then_some(()));
    assert_eq!(fence("witness"), witness, "the other consumer was left alone");

    project.write("tendon.toml", config("counter").replace("retry", "retires"));
    let line = host.line("unknown");
    assert!(line.contains("retires"), "{line}");
    project.write("tendon.toml", config("counter").replace("attempts = 3", "attempts = 4"));
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
}

#[test]
fn a_second_host_is_told_who_has_the_database() {
    let project = Project::new(&config("counter"));
    let host = project.host();
    let second = project.run(&["run"]);
    assert_eq!(second.status.code(), Some(3));
    let says = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(says.contains(&host.pid().to_string()), "{says}");
}

#[test]
fn without_a_host_reading_works_and_changing_says_how_to_start_one() {
    let project = Project::new(&config("counter"));
    let host = project.host();
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    assert_eq!(host.terminate(), Some(0));
    assert_eq!(events(&project), 1);
    assert_eq!(project.status("subject", "stopped")["cursor"], "1");
    let refused = project.run(&["consumer", "pause", "subject"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tendon run"));
}

#[test]
fn kill_minus_nine_at_any_moment_loses_and_repeats_nothing() {
    let project = Project::new(&config("counter"));
    let lines: String =
        (0..2_000).map(|n| json!({"type": 1, "foreign_id": "a", "metadata": {"n": n}}).to_string() + "\n").collect();
    project.write("events.jsonl", lines);
    let host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    host.kill();
    for _ in 0..5 {
        let host = Host::start(&project, &["run"]);
        wait("some progress", || {
            let shown = project.run(&["consumer", "show", "subject", "-o", "json"]);
            serde_json::from_slice::<Value>(&shown.stdout).ok()
        });
        host.kill();
    }
    assert_eq!(Host::start(&project, &["run", "--until-head"]).code(), Some(0));
    let count = project.json(&["state", "get", "subject", "a", "--as", "text"]);
    assert_eq!(count["value"], "2000", "{count}");
}

#[test]
fn an_import_with_a_bad_line_adds_nothing_and_a_repeated_one_adds_nothing_more() {
    let project = Project::new(&config("counter"));
    let _host = project.host();
    project.write("bad.jsonl", "{\"type\":1,\"foreign_id\":\"a\"}\n{\"type\":\"x\"}\n");
    let refused = project.run(&["event", "import", "events", "bad.jsonl"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad.jsonl, line 2"), "the line is named");
    assert_eq!(events(&project), 0);
    project.write("good.jsonl", "{\"type\":1,\"foreign_id\":\"a\"}\n{\"type\":1,\"foreign_id\":\"a\"}\n");
    for _ in 0..2 {
        assert!(project.run(&["event", "import", "events", "good.jsonl"]).status.success());
        assert_eq!(events(&project), 2, "two equal lines are two events, and once is enough");
    }
}

#[test]
fn until_head_fails_when_a_consumer_is_blocked() {
    let project = Project::new(&config("fail"));
    let host = project.host();
    project.append("events", &json!({}));
    project.status("subject", "blocked");
    assert_eq!(host.terminate(), Some(0));
    assert_eq!(Host::start(&project, &["run", "--until-head"]).code(), Some(1));
}
