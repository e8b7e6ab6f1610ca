//! The API over plain HTTP: who may use it, and what Prometheus finds there.

use serde_json::{Value, json};
use tendon_tests::project::{Host, Project, get};

const CONFIG: &str = r#"
    [host]
    listen = "127.0.0.1:0"
    [stream.events]
    [consumer.good]
    component = "guest.wasm"
    stream = "events"
    config = { behaviour = "counter" }
    filter = { types = [1] }
    [consumer.poor]
    component = "guest.wasm"
    stream = "events"
    config = { behaviour = "fail" }
    retry = { attempts = 2, base = "1ms" }
    [consumer.patient]
    component = "guest.wasm"
    stream = "events"
    config = { behaviour = "fail" }
    retry = { attempts = 2, base = "1h", cap = "1h", jitter = false }
"#;

#[test]
fn only_programs_of_this_machine_may_use_it() {
    let project = Project::new(CONFIG);
    let host = Host::start(&project, &["run"]);
    let api = host.address();
    let status = |headers: &str| get(&api, "/v1/consumers", headers).split(' ').nth(1).unwrap().to_owned();
    assert_eq!(status(&format!("Host: {api}\r\n")), "200");
    assert_eq!(status(&format!("Host: {api}\r\nOrigin: http://{api}\r\n")), "200");
    assert_eq!(status("Host: evil.example\r\n"), "403", "a name that was rebound to this address");
    assert_eq!(status(&format!("Host: {api}\r\nOrigin: http://evil.example\r\n")), "403", "another page in a browser");
    assert_eq!(status(&format!("Host: {api}\r\nOrigin: null\r\n")), "403");
    assert_eq!(get(&api, "/v1/nothing", &format!("Host: {api}\r\n")).split(' ').nth(1), Some("404"));
}

#[test]
fn prometheus_finds_every_consumer_also_one_that_is_stuck() {
    let project = Project::new(CONFIG);
    let host = Host::start(&project, &["run"]);
    let api = host.address();
    for _ in 0..3 {
        project.append("events", &json!({}));
    }
    let other = project.run(&["event", "append", "events", "--type", "2"]);
    assert!(other.status.success());
    project.consumer("good", "at the head", |consumer| consumer["cursor"] == "4");
    project.status("poor", "blocked");
    let patient = project.consumer("patient", "failed once", |consumer| consumer["attempts"] == 1);

    let metrics = || get(&api, "/metrics", &format!("Host: {api}\r\n"));
    let text = metrics();
    let value = |name: &str, labels: &str| {
        let of = |text: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels))?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        };
        of(&text).unwrap_or_else(|| panic!("no {name} with {labels} in:\n{text}"))
    };
    assert_eq!(value("tendon_consumer_events_total", r#"consumer="good""#), 3.0);
    assert_eq!(value("tendon_consumer_skipped_total", r#"consumer="good""#), 1.0);
    assert_eq!(value("tendon_consumer_retries_total", r#"consumer="poor""#), 1.0);
    assert_eq!(value("tendon_consumer_failures_total", r#"consumer="poor",kind="retry""#), 2.0);
    assert_eq!(value("tendon_consumer_stops_total", r#"consumer="poor",kind="blocked""#), 1.0);
    assert_eq!(value("tendon_consumer_standing", r#"consumer="poor",kind="blocked""#), 1.0);
    assert_eq!(value("tendon_consumer_lag_events", r#"consumer="good""#), 0.0);
    assert_eq!(value("tendon_consumer_lag_events", r#"consumer="poor""#), 4.0);
    assert!(value("tendon_consumer_memory_bytes", r#"consumer="good""#) > 65_536.0);
    for histogram in ["call_seconds", "commit_seconds", "batch_events"] {
        assert!(value(&format!("tendon_consumer_{histogram}_count"), r#"consumer="good""#) > 0.0);
    }

    assert_eq!(value("tendon_consumer_attempts", r#"consumer="good""#), 0.0);
    assert_eq!(value("tendon_consumer_attempts", r#"consumer="poor""#), 2.0);
    let moment = |of: &Value| of.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond() as f64 / 1e6;
    let reason = &patient["reason"];
    let retry = value("tendon_consumer_next_retry_timestamp_seconds", r#"consumer="patient""#);
    assert_eq!(retry, moment(&reason["retry_at"]));
    let since = value("tendon_consumer_reason_timestamp_seconds", r#"consumer="patient",kind="retry""#);
    assert_eq!(since, moment(&reason["since"]));
    assert!((3_600.0..3_610.0).contains(&(retry - since)), "{reason}");
    for (name, consumer) in [("next_retry", "good"), ("next_retry", "poor"), ("reason", "good")] {
        let line = format!("tendon_consumer_{name}_timestamp_seconds{{tenant=\"default\",consumer=\"{consumer}\"");
        assert!(!text.contains(&line), "{line} in:\n{text}");
    }
    project.json(&["consumer", "pause", "poor", "--reason", "later"]);
    let paused = metrics();
    let kinds: Vec<&str> = paused
        .lines()
        .filter(|line| line.starts_with("tendon_consumer_reason_timestamp_seconds{") && line.contains("poor"))
        .collect();
    assert!(matches!(kinds[..], [kind] if kind.contains("paused")), "{kinds:?}");

    let lag_seconds = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("tendon_consumer_lag_seconds{") && line.contains("poor"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let before = lag_seconds(&text);
    assert!(lag_seconds(&metrics()) > before, "it moves with the clock, though nothing arrives");
}
