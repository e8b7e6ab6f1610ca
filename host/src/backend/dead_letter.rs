//! Dead letters, as statements take them: they are few, and one JSON array holds them all. What a user chose is in
//! hexadecimal digits.

use serde_json::{Value, json};

use crate::{
    dead_letter::{DeadLetter, Redrive},
    error::Result,
    event::EventId,
    store::Commit,
    tenant::ConsumerId,
};

/// What commits set aside: `[item, tenant, consumer, event, shard, at, metadata, record]` for each; none where there is
/// nothing.
pub(super) fn set_aside<'a>(commits: impl Iterator<Item = (usize, &'a Commit)>) -> Result<Option<String>> {
    let mut rows = Vec::new();
    for (item, letter) in commits.flat_map(|(item, commit)| commit.dead_letters.iter().map(move |one| (item, one))) {
        let DeadLetter { shard, event, .. } = letter;
        let (tenant, consumer) = (&shard.consumer.tenant, &shard.consumer.name);
        let (id, metadata) = (hex::encode(event.id.0.as_bytes()), hex::encode(&event.metadata));
        rows.push(json!([item, tenant, consumer, id, shard.index, letter.at().0, metadata, letter.record()?]));
    }
    Ok((!rows.is_empty()).then(|| Value::from(rows).to_string()))
}

/// What commits want to be handled again, or not: `[item, tenant, consumer, event, since]` for each; none where there is
/// nothing.
pub(super) fn redrives<'a>(commits: impl Iterator<Item = (usize, &'a Commit)>) -> Option<String> {
    let redrives = commits.flat_map(|(item, commit)| commit.redrives.iter().map(move |one| (item, one)));
    let row = |(item, Redrive { consumer, event, at }): (usize, &Redrive)| {
        json!([item, consumer.tenant, consumer.name, hex::encode(event.0.as_bytes()), at.map(|at| at.0)])
    };
    let rows: Vec<Value> = redrives.map(row).collect();
    (!rows.is_empty()).then(|| Value::from(rows).to_string())
}

/// What commits purge: `[item, tenant, consumer, event]` for each; none where there is nothing.
pub(super) fn purged<'a>(commits: impl Iterator<Item = (usize, &'a Commit)>) -> Option<String> {
    let purged = commits.flat_map(|(item, commit)| commit.purged.iter().map(move |one| (item, one)));
    let row = |(item, (id, event)): (usize, &(ConsumerId, EventId))| {
        json!([item, id.tenant, id.name, hex::encode(event.0.as_bytes())])
    };
    let rows: Vec<Value> = purged.map(row).collect();
    (!rows.is_empty()).then(|| Value::from(rows).to_string())
}
