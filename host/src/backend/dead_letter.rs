//! Dead letters, as statements take them: they are few, and one JSON array holds them all. What a user chose is in
//! hexadecimal digits.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    dead_letter::{DeadLetter, Redrive, Wished},
    error::Result,
    event::EventId,
    parked::ParkedId,
    store::Commit,
    tenant::ConsumerId,
};

/// What a statement that reads dead letters says of those that are wished.
pub(super) fn wished(wished: Wished) -> &'static str {
    match wished {
        Wished::Either => "",
        Wished::Yes => "AND redrive_at IS NOT NULL",
        Wished::AtOnce => "AND redrive_at IS NOT NULL AND redrive_pace IS NULL",
    }
}

/// A pace as its column has it, in microseconds.
pub(super) fn pace_us(pace: Duration) -> Option<i64> {
    (!pace.is_zero()).then(|| i64::try_from(pace.as_micros()).unwrap_or(i64::MAX))
}

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

/// What commits want to be handled again, or not: `[item, tenant, consumer, event, since, pace]` for each; none where there
/// is nothing.
pub(super) fn redrives<'a>(commits: impl Iterator<Item = (usize, &'a Commit)>) -> Option<String> {
    let redrives = commits.flat_map(|(item, commit)| commit.redrives.iter().map(move |one| (item, one)));
    let row = |(item, Redrive { consumer, event, at, pace }): (usize, &Redrive)| {
        let (event, since) = (hex::encode(event.0.as_bytes()), at.map(|at| at.0));
        json!([item, consumer.tenant, consumer.name, event, since, pace_us(*pace)])
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

/// What commits park: `[item, tenant, consumer, event, shard, at, metadata, record, key, place, redrive_at]` for each; none where
/// there is nothing.
pub(super) fn parked<'a>(commits: impl Iterator<Item = (usize, &'a Commit)>) -> Result<Option<String>> {
    let mut rows = Vec::new();
    for (item, parked) in commits.flat_map(|(item, commit)| commit.parked.iter().map(move |one| (item, one))) {
        let DeadLetter { shard, event, redrive_at, .. } = &parked.letter;
        let (tenant, consumer) = (&shard.consumer.tenant, &shard.consumer.name);
        let (id, metadata) = (hex::encode(event.id.0.as_bytes()), hex::encode(&event.metadata));
        let (at, record, key) =
            (parked.letter.at().0, parked.letter.record()?, hex::encode(event.foreign_id.as_bytes()));
        let place = parked.place.cast_signed();
        let again = redrive_at.map(|at| at.0);
        rows.push(json!([item, tenant, consumer, id, shard.index, at, metadata, record, key, place, again]));
    }
    Ok((!rows.is_empty()).then(|| Value::from(rows).to_string()))
}

/// What waits no longer: `[item, tenant, consumer, key, place]` for each; none where there is nothing.
pub(super) fn unparked<'a>(commits: impl Iterator<Item = (usize, &'a Commit)>) -> Option<String> {
    let unparked = commits.flat_map(|(item, commit)| commit.unparked.iter().map(move |one| (item, one)));
    let row = |(item, ParkedId { consumer, key, place }): (usize, &ParkedId)| {
        json!([item, consumer.tenant, consumer.name, hex::encode(key.as_bytes()), place.cast_signed()])
    };
    let rows: Vec<Value> = unparked.map(row).collect();
    (!rows.is_empty()).then(|| Value::from(rows).to_string())
}
