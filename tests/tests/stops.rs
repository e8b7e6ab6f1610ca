//! The three ways to stand still, and how a consumer gets out of them, with the real binary.

use serde_json::json;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tendon::event::Timestamp;
use tendon_tests::project::Project;

const CONFIG: &str = r#"
    [host]
    listen = "127.0.0.1:0"
    [store.main]
    url = "sqlite://test.db"
    [stream.events]
    [consumer.subject]
    component = "guest.wasm"
    stream = "events"
    config = { behaviour = "fail" }
    retry = { attempts = 5, base = "1h", cap = "1h" }
"#;

#[test]
fn an_operator_reaches_a_consumer_that_waits_for_its_next_attempt() {
    let project = Project::new(CONFIG);
    let _host = project.host();
    project.append("events", &json!({}));
    let failed = project.consumer("subject", "failed once", |consumer| consumer["attempts"] == 1);
    let (since, at) = (&failed["reason"]["since"], &failed["reason"]["retry_at"]);
    let moment = |value: &serde_json::Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    let wait = moment(at).since(moment(since)).as_secs();
    assert!((1_800..=3_601).contains(&wait), "half an hour at least: {failed}");
    project.json(&["consumer", "pause", "subject"]);
    project.status("subject", "paused");
    assert_eq!(project.json(&["consumer", "resume", "subject"])["summary"]["attempts"], 0);
    let again = project.consumer("subject", "failed again, long before the hour is over", |c| c["attempts"] == 1);
    assert_eq!((&again["status"], &again["reason"]["code"]), (&json!("running"), &json!("retry")));
}

#[test]
fn a_filter_that_has_no_answer_for_an_event_blocks_until_another_one_has() {
    let with = |filter: &str| CONFIG.replace("\"fail\"", "\"counter\"") + "[consumer.subject.filter]\n" + filter;
    let project = Project::new(&with("where = 'metadata.n >= 2'"));
    let host = project.host();
    for n in [1, 2, 3] {
        project.append("events", &json!({ "n": n }));
    }
    project.append("events", &json!({}));
    let blocked = project.status("subject", "blocked");
    assert_eq!((&blocked["cursor"], &blocked["attempts"]), (&json!("3"), &json!(1)));
    assert_eq!((&blocked["reason"]["code"], &blocked["reason"]["event"]), (&json!("filter"), &json!("4")));
    let says = blocked["reason"]["message"].as_str().unwrap();
    assert!(says.contains("has(metadata.x)"), "{says}");
    let count = || project.json(&["state", "get", "subject", "a"])["value"].clone();
    assert_eq!(count(), 2, "what was left out never came to the guest");

    project.write("tendon.toml", with("where = 'has(metadata.n) && metadata.n >= 2'\nforeign-ids = ['a']"));
    host.line("changed subject");
    project.consumer("subject", "past it", |consumer| consumer["cursor"] == "4" && consumer["status"] == "running");
    project.append("events", &json!({ "n": 4 }));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "5");
    assert_eq!(count(), 3);

    project.write("tendon.toml", with("foreign-ids = ['b']"));
    host.line("changed subject");
    project.append("events", &json!({ "n": 5 }));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "6");
    assert_eq!(count(), 3, "it is about another one");
}

#[tokio::test]
async fn a_consumer_whose_store_fails_is_stalled_and_runs_again_by_itself() {
    let project = Project::new(&CONFIG.replace("\"fail\"", "\"counter\""));
    let _host = project.host();
    project.append("events", &json!({}));
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "1");
    let options = SqliteConnectOptions::new().filename(project.path("test.db"));
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("ALTER TABLE state_log RENAME TO elsewhere").execute(&mut other).await.unwrap();
    project.append("events", &json!({}));
    let stalled = project.status("subject", "stalled");
    assert_eq!((&stalled["attempts"], &stalled["cursor"]), (&json!(0), &json!("1")), "no attempt is counted");
    sqlx::query("ALTER TABLE elsewhere RENAME TO state_log").execute(&mut other).await.unwrap();
    project.consumer("subject", "at the head", |consumer| consumer["cursor"] == "2");
    project.status("subject", "running");
    assert_eq!(project.json(&["state", "get", "subject", "a"])["value"], 2);
}

#[test]
fn an_event_waits_for_its_next_attempt_over_a_restart_and_is_forgotten_once_a_filter_leaves_it_out() {
    let other =
        "[consumer.other]\ncomponent = \"guest.wasm\"\nstream = \"events\"\nconfig = { behaviour = \"counter\" }\n";
    let project = Project::new(&(CONFIG.to_owned() + other));
    let host = project.host();
    project.append("events", &json!({}));
    let failed = project.consumer("subject", "failed once", |consumer| consumer["attempts"] == 1);
    host.kill();
    let host = project.host();
    project.append("events", &json!({}));
    project.consumer("other", "at the head", |consumer| consumer["cursor"] == "2");
    let waits = project.status("subject", "running");
    assert_eq!(
        (&waits["attempts"], &waits["reason"]),
        (&failed["attempts"], &failed["reason"]),
        "it was not called again"
    );

    let without = CONFIG.replace("stream = \"events\"", "stream = \"events\"\n    filter = { types = [9] }");
    project.write("tendon.toml", without + other);
    host.line("changed subject");
    let passed = project.consumer("subject", "past it", |consumer| consumer["cursor"] == "2");
    assert_eq!((&passed["attempts"], &passed["reason"]), (&json!(0), &serde_json::Value::Null));
}

#[test]
fn a_test_of_a_component_asks_its_filter_too() {
    let config = CONFIG.replace("\"fail\"", "\"counter\"") + "[consumer.subject.filter]\nwhere = 'metadata.n >= 2'\n";
    let project = Project::new(&config);
    let event = |metadata: &str| format!("{{\"type\":1,\"foreign_id\":\"a\",\"metadata\":{metadata}}}");
    let [one, two, none] = ["{\"n\":1}", "{\"n\":2}", "{}"].map(event);
    let effects = project.json(&["test", "--event", &one, "--event", &two]);
    assert_eq!(effects[0], json!({"event": "1", "skipped": true, "state": {}, "emitted": []}));
    assert_eq!(effects[1]["state"], json!({"a": 1}));
    let failing = project.run(&["test", "--event", &none]);
    assert_eq!(failing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failing.stdout).contains("event 1: filter:"), "{failing:?}");
}
