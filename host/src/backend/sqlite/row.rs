//! Rows as values, and back.

use serde_json::{Value, json};
use sqlx::{Row as _, sqlite::SqliteRow};

use crate::{
    deployment::Deployment,
    error::Result,
    event::{Cursor, EventHash, Timestamp},
    store::{Digest, Epoch, Fence, Move, Position, Reason, Revision, Status, Swap},
    tenant::{ConsumerId, ShardId, TenantId},
};

/// A position, from a row of its table.
pub(super) fn position(row: &SqliteRow) -> sqlx::Result<Position> {
    let reason: Option<String> = row.try_get("reason")?;
    let reason: Option<Reason> = reason.map(|json| serde_json::from_str(&json)).transpose().map_err(decode)?;
    let last_event: Option<Vec<u8>> = row.try_get("last_event")?;
    Ok(Position {
        shard: shard(row)?,
        cursor: Cursor(row.try_get::<Vec<u8>, _>("cursor")?.into()),
        revision: Revision(number(row, "revision")?),
        fence: Fence(number(row, "fence")?),
        incarnation: number(row, "incarnation")?,
        generation: small(row, "generation")?,
        epoch: Epoch(number(row, "epoch")?),
        status: status(row.try_get("status")?)?,
        reason,
        attempts: small(row, "attempts")?,
        digest: row.try_get::<Option<Vec<u8>>, _>("digest")?.map(digest).transpose()?,
        last_event: last_event.map(|bytes| bytes.try_into().map(EventHash)).transpose().map_err(|_| width())?,
        high_water: Cursor(row.try_get::<Vec<u8>, _>("high_water")?.into()),
        features: number(row, "features")?,
        updated_at: Timestamp(row.try_get("updated_at")?),
    })
}

/// A move as `commit.rs` binds it: the row to be found, then what it becomes.
pub(super) fn move_json(r#move: &Move, to: &Position) -> Result<Value> {
    let from = &r#move.from;
    let reason = to.reason.as_ref().map(serde_json::to_string).transpose();
    let reason = reason.map_err(|error| crate::error::Error::corrupt("a reason is not JSON").because(error))?;
    Ok(json!([
        from.shard.consumer.tenant,
        from.shard.consumer.name,
        from.shard.index,
        from.fence.0.cast_signed(),
        from.revision.0.cast_signed(),
        from.epoch.0.cast_signed(),
        hex::encode(&to.cursor.0),
        to.fence.0.cast_signed(),
        to.generation,
        to.epoch.0.cast_signed(),
        status_text(to.status),
        reason,
        to.attempts,
        to.digest.map(|digest| hex::encode(digest.0)),
        to.last_event.map(|hash| hex::encode(hash.0)),
        hex::encode(&to.high_water.0),
        to.features.cast_signed(),
        to.updated_at.0,
    ]))
}

/// The shard that a row names.
pub(super) fn shard(row: &SqliteRow) -> sqlx::Result<ShardId> {
    Ok(ShardId { consumer: consumer(row)?, index: small(row, "shard")? })
}

/// A deployment, from a row of its table.
pub(super) fn deployment(row: &SqliteRow) -> sqlx::Result<Deployment> {
    Ok(Deployment {
        consumer: consumer(row)?,
        epoch: Epoch(number(row, "epoch")?),
        digest: digest(row.try_get("digest")?)?,
        spec: serde_json::from_str(row.try_get("spec")?).map_err(decode)?,
        at: Timestamp(row.try_get("at")?),
    })
}

/// A line of a shard's history, from a row of its table.
pub(super) fn swap(row: &SqliteRow) -> sqlx::Result<Swap> {
    Ok(Swap {
        revision: Revision(number(row, "revision")?),
        digest: digest(row.try_get("digest")?)?,
        epoch: Epoch(number(row, "epoch")?),
        at: Timestamp(row.try_get("at")?),
    })
}

/// A tenant's id, from its column.
pub(super) fn tenant(text: String) -> Result<TenantId> {
    Ok(TenantId(text.parse()?))
}

fn consumer(row: &SqliteRow) -> sqlx::Result<ConsumerId> {
    let name = row.try_get::<&str, _>("consumer")?.parse().map_err(decode)?;
    Ok(ConsumerId { tenant: tenant(row.try_get("tenant")?).map_err(decode)?, name })
}

/// 64 bits, which SQLite holds as a signed number.
fn number(row: &SqliteRow, column: &str) -> sqlx::Result<u64> {
    Ok(row.try_get::<i64, _>(column)?.cast_unsigned())
}

fn small(row: &SqliteRow, column: &str) -> sqlx::Result<u32> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(decode)
}

fn digest(bytes: Vec<u8>) -> sqlx::Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| width())
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Blocked => "blocked",
        Status::Paused => "paused",
    }
}

fn status(text: &str) -> sqlx::Result<Status> {
    match text {
        "running" => Ok(Status::Running),
        "blocked" => Ok(Status::Blocked),
        "paused" => Ok(Status::Paused),
        _ => Err(decode(format!("`{text}` is no status"))),
    }
}

fn width() -> sqlx::Error {
    decode("a hash has not 32 bytes")
}

fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
