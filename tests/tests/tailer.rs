//! One reader for all consumers of a stream, and those who fall off its ring.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tendon::{
    backend::{CHUNK_EVENTS_MAX, Database, Options, Order},
    event::{Cursor, Event},
    source::Source,
    store::Commit,
    tailer::{LONE_READERS_MAX, RING_CHUNKS_MAX, Subscription, Tailer},
};
use tendon_tests::{
    place::{append, emit, stream},
    proof::Counting,
};
use tokio::time::timeout;

/// Twice as many chunks as a ring holds.
const EVENTS: u64 = 2 * CHUNK * RING_CHUNKS_MAX as u64;
const CHUNK: u64 = CHUNK_EVENTS_MAX as u64;

async fn filled() -> (Database, std::sync::Arc<dyn Source>) {
    let database = Database::open("memory:", Options::default()).await.unwrap();
    database.create_stream(&stream("in"), Order::Native).await.unwrap();
    let all: Commit = append((0..EVENTS).map(|n| emit(&stream("in"), n)).collect());
    database.store().commit(&[all]).await.remove(0).unwrap();
    let source = database.source(&stream("in")).await.unwrap();
    (database, source)
}

/// Reads so many events, each of which must be the next one.
async fn read(subscription: &mut Subscription, from: u64, events: u64) {
    let mut next = from + 1;
    while next <= from + events {
        let piece = timeout(Duration::from_secs(60), subscription.next()).await.expect("nothing comes").unwrap();
        for Event { id, .. } in piece.events() {
            assert_eq!(id.to_string(), next.to_string());
            next += 1;
        }
    }
}

#[tokio::test]
async fn everybody_sees_every_event_in_order_wherever_they_begin() {
    let (_database, source) = filled().await;
    let tailer = Tailer::start(source);
    for start in [0, 1, CHUNK - 1, CHUNK, 20_000, EVENTS - 1] {
        let cursor = if start == 0 { Cursor::START } else { Cursor(start.to_string().into()) };
        read(&mut tailer.subscribe(cursor), start, EVENTS - start).await;
    }
}

#[tokio::test]
async fn who_is_slow_with_a_chunk_keeps_nobody_from_reading() {
    let (_database, source) = filled().await;
    let tailer = Tailer::start(source);
    let mut ahead = tailer.subscribe(Cursor::START);
    read(&mut ahead, 0, EVENTS).await;
    // The ring is at the head now, and somebody with it: these read alone, and then do not come back for more.
    let mut slow: Vec<Subscription> = (0..2 * LONE_READERS_MAX).map(|_| tailer.subscribe(Cursor::START)).collect();
    for subscription in &mut slow {
        read(subscription, 0, CHUNK).await;
    }
    read(&mut tailer.subscribe(Cursor::START), 0, EVENTS).await;
    for subscription in &mut slow {
        read(subscription, CHUNK, EVENTS - CHUNK).await;
    }
}

/// As shards do that take over from one that was behind.
#[tokio::test]
async fn a_ring_that_everybody_has_left_comes_back_and_is_read_once_for_all() {
    let (_database, source) = filled().await;
    let read_of = Arc::new(AtomicU64::new(0));
    let counting = Counting { inner: source, read: read_of.clone() };
    let tailer = Tailer::start(Arc::new(counting));
    read(&mut tailer.subscribe(Cursor::START), 0, EVENTS).await;
    let before = read_of.load(Relaxed);
    let mut all: Vec<Subscription> = (0..6).map(|_| tailer.subscribe(Cursor(CHUNK.to_string().into()))).collect();
    for part in 0..8 {
        for subscription in &mut all {
            read(subscription, CHUNK + part * 8 * CHUNK, 8 * CHUNK).await;
        }
    }
    let again = read_of.load(Relaxed) - before;
    assert!(again < 2 * 64 * CHUNK, "{again} events were read for six that read {} each", 64 * CHUNK);
    assert!(again >= 64 * CHUNK);
}
