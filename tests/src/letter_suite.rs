//! What every store must hold to about events that were set aside.

use std::time::Duration;

use bytes::Bytes;
use tendon::{
    backend::CHUNK_BYTES_MAX,
    dead_letter::{DeadLetter, Letters, Redrive, Wished},
    error::Kind,
    event::{Cursor, Event, EventId, Timestamp},
    limits::EVENT_BYTES_MAX,
    store::{Commit, Digest, Reason, Store},
    tenant::{ConsumerId, ShardId},
};

use crate::place::{Place, advance, claim, commit, consumer, name, shard, tenant};

/// An event that a shard has set aside at some time.
pub fn letter(shard: &ShardId, id: &str, at: i64) -> DeadLetter {
    let event = Event {
        id: EventId(id.into()),
        cursor: Cursor(Bytes::from_static(&[0, 0xff, 7])),
        r#type: -3,
        foreign_id: "näme\0".into(),
        timestamp: Timestamp(1_800_000_000_000_000),
        metadata: Bytes::from_static(b"{\"n\":1}"),
        headers: vec![("traceparent".into(), "00-'ä\u{1}".into())],
    };
    let reason = Reason {
        code: "trap".into(),
        message: "it 'ended'\n  in \\a \u{1F980}\0".into(),
        event: Some(event.id.clone()),
        since: Timestamp(at),
        retry_at: None,
        logs: "INFO one\nWARN \"two\"".into(),
    };
    DeadLetter {
        shard: shard.clone(),
        event,
        reason,
        attempts: 8,
        digest: Digest::of(b"wasm"),
        redrive_at: None,
        redrive_pace: Duration::ZERO,
    }
}

/// All that a consumer has set aside, by event.
pub async fn set_aside(store: &dyn Store, consumer: &ConsumerId) -> Vec<String> {
    let letters = store.dead_letters(consumer, &Letters { limit: u32::MAX, ..Letters::default() }).await.unwrap();
    letters.iter().map(|letter| letter.event.id.to_string()).collect()
}

/// It is written with its move, or not at all, and is read back as it was.
pub async fn a_dead_letter_is_there_iff_its_move_is<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let start = claim(&database, &shard("c")).await;
    let mut given = letter(&shard("c"), "7", 1_900_000_000_000_000);
    given.event.timestamp = Timestamp(i64::MIN);
    given.event.metadata = (0..=255).cycle().take(70_000).collect::<Vec<u8>>().into();
    let set = |cursor: &str| Commit { dead_letters: vec![given.clone()], ..advance(&start, cursor) };
    commit(&*store, set("1")).await.unwrap();
    let other = Commit { dead_letters: vec![letter(&shard("c"), "8", 0)], ..advance(&start, "2") };
    assert_eq!(commit(&*store, other).await.unwrap_err().kind(), Kind::Fenced);
    database.close().await;
    let database = place.open().await;
    let store = database.store();
    assert_eq!(store.dead_letter(&consumer("c"), &given.event.id).await.unwrap(), given);
    let ten = Letters { limit: 10, ..Letters::default() };
    assert_eq!(store.dead_letters(&consumer("c"), &ten).await.unwrap(), [given]);
    let missing = store.dead_letter(&consumer("c"), &EventId("8".into())).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    assert_eq!(store.load(&shard("c")).await.unwrap().cursor.to_string(), "1");
}

/// They are listed by the time at which they were set aside, page by page, and nobody sees another's.
pub async fn dead_letters_are_in_the_order_of_time_and_each_consumer_s_own<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let (own, theirs) = (consumer("c"), ConsumerId { tenant: tenant("acme"), name: name("c") });
    for (owner, id, at) in
        [(&own, "b", 5), (&own, "a", 5), (&own, "z", 1), (&theirs, "a", 2), (&own, "10", 9), (&own, "9", 9)]
    {
        let dead_letters = vec![letter(&ShardId { consumer: owner.clone(), index: 3 }, id, at)];
        commit(&*store, Commit { dead_letters, ..Commit::default() }).await.unwrap();
    }
    assert_eq!(set_aside(&*store, &own).await, ["z", "a", "b", "10", "9"]);
    assert_eq!(set_aside(&*store, &theirs).await, ["a"]);
    let after = Some((Timestamp(5), EventId("a".into())));
    let page = store.dead_letters(&own, &Letters { after, limit: 2, ..Letters::default() }).await.unwrap();
    assert_eq!(page.iter().map(|letter| &*letter.event.id.0).collect::<Vec<_>>(), ["b", "10"]);

    // One that comes again takes its own place.
    let again = letter(&shard("c"), "z", 20);
    commit(&*store, Commit { dead_letters: vec![again.clone()], ..Commit::default() }).await.unwrap();
    assert_eq!(set_aside(&*store, &own).await, ["a", "b", "10", "9", "z"]);
    assert_eq!(store.dead_letter(&own, &EventId("z".into())).await.unwrap(), again);
}

