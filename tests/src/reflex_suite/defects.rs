//! What reflex gets wrong, each shown with the opposite outcome. The numbers are those of a list of its defects; what is about
//! streams of SQL servers is shown where those are: 38 to 41, 43, 45 and 49 in `foreign.rs`, `gaps.rs` and the conformance suites.

use std::fs;

use crate::{
    guests::Guest,
    project::{Project, event, subject},
};
use serde_json::Value;

fn project(consumer: &str) -> Project {
    Project::new(&subject(consumer))
}

fn letters(project: &Project) -> Vec<Value> {
    let letters = project.json(&["dlq", "list", "subject"]);
    letters.as_array().unwrap().iter().map(|letter| letter["event"]["id"].clone()).collect()
}

/// 37: there the letter is not recorded, and the consumer stuck for ever.
pub(super) fn never_tried_again() {
    let project = project("retry = { attempts = 1, on-exhausted = \"dead-letter\" }");
    let _host = project.host();
    let text = |n: usize| if n == 6 { "fail" } else { "append" };
    project.import("events.jsonl", (0..9).map(|n| event("a", text(n))));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "9");
    assert_eq!(letters(&project), ["7"]);
    assert_eq!(project.json(&["dlq", "show", "subject", "7"])["attempts"], 1);
}

/// 44: there the cursor stays where it was.
pub(super) fn filtered_batches() {
    let project = project("filter = { types = [2] }");
    fs::write(project.path("guest.wasm"), Guest::Batch.component().unwrap()).unwrap();
    let host = project.host();
    project.import("events.jsonl", (0..10).map(|_| event("a", "fail")));
    project
        .consumer("subject", "at the head", |consumer| consumer["cursor"] == "10" && consumer["status"] == "running");
    assert_eq!(host.terminate(), Some(0));
    let _host = project.host();
    project
        .consumer("subject", "still there", |consumer| consumer["cursor"] == "10" && consumer["status"] == "running");
}

/// 46: there half of what was handled side by side is handled twice after a stop. Stopped in order, or killed.
pub(super) fn once_over_stops_and_kills() {
    const KEYS: usize = 40;
    const EVENTS: usize = 24_000;
    let project = project("shards = { count = 8 }");
    let mut host = project.host();
    project.import("events.jsonl", (0..EVENTS).map(|n| event(&format!("key-{}", n % KEYS), "append")));
    let mut open = 0;
    for stop in 0..4 {
        let subject = project.consumer("subject", "there", |consumer| consumer["lag_events"].is_u64());
        open += usize::from(subject["lag_events"] != 0);
        match stop % 2 {
            0 => assert_eq!(host.terminate(), Some(0)),
            _ => host.kill(),
        }
        host = project.host();
    }
    assert!(open > 0, "nothing was interrupted");
    project.consumer("subject", "at the head", |consumer| consumer["lag_events"] == 0);
    for key in 0..KEYS {
        let of = format!("key-{key}");
        let ids = project.json(&["state", "get", "subject", "ids", "--of", &of, "--as", "text"])["value"].clone();
        let ids: Vec<usize> = ids.as_str().unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, (1..=EVENTS).filter(|id| (id - 1) % KEYS == key).collect::<Vec<_>>(), "{of}");
    }
}

/// 50: there the cursor passes an event whose handling was cancelled. 47: there nobody is told to stop.
pub(super) fn cut_off() {
    for policy in ["dead-letter", "skip", "block"] {
        let project = project(&format!("retry = {{ attempts = 1, on-exhausted = \"{policy}\" }}"));
        let host = project.host();
        project.import("first.jsonl", [event("a", "append")]);
        project.consumer("subject", "behind the first one", |consumer| consumer["cursor"] == "1");
        project.import("next.jsonl", [event("a", "sleep 3000"), event("a", "append")]);
        project.consumer("subject", "at the one that takes long", |consumer| consumer["lag_events"] == 2);
        host.kill();
        let host = project.host();
        let subject = project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "3");
        assert_eq!(subject["attempts"], 0, "{policy}: a shutdown is no failure");
        assert_eq!(letters(&project), Vec::<Value>::new(), "{policy}");
        let ids = project.json(&["state", "get", "subject", "ids", "--as", "text"])["value"].clone();
        assert_eq!(ids, "1 3 ");
        assert_eq!(host.terminate(), Some(0), "{policy}: it is told to stop, and does");
    }
}
