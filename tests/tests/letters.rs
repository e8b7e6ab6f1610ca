//! A consumer that sets aside what it cannot handle, and what its operator does about it, with the real binary.

use serde_json::{Value, json};
use tendon_tests::project::{Project, free_address, get, wait};

fn project(api: &str, on_exhausted: &str, behaviours: &[&str]) -> Project {
    let project = Project::new(&format!(
        r#"
        [host]
        listen = "{api}"
        [store.main]
        url = "sqlite://test.db"
        [stream.events]
        [consumer.subject]
        component = "guest.wasm"
        stream = "events"
        config = {{ behaviour = "by-event" }}
        retry = {{ attempts = 3, base = "1ms", on-exhausted = "{on_exhausted}" }}
        "#
    ));
    let line = |text: &&str| json!({"type": 1, "foreign_id": "a", "metadata_text": text}).to_string() + "\n";
    project.write("events.jsonl", behaviours.iter().map(line).collect::<String>());
    project
}

fn all<'v>(letters: &'v Value, what: &str) -> Vec<&'v Value> {
    letters.as_array().unwrap().iter().map(|letter| letter.pointer(what).unwrap()).collect()
}

#[test]
fn what_cannot_be_handled_is_set_aside_and_the_rest_is_handled() {
    let api = free_address();
    let project =
        project(&api, "dead-letter", &["append", "fail", "append", "reject", "panic", "say", "append", "emit 1"]);
    let _host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    // What it may not do ends it, too, and the last event is such a one.
    let subject = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "8");
    assert_eq!(
        (&subject["status"], &subject["attempts"], &subject["reason"]),
        (&json!("running"), &json!(0), &Value::Null)
    );
    let ids = project.json(&["state", "get", "subject", "ids", "--as", "text"])["value"].clone();
    assert_eq!(ids, "1 3 7 ");

    let letters = project.json(&["dlq", "list", "subject"]);
    assert_eq!(all(&letters, "/event/id"), ["2", "4", "5", "6", "8"]);
    assert_eq!(all(&letters, "/reason/code"), ["retry", "reject", "trap", "reject", "denied"]);
    assert_eq!(all(&letters, "/attempts"), [3, 1, 3, 1, 1]);
    assert_eq!(all(&letters, "/event/metadata_text"), ["fail", "reject", "panic", "say", "emit 1"]);
    assert!(letters[2]["reason"]["message"].as_str().unwrap().contains("boom of 5"), "{letters}");
    assert!(letters[0]["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(project.json(&["consumer", "show", "subject"])["has_dead_letters"], true);
    let of = |reason: &str| project.json(&["dlq", "list", "subject", "--match", reason]);
    assert_eq!(all(&of("reject"), "/event/id"), ["4", "6"]);
    assert_eq!(all(&of("reject~enough"), "/event/id"), ["6"]);
    assert_eq!(all(&of("~boom of"), "/event/id"), ["5"]);
    assert_eq!(of("timeout"), json!([]));
    let counted = project.json(&["dlq", "purge", "subject", "--match", "reject", "--dry-run"]);
    assert_eq!(counted, json!({"changed": 2, "dry_run": true}));
    let empty = project.run(&["dlq", "purge", "subject", "--match", ""]);
    assert_eq!(empty.status.code(), Some(2), "a variable that is not set must not purge everything: {empty:?}");
    assert_eq!(all(&project.json(&["dlq", "list", "subject"]), "/event/id"), ["2", "4", "5", "6", "8"]);
    let shown = project.json(&["dlq", "show", "subject", "6"]);
    assert_eq!(shown["reason"]["logs"], "INFO said\nINFO printed");
    assert_eq!(
        all(&project.json(&["dlq", "list", "subject", "--after", "4", "--limit", "2"]), "/event/id"),
        ["5", "6"]
    );
    let metrics = get(&api, "/metrics", &format!("Host: {api}\r\n"));
    assert!(
        metrics.contains(r#"tendon_consumer_dead_letters_total{tenant="default",consumer="subject"} 5"#),
        "{metrics}"
    );
}

#[test]
fn dead_letters_outlive_a_restart_and_are_purged_by_name_or_all_at_once() {
    let project = project("127.0.0.1:0", "skip", &["fail", "reject", "reject", "append"]);
    let host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "4");
    host.kill();
    let list = || project.json(&["dlq", "list", "subject"]);
    assert_eq!(all(&list(), "/reason/code"), ["skipped", "skipped", "skipped"]);
    assert_eq!(project.json(&["dlq", "list", "subject", "--match", "skipped"]), list());
    let without = project.run(&["dlq", "purge", "subject", "--all"]);
    assert_eq!(without.status.code(), Some(3), "nobody runs who could");

    let _host = project.host();
    let purge = |arguments: &[&str]| project.json(&[&["dlq", "purge", "subject"], arguments].concat());
    let missing = project.run(&["dlq", "purge", "subject", "2", "4"]);
    let says = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && says.contains("event 4") && says.contains("tendon dlq list"), "{says}");
    assert_eq!(all(&list(), "/event/id"), ["1", "2", "3"], "nothing was purged");
    assert_eq!(purge(&["2"]), json!({"changed": 1, "dry_run": false}));
    assert_eq!(purge(&["--all", "--dry-run"]), json!({"changed": 2, "dry_run": true}));
    assert_eq!(all(&list(), "/event/id"), ["1", "3"]);
    assert_eq!(purge(&["--all"])["changed"], 2);
    assert_eq!(list(), json!([]));
    assert_eq!(project.json(&["consumer", "show", "subject"])["has_dead_letters"], false);
    let table = project.run(&["dlq", "list", "subject"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("MESSAGE"), "{table:?}");
}

#[test]
fn what_was_set_aside_is_handled_again_when_that_is_wished() {
    let project = project("127.0.0.1:0", "dead-letter", &["append", "reject", "append", "panic"]);
    let host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "4");
    let letter = |event: &str| project.json(&["dlq", "show", "subject", event]);
    let redrive =
        |arguments: &[&str]| project.json(&[&["dlq", "redrive", "subject"], arguments].concat())["changed"].clone();
    let ids = || project.json(&["state", "get", "subject", "ids", "--as", "text"])["value"].clone();

    // It is no better than it was.
    assert_eq!(redrive(&["2"]), 1);
    wait("another attempt", || (letter("2")["attempts"] == 2).then_some(()));
    assert_eq!((&letter("2")["redrive_since"], letter("4")["attempts"].as_u64()), (&Value::Null, Some(3)));

    // A wish outlives the host, and can be taken back.
    project.json(&["consumer", "pause", "subject"]);
    assert_eq!(redrive(&["--all"]), 2);
    assert!(letter("2")["redrive_since"].is_string());
    assert_eq!(project.json(&["dlq", "cancel", "subject", "4"])["changed"], 1);
    assert_eq!(letter("4")["redrive_since"], Value::Null);
    host.kill();
    let config = std::fs::read_to_string(project.path("tendon.toml")).unwrap();
    project.write("tendon.toml", config.replace("by-event", "append"));
    let _host = project.host();
    project.json(&["consumer", "resume", "subject"]);
    wait("event 2 to be handled", || (ids() == "1 3 2 ").then_some(()));
    assert_eq!(all(&project.json(&["dlq", "list", "subject"]), "/event/id"), ["4"]);

    assert_eq!(redrive(&["--all", "--dry-run"]), 1);
    assert_eq!(redrive(&["--all"]), 1);
    wait("event 4 to be handled", || (ids() == "1 3 2 4 ").then_some(()));
    assert_eq!(project.json(&["dlq", "list", "subject"]), json!([]));
    assert_eq!(project.json(&["cursor", "get", "subject"])["cursor"], "4");
}