/// However many there are, what is read of them at once is bounded.
pub async fn dead_letters_are_read_by_pages_of_bounded_bytes<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    for (n, bytes) in [CHUNK_BYTES_MAX / 2, CHUNK_BYTES_MAX / 2, 5, CHUNK_BYTES_MAX, 5].into_iter().enumerate() {
        let mut one = letter(&shard("c"), &n.to_string(), n as i64);
        one.event.metadata = vec![7; bytes].into();
        commit(&*store, Commit { dead_letters: vec![one], ..Commit::default() }).await.unwrap();
    }
    let (mut which, mut pages) = (Letters { limit: 10, ..Letters::default() }, Vec::new());
    loop {
        let page = store.dead_letters(&consumer("c"), &which).await.unwrap();
        let Some(last) = page.last() else { break };
        which.after = Some((last.at(), last.event.id.clone()));
        pages.push(page.len());
    }
    assert_eq!(pages, [2, 2, 1]);
}

/// What is to be handled again is found by that, until it is set aside once more or the wish is taken back.
pub async fn a_wish_to_handle_a_dead_letter_again_is_kept<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let dead_letters = ["a", "b", "c", "d"].map(|id| letter(&shard("c"), id, 1)).to_vec();
    commit(&*database.store(), Commit { dead_letters, ..Commit::default() }).await.unwrap();
    let wish = |id: &str, at: Option<i64>| Redrive {
        consumer: consumer("c"),
        event: EventId(id.into()),
        at: at.map(Timestamp),
        pace: if id == "d" { Duration::from_micros(1_500_001) } else { Duration::ZERO },
    };
    let redrives = vec![wish("b", Some(7)), wish("c", Some(8)), wish("d", Some(8)), wish("never", Some(7))];
    commit(&*database.store(), Commit { redrives, ..Commit::default() }).await.unwrap();
    database.close().await;
    let database = place.open().await;
    let store = database.store();
    let due = async |wished| {
        let which = Letters { wished, limit: 10, after: None };
        let letters = store.dead_letters(&consumer("c"), &which).await.unwrap();
        letters.iter().map(|letter| (letter.event.id.to_string(), letter.redrive_at.unwrap().0)).collect::<Vec<_>>()
    };
    let of = |found: &[(&str, i64)]| found.iter().map(|(id, at)| (id.to_string(), *at)).collect::<Vec<_>>();
    assert_eq!(due(Wished::Yes).await, of(&[("b", 7), ("c", 8), ("d", 8)]));
    assert_eq!(due(Wished::AtOnce).await, of(&[("b", 7), ("c", 8)]));
    let d = EventId("d".into());
    assert_eq!(store.dead_letter(&consumer("c"), &d).await.unwrap().redrive_pace, wish("d", None).pace);
    let dead_letters = vec![DeadLetter { redrive_at: Some(Timestamp(9)), ..letter(&shard("c"), "c", 2) }];
    let redrives = vec![wish("b", None)];
    commit(&*store, Commit { dead_letters, redrives, ..Commit::default() }).await.unwrap();
    assert_eq!(due(Wished::Yes).await, of(&[("d", 8)]));
    // One that is set aside once more has no pace left.
    commit(&*store, Commit { dead_letters: vec![letter(&shard("c"), "d", 1)], ..Commit::default() }).await.unwrap();
    assert_eq!(store.dead_letter(&consumer("c"), &d).await.unwrap(), letter(&shard("c"), "d", 1));
    assert_eq!(set_aside(&*store, &consumer("c")).await, ["a", "b", "d", "c"]);
}

/// What is purged is gone, and nothing else is; what is not there is no error.
pub async fn purged_dead_letters_are_gone<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let dead_letters = ["a", "b", "c"].map(|id| letter(&shard("c"), id, 1)).to_vec();
    let mut big = letter(&shard("d"), "a", 1);
    big.event.metadata = vec![7; EVENT_BYTES_MAX / 8].into();
    commit(&*store, Commit { dead_letters, ..Commit::default() }).await.unwrap();
    commit(&*store, Commit { dead_letters: vec![big.clone()], ..Commit::default() }).await.unwrap();
    let purged = ["a", "c", "never"].map(|id| (consumer("c"), EventId(id.into()))).to_vec();
    commit(&*store, Commit { purged, ..Commit::default() }).await.unwrap();
    assert_eq!(set_aside(&*store, &consumer("c")).await, ["b"]);
    assert_eq!(store.dead_letter(&consumer("d"), &EventId("a".into())).await.unwrap(), big);
}
