//! A consumer that is sent to another place, and one that is removed, with the real binary.

use serde_json::{Value, json};
use tendon_tests::project::{Project, event, subject, wait};

fn config(consumer: &str) -> String {
    subject(&format!("retry = {{ attempts = 1, on-exhausted = \"dead-letter\" }}\n{consumer}"))
}

fn import(project: &Project, file: &str, behaviours: &[&str]) {
    project.import(file, behaviours.iter().enumerate().map(|(n, text)| event(&format!("key-{}", n % 5), text)));
}

fn reset(project: &Project, arguments: &[&str]) -> Value {
    project.json(&[&["consumer", "reset", "subject"], arguments].concat())
}

fn emitted(project: &Project) -> usize {
    project.json(&["event", "list", "out", "--limit", "1000"]).as_array().unwrap().len()
}

#[test]
fn a_reset_handles_events_again_with_the_state_and_the_emits_that_are_asked_for() {
    let project = Project::new(&config(""));
    let _host = project.host();
    import(&project, "a.jsonl", &["append", "echo", "append", "echo", "append", "append"]);
    project.at_head("6");
    assert_eq!((project.ids(None), emitted(&project)), (vec![1, 3, 5, 6], 2));

    let counted = reset(&project, &["--to", "id:2", "--state", "keep", "--emits", "suppress", "--dry-run"]);
    assert_eq!(
        counted,
        json!({"cursor": "2", "again": 4, "skipped": 0, "dead_letters": 0, "parked": 0, "dry_run": true})
    );
    assert_eq!(project.ids(None), [1, 3, 5, 6], "it was only counted");

    reset(&project, &["--to", "id:2", "--state", "keep", "--emits", "suppress"]);
    project.at_head("6");
    wait("all again", || (project.ids(None) == [1, 3, 5, 6, 3, 5, 6]).then_some(()));
    assert_eq!(emitted(&project), 2, "what was emitted is not emitted again");

    reset(&project, &["--to", "earliest", "--state", "clear", "--emits", "again"]);
    wait("all anew", || (project.ids(None) == [1, 3, 5, 6]).then_some(()));
    assert_eq!(emitted(&project), 4);

    // What comes after is emitted, of course.
    reset(&project, &["--to", "earliest", "--state", "clear", "--emits", "suppress"]);
    import(&project, "b.jsonl", &["echo", "append"]);
    project.at_head("8");
    assert_eq!((project.ids(None), emitted(&project)), (vec![1, 3, 5, 6, 8], 5));

    let skipped = reset(&project, &["--to", "-3", "--state", "keep", "--emits", "suppress"]);
    assert_eq!((&skipped["again"], &skipped["skipped"]), (&json!(3), &json!(0)));
    wait("the last three", || (project.ids(None) == [1, 3, 5, 6, 8, 6, 8]).then_some(()));
    assert_eq!(emitted(&project), 5);
}

#[test]
fn what_was_set_aside_before_a_reset_is_emitted_after_it_and_nothing_else_is() {
    let project = Project::new(&config(""));
    let host = project.host();
    // Only those of type 1 are echoed by the next component's config: here each event says what it does.
    import(&project, "a.jsonl", &["echo", "fail", "append", "fail"]);
    project.at_head("4");
    assert_eq!((emitted(&project), project.json(&["dlq", "list", "subject"]).as_array().unwrap().len()), (1, 2));
    // From now on it echoes whatever comes.
    project.write("tendon.toml", config("").replace("by-event", "echo"));
    host.line("changed subject");
    let counted = reset(&project, &["--to", "id:2", "--state", "keep", "--emits", "suppress", "--dry-run"]);
    assert_eq!((&counted["again"], &counted["dead_letters"]), (&json!(2), &json!(1)));
    reset(&project, &["--to", "id:2", "--state", "keep", "--emits", "suppress"]);
    project.at_head("4");
    wait("the one that was set aside", || (emitted(&project) == 2).then_some(()));
    let letters = project.json(&["dlq", "list", "subject"]);
    assert_eq!(letters[0]["event"]["id"], "2", "what is not handled again stays set aside");
    assert_eq!(letters.as_array().unwrap().len(), 1);
    // And is emitted once it is redriven.
    project.json(&["dlq", "redrive", "subject", "2"]);
    wait("the other one", || (emitted(&project) == 3).then_some(()));
    reset(&project, &["--to", "earliest", "--state", "keep", "--emits", "suppress"]);
    project.at_head("4");
    import(&project, "b.jsonl", &["append"]);
    project.at_head("5");
    assert_eq!(emitted(&project), 4, "only the new one");
    let texts = project.json(&["event", "list", "out"]);
    let texts: Vec<_> = texts.as_array().unwrap().iter().map(|event| event["metadata_text"].clone()).collect();
    assert_eq!(texts, ["echo", "fail", "fail", "append"]);
}