#[test]
fn an_event_that_blocks_is_skipped_by_name_and_set_aside() {
    let project = project("127.0.0.1:0", "block", &["append", "reject", "append", "panic"]);
    let _host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    let blocked = project.status("subject", "blocked");
    assert!(blocked["next_step"].as_str().unwrap().contains("tendon consumer skip subject 2"), "{blocked}");
    let refused = project.run(&["consumer", "skip", "subject", "3"]);
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{says}");
    assert!(says.contains("blocked by event 2, not 3") && says.contains("skip subject 2"), "{says}");

    project.json(&["consumer", "skip", "subject", "2"]);
    project.consumer("subject", "blocked again", |consumer| consumer["reason"]["event"] == "4");
    project.json(&["consumer", "skip", "subject", "4"]);
    let subject = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "4");
    assert_eq!((&subject["status"], &subject["attempts"]), (&json!("running"), &json!(0)));
    assert_eq!(project.json(&["state", "get", "subject", "ids", "--as", "text"])["value"], "1 3 ");
    let letters = project.json(&["dlq", "list", "subject"]);
    assert_eq!(all(&letters, "/event/id"), ["2", "4"]);
    assert_eq!(all(&letters, "/reason/code"), ["skipped", "skipped"]);
    assert!(letters[0]["reason"]["message"].as_str().unwrap().starts_with("reject: "), "{letters}");
    assert!(letters[1]["reason"]["message"].as_str().unwrap().starts_with("trap: "), "{letters}");
    assert_eq!(all(&letters, "/attempts"), [1, 3]);
    let refused = project.run(&["consumer", "skip", "subject", "4"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not blocked"), "{refused:?}");
    // What comes is handled: the position's last event is the one that was skipped.
    project.append("events", &json!("append"));
    project.consumer("subject", "set aside or blocked", |consumer| consumer["status"] == "blocked");
}

#[test]
fn a_consumer_that_waits_for_an_event_redrives_others_meanwhile() {
    let project = project("127.0.0.1:0", "dead-letter", &["append", "reject", "fail"]);
    let config = std::fs::read_to_string(project.path("tendon.toml")).unwrap();
    let patient = config.replace("attempts = 3, base = \"1ms\"", "attempts = 3, base = \"1h\", cap = \"1h\"");
    assert_ne!(patient, config);
    project.write("tendon.toml", &patient);
    let host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    project.consumer("subject", "failed once", |consumer| consumer["attempts"] == 1 && consumer["cursor"] == "2");
    project.json(&["dlq", "redrive", "subject", "2"]);
    wait("another attempt", || (project.json(&["dlq", "show", "subject", "2"])["attempts"] == 2).then_some(()));
    let waits = project.status("subject", "running");
    assert_eq!((&waits["attempts"], &waits["reason"]["event"]), (&json!(1), &json!("3")), "it was not called for that");

    // What is deployed may help, and is tried at once.
    project.write("tendon.toml", patient.replace("by-event", "append"));
    host.line("changed subject");
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "3");
}

