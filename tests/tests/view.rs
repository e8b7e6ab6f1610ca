//! A handler's view across commits: whatever its cache has forgotten, what it reads is what was written last.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use tendon::{
    backend::{Database, Options},
    changes::Changes,
    clock::Clock,
    deployment::StateScope,
    limits::Limits,
    store::{Commit, Store},
    view::{View, ViewSpec},
};
use tendon_tests::place::{commit, consumer, shard, stream};

/// More than one generation of the cache holds, in a few writes.
const VALUE_BYTES: usize = 900 * 1024;

fn view(store: &Arc<dyn Store>) -> View {
    View::new(spec(store))
}

fn spec(store: &Arc<dyn Store>) -> ViewSpec {
    ViewSpec {
        store: store.clone(),
        shard: shard("c"),
        scope: StateScope::Consumer,
        stream: stream("events"),
        incarnation: (0, 0),
        granted: Arc::new(HashSet::new()),
        limits: Arc::new(Limits::default()),
        clock: Clock::System,
        emitted: None,
    }
}

async fn write(store: &dyn Store, view: &mut View, key: &str, value: &[u8]) {
    view.write(key, Some(value)).unwrap();
    view.keep();
    commit(store, Commit { changes: view.take(), ..Commit::default() }).await.unwrap();
    view.committed();
}

#[tokio::test]
async fn a_key_that_the_cache_has_forgotten_is_read_from_the_store() {
    let store = Database::open("memory:", Options::default()).await.unwrap().store();
    let mut view = view(&store);
    assert_eq!(view.get("first").await.unwrap(), None, "the state is empty, and the view learns so");
    write(&*store, &mut view, "first", b"kept").await;
    for n in 0..20 {
        write(&*store, &mut view, &format!("filling-{n}"), &[0; VALUE_BYTES]).await;
    }
    assert_eq!(view.get("first").await.unwrap().as_deref(), Some(&b"kept"[..]));
    assert_eq!(view.get_many(&["first".into(), "never".into()]).await.unwrap()[1], None);
}

#[tokio::test]
async fn a_write_is_read_and_scanned_before_it_is_committed_and_over_what_is_stored() {
    let store = Database::open("memory:", Options::default()).await.unwrap().store();
    let mut first = view(&store);
    for key in ["a", "b", "d"] {
        write(&*store, &mut first, key, b"old").await;
    }
    let mut view = view(&store);
    view.write("b", None).unwrap();
    view.write("c", Some(b"new")).unwrap();
    assert_eq!(view.get("b").await.unwrap(), None);
    let keys = |found: Vec<(_, Bytes)>| {
        found.iter().map(|(key, _): &(tendon::store::Key, _)| key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(keys(view.scan("", None, 10).await.unwrap()), ["a", "c", "d"]);
    assert_eq!(keys(view.scan("", None, 2).await.unwrap()), ["a", "c"]);
    assert_eq!(keys(view.scan("", Some("a"), 1).await.unwrap()), ["c"]);
}

#[tokio::test]
async fn a_view_that_takes_over_knows_what_was_written_and_is_not_in_the_store_yet() {
    let store = Database::open("memory:", Options::default()).await.unwrap().store();
    let mut old = view(&store);
    assert_eq!(old.get("b").await.unwrap(), None);
    old.write("a", Some(b"1")).unwrap();
    old.keep();
    assert!(!old.is_clean(), "its write is in no commit yet");
    let in_flight: Changes = old.take();
    assert!(old.is_clean());
    assert_eq!(in_flight.consumer, Some(consumer("c")));
    let mut new = old.renewed(spec(&store));
    assert_eq!(new.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(new.get("b").await.unwrap(), None);
    assert!(new.take().is_empty());
}
