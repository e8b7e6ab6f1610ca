//! A consumer in shards, with the real binary: in its keys' order, divided anew while it runs, refused where it cannot be.

use serde_json::{Value, json};
use tendon_tests::project::{Host, Project, subject, wait};

const KEYS: usize = 12;

fn config(consumer: &str) -> String {
    subject(&format!("retry = {{ attempts = 2, base = \"1ms\" }}\n{consumer}"))
}

fn shards(count: u32) -> String {
    config(&format!("shards = {{ count = {count} }}"))
}

/// Imports events of all keys in turn, each of which does what is said.
fn import(project: &Project, file: &str, behaviours: impl Iterator<Item = String>) {
    let event = |(n, text): (usize, String)| json!({"type": n % 3, "foreign_id": format!("key-{}", n % KEYS), "metadata_text": text});
    project.import(file, behaviours.enumerate().map(event));
}

fn appends(count: usize) -> impl Iterator<Item = String> {
    std::iter::repeat_n("append".to_owned(), count)
}

/// Every event of a key, once and in order, but for those that are in nobody's state.
fn expected(key: usize, events: usize, without: &[usize]) -> Vec<usize> {
    (1..=events).filter(|id| (id - 1) % KEYS == key && !without.contains(id)).collect()
}

fn all_handled(project: &Project, events: usize, without: &[usize]) {
    for key in 0..KEYS {
        let handled = project.ids(Some(&format!("key-{key}")));
        assert_eq!(handled, expected(key, events, without), "key-{key}");
    }
}

