//! Waits until a host has nothing left to do.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    error::Result,
    event::Cursor,
    host::{Catalog, Host},
    policy::FULL,
    store::{Position, Reason},
    supervisor::Standing,
    tenant::{ConsumerId, ShardId, StreamId},
};

/// How often the positions are compared with the heads.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until every consumer is at the head of its stream and none has committed since the heads were read: what one
/// emits may be what another one reads. Gives those that stand still in front of their head instead.
pub async fn reach(host: &Host) -> Result<Vec<ConsumerId>> {
    let catalog = host.catalog().await;
    loop {
        let heads = heads(&catalog).await?;
        let before = positions(&catalog).await?;
        if let Some(stuck) = arrived(host, &catalog, &heads, &before).await? {
            let revisions = |rows: &BTreeMap<ShardId, Position>| -> Vec<_> {
                rows.values().map(|row| (row.revision, row.fence)).collect()
            };
            let after = positions(&catalog).await?;
            if revisions(&before) == revisions(&after) && heads == self::heads(&catalog).await? {
                return Ok(stuck);
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Those that stand still, once all the others are at their heads; none while one is on its way.
async fn arrived(
    host: &Host,
    catalog: &Catalog,
    heads: &BTreeMap<StreamId, Cursor>,
    positions: &BTreeMap<ShardId, Position>,
) -> Result<Option<Vec<ConsumerId>>> {
    let mut stuck = Vec::new();
    let standings = host.standings().await;
    for consumer in catalog.config.consumers.values() {
        let Some(head) = heads.get(&consumer.stream) else { continue };
        let source = catalog.source(&consumer.stream).await?;
        // What the row says may be about to change: another component takes a blocked shard over when it starts.
        let Some(standings) = standings.get(&consumer.id) else { return Ok(None) };
        for (index, standing) in (0..).zip(standings) {
            let position = positions.get(&ShardId { consumer: consumer.id.clone(), index });
            match (standing, position) {
                (Standing::Blocked(reason), Some(_)) if reason.as_ref().is_some_and(goes_on_trying) => return Ok(None),
                (Standing::Blocked(_) | Standing::Paused(_), Some(_)) => stuck.push(consumer.id.clone()),
                (Standing::Running, Some(position)) if source.compare(&position.cursor, head).is_ge() => {}
                _ => return Ok(None),
            }
        }
    }
    stuck.dedup();
    for consumer in catalog.config.consumers.values() {
        let parked = catalog.database(&consumer.store)?.store().parked_keys(&consumer.id).await?;
        if parked.iter().any(|key| key.head.redrive_at.is_some()) && !stuck.contains(&consumer.id) {
            return Ok(None);
        }
        if !parked.is_empty() && !stuck.contains(&consumer.id) {
            stuck.push(consumer.id.clone());
        }
    }
    Ok(Some(stuck))
}

/// Whether a shard that stands will try again by itself.
fn goes_on_trying(reason: &Reason) -> bool {
    reason.code == FULL && reason.retry_at.is_some()
}

async fn heads(catalog: &Catalog) -> Result<BTreeMap<StreamId, Cursor>> {
    let mut heads = BTreeMap::new();
    for stream in catalog.config.streams.values() {
        let head = catalog.source(&stream.id).await?.head().await?;
        heads.insert(stream.id.clone(), head);
    }
    Ok(heads)
}

async fn positions(catalog: &Catalog) -> Result<BTreeMap<ShardId, Position>> {
    let mut positions = BTreeMap::new();
    for database in catalog.databases.values() {
        let rows = database.store().positions().await?;
        positions.extend(rows.into_iter().map(|row| (row.shard.clone(), row)));
    }
    Ok(positions)
}
