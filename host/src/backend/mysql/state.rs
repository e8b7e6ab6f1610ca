//! The state that a commit writes.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde_json::json;

use super::{Mysql, commit::Item, failure::Failed, store::part, text::Row, transaction::Transaction};
use crate::{
    changes::{Changes, StateKey},
    tenant::ConsumerId,
};

const SETS: &str = "INSERT INTO tendon_state (tenant, consumer, part, `key`, value) VALUES ";
const SETS_END: &str = " ON DUPLICATE KEY UPDATE value = VALUES(value)";

/// The index is named: of a small table the server would rather read and lock every row.
const DELETES: &str = "
    DELETE s FROM JSON_TABLE(?, '$[*]' COLUMNS (
        tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
        consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin PATH '$[1]',
        part_hex VARCHAR(510) CHARACTER SET ascii PATH '$[2]',
        key_hex  VARCHAR(2048) CHARACTER SET ascii PATH '$[3]'
    )) AS w STRAIGHT_JOIN tendon_state AS s FORCE INDEX (PRIMARY)
        ON s.tenant = w.tenant AND s.consumer = w.consumer AND s.part = UNHEX(w.part_hex) AND s.`key` = UNHEX(w.key_hex)";

/// One key's part, itself, and its value; none where it is deleted.
type Write<'a> = (Cow<'a, [u8]>, &'a [u8], Option<&'a Bytes>);

impl Mysql {
    /// Writes state, in the order of its keys: two transactions never wait for each other's.
    pub(super) async fn write_state(&self, open: &mut Transaction, items: &[&Item<'_>]) -> Result<(), Failed> {
        let mut consumers: BTreeMap<&ConsumerId, Vec<Write<'_>>> = BTreeMap::new();
        for Changes { consumer, writes, .. } in items.iter().map(|item| &item.commit.changes) {
            let write = |(key, value)| write(key, value);
            if let Some(consumer) = consumer {
                consumers.entry(consumer).or_default().extend(writes.iter().map(write));
            }
        }
        let mut sets = self.batches(SETS, SETS_END);
        let mut deletes = self.batches("[", "]");
        for (consumer, writes) in &consumers {
            let (tenant, name) = (consumer.tenant.0.as_str(), consumer.name.as_str());
            let keys = side_by_side(writes);
            for (part, key, value) in sorted(&keys, writes) {
                match value {
                    Some(value) => {
                        sets.push(&Row::new().name(tenant).name(name).bytes(part).bytes(key).bytes(value).end())?;
                    }
                    None => deletes.push(&json!([tenant, name, hex::encode(part), hex::encode(key)]).to_string())?,
                }
            }
        }
        self.send(open, "mysql state", sets).await?;
        for keys in deletes.finish() {
            self.0.failpoints.hit("mysql deletes")?;
            sqlx::query(DELETES).bind(keys).execute(open.connection()).await?;
        }
        Ok(())
    }
}

fn write<'a>(StateKey { part: of, key }: &'a StateKey, value: &'a Option<Bytes>) -> Write<'a> {
    (part(of), key.as_bytes(), value.as_ref())
}

/// The keys that are written, behind their parts. They lie scattered in memory, and a sort looks at each a dozen times.
fn side_by_side(writes: &[Write<'_>]) -> Vec<u8> {
    let mut keys = Vec::new();
    for (part, key, _) in writes {
        keys.extend_from_slice(part);
        keys.extend_from_slice(key);
    }
    keys
}

/// What is written, in the order of the keys; of a key that is written more than once, the last of it.
fn sorted<'a>(mut keys: &'a [u8], writes: &[Write<'a>]) -> Vec<(&'a [u8], &'a [u8], Option<&'a Bytes>)> {
    let mut next = |bytes: usize| {
        let (next, rest) = keys.split_at(bytes.min(keys.len()));
        keys = rest;
        next
    };
    // The last one first, and each key once.
    let mut sorted: Vec<_> =
        writes.iter().map(|(part, key, value)| (next(part.len()), next(key.len()), *value)).collect();
    sorted.reverse();
    sorted.sort_by_key(|(part, key, _)| (*part, *key));
    sorted.dedup_by_key(|(part, key, _)| (*part, *key));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_sorted_by_part_and_key_and_the_last_of_a_key_stands() {
        let (one, two) = (Bytes::from_static(b"1"), Bytes::from_static(b"2"));
        let write = |part: &'static str, key: &'static str, value| (Cow::from(part.as_bytes()), key.as_bytes(), value);
        let writes = [
            write("b", "", Some(&one)),
            write("a", "bc", Some(&one)),
            write("ab", "c", None),
            write("a", "b", Some(&one)),
            write("a", "bc", None),
            write("ab", "c", Some(&two)),
        ];
        let keys = side_by_side(&writes);
        let bytes = |text: &'static str| text.as_bytes();
        assert_eq!(
            sorted(&keys, &writes),
            [
                (bytes("a"), bytes("b"), Some(&one)),
                (bytes("a"), bytes("bc"), None),
                (bytes("ab"), bytes("c"), Some(&two)),
                (bytes("b"), bytes(""), Some(&one)),
            ]
        );
    }
}