#[test]
fn all_shards_are_reset_and_what_older_ones_have_handled_is_handled_again() {
    let project = Project::new(&config("shards = { count = 3 }\nstate = \"key\""));
    let host = project.host();
    import(&project, "a.jsonl", &["append"; 30]);
    project.at_head("30");
    project.write("tendon.toml", config("shards = { count = 2 }\nstate = \"key\""));
    host.line("divided subject anew");
    assert!(project.run(&["consumer", "pause", "subject"]).status.success());
    let done = reset(&project, &["--to", "+10", "--state", "keep", "--emits", "suppress"]);
    assert_eq!((&done["again"], &done["cursor"]), (&json!(20), &json!("10")));
    assert_eq!(project.json(&["consumer", "show", "subject"])["summary"]["status"], "paused", "a pause stays");
    assert!(project.run(&["consumer", "resume", "subject"]).status.success());
    project.at_head("30");
    let of = |key: usize| {
        let key = format!("key-{key}");
        let value = project.json(&["state", "get", "subject", "ids", "--of", &key, "--as", "text"])["value"].clone();
        value.as_str().unwrap().split_whitespace().count()
    };
    assert_eq!((0..5).map(of).collect::<Vec<_>>(), [10; 5], "six of each key, and four of them again");
    // A state that is by shard can be divided once it is cleared; here it is by key, which other shards take over.
    drop(host);
}

#[test]
fn a_reset_to_nowhere_changes_nothing() {
    let project = Project::new(&config(""));
    let _host = project.host();
    import(&project, "a.jsonl", &["append"; 3]);
    let before = project.at_head("3");
    for (place, says) in [
        ("id:77", "no event 77"),
        ("+4", "beyond its ends"),
        ("-4", "beyond its ends"),
        ("yesterday", "is not a position"),
    ] {
        let output =
            project.run(&["consumer", "reset", "subject", "--to", place, "--state", "keep", "--emits", "again"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains(says)), (Some(2), true), "{place}: {said}");
    }
    let output = project.run(&["consumer", "reset", "subject", "--to", "earliest"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("--state") && said.contains("--emits"), "{said}");
    let after = project.json(&["consumer", "show", "subject"])["summary"].clone();
    assert_eq!((&after["fence"], &after["epoch"]), (&before["fence"], &before["epoch"]));
}

#[test]
fn a_consumer_is_removed_once_no_config_has_it_and_begins_anew_if_it_comes_back() {
    let project = Project::new(&config(""));
    let host = project.host();
    import(&project, "a.jsonl", &["append", "fail"]);
    project.at_head("2");
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let output = project.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains(says)), (Some(code), true), "{said}");
    };
    refused(&["consumer", "remove", "subject"], 2, "--yes");
    refused(&["consumer", "remove", "subject", "--yes"], 2, "take [consumer.subject] out of the file");
    refused(&["consumer", "remove", "nobody", "--yes"], 1, "no store has anything");
    let whole = config("");
    let without = whole.split("[consumer.subject]").next().unwrap();
    project.write("tendon.toml", without);
    host.line("stopped subject");
    assert_eq!(project.json(&["consumer", "remove", "subject", "--yes"]), json!({"removed": "subject"}));
    project.write("tendon.toml", &whole);
    host.line("started subject");
    project.at_head("2");
    assert_eq!(project.ids(None), [1], "nothing is left of the state before");
}

/// What one shard has handled since an earlier reset is not known of each event: it may ask for it again, and gets it once.
#[test]
fn a_second_reset_while_one_shard_is_behind_neither_stalls_nor_emits_twice() {
    let more = "shards = { count = 2 }\nstate = \"key\"";
    let project = Project::new(&config(more));
    let host = project.host();
    let keys: Vec<String> = (0..8).map(|n| format!("key-{n}")).collect();
    let shard = |key: &str| {
        key.bytes().fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)) % 2
    };
    let of = |index: u32| keys.iter().find(|key| shard(key) == index).unwrap();
    // Both have an event that is set aside at first.
    let lines = [(of(0), "panic"), (of(1), "reject"), (of(1), "echo"), (of(1), "echo")];
    let line =
        |(key, text): (&String, &str)| json!({"type": 1, "foreign_id": key, "metadata_text": text}).to_string() + "\n";
    project.write("a.jsonl", lines.into_iter().map(line).collect::<String>());
    assert!(project.run(&["event", "import", "events", "a.jsonl"]).status.success());
    project.at_head("4");
    assert_eq!((emitted(&project), project.json(&["dlq", "list", "subject"]).as_array().unwrap().len()), (2, 2));
    // From now on everything is echoed, but the filter has no answer for the first shard's event, which so blocks it.
    let filter = format!("filter = {{ where = \"foreign_id == '{}' || headers.n == '1'\" }}", of(1));
    let echo = config(&format!("{more}\n{filter}")).replace("by-event", "echo").replace("\"dead-letter\"", "\"block\"");
    project.write("tendon.toml", echo);
    host.line("changed subject");
    let again = || {
        reset(&project, &["--to", "earliest", "--state", "keep", "--emits", "suppress"]);
        project.status("subject", "blocked");
        wait("the other shard at the head", || {
            let shards = project.json(&["consumer", "show", "subject"])["shards"].clone();
            (shards[1]["cursor"] == "4" && shards[1]["status"] == "running").then_some(())
        });
    };
    again();
    assert_eq!(emitted(&project), 3, "the one that was set aside, and nothing that was emitted");
    again();
    assert_eq!(emitted(&project), 3, "nothing twice");
}

#[test]
fn a_place_in_the_future_is_beyond_the_head() {
    let project = Project::new(&config(""));
    let _host = project.host();
    import(&project, "a.jsonl", &["append"]);
    project.at_head("1");
    let place = ["--to", "@2999-01-01T00:00:00Z", "--state", "keep", "--emits", "again"];
    let output = project.run(&[&["consumer", "reset", "subject"][..], &place].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.contains("beyond its head")), (Some(2), true), "{said}");
}
