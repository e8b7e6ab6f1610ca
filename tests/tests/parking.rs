//! A consumer that parks the keys of what it cannot handle, with the real binary.

use serde_json::{Value, json};
use tendon_tests::project::{Project, event, free_address, get, subject, wait};

const KEYS: usize = 4;

fn config(behaviour: &str, retry: &str, more: &str) -> String {
    let retry = format!("retry = {{ base = \"1ms\", on-exhausted = \"park-key\", {retry} }}\n{more}");
    subject(&retry).replace("by-event", behaviour)
}

/// Imports events of all keys in turn, each of which does what is said.
fn import(project: &Project, file: &str, behaviours: &[&str]) {
    project.import(file, behaviours.iter().enumerate().map(|(n, text)| event(&format!("key-{}", n % KEYS), text)));
}

/// What a key has handled, in its order.
fn ids(project: &Project, key: usize) -> Vec<usize> {
    project.ids(Some(&format!("key-{key}")))
}

fn parked(project: &Project) -> Value {
    project.json(&["consumer", "show", "subject"])["parked"].clone()
}

const SIX_ROUNDS: [&str; 24] = ["append"; 24];

#[test]
fn only_the_key_of_a_poison_event_waits_and_drains_in_order_once_it_can_be_handled() {
    let api = free_address();
    let config = |behaviour: &str| config(behaviour, "attempts = 3", "").replace("127.0.0.1:0", &api);
    let project = Project::new(&config("by-event"));
    let host = project.host();
    // The event of id 6 is of key-1.
    let mut events = SIX_ROUNDS;
    events[5] = "panic";
    import(&project, "a.jsonl", &events);
    let subject = project.at_head("24");
    assert_eq!((&subject["status"], &subject["reason"]), (&json!("running"), &Value::Null));
    assert_eq!(ids(&project, 0), [1, 5, 9, 13, 17, 21]);
    assert_eq!(ids(&project, 1), [2]);
    wait("its attempts to run out", || (parked(&project)["first"][0]["attempts"] == 3).then_some(()));
    let shown = parked(&project);
    assert_eq!((&shown["keys"], &shown["events"]), (&json!(1), &json!(5)), "{shown}");
    let first = &shown["first"][0];
    assert_eq!(
        (&first["key"], &first["reason"]["code"], &first["reason"]["event"]),
        (&json!("key-1"), &json!("trap"), &json!("6"))
    );
    assert_eq!(first["reason"]["retry_at"], Value::Null, "it is not tried again by itself");
    let text = String::from_utf8(project.run(&["consumer", "show", "subject"]).stdout).unwrap();
    assert!(text.contains("keys 1, events 5") && text.contains("until somebody helps"), "{text}");
    assert_eq!(host.terminate(), Some(0));

    // It waits over a restart, and so does what comes after it.
    let host = project.host();
    import(&project, "b.jsonl", &SIX_ROUNDS);
    project.at_head("48");
    assert_eq!((ids(&project, 1), &parked(&project)["events"]), (vec![2], &json!(11)));
    assert_eq!(parked(&project)["first"][0]["attempts"], 3, "a restart is no new attempt");

    // A component that can handle it.
    project.write("tendon.toml", config("append").replace("1ms", "2ms"));
    project.write("guest.wasm", tendon_tests::guests::Guest::Hostile.component().unwrap());
    host.line("changed subject");
    // The same component with another config is no other component: somebody has to say so.
    assert_eq!(parked(&project)["keys"], 1);
    assert!(project.run(&["consumer", "resume", "subject"]).status.success());
    wait("the queue to drain", || parked(&project).is_null().then_some(()));
    assert_eq!(ids(&project, 1), [2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46]);
    let metrics = get(&api, "/metrics", &format!("Host: {api}\r\n"));
    for (what, count) in [("parked", 11), ("unparked", 11)] {
        let line = format!(r#"tendon_consumer_{what}_total{{tenant="default",consumer="subject"}}"#);
        assert!(metrics.contains(&line), "{metrics}");
        assert!(what == "parked" || metrics.contains(&format!("{line} {count}")), "{metrics}");
    }
    drop(host);
}

#[test]
fn a_retry_that_succeeds_lets_the_queue_go_on_by_itself() {
    let project = Project::new(&config("by-event", "attempts = 1000, cap = \"5ms\"", ""));
    let host = project.host();
    let mut events = SIX_ROUNDS;
    events[0] = "fail";
    import(&project, "a.jsonl", &events);
    project.at_head("24");
    wait("many attempts", || (parked(&project)["first"][0]["attempts"].as_u64() > Some(5)).then_some(()));
    assert_eq!(ids(&project, 1), [2, 6, 10, 14, 18, 22]);
    // Nothing but the config changes: the next attempt succeeds.
    project.write("tendon.toml", config("append", "attempts = 1000, cap = \"5ms\"", ""));
    host.line("changed subject");
    wait("the queue to drain", || parked(&project).is_null().then_some(()));
    assert_eq!(ids(&project, 0), [1, 5, 9, 13, 17, 21]);
}

#[test]
fn what_keeps_a_key_parked_can_be_skipped() {
    let project = Project::new(&config("by-event", "attempts = 1", ""));
    let _host = project.host();
    let mut events = SIX_ROUNDS;
    (events[2], events[10]) = ("reject", "fail");
    import(&project, "a.jsonl", &events);
    project.at_head("24");
    assert_eq!(parked(&project)["events"], 6);
    assert!(project.run(&["consumer", "skip", "subject", "3"]).status.success());
    wait("the next one that fails", || (parked(&project)["first"][0]["reason"]["event"] == "11").then_some(()));
    assert_eq!(ids(&project, 2), [7]);
    let behind = project.run(&["consumer", "skip", "subject", "15"]);
    assert_eq!(behind.status.code(), Some(2), "it does not keep the key parked: {behind:?}");
    assert!(project.run(&["consumer", "skip", "subject", "11"]).status.success());
    wait("the queue to drain", || parked(&project).is_null().then_some(()));
    assert_eq!(ids(&project, 2), [7, 15, 19, 23]);
    let letters = project.json(&["dlq", "list", "subject"]);
    let letters: Vec<_> = letters
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["event"]["id"].clone(), one["reason"]["code"].clone()))
        .collect();
    assert_eq!(letters, [(json!("3"), json!("skipped")), (json!("11"), json!("skipped"))]);
}

