//! What every source of a database must hold to.

use std::{cmp::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tendon::{
    backend::{CHUNK_BYTES_MAX, CHUNK_EVENTS_MAX},
    error::Kind,
    event::{Cursor, Event, NewEvent, Timestamp},
    source::{Lag, Until},
};
use tokio::time::timeout;

use crate::place::{Place, append, commit, emit, emit_new, event, filled, read, stream, wait_for};

fn numbers(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.foreign_id.to_string()).collect()
}

fn expected(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("key-{n}")).collect()
}

/// Order, no gap, and ids that are unique.
pub async fn events_come_in_their_order_without_gaps<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 1_000).await;
    let events = read(&*source, &Cursor::START).await;
    assert_eq!(numbers(&events), expected(0..1_000));
    let ids: std::collections::HashSet<_> = events.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), 1_000);
}

/// Nothing twice, nothing left out, at whatever cursor the reading begins.
pub async fn a_stream_begins_strictly_after_its_cursor<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 20).await;
    let events = read(&*source, &Cursor::START).await;
    for (n, event) in events.iter().enumerate() {
        let rest = read(&*source, &event.cursor).await;
        assert_eq!(numbers(&rest), expected(n as u64 + 1..20), "after {}", event.cursor);
    }
}

/// What `latest` rests on.
pub async fn head_then_stream_yields_only_newer_events<P: Place>() {
    let place = P::fresh().await;
    let (database, source) = filled(&place, "orders", 0).await;
    assert!(source.head().await.unwrap().is_start());
    for n in 0..5 {
        let head = source.head().await.unwrap();
        assert_eq!(read(&*source, &head).await, []);
        commit(&*database.store(), append(vec![emit(&stream("orders"), n)])).await.unwrap();
        assert_eq!(numbers(&read(&*source, &head).await), expected([n]));
    }
}

/// An empty stream and one that is read to its end.
pub async fn a_stream_until_the_head_ends_there<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 0).await;
    assert_eq!(read(&*source, &Cursor::START).await, []);
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", CHUNK_EVENTS_MAX as u64).await;
    assert_eq!(read(&*source, &Cursor::START).await.len(), CHUNK_EVENTS_MAX);
}

/// The wake-up is never missed, however append and wait fall together.
pub async fn a_stream_without_end_waits_for_what_comes<P: Place>() {
    let place = P::fresh().await;
    let (database, source) = filled(&place, "orders", 0).await;
    let store = database.store();
    let writer = tokio::spawn(async move {
        for n in 0..300 {
            commit(&*store, append(vec![emit(&stream("orders"), n)])).await.unwrap();
            if n % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let events = timeout(Duration::from_secs(30), wait_for(&*source, &Cursor::START, 300)).await.unwrap();
    assert_eq!(numbers(&events), expected(0..300));
    writer.await.unwrap();
}

/// What another host appends is seen, too, although nobody here tells of it.
pub async fn what_another_host_appends_is_seen<P: Place>() {
    let place = P::fresh().await;
    let (_here, source) = filled(&place, "orders", 0).await;
    let there = place.open().await;
    let mut chunks = source.stream(Cursor::START, Until::Forever).await.unwrap();
    for n in 0..3 {
        let wait = async { chunks.next().await.unwrap().unwrap().events };
        let write = async { commit(&*there.store(), append(vec![emit(&stream("orders"), n)])).await.unwrap() };
        let (events, _) = timeout(Duration::from_secs(30), async { tokio::join!(wait, write) }).await.unwrap();
        assert_eq!(numbers(&events), expected([n]));
    }
}

/// Two hosts write at once; no reader skips an event of either, and all see one order.
pub async fn events_of_many_writers_are_all_seen_in_one_order<P: Place>() {
    let place = P::fresh().await;
    let (first, source) = filled(&place, "orders", 0).await;
    let second = place.open().await;
    let mut writers = Vec::new();
    for writer in 0..4 {
        let store = if writer % 2 == 0 { first.store() } else { second.store() };
        writers.push(tokio::spawn(async move {
            for n in 0..25 {
                let emits = (0..3).map(|i| emit(&stream("orders"), writer * 1_000 + n * 3 + i)).collect();
                commit(&*store, append(emits)).await.unwrap();
            }
        }));
    }
    let seen = timeout(Duration::from_secs(60), wait_for(&*source, &Cursor::START, 300)).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(numbers(&seen), numbers(&read(&*source, &Cursor::START).await));
    for writer in 0..4 {
        let own =
            seen.iter().map(|event| event.foreign_id[4..].parse::<u64>().unwrap()).filter(|n| n / 1_000 == writer);
        assert_eq!(own.collect::<Vec<_>>(), (0..75).map(|n| writer * 1_000 + n).collect::<Vec<_>>());
    }
}

/// A cursor outlives the host that read it.
pub async fn every_cursor_is_accepted_after_reopening<P: Place>() {
    let place = P::fresh().await;
    let (database, source) = filled(&place, "orders", 12).await;
    let events = read(&*source, &Cursor::START).await;
    database.close().await;
    let database = place.open().await;
    let source = database.source(&stream("orders")).await.unwrap();
    for (n, event) in events.iter().enumerate() {
        assert_eq!(read(&*source, &event.cursor).await, events[n + 1..]);
    }
}

/// The order of cursors is that of the stream.
pub async fn compare_agrees_with_the_stream<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 120).await;
    let mut cursors = vec![Cursor::START];
    cursors.extend(read(&*source, &Cursor::START).await.into_iter().map(|event| event.cursor));
    for (n, a) in cursors.iter().enumerate() {
        for (m, b) in cursors.iter().enumerate() {
            assert_eq!(source.compare(a, b), n.cmp(&m), "{a} and {b}");
        }
    }
    assert_eq!(source.compare(&source.head().await.unwrap(), &cursors[120]), Ordering::Equal);
}

/// Readers that are given up, at the head and before it, take nothing with them.
pub async fn a_stream_that_is_dropped_leaks_nothing<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 600).await;
    let head = source.head().await.unwrap();
    for _ in 0..50 {
        let mut midway = source.stream(Cursor::START, Until::Forever).await.unwrap();
        midway.next().await.unwrap().unwrap();
        let mut waiting = source.stream(head.clone(), Until::Forever).await.unwrap();
        assert!(timeout(Duration::from_millis(1), waiting.next()).await.is_err());
        drop(source.stream(Cursor::START, Until::Head).await.unwrap());
    }
    assert_eq!(read(&*source, &Cursor::START).await.len(), 600);
}

