//! What every store must hold to about state: whose it is, in which order, of which bytes.

use bytes::Bytes;
use tendon::{
    changes::{Changes, Write, Writes},
    error::Kind,
    limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX},
    store::{Commit, Scope, Store},
    tenant::{ConsumerId, ShardId},
};

use crate::place::{Place, advance, claim, commit, consumer, name, tenant};

/// A part of a consumer's state.
fn scope(consumer: &ConsumerId, part: &str) -> Scope {
    Scope { consumer: consumer.clone(), part: part.into() }
}

/// Writes of keys in a part of a consumer's state.
pub fn writes<'a>(
    consumer: &ConsumerId,
    part: &str,
    writes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> Changes {
    let mut all = Writes::default();
    writes.into_iter().for_each(|(key, value)| all.push(Write { part, key, value }));
    Changes { consumer: Some(consumer.clone()), writes: all, emits: Vec::new() }
}

/// The value of a key.
pub async fn get(store: &dyn Store, consumer: &ConsumerId, part: &str, key: &str) -> Option<Bytes> {
    store.get(&scope(consumer, part), &[key.into()]).await.unwrap().remove(0)
}

/// Nobody sees what is another's.
pub async fn tenants_consumers_shards_and_parts_are_blind_to_each_other<P: Place>() {
    let place = P::fresh().await;
    let database = place.open().await;
    let store = database.store();
    let owners = [consumer("a"), consumer("b"), ConsumerId { tenant: tenant("acme"), name: name("a") }];
    for (n, owner) in owners.iter().enumerate() {
        for part in ["", "x", "y", "\0"] {
            let value = format!("{n}{part}");
            let changes = writes(owner, part, [("k", Some(value.as_bytes()))]);
            commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
        }
        let position = claim(&database, &ShardId { consumer: owner.clone(), index: n as u32 }).await;
        commit(&*store, advance(&position, &n.to_string())).await.unwrap();
    }
    for (n, owner) in owners.iter().enumerate() {
        for part in ["", "x", "y", "\0"] {
            let value = Bytes::from(format!("{n}{part}"));
            assert_eq!(get(&*store, owner, part, "k").await.unwrap(), value);
            assert_eq!(store.scan(&scope(owner, part), "", None, 10).await.unwrap(), [("k".into(), value)]);
        }
        let position = store.load(&ShardId { consumer: owner.clone(), index: n as u32 }).await.unwrap();
        assert_eq!(position.cursor.to_string(), n.to_string());
        let other = store.load(&ShardId { consumer: owner.clone(), index: 9 }).await;
        assert_eq!(other.unwrap_err().kind(), Kind::NotFound);
    }
    let order: Vec<_> = store.positions().await.unwrap().into_iter().map(|position| position.shard).collect();
    let mut sorted = order.clone();
    sorted.sort();
    assert_eq!((order.len(), order), (3, sorted));
}

/// Any entry counts, in whatever part; what was deleted does not.
pub async fn whether_a_consumer_has_any_state_is_known<P: Place>() {
    let place = P::fresh().await;
    let store = place.open().await.store();
    let put = async |owner: &str, part: &str, value: Option<&[u8]>| {
        let changes = writes(&consumer(owner), part, [("k", value), ("l", value)]);
        commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
    };
    assert!(!store.has_state(&consumer("c")).await.unwrap());
    put("other", "p", Some(b"1")).await;
    put("c", "p", None).await;
    assert!(!store.has_state(&consumer("c")).await.unwrap());
    for part in ["", "p", "q"] {
        put("c", part, Some(b"")).await;
        assert!(store.has_state(&consumer("c")).await.unwrap(), "an empty value is one");
        assert!(place.open().await.store().has_state(&consumer("c")).await.unwrap());
        put("c", part, None).await;
        assert!(!store.has_state(&consumer("c")).await.unwrap(), "{part}");
        assert!(!place.open().await.store().has_state(&consumer("c")).await.unwrap(), "{part}");
    }
    assert!(store.has_state(&consumer("other")).await.unwrap());
}

