//! How the keys that an event writes are counted.

use std::{collections::HashSet, sync::Arc};

use tendon::{
    backend::{Database, Options},
    clock::Clock,
    deployment::StateScope,
    error::Kind,
    limits::Limits,
    view::{View, ViewSpec},
};
use tendon_tests::place::{shard, stream};

#[tokio::test]
async fn a_key_that_is_written_again_counts_once() {
    let store = Database::open("memory:", Options::default()).await.unwrap().store();
    let mut view = View::new(ViewSpec {
        store,
        shard: shard("subject"),
        scope: StateScope::Consumer,
        stream: stream("events"),
        incarnation: (0, 0),
        granted: Arc::new(HashSet::new()),
        limits: Arc::new(Limits { state_keys: 3, ..Limits::default() }),
        clock: Clock::System,
        emitted: None,
    });
    let mut write = |key: &str| view.write(key, Some(b"x"));
    for key in ["a", "b", "c"] {
        for _ in 0..10 {
            write(key).unwrap();
        }
    }
    write("a").unwrap();
    let error = write("d").unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    assert_eq!(error.to_string(), "limits.state-keys: 4 keys written by one event, at most 3 are allowed");
    view.keep();
    view.write("d", None).unwrap();
}