#[test]
fn a_shard_that_has_no_room_to_park_stands_and_goes_on_trying() {
    for (bounds, parked_then) in [("parked-keys = 2", (2, 8)), ("parked-events = 3", (2, 3))] {
        let project = Project::new(&config("by-event", &format!("attempts = 1000, cap = \"5ms\", {bounds}"), ""));
        let host = project.host();
        let mut events = SIX_ROUNDS;
        (events[0], events[1], events[14]) = ("fail", "fail", "fail");
        import(&project, "a.jsonl", &events);
        let blocked = project.status("subject", "blocked");
        assert_eq!(blocked["reason"]["code"], "full", "{blocked}");
        let then = parked(&project);
        assert_eq!((&then["keys"], &then["events"]), (&json!(parked_then.0), &json!(parked_then.1)), "{then}");
        let before = parked(&project)["first"][0]["attempts"].as_u64();
        wait("further attempts", || (parked(&project)["first"][0]["attempts"].as_u64() > before).then_some(()));
        // The config helps, and then there is room.
        project.write("tendon.toml", config("append", &format!("attempts = 1000, cap = \"5ms\", {bounds}"), ""));
        host.line("changed subject");
        project.at_head("24");
        wait("the queues to drain", || parked(&project).is_null().then_some(()));
        assert_eq!(ids(&project, 0), [1, 5, 9, 13, 17, 21]);
        assert_eq!(project.status("subject", "running")["reason"], Value::Null);
    }
}

#[test]
fn parked_keys_outlive_a_division_and_a_reset_forgets_those_beyond_it() {
    let shards = |count: u32| config("by-event", "attempts = 1", &format!("shards = {{ count = {count} }}"));
    let project = Project::new(&shards(2));
    let host = project.host();
    let mut events = SIX_ROUNDS;
    (events[4], events[21]) = ("reject", "reject");
    import(&project, "a.jsonl", &events);
    project.at_head("24");
    assert_eq!((&parked(&project)["keys"], &parked(&project)["events"]), (&json!(2), &json!(6)));
    project.write("tendon.toml", shards(3));
    host.line("divided subject anew");
    import(&project, "b.jsonl", &SIX_ROUNDS);
    project.at_head("48");
    assert_eq!((&parked(&project)["keys"], &parked(&project)["events"]), (&json!(2), &json!(18)));
    assert_eq!(ids(&project, 0), [1]);
    assert_eq!(ids(&project, 2).len(), 12);
    // Those up to the place wait on; those after it are read again, and park again.
    let reset = ["consumer", "reset", "subject", "--to", "id:21", "--state", "keep", "--emits", "suppress"];
    assert!(project.run(&reset).status.success());
    project.at_head("48");
    assert_eq!((&parked(&project)["keys"], &parked(&project)["events"]), (&json!(2), &json!(18)));
    assert!(project.run(&["consumer", "skip", "subject", "5"]).status.success());
    wait("one queue to drain", || (parked(&project)["keys"] == 1).then_some(()));
    assert_eq!(ids(&project, 0), [1, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45]);
}

#[test]
fn parking_needs_a_state_by_key() {
    for (more, says) in [
        ("state = \"consumer\"", "shared by keys"),
        ("shards = { count = 2, by = \"type\" }", "must all be one shard's"),
    ] {
        let project = Project::new(&config("by-event", "attempts = 1", more));
        let checked = project.run(&["config", "check"]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert_eq!((checked.status.code(), said.contains(says)), (Some(2), true), "{more}: {said}");
    }
}

/// No attempt helps where the filter has no answer; another filter does, of the same component.
#[test]
fn a_key_whose_event_the_filter_cannot_judge_waits_for_another_filter() {
    let with = |filter: &str| config("append", "attempts = 3", &format!("filter = {{ where = \"{filter}\" }}"));
    let project = Project::new(&with("headers.file == 'a.jsonl' || headers.nothing == 'x'"));
    let host = project.host();
    import(&project, "a.jsonl", &["append"; 4]);
    import(&project, "b.jsonl", &["append"]);
    project.at_head("5");
    let waits = parked(&project)["first"][0].clone();
    assert_eq!((&waits["reason"]["code"], &waits["attempts"]), (&json!("filter"), &json!(1)), "{waits}");
    assert_eq!((ids(&project, 0), ids(&project, 1)), (vec![1], vec![2]));
    project.write("tendon.toml", with("has(headers.file)"));
    host.line("changed subject");
    wait("the queue to drain", || parked(&project).is_null().then_some(()));
    assert_eq!(ids(&project, 0), [1, 5]);
}

#[test]
fn a_run_to_the_head_does_not_end_well_over_keys_that_are_parked() {
    let project = Project::new(&config("by-event", "attempts = 2", ""));
    let host = project.host();
    import(&project, "a.jsonl", &["append", "fail", "append", "append", "append"]);
    project.at_head("5");
    assert_eq!(host.terminate(), Some(0));
    let ran = project.run(&["run", "--until-head"]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
    assert_eq!((ran.status.code(), said.contains("subject stands still")), (Some(1), true), "{said}");
}