fn statuses(project: &Project) -> Vec<String> {
    let shown = project.json(&["consumer", "show", "subject"]);
    shown["shards"].as_array().unwrap().iter().map(|shard| shard["status"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn shards_handle_each_event_once_in_the_order_of_its_key() {
    let project = Project::new(&shards(4));
    let host = project.host();
    import(&project, "a.jsonl", appends(600));
    let subject = project.consumer("subject", "at the head", |consumer| consumer["lag_events"] == 0);
    assert_eq!((&subject["shards"], &subject["cursor"]), (&json!(4), &json!("600")));
    all_handled(&project, 600, &[]);
    let shown = project.json(&["consumer", "show", "subject"]);
    assert_eq!(shown["spec"]["shards"], json!({"by": "foreign-id", "count": 4}));
    assert_eq!(shown["spec"]["state"], "key", "two shards may not write to one state");
    assert_eq!(shown["shards"].as_array().unwrap().len(), 4);
    assert_eq!(shown["history"].as_array().unwrap().len(), 4);
    assert_eq!(host.terminate(), Some(0));
    // Another host goes on with each shard from its row.
    let _host = project.host();
    import(&project, "b.jsonl", appends(24));
    project.at_head("624");
    all_handled(&project, 624, &[]);
}

/// Edits the config while the host runs.
fn divide(project: &Project, host: &Host<'_>, count: u32) {
    project.write("tendon.toml", shards(count));
    host.line("divided subject anew");
}

#[test]
fn a_consumer_is_divided_anew_while_one_shard_is_blocked_and_others_run() {
    let project = Project::new(&shards(3));
    let host = project.host();
    // The event of id 14 is of key-1: its shard stands, and is far behind.
    let poison = |n: usize| if n == 13 { "fail".to_owned() } else { "append".to_owned() };
    import(&project, "a.jsonl", (0..240).map(poison));
    project.status("subject", "blocked");
    wait("two shards at the head", || {
        (statuses(&project).iter().filter(|status| *status == "running").count() == 2).then_some(())
    });
    import(&project, "b.jsonl", appends(240));
    for count in [5, 1, 4] {
        divide(&project, &host, count);
        let blocked = project.status("subject", "blocked");
        assert_eq!(blocked["reason"]["event"], "14", "{blocked}");
    }
    wait("all the others", || {
        (statuses(&project).iter().filter(|status| *status == "running").count() == 3).then_some(())
    });
    assert!(project.run(&["consumer", "skip", "subject", "14"]).status.success());
    import(&project, "c.jsonl", appends(24));
    project.at_head("504");
    all_handled(&project, 504, &[14]);
    let letters = project.json(&["dlq", "list", "subject"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    // What was set aside by a shard that is no more is handled by the one whose it is now.
    divide(&project, &host, 7);
    let redrive = project.json(&["dlq", "redrive", "subject", "14"]);
    assert_eq!(redrive["changed"], 1);
    wait("it to fail again", || {
        let letter = project.json(&["dlq", "show", "subject", "14"]);
        (letter["redrive_since"].is_null() && letter["attempts"] == 3).then_some(())
    });
    assert_eq!(host.terminate(), Some(0));
}

#[test]
fn a_pause_holds_for_all_shards_and_over_their_division() {
    let project = Project::new(&shards(2));
    let host = project.host();
    import(&project, "a.jsonl", appends(24));
    project.at_head("24");
    assert!(project.run(&["consumer", "pause", "subject", "--reason", "maintenance"]).status.success());
    assert_eq!(statuses(&project), ["paused", "paused"]);
    divide(&project, &host, 3);
    import(&project, "b.jsonl", appends(24));
    let paused = project.status("subject", "paused");
    assert_eq!((&paused["reason"]["message"], &paused["cursor"]), (&json!("maintenance"), &json!("24")));
    assert!(project.run(&["consumer", "resume", "subject"]).status.success());
    project.at_head("48");
    all_handled(&project, 48, &[]);
}

#[test]
fn shards_that_would_overwrite_each_other_s_state_are_refused() {
    for (shards, says) in [
        ("shards = { count = 2 }\nstate = \"consumer\"", "overwrite"),
        ("shards = { count = 2, by = \"type\" }\nstate = \"key\"", "overwrite"),
        ("shards = { count = 0 }", "expected 1 to 256"),
        ("shards = { count = 2, by = \"metadata:x\" }", "metadata:/customer/id"),
    ] {
        let project = Project::new(&config(shards));
        let checked = project.run(&["config", "check"]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert_eq!((checked.status.code(), said.contains(says)), (Some(2), true), "{shards}: {said}");
    }
}

#[test]
fn a_state_that_other_shards_cannot_take_over_stays_where_it_is() {
    let project = Project::new(&config(""));
    let host = project.host();
    import(&project, "a.jsonl", appends(24));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "24");
    project.write("tendon.toml", shards(2));
    let said = host.line("refused subject");
    assert!(said.contains("has a state by consumer"), "{said}");
    import(&project, "b.jsonl", appends(24));
    let subject = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "48");
    assert_eq!((&subject["shards"], &subject["status"]), (&json!(1), &json!("running")), "what ran runs on");
    drop(host);

    // By shard, as long as there is none, and not any more once there is one.
    let by_type = |count| config(&format!("shards = {{ count = {count}, by = \"type\" }}"));
    let project = Project::new(&by_type(3));
    let host = project.host();
    project.write("tendon.toml", by_type(2));
    host.line("divided subject anew: 3 → 2 shards");
    import(&project, "a.jsonl", appends(24));
    project.at_head("24");
    project.write("tendon.toml", by_type(3));
    assert!(host.line("refused subject").contains("has a state by shard"));
    let ids =
        |shard: &str| project.json(&["state", "get", "subject", "ids", "--of", shard, "--as", "text"])["value"].clone();
    let both = [ids("0"), ids("1")].map(|ids| ids.as_str().unwrap_or_default().split_whitespace().count());
    assert_eq!(both.iter().sum::<usize>(), 24, "{both:?}");
    let cleared = ["consumer", "reset", "subject", "--to", "latest", "--state", "clear", "--emits", "suppress"];
    assert!(project.run(&cleared).status.success());
    project.write("tendon.toml", by_type(4));
    host.line("divided subject anew: 2 → 4 shards");
    import(&project, "b.jsonl", appends(24));
    project.at_head("48");
    let whose = project.run(&["state", "get", "subject", "ids"]);
    assert_eq!(whose.status.code(), Some(2), "{whose:?}");
}

#[test]
fn a_state_by_key_may_become_another_once_it_is_cleared() {
    let by = |scope: &str| config(&format!("state = \"{scope}\""));
    let project = Project::new(&by("key"));
    let host = project.host();
    import(&project, "a.jsonl", appends(24));
    project.at_head("24");
    project.write("tendon.toml", by("consumer"));
    assert!(host.line("refused subject").contains("has a state by key"));
    let cleared = ["consumer", "reset", "subject", "--to", "latest", "--state", "clear", "--emits", "suppress"];
    assert!(project.run(&cleared).status.success());
    // What was refused is looked at again when the file changes.
    project.write("tendon.toml", by("consumer") + "\n");
    host.line("subject");
    import(&project, "b.jsonl", appends(3));
    project.at_head("27");
    assert_eq!(project.json(&["consumer", "show", "subject"])["spec"]["state"], "consumer");
    assert_eq!(project.ids(None), [25, 26, 27]);
}

/// While a producer appends, one shard is blocked, and one is far behind because its events take long.
#[test]
fn a_consumer_is_divided_anew_under_load_with_one_shard_blocked_and_one_far_behind() {
    let project = Project::new(&shards(3));
    let host = project.host();
    // Of the first 240 events that of id 14 fails, and key-2's take their time.
    let first = |n: usize| match (n, n % KEYS) {
        (13, _) => "fail".to_owned(),
        (_, 2) => "sleep 100".to_owned(),
        _ => "append".to_owned(),
    };
    import(&project, "first.jsonl", (0..240).map(first));
    let slow: Vec<usize> = (1..=240).filter(|id| (id - 1) % KEYS == 2).collect();
    project.status("subject", "blocked");
    let mut behind = 0;
    std::thread::scope(|threads| {
        let producer = threads.spawn(|| (0..15).for_each(|n| import(&project, &format!("{n}.jsonl"), appends(24))));
        for count in [5, 2, 6] {
            let shown = project.json(&["consumer", "show", "subject"])["shards"].clone();
            let is_behind = |shard: &&Value| shard["status"] == "running" && shard["lag_events"].as_u64() > Some(50);
            behind += shown.as_array().unwrap().iter().filter(is_behind).count();
            divide(&project, &host, count);
        }
        producer.join().unwrap();
    });
    assert!(behind > 0, "no shard was behind when others took over");
    let blocked = project.status("subject", "blocked");
    assert_eq!(blocked["reason"]["event"], "14", "{blocked}");
    assert!(project.run(&["consumer", "skip", "subject", "14"]).status.success());
    project.at_head("600");
    all_handled(&project, 600, &[&[14], &slow[..]].concat());
}
