//! The state that a commit writes.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Mysql, commit::Item, failure::Failed, store::part, text::Row, transaction::Transaction};
use crate::{
    changes::{Changes, Write, latest},
    tenant::ConsumerId,
};

const SETS: &str = "INSERT INTO tendon_state (tenant, consumer, part, `key`, value) VALUES ";
/// What a row has beside the digits of its values.
const ROW_REST: usize = 16;
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

impl Mysql {
    /// Writes state, in the order of its keys: two transactions never wait for each other's.
    pub(super) async fn write_state(&self, open: &mut Transaction, items: &[&Item<'_>]) -> Result<(), Failed> {
        let mut consumers: BTreeMap<&ConsumerId, Vec<Write<'_>>> = BTreeMap::new();
        for Changes { consumer, writes, .. } in items.iter().map(|item| &item.commit.changes) {
            if let Some(consumer) = consumer {
                consumers.entry(consumer).or_default().extend(writes.iter());
            }
        }
        let mut sets = self.batches(SETS, SETS_END);
        let mut deletes = self.batches("[", "]");
        for (consumer, writes) in consumers {
            let (tenant, name) = (consumer.tenant.0.as_str(), consumer.name.as_str());
            let begin = Row::new().name(tenant).name(name);
            for Write { part: of, key, value } in latest(writes) {
                let part = part(of);
                match value {
                    Some(value) => {
                        let room = 2 * (part.len() + key.len() + value.len()) + ROW_REST;
                        sets.push(&begin.copy(room).bytes(&part).bytes(key.as_bytes()).bytes(value).end())?;
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