/// By the bytes of the keys, by prefix, after a key, a page at a time.
pub async fn a_scan_is_in_the_order_of_bytes<P: Place>() {
    let place = P::fresh().await;
    let store = place.open().await.store();
    let mut keys =
        vec!["", "\0", "A", "a", "a\0", "a\0b", "a%", "a_", "aa", "ab", "ä", "z", "Z", "é", "😀", "\u{ffff}", "a'\""];
    let pairs: Vec<_> = keys.iter().map(|key| (*key, Some(key.as_bytes()))).collect();
    commit(&*store, Commit { changes: writes(&consumer("c"), "p", pairs), ..Commit::default() }).await.unwrap();
    keys.sort_unstable();
    let scope = scope(&consumer("c"), "p");
    for prefix in ["", "a", "a\0", "A", "ä", "%", "\u{ffff}", "nothing"] {
        for after in [None, Some(""), Some("a"), Some("a\0"), Some("zz"), Some("😀")] {
            let wanted: Vec<_> = keys
                .iter()
                .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| **key > after))
                .map(|key| ((*key).into(), Bytes::from(*key)))
                .collect();
            let found = store.scan(&scope, prefix, after, 100).await.unwrap();
            assert_eq!(found, wanted, "prefix {prefix:?} after {after:?}");
            let page = store.scan(&scope, prefix, after, 2).await.unwrap();
            assert_eq!(page, wanted[..wanted.len().min(2)]);
        }
    }
    assert_eq!(store.scan(&scope, "", None, 0).await.unwrap(), []);
}

/// A deleted key is gone, one that never was is no error, and one call may ask for many.
pub async fn keys_are_read_in_the_order_asked_and_deleted<P: Place>() {
    let place = P::fresh().await;
    let store = place.open().await.store();
    let owner = consumer("c");
    let set = |pairs: Vec<(&'static str, Option<&'static [u8]>)>| Commit {
        changes: writes(&owner, "", pairs),
        ..Commit::default()
    };
    commit(&*store, set(vec![("a", Some(b"1")), ("b", Some(b"2")), ("c\0", Some(b"3"))])).await.unwrap();
    commit(&*store, set(vec![("a", None), ("never", None), ("b", Some(b"4")), ("d", Some(b"5"))])).await.unwrap();
    let keys = ["d", "x", "b", "a", "c\0", "c", "b"].map(Into::into);
    let values = store.get(&scope(&owner, ""), &keys).await.unwrap();
    let values: Vec<_> = values.iter().map(|value| value.as_ref().map(|value| &value[..])).collect();
    assert_eq!(values, [Some(&b"5"[..]), None, Some(b"4"), None, Some(b"3"), None, Some(b"4")]);
    assert_eq!(store.get(&scope(&owner, ""), &[]).await.unwrap(), Vec::<Option<Bytes>>::new());
}

/// Values are bytes, up to their limit and no further.
pub async fn values_of_any_bytes_survive_up_to_their_limit<P: Place>() {
    let place = P::fresh().await;
    let store = place.open().await.store();
    let owner = consumer("c");
    let longest = "k".repeat(STATE_KEY_BYTES_MAX);
    let biggest = vec![0xa5; STATE_VALUE_BYTES_MAX];
    let all: Vec<u8> = (0..=255).collect();
    let pairs = [("", &b""[..]), ("zeros", &[0, 0]), ("all", &all), (longest.as_str(), &biggest), ("big", &biggest)];
    let changes = writes(&owner, "part", pairs.map(|(key, value)| (key, Some(value))));
    commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap();
    for (key, value) in pairs {
        assert_eq!(get(&*store, &owner, "part", key).await.unwrap(), value);
    }
    let too_long = "k".repeat(STATE_KEY_BYTES_MAX + 1);
    let too_big = vec![0; STATE_VALUE_BYTES_MAX + 1];
    for pair in [(too_long.as_str(), Some(&b""[..])), ("big", Some(&too_big))] {
        let changes = writes(&owner, "part", [pair]);
        let error = commit(&*store, Commit { changes, ..Commit::default() }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Limit);
    }
    let orphan = Changes { consumer: None, ..writes(&owner, "", [("k", Some(&b"v"[..]))]) };
    let error = commit(&*store, Commit { changes: orphan, ..Commit::default() }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}
