//! Consumers that begin at the end of a stream.

use tendon::{
    backend::{Database, Options, Order},
    event::Cursor,
    supervisor::Standing,
};
use tokio::time::sleep;

use super::{LONG, Stage, in_virtual_time, ok, spec};
use crate::{
    place::{append, commit, emit, stream},
    project::{Project, event, subject},
};

/// Appends to a project's stream while no host runs.
fn append_to(project: &Project, numbers: std::ops::Range<u64>) {
    let url = format!("sqlite://{}", project.path("test.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Database::open(&url, Options::default()).await.unwrap();
        database.create_stream(&stream("events"), Order::Native).await.unwrap();
        let mut emits: Vec<_> = numbers.map(|n| emit(&stream("events"), n)).collect();
        emits.iter_mut().for_each(|emit| emit.event.metadata = "append".into());
        commit(&*database.store(), append(emits)).await.unwrap();
        database.close().await;
    });
}

/// The rows of reflex's test, of a consumer that has no place yet, has had none twice, and has one. The second is where reflex
/// loses what comes between two runs of which the first handled nothing.
pub(super) fn latest_is_fixed() {
    let with = |start: &str| subject(&format!("start = \"{start}\""));
    for (start, is_called_at_once) in [("latest", true), ("latest", false), ("earliest", false)] {
        let project = Project::new(&with(start));
        append_to(&project, 0..2);
        let host = project.host();
        let first = project.at_head("2");
        let mut handled = if start == "latest" { Vec::new() } else { vec![1, 2] };
        assert_eq!(project.ids(None), handled, "{start}");
        if is_called_at_once {
            project.import("more.jsonl", [event("a", "append"), event("a", "append")]);
            project.at_head("4");
            handled.extend([3, 4]);
            assert_eq!(project.ids(None), handled);
        }
        assert_eq!(host.terminate(), Some(0));
        append_to(&project, 2..4);
        // Another deployment, whose file says the same or, of the last one, something that comes too late.
        project.write("tendon.toml", with("latest").replace("by-event\" }", "by-event\", x = \"y\" }"));
        let _host = project.host();
        let head = if is_called_at_once { 6 } else { 4 };
        let shown = project.at_head(&head.to_string());
        assert!(shown["epoch"].as_u64() > first["epoch"].as_u64(), "it was deployed once more");
        handled.extend(head - 1..=head);
        assert_eq!(project.ids(None), handled, "{start}");
    }
}

/// The last row: nothing is handled as long as nobody knows from where, and then everything from there.
pub(super) fn no_place_is_guessed() {
    in_virtual_time(async {
        let stage = Stage::new().await;
        stage.append_all(4).await;
        let begun = stage.run("c", tendon::deployment::Spec { start: Cursor("2".into()), ..spec() }, ok);
        sleep(LONG).await;
        assert_eq!(begun.called_with(), [3, 4]);
        begun.running.stop().await;
        stage.append_all(1).await;
        stage.database.failpoints().crash_at(0);
        let subject = stage.run("c", spec(), ok);
        sleep(LONG).await;
        assert!(subject.called_with().is_empty());
        let standing = subject.running.supervised.standing();
        assert!(matches!(standing, Standing::Stalled { .. }), "{standing:?}");
        stage.database.failpoints().disarm();
        sleep(LONG).await;
        assert_eq!(subject.called_with(), [5]);
    });
}
