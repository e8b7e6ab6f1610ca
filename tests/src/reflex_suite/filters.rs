//! Consumers that are called with some of the events.

use std::path::Path;

use tendon::{
    config::{self, Components},
    deployment::Spec,
    event::Cursor,
    filter::Filter,
    policy::{OnExhausted, RetryPolicy},
    store::Status,
};
use tokio::time::sleep;

use super::{LONG, NOW, Stage, in_virtual_time, ok, spec};

/// An expression that has no answer for the first event, and would have none for the third, of which it is not asked.
const JUDGES: &str = r#"filter = { types = [1, 2], where = "metadata.n > 0" }"#;

/// A filter as somebody writes it.
fn written(line: &str) -> Filter {
    let text = format!("[stream.in]\n[consumer.c]\ncomponent = \"c.wasm\"\nstream = \"in\"\n{line}\n");
    let config = config::parse(&text, Path::new("tendon.toml"), Components::MayBeMissing, &|_| None).unwrap();
    config.consumers.into_values().next().unwrap().filter
}

/// A stage with an event of each of three types.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    for (r#type, metadata) in [(1, "{}"), (2, r#"{"n":1}"#), (3, "no JSON")] {
        stage.append(r#type, NOW, metadata).await;
    }
    stage
}

fn filtering(line: &str, on_exhausted: OnExhausted) -> Spec {
    Spec { filter: written(line), retry: RetryPolicy { on_exhausted, ..RetryPolicy::default() }, ..spec() }
}

/// The seven rows of reflex's test, and one with types that no event has. Whatever is left out, the cursor is at the end.
pub(super) fn what_is_left_out() {
    let rows: [(&str, &[u64], u64, usize); 8] = [
        ("", &[1, 2, 3], 0, 0),
        ("filter = { types = [] }", &[1, 2, 3], 0, 0),
        ("filter = {}", &[1, 2, 3], 0, 0),
        ("filter = { types = [1, 2] }", &[1, 2], 1, 0),
        (r#"filter = { where = "id == '1' || id == '2'" }"#, &[1, 2], 1, 0),
        (r#"filter = { types = [1, 2], where = "id == '1'" }"#, &[1], 2, 0),
        (JUDGES, &[2], 1, 1),
        ("filter = { types = [7] }", &[], 3, 0),
    ];
    for (line, called_with, skipped, failed) in rows {
        in_virtual_time(async {
            let stage = stage().await;
            let subject = stage.run("c", filtering(line, OnExhausted::Skip), ok);
            sleep(LONG).await;
            assert_eq!(subject.called_with(), called_with, "{line}");
            assert_eq!(subject.running.metrics.skipped.get(), skipped, "{line}: what is handled does not count");
            assert_eq!(subject.running.handled(), called_with.len() as u64, "{line}");
            let letters = stage.letters("c").await;
            assert_eq!(letters.len(), failed, "{line}");
            assert!(
                letters
                    .iter()
                    .all(|letter| *letter.event.id.0 == *"1" && letter.reason.message.starts_with("filter: "))
            );
            let row = stage.row("c").await;
            assert_eq!((row.cursor, row.status), (Cursor("3".into()), Status::Running), "{line}");
        });
    }
}

/// The last of those rows, where nobody said that such an event may be passed.
pub(super) fn what_cannot_be_judged() {
    in_virtual_time(async {
        let stage = stage().await;
        let subject = stage.run("c", filtering(JUDGES, OnExhausted::Block), ok);
        sleep(LONG).await;
        assert!(subject.called_with().is_empty());
        let row = stage.row("c").await;
        assert_eq!((row.cursor, row.status, row.attempts), (Cursor::START, Status::Blocked, 1));
        let reason = row.reason.unwrap();
        assert_eq!((reason.code.as_str(), reason.event.unwrap().to_string().as_str()), ("filter", "1"));
        assert_eq!((subject.running.metrics.skipped.get(), stage.letters("c").await.len()), (0, 0));
    });
}
