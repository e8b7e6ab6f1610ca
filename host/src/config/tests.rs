use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use super::*;
use crate::backend::foreign::ForeignTable;

const FILE: &str = "/somewhere/tendon.toml";

fn parsed(text: &str) -> Result<Config, ConfigErrors> {
    parse(text, Path::new(FILE), Components::MayBeMissing, &|_| None)
}

/// Codes, places and suggestions, in the order of the file.
fn problems(text: &str) -> Vec<(String, usize, String)> {
    let errors = parsed(text).expect_err("the config was taken");
    let of = |problem: Problem| {
        (problem.code.into_owned(), problem.line.unwrap_or(0), problem.suggestion.unwrap_or_default())
    };
    errors.0.into_iter().map(of).collect()
}

fn only(text: &str) -> Problem {
    let mut errors = parsed(text).expect_err("the config was taken").0;
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

const GOOD: &str = r#"
[stream.orders]
[stream.invoices]
[consumer.billing]
component = "billing.wasm"
stream = "orders"
"#;

#[test]
fn an_empty_file_has_a_store_and_a_loopback_address() {
    let config = parsed("").unwrap();
    assert_eq!(config.host.listen.to_string(), "127.0.0.1:7070");
    let store = config.stores.values().next().unwrap();
    assert_eq!(store.url, resolved::StoreUrl::Sqlite("/somewhere/tendon.db".into()));
}

#[test]
fn a_short_consumer_has_the_core_s_defaults() {
    let config = parsed(GOOD).unwrap();
    let consumer = config.consumers.values().next().unwrap();
    assert_eq!(consumer.id.to_string(), "default/billing");
    assert_eq!(consumer.component, Path::new("/somewhere/billing.wasm"));
    assert_eq!(consumer.limits, crate::limits::Limits::default());
    assert_eq!(consumer.batch, crate::batch::BatchPolicy::default());
    assert_eq!(consumer.retry, crate::policy::RetryPolicy::default());
    assert_eq!(consumer.spec(crate::event::Cursor::START).stream.to_string(), "default/orders");
}

#[test]
fn the_sample_is_read_and_says_nothing_but_defaults() {
    let mut sample = parsed(SAMPLE).unwrap();
    assert_eq!(sample.host.code_cache.take(), Some("/somewhere/code-cache".into()));
    let kept: Vec<_> = sample.streams.values_mut().filter_map(|stream| stream.retain.take()).collect();
    assert_eq!(kept, [std::time::Duration::from_secs(30 * 24 * 60 * 60)]);
    let consumer = sample.consumers.values_mut().next().unwrap();
    assert_eq!(consumer.filter.types, [1, 2]);
    assert_eq!(consumer.filter.foreign_ids, ["order-1", "order-2"]);
    assert!(consumer.filter.r#where.is_some());
    assert_eq!(consumer.grants_emit.len(), 1);
    (consumer.filter, consumer.grants_emit, consumer.config) = Default::default();
    let mut short = parsed(GOOD).unwrap();
    short.streams.values_mut().find(|stream| stream.id.name.as_str() == "orders").unwrap().sample =
        Some("/somewhere/events.jsonl".into());
    assert_eq!(sample, short);
}

/// The sample with the lines that only a server takes.
fn sample_of_a_server() -> String {
    let live = SAMPLE.replace("sqlite://tendon.db", "mysql://root@localhost/shop");
    let line =
        |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n";
    live.lines().map(line).collect()
}

#[test]
fn the_sample_for_a_server_says_nothing_but_defaults_besides_names() {
    let mut whole = parsed(&sample_of_a_server()).unwrap();
    let stream = whole.streams.values_mut().find(|stream| stream.id.name.as_str() == "orders").unwrap();
    let mut usual = ForeignTable::named("order_events".parse().unwrap());
    usual.schema = Some("shop".parse().unwrap());
    usual.metadata = Some("metadata".parse().unwrap());
    usual.trace = Some("trace".parse().unwrap());
    usual.sequence = Some("order_events_id_seq".parse().unwrap());
    assert_eq!(stream.table.take(), Some(usual));
    let billing = whole.consumers.values_mut().next().unwrap();
    assert_eq!(billing.state.take(), Some(billing.state()));
    let legacy = billing.legacy_cursor.take().unwrap();
    assert_eq!((legacy.name.as_str(), legacy.mirror), ("billing", false));
    let mut sample = parsed(SAMPLE).unwrap();
    sample.stores = whole.stores.clone();
    assert_eq!(whole, sample);
}

#[test]
fn the_sample_names_every_key_of_the_schema() {
    let sample = sample_of_a_server();
    let mut keys = BTreeSet::new();
    leaves(&schema(), &mut keys);
    assert!(keys.len() >= 45, "{keys:?}");
    for key in keys {
        let named = |line: &str| line.starts_with(&format!("{key} = ")) || line.contains(&format!("{{ {key} = "));
        assert!(sample.lines().any(named), "the sample does not name {key}");
    }
}

fn leaves(schema: &Value, keys: &mut BTreeSet<String>) {
    if let Some(any) = schema.get("additionalProperties").filter(|any| any.get("properties").is_some()) {
        leaves(any, keys);
    }
    for (key, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        match inner.get("properties").or(inner.get("additionalProperties").filter(|any| any.is_object())) {
            Some(_) => leaves(inner, keys),
            None => _ = keys.insert(key.clone()),
        }
    }
}

#[test]
fn what_is_shown_is_read_again_as_the_same() {
    for text in ["", GOOD, SAMPLE, &sample_of_a_server()] {
        let config = parsed(text).unwrap();
        let shown = shown::to_toml(&config).unwrap();
        assert_eq!(parsed(&shown).unwrap(), config, "{shown}");
        assert!(text.is_empty() || shown.contains("host-calls = 10000"), "{shown}");
    }
}

#[test]
fn an_unknown_key_has_its_line_and_a_suggestion() {
    let problem = only(&GOOD.replace("stream = ", "retires = 3\nstream = "));
    assert_eq!(problem.code, "config.unknown-key");
    assert_eq!(problem.path.as_deref(), Some("consumer.billing.retires"));
    assert_eq!((problem.line, problem.column), (Some(6), Some(1)));
    assert_eq!(
        problem.to_string(),
        "error[config.unknown-key]: unknown key `retires`\n  --> /somewhere/tendon.toml:6:1\nhelp: did you mean `retry`?"
    );
}

#[test]
fn as_many_mistakes_as_there_are_are_reported_at_once() {
    let text = r#"
[host]
listen = "0.0.0.0:80"
[stream.orders]
stor = "main"
[consumer.billing]
stream = "order"
limits = { memory = "64MB", cpu = 5, emits = -1 }
retry = { on_exhausted = "block", factor = 0.5, cap = "${CAP}" }
state = "keys"
shards = { count = 257, by = "name" }
start = "later"
grants = { emit = ["nowhere", 5] }
"#;
    let found: Vec<(String, usize)> = problems(text).into_iter().map(|(code, line, _)| (code, line)).collect();
    let expected = [
        ("config.not-loopback", 3),
        ("config.unknown-key", 5),
        ("config.missing-key", 6),
        ("config.unknown-stream", 7),
        ("config.bad-value", 8),
        ("config.wrong-type", 8),
        ("config.bad-value", 8),
        ("config.unknown-key", 9),
        ("config.bad-value", 9),
        ("config.missing-variable", 9),
        ("config.bad-value", 10),
        ("config.bad-value", 11),
        ("config.bad-value", 11),
        ("config.bad-value", 12),
        ("config.unknown-stream", 13),
        ("config.wrong-type", 13),
    ];
    assert_eq!(found, expected.map(|(code, line)| (code.to_owned(), line)));
}

#[test]
fn a_filter_that_cannot_be_asked_is_a_problem_with_its_line() {
    let with = |filter: &str| format!("{GOOD}\n[consumer.billing.filter]\n{filter}\n");
    assert!(parsed(&with("foreign-ids = ['b', 'a', 'b']\nwhere = 'type == 1'")).is_ok());
    let lines = with("").lines().count();
    for (filter, what, help) in [
        ("where = 'metadata.mag >'", "`where`: it is no expression", "write it like this"),
        ("where = 'mag > 1'", "`where`: an event has no `mag`", "it has id, type, foreign_id"),
        ("where = 'metadata.tags.all(t, t > 1)'", "only compares", "in metadata.tags"),
        ("types = [3000000000]", "3000000000", ""),
    ] {
        let problem = only(&with(filter));
        assert!(problem.message.contains(what), "{filter}: {problem:?}");
        assert!(problem.suggestion.as_deref().unwrap_or_default().contains(help), "{filter}: {problem:?}");
        assert_eq!(problem.line, Some(lines), "{filter}: {problem:?}");
    }
    let long = format!("foreign-ids = ['{}']", "x".repeat(300));
    assert!(only(&with(&long)).message.contains("300 bytes"), "{long}");
}

#[test]
fn two_consumers_of_one_name_are_named() {
    let problem = only(&format!("{GOOD}[consumer.billing]\nstream = \"orders\"\n"));
    assert_eq!(problem.code, "config.duplicate");
    assert_eq!(problem.message, "two consumers are called `billing`");
    assert_eq!((problem.line, problem.path.as_deref()), (Some(7), Some("consumer.billing")));
}

#[test]
fn streams_and_stores_must_be_declared_and_one_store_covers_a_commit() {
    let stores = "[store.a]\nurl = \"sqlite://a.db\"\n[store.b]\nurl = \"sqlite://b.db\"\n";
    let text = format!(
        "{stores}[stream.orders]\nstore = \"a\"\n[stream.invoices]\nstore = \"b\"\n[consumer.x]\ncomponent = \"x\"\n\
         stream = \"orders\"\ngrants = {{ emit = [\"invoices\"] }}\n"
    );
    let problem = only(&text);
    assert_eq!((&*problem.code, problem.line), ("config.other-store", Some(12)));
    let problem = only(&text.replace("store = \"b\"", "store = \"bb\""));
    assert_eq!((&*problem.code, problem.suggestion.as_deref()), ("config.unknown-store", Some("did you mean `b`?")));
    let problem = only(&format!("{stores}[stream.orders]"));
    assert_eq!((&*problem.code, problem.line), ("config.missing-key", Some(5)));
}

#[test]
fn a_consumer_reads_and_writes_streams_of_its_own_tenant() {
    let problem = only(&GOOD.replace("component", "tenant = \"acme\"\ncomponent"));
    assert_eq!((&*problem.code, problem.line), ("config.other-tenant", Some(7)));
}

#[test]
fn a_missing_component_is_a_problem_only_where_it_must_be_there() {
    let errors = parse(GOOD, Path::new(FILE), Components::MustExist, &|_| None).unwrap_err();
    assert_eq!(errors.0[0].code, "config.missing-component");
    assert_eq!(errors.0[0].line, Some(5));
}

#[test]
fn a_store_is_a_sqlite_file_or_a_database_on_a_server() {
    assert_eq!(only("[store.main]\nurl = \"memory://\"").code, "config.unsupported");
    for url in ["", "tendon.db", "sqlite://", "sqlite://a?mode=ro", "postgres://x", "postgres:///x", "mysql://"] {
        assert_eq!(only(&format!("[store.main]\nurl = {url:?}")).code, "config.bad-value");
    }
    let config = parsed("[store.main]\nurl = \"postgres://me:secret@db.example/orders\"").unwrap();
    let store = config.stores.values().next().unwrap();
    let resolved::StoreUrl::Server(url) = &store.url else { panic!("{:?}", store.url) };
    assert_eq!((url.address(), url.0.password()), ("db.example:5432".to_owned(), Some("secret")));
    assert!(!format!("{config:?}{}", shown::to_toml(&config).unwrap()).contains("secret"));
}

#[test]
fn tables_of_others_and_cursors_of_reflex_are_on_servers() {
    let on = |url: &str, more: &str| format!("[store.main]\nurl = {url:?}\n{GOOD}{more}");
    let (mysql, postgres) = ("mysql://u@h/d", "postgres://u@h/d");
    let (table, cursor) =
        ("[stream.orders.table]\nname = \"t\"\n", "[consumer.billing.legacy-cursor]\ntable = \"c\"\n");
    parsed(&on(postgres, table)).unwrap();
    parsed(&on(mysql, &format!("{table}{cursor}"))).unwrap();

    let problem = only(&on("sqlite://a.db", table));
    assert_eq!((&*problem.code, problem.line), ("config.unsupported", Some(9)));
    let problem = only(&on(postgres, &format!("{table}{cursor}")));
    assert_eq!((&*problem.code, problem.line), ("config.unsupported", Some(11)));
    let problem = only(&on(mysql, cursor));
    assert_eq!(problem.suggestion.as_deref(), Some("say with [stream.orders.table] which table reflex reads"));
    let problem = only(&on(mysql, &table.replace("\"t\"", "\"a`b\"")));
    assert_eq!((&*problem.code, problem.line), ("config.bad-value", Some(10)));
    let problem =
        only(&on(mysql, "[stream.orders.table]\nforeign_id = \"t\"\n").replace("t\"\n", "t\"\nname = \"t\"\n"));
    assert_eq!(problem.suggestion.as_deref(), Some("did you mean `foreign-id`?"));
}

#[test]
fn names_are_checked_where_they_are_keys() {
    let problem = only("[stream.My_Orders]");
    assert_eq!(
        (&*problem.code, problem.suggestion.as_deref()),
        ("config.bad-value", Some("did you mean `my-orders`?"))
    );
    assert_eq!(only("[stream.\"\"]").suggestion.as_deref(), Some("did you mean `a-name`?"));
}

#[test]
fn an_equal_consumer_is_equal_and_a_changed_one_is_not() {
    let before = parsed(GOOD).unwrap();
    let after =
        parsed(&format!("# a comment\n{GOOD}batch = {{ max = 1 }}\n[consumer.b]\ncomponent=\"b\"\nstream=\"orders\""));
    let after = after.unwrap();
    let billing = |config: &Config| config.consumers.get(&"billing".parse().unwrap()).unwrap().clone();
    assert_ne!(billing(&before), billing(&after));
    assert_eq!(billing(&before), billing(&parsed(&format!("\n{GOOD}\n\n[stream.c]")).unwrap()));
}

#[test]
fn a_mutated_file_is_an_error_with_a_place_and_never_a_panic() {
    let mut random = fastrand::Rng::with_seed(41);
    let pool: Vec<char> = "[]{}=.\"'#$-+@\\ \n\t0a:é\u{0}\u{1f600}".chars().collect();
    for _ in 0..3_000 {
        let mut text: Vec<char> = sample_of_a_server().chars().collect();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..text.len().max(1));
            if text.len() < 2 {
                break;
            }
            match random.u8(..4) {
                0 => _ = text.remove(at),
                1 => text.insert(at, pool[random.usize(..pool.len())]),
                2 => text[at] = pool[random.usize(..pool.len())],
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parsed(&text) {
            assert!(!errors.0.is_empty());
            assert!(errors.0.iter().all(|problem| problem.line.is_some()), "{errors}");
        }
    }
}

/// A host knows which state a consumer has that its file leaves open: the file that it read is no other one for that.
#[test]
fn a_state_that_is_left_open_is_no_change() {
    let file = || parsed(&format!("{GOOD}\n[consumer.billing.shards]\ncount = 2\n")).unwrap();
    let mut running = file();
    let billing = running.consumers.values_mut().next().unwrap();
    billing.settle(&billing.spec(crate::event::Cursor::START));
    assert_ne!(file(), running);
    let mut again = file();
    again.keep_states(&running);
    assert_eq!(again, running);
    // One that no longer fits is left open again.
    let mut other = parsed(&format!("{GOOD}\n[consumer.billing.shards]\ncount = 2\nby = \"type\"\n")).unwrap();
    other.keep_states(&running);
    assert_eq!(other.consumers.values().next().unwrap().state, None);
}