/// Payloads, texts, headers and times are what they were.
pub async fn events_of_any_bytes_survive<P: Place>() {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "orders", 0).await;
    let odd = |metadata: Vec<u8>, foreign_id: &str| NewEvent {
        metadata: metadata.into(),
        foreign_id: foreign_id.into(),
        ..event(0)
    };
    let mut events = vec![
        odd(vec![], ""),
        odd(vec![0], "\0"),
        odd(vec![0, 0, 255, 254, 0], "a\0b"),
        odd((0..=255).collect(), "äöü€😀"),
        odd(vec![b'x'; 1 << 20], "a quote \" and a ' and a comma ,"),
        odd(vec![], "["),
        odd(vec![0xc3, 0x28], &"long".repeat(5_000)),
        NewEvent { r#type: i32::MIN, timestamp: Timestamp(i64::MIN), ..event(1) },
        NewEvent { r#type: i32::MAX, timestamp: Timestamp(i64::MAX), ..event(2) },
        NewEvent { headers: vec![("traceparent".into(), "00-ab-cd-01".into())], ..event(3) },
        event(4),
        NewEvent { headers: vec![("a\0".into(), "\"\u{1}ä".into()), ("".into(), "".into())], ..event(5) },
    ];
    events.rotate_left(fastrand::usize(0..12));
    let emits = events.iter().map(|event| emit_new(&stream("orders"), event.clone())).collect();
    commit(&*database.store(), append(emits)).await.unwrap();
    database.close().await;
    let source = place.open().await.source(&stream("orders")).await.unwrap();
    let read = read(&*source, &Cursor::START).await;
    assert_eq!(read.len(), events.len());
    for (read, event) in read.into_iter().zip(events) {
        let Event { r#type, foreign_id, timestamp, metadata, headers, .. } = read;
        assert_eq!(NewEvent { r#type, foreign_id, timestamp, metadata, headers }, event);
    }
}

/// As many events as `CHUNK_EVENTS_MAX`, or about 4 MiB; one bigger event comes alone.
pub async fn chunks_are_bounded_by_events_and_by_bytes<P: Place>() {
    let place = P::fresh().await;
    let (database, source) = filled(&place, "orders", 2 * CHUNK_EVENTS_MAX as u64 + 1).await;
    let sizes = |chunks: Vec<tendon::event::Chunk>| {
        chunks.iter().map(|chunk| (chunk.events.len(), chunk.bytes())).collect::<Vec<_>>()
    };
    let chunks = source.stream(Cursor::START, Until::Head).await.unwrap().try_collect().await.unwrap();
    let lengths: Vec<_> = sizes(chunks).into_iter().map(|(events, _)| events).collect();
    assert_eq!(lengths, [CHUNK_EVENTS_MAX, CHUNK_EVENTS_MAX, 1]);

    let head = source.head().await.unwrap();
    let big =
        |bytes: usize| emit_new(&stream("orders"), NewEvent { metadata: Bytes::from(vec![7; bytes]), ..event(0) });
    let mut emits: Vec<_> = (0..10).map(|_| big(1 << 20)).collect();
    emits.push(big(CHUNK_BYTES_MAX + 1));
    emits.push(big(10));
    commit(&*database.store(), append(emits)).await.unwrap();
    let chunks = source.stream(head, Until::Head).await.unwrap().try_collect().await.unwrap();
    let sizes = sizes(chunks);
    assert_eq!(sizes.iter().map(|(events, _)| events).sum::<usize>(), 12);
    for (events, bytes) in &sizes {
        assert!(*bytes <= CHUNK_BYTES_MAX + 1024 || *events == 1, "a chunk has {events} events and {bytes} bytes");
    }
    assert!(sizes.len() <= 7, "{sizes:?}");
}

/// Below its cap it counts; from there on it says the cap.
pub async fn lag_is_exact_below_its_cap<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 0).await;
    assert_eq!(source.lag(&Cursor::START, 10).await.unwrap(), Lag::default());
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 30).await;
    let events = read(&*source, &Cursor::START).await;
    for (n, event) in events.iter().enumerate() {
        let lag = source.lag(&event.cursor, 1_000).await.unwrap();
        assert_eq!(lag, Lag { events: 29 - n as u64, oldest: events.get(n + 1).map(|next| next.timestamp) });
    }
    assert_eq!(source.lag(&Cursor::START, 7).await.unwrap().events, 7);
    assert_eq!(source.lag(&Cursor::START, 30).await.unwrap().events, 30);
}

/// A cursor of another source is an error, never a silent place.
pub async fn a_cursor_of_another_source_is_invalid<P: Place>() {
    let place = P::fresh().await;
    let (_database, source) = filled(&place, "orders", 3).await;
    for bytes in [&b"x"[..], b"-1", b"01", b"1 ", b"0", b"99999999999999999999", &[0xff, 0]] {
        let cursor = Cursor(Bytes::copy_from_slice(bytes));
        let Err(error) = source.stream(cursor.clone(), Until::Head).await else { panic!("{cursor} was taken") };
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("default/orders"), "{error}");
        assert_eq!(source.lag(&cursor, 1).await.unwrap_err().kind(), Kind::Invalid);
    }
}