#[test]
fn a_host_stops_while_an_event_waits_and_others_are_to_be_redriven() {
    let project = project("127.0.0.1:0", "dead-letter", &["append", "reject", "fail"]);
    let config = std::fs::read_to_string(project.path("tendon.toml")).unwrap();
    project.write("tendon.toml", config.replace("base = \"1ms\"", "base = \"1h\", cap = \"1h\""));
    let host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    project.consumer("subject", "failed once", |consumer| consumer["attempts"] == 1 && consumer["cursor"] == "2");
    for _ in 0..3 {
        assert_eq!(project.json(&["dlq", "redrive", "subject", "--all"])["changed"], 1);
    }
    assert_eq!(host.terminate(), Some(0), "it drains");
}

#[test]
fn an_edited_payload_is_handled_again_and_a_redrive_is_a_job_that_can_be_cancelled() {
    let project = project("127.0.0.1:0", "dead-letter", &["reject", "reject", "append", "reject"]);
    let _host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "4");
    let edited = project.json(&["dlq", "edit", "subject", "2", "--metadata", "append"]);
    assert_eq!(edited["event"]["metadata_text"], "append");
    assert!(edited["reason"]["message"].as_str().unwrap().contains("edited by an operator"), "{edited}");
    assert_eq!(project.json(&["dlq", "jobs", "subject"]), json!([]), "what is edited is not handled by itself");
    let nobody = project.run(&["dlq", "edit", "subject", "77", "--metadata", "append"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
    project.write("payload", "append");
    assert!(project.run(&["dlq", "edit", "subject", "4", "--file", "payload"]).status.success());

    // A consumer that stands keeps its jobs.
    assert!(project.run(&["consumer", "pause", "subject"]).status.success());
    project.json(&["dlq", "redrive", "subject", "2"]);
    project.json(&["dlq", "redrive", "subject", "1", "4"]);
    let jobs = project.json(&["dlq", "jobs", "subject"]);
    assert_eq!((&jobs[0]["left"], &jobs[1]["left"]), (&json!(1), &json!(2)), "{jobs}");
    let pending = project.run(&["dlq", "edit", "subject", "2", "--metadata", "reject"]);
    assert_eq!(pending.status.code(), Some(2), "it is to be handled as it is: {pending:?}");
    let cancelled = project.json(&["dlq", "cancel", "subject", "--job", jobs[1]["id"].as_str().unwrap()]);
    assert_eq!(cancelled["changed"], 2);
    assert!(project.run(&["consumer", "resume", "subject"]).status.success());
    wait("the one that is left", || (project.json(&["dlq", "jobs", "subject"]) == json!([])).then_some(()));
    wait("it to be handled", || {
        let ids = project.json(&["state", "get", "subject", "ids", "--as", "text"])["value"].clone();
        (ids == "3 2 ").then_some(())
    });
    assert_eq!(all(&project.json(&["dlq", "list", "subject"]), "/event/id"), ["1", "4"]);
}

#[test]
fn a_redrive_with_a_rate_goes_on_slowly_and_can_be_seen_and_cancelled() {
    let project = project("127.0.0.1:0", "dead-letter", &["reject", "reject", "reject", "reject"]);
    let _host = project.host();
    assert!(project.run(&["event", "import", "events", "events.jsonl"]).status.success());
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "4");
    for event in ["1", "2", "3", "4"] {
        project.json(&["dlq", "edit", "subject", event, "--metadata", "append"]);
    }
    for rate in ["0", "-1", "nan", "1e9"] {
        let refused = project.run(&["dlq", "redrive", "subject", "--all", &format!("--rate={rate}")]);
        assert_eq!(refused.status.code(), Some(2), "{rate}: {refused:?}");
    }
    let gone = project.run(&["dlq", "redrive", "subject", "1", "77"]);
    assert_eq!(gone.status.code(), Some(2), "it is not there, or no more: {gone:?}");
    assert_eq!(project.json(&["dlq", "jobs", "subject"]), json!([]), "nothing was changed");

    // One in three hours: the first comes at once, and those that are wished without a rate do not wait for the rest.
    assert_eq!(project.json(&["dlq", "redrive", "subject", "1", "2", "3", "--rate", "0.0001/s"])["changed"], 3);
    let left = || project.json(&["dlq", "jobs", "subject"]);
    wait("the first of them", || (left()[0]["left"] == 2).then_some(()));
    assert_eq!(left()[0]["rate"], json!(0.0001), "{}", left());
    assert_eq!(project.json(&["dlq", "redrive", "subject", "4"])["changed"], 1);
    wait("the one without a rate", || (left().as_array().unwrap().len() == 1).then_some(()));
    let job = left()[0]["id"].as_str().unwrap().to_owned();
    // Its own move has made the loop begin anew, and so with another one.
    let cancelled = project.json(&["dlq", "cancel", "subject", "--job", &job])["changed"].as_u64().unwrap();
    assert!((1..=2).contains(&cancelled), "{cancelled}");
    assert_eq!(left(), json!([]));
    assert_eq!(all(&project.json(&["dlq", "list", "subject"]), "/event/id").len() as u64, cancelled);
}
