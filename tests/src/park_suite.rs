//! What every store must hold to about events that wait for one of their key.

use bytes::Bytes;
use tendon::{
    backend::CHUNK_BYTES_MAX,
    error::Kind,
    event::Timestamp,
    parked::{Parked, ParkedId},
    store::{Commit, Store},
    tenant::{ConsumerId, ShardId},
};

use crate::{
    letter_suite::letter,
    place::{Place, advance, claim, commit, consumer, name, shard, tenant},
};

/// An event of a key, at a place of its queue.
pub fn parked(shard: &ShardId, key: &str, place: u64, id: &str) -> Parked {
    let mut letter = letter(shard, id, 5);
    letter.event.foreign_id = key.into();
    letter.redrive_at = (place > 1).then_some(Timestamp(77));
    Parked { place, letter }
}

fn park(all: Vec<Parked>) -> Commit {
    Commit { parked: all, ..Commit::default() }
}

async fn ids(store: &dyn Store, consumer: &ConsumerId, key: &str) -> Vec<String> {
    let parked = store.parked(consumer, key, 0, u32::MAX).await.unwrap();
    parked.iter().map(|parked| parked.event().to_string()).collect()
}

/// They are written with their move, or not at all, and are read back as they were.
pub async fn an_event_is_parked_iff_its_move_is<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let start = claim(&database, &shard("c")).await;
    let key = "kéy \0'\"\\";
    let mut given = parked(&shard("c"), key, 1, "7");
    given.letter.event.metadata = (0..=255).cycle().take(70_000).collect::<Vec<u8>>().into();
    let commit_with = |parked: &Parked, cursor: &str| Commit { ..park_with(parked, advance(&start, cursor)) };
    commit(&*store, commit_with(&given, "1")).await.unwrap();
    let late = parked(&shard("c"), key, 2, "8");
    assert_eq!(commit(&*store, commit_with(&late, "2")).await.unwrap_err().kind(), Kind::Fenced);
    database.close().await;
    let database = place.open().await;
    let store = database.store();
    assert_eq!(store.parked(&consumer("c"), key, 0, 10).await.unwrap(), [given.clone()]);
    let keys = store.parked_keys(&consumer("c")).await.unwrap();
    assert_eq!((keys.len(), keys[0].first, keys[0].last, keys[0].events), (1, 1, 1, 1));
    given.letter.event.metadata = Bytes::new();
    assert_eq!(keys[0].head, given.letter);

    // What waits for another reason takes its own place.
    given.letter.attempts = 9;
    given.letter.redrive_at = Some(Timestamp(3));
    commit(&*store, park(vec![given.clone()])).await.unwrap();
    assert_eq!(store.parked(&consumer("c"), key, 0, 10).await.unwrap(), [given]);
}

fn park_with(parked: &Parked, with: Commit) -> Commit {
    Commit { parked: vec![parked.clone()], ..with }
}

/// Queues are in the order of their places, keys in that of their bytes, and nobody sees another's.
pub async fn queues_are_in_their_order_and_each_consumer_s_own<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let long = "k".repeat(255);
    let all = [("b", 9, "x"), ("b", 10, "w"), ("b", 11, "v"), ("a", 1, "z"), (&long, 3, "l"), ("", 1, "e")];
    let all = all.map(|(key, place, id)| parked(&shard("c"), key, place, id));
    commit(&*store, park(all.to_vec())).await.unwrap();
    let theirs = ShardId { consumer: ConsumerId { tenant: tenant("acme"), name: name("c") }, index: 0 };
    commit(&*store, park(vec![parked(&theirs, "b", 1, "theirs")])).await.unwrap();
    assert_eq!(ids(&*store, &consumer("c"), "b").await, ["x", "w", "v"]);
    assert_eq!(ids(&*store, &theirs.consumer, "b").await, ["theirs"]);
    assert_eq!(ids(&*store, &consumer("c"), "nobody").await, [""; 0]);
    let page = store.parked(&consumer("c"), "b", 10, 1).await.unwrap();
    assert_eq!(page.iter().map(|parked| parked.place).collect::<Vec<_>>(), [10]);
    let keys = store.parked_keys(&consumer("c")).await.unwrap();
    let seen: Vec<_> = keys.iter().map(|key| (key.key().to_string(), key.first, key.last, key.events)).collect();
    let expected = [("", 1, 1, 1), ("a", 1, 1, 1), ("b", 9, 11, 3), (&*long, 3, 3, 1)];
    assert_eq!(seen, expected.map(|(key, first, last, events)| (key.to_owned(), first, last, events)));
    assert_eq!(&*keys[2].head.event.id.0, "x");

    let gone = [("b", 9), ("b", 11), ("a", 1), ("nobody", 1)];
    let gone = gone.map(|(key, place)| ParkedId { consumer: consumer("c"), key: key.into(), place });
    commit(&*store, Commit { unparked: gone.to_vec(), ..Commit::default() }).await.unwrap();
    assert_eq!(ids(&*store, &consumer("c"), "b").await, ["w"]);
    assert_eq!(ids(&*store, &theirs.consumer, "b").await, ["theirs"]);
    let keys = store.parked_keys(&consumer("c")).await.unwrap();
    assert_eq!(keys.iter().map(|key| key.key().to_string()).collect::<Vec<_>>(), ["", "b", &long]);
    assert_eq!((keys[1].first, keys[1].last, keys[1].events), (10, 10, 1));
}

/// However long a queue is, what is read of it at once is bounded.
pub async fn queues_are_read_by_pages_of_bounded_bytes<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    for (n, bytes) in (1..).zip([CHUNK_BYTES_MAX / 2, CHUNK_BYTES_MAX / 2, 5, CHUNK_BYTES_MAX, 5]) {
        let mut one = parked(&shard("c"), "k", n, &n.to_string());
        one.letter.event.metadata = vec![7; bytes].into();
        commit(&*store, park(vec![one])).await.unwrap();
    }
    let (mut from, mut pages) = (0, Vec::new());
    loop {
        let page = store.parked(&consumer("c"), "k", from, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        from = last.place + 1;
        pages.push(page.len());
    }
    assert_eq!(pages, [2, 2, 1]);
}