/// Streams are made once and listed; one that nobody made is not found, and tenants do not share names.
pub async fn a_stream_is_made_once_and_found_by_its_whole_name<P: Place>() {
    let place = P::fresh().await;
    let (database, _) = filled(&place, "orders", 3).await;
    database.create_stream(&stream("orders"), P::ORDER).await.unwrap();
    let foreign = tendon::tenant::StreamId { tenant: crate::place::tenant("acme"), ..stream("orders") };
    let Err(error) = database.source(&foreign).await else { panic!("a stream of another tenant was found") };
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("acme/orders"), "{error}");
    database.create_stream(&foreign, P::ORDER).await.unwrap();
    assert_eq!(read(&*database.source(&foreign).await.unwrap(), &Cursor::START).await, []);
    assert_eq!(read(&*database.source(&stream("orders")).await.unwrap(), &Cursor::START).await.len(), 3);
    database.close().await;
    assert_eq!(place.open().await.streams().await.unwrap(), [foreign, stream("orders")]);
}

/// The oldest events go, and nothing else changes: places, ids and what comes next stay what they were.
pub async fn what_is_pruned_is_gone_and_the_rest_keeps_its_place<P: Place>() {
    let place = P::fresh().await;
    let (database, source) = filled(&place, "in", 10).await;
    let all = read(&*source, &Cursor::START).await;
    database.prune(&stream("in"), &all[3].cursor).await.unwrap();
    database.prune(&stream("in"), &all[1].cursor).await.unwrap();
    for database in [&database, &place.open().await] {
        let source = database.source(&stream("in")).await.unwrap();
        assert_eq!(read(&*source, &Cursor::START).await, all[4..]);
        assert_eq!(read(&*source, &all[6].cursor).await, all[7..]);
        assert_eq!(source.head().await.unwrap(), all[9].cursor);
        assert_eq!(source.lag(&all[6].cursor, 100).await.unwrap().events, 3);
        assert_eq!(source.lag(&Cursor::START, 100).await.unwrap().events, 6);
        assert_eq!(source.event_at(&all[4].cursor).await.unwrap().as_ref(), Some(&all[4]));
        let gone = source.event_at(&all[2].cursor).await.unwrap_err();
        assert_eq!(gone.kind(), Kind::Corrupt, "{gone}");
    }
    // All but the newest one: what comes after it follows it.
    database.prune(&stream("in"), &all[8].cursor).await.unwrap();
    let next = crate::place::append(vec![crate::place::emit(&stream("in"), 10)]);
    crate::place::commit(&*database.store(), next).await.unwrap();
    let rest = read(&*source, &Cursor::START).await;
    assert_eq!((rest.len(), &rest[0]), (2, &all[9]));
    assert!(source.compare(&rest[1].cursor, &all[9].cursor).is_gt());
    let nobody = database.prune(&stream("nowhere"), &all[1].cursor).await.unwrap_err();
    assert_eq!(nobody.kind(), Kind::NotFound);
}
