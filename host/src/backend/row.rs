//! Rows as values, of whichever SQL database: their tables have the same columns.

use std::time::Duration;

use sqlx::{ColumnIndex, Database, Decode, Row, Type};

use crate::{
    dead_letter::DeadLetter,
    deployment::Deployment,
    error::Result,
    event::{Cursor, EventHash, EventId, Timestamp},
    owner::Owner,
    parked::{Parked, ParkedKey},
    store::{Digest, Epoch, Fence, Position, Reason, Revision, Status, Swap},
    tenant::{ConsumerId, ShardId, TenantId},
};

/// The columns of a row, by their names.
pub(super) trait Columns {
    /// A number.
    fn number(&self, column: &str) -> sqlx::Result<i64>;
    /// A number, or none.
    fn number_or_null(&self, column: &str) -> sqlx::Result<Option<i64>>;
    /// A text, or none.
    fn text(&self, column: &str) -> sqlx::Result<Option<String>>;
    /// Bytes, or none.
    fn bytes(&self, column: &str) -> sqlx::Result<Option<Vec<u8>>>;
}

impl<R: Row> Columns for R
where
    for<'n> &'n str: ColumnIndex<R>,
    for<'r> i64: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    for<'r> String: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    for<'r> Vec<u8>: Decode<'r, <R as Row>::Database> + Type<<R as Row>::Database>,
    R::Database: Database,
{
    fn number(&self, column: &str) -> sqlx::Result<i64> {
        self.try_get(column)
    }

    fn number_or_null(&self, column: &str) -> sqlx::Result<Option<i64>> {
        self.try_get(column)
    }

    fn text(&self, column: &str) -> sqlx::Result<Option<String>> {
        self.try_get(column)
    }

    fn bytes(&self, column: &str) -> sqlx::Result<Option<Vec<u8>>> {
        self.try_get(column)
    }
}

/// A position, from a row of its table.
pub(super) fn position(row: &impl Columns) -> sqlx::Result<Position> {
    let reason: Option<Reason> =
        row.text("reason")?.map(|json| serde_json::from_str(&json)).transpose().map_err(decode)?;
    let last_event = row.bytes("last_event")?;
    Ok(Position {
        shard: shard(row)?,
        cursor: Cursor(bytes(row, "cursor")?.into()),
        revision: Revision(number(row, "revision")?),
        fence: Fence(number(row, "fence")?),
        incarnation: number(row, "incarnation")?,
        generation: small(row, "generation")?,
        epoch: Epoch(number(row, "epoch")?),
        status: status(&text(row, "status")?)?,
        reason,
        attempts: small(row, "attempts")?,
        digest: row.bytes("digest")?.map(digest).transpose()?,
        last_event: last_event.map(|bytes| bytes.try_into().map(EventHash)).transpose().map_err(|_| width())?,
        high_water: Cursor(bytes(row, "high_water")?.into()),
        features: number(row, "features")?,
        topology: number(row, "topology")?,
        updated_at: Timestamp(row.number("updated_at")?),
        owner: Owner(text(row, "owner")?.into()),
    })
}

/// The shard that a row names.
pub(super) fn shard(row: &impl Columns) -> sqlx::Result<ShardId> {
    Ok(ShardId { consumer: consumer(row)?, index: small(row, "shard")? })
}

/// A deployment, from a row of its table.
pub(super) fn deployment(row: &impl Columns) -> sqlx::Result<Deployment> {
    Ok(Deployment {
        consumer: consumer(row)?,
        epoch: Epoch(number(row, "epoch")?),
        digest: digest(bytes(row, "digest")?)?,
        spec: serde_json::from_str(&text(row, "spec")?).map_err(decode)?,
        at: Timestamp(row.number("at")?),
    })
}

/// A line of a shard's history, from a row of its table.
pub(super) fn swap(row: &impl Columns) -> sqlx::Result<Swap> {
    Ok(Swap {
        revision: Revision(number(row, "revision")?),
        digest: digest(bytes(row, "digest")?)?,
        epoch: Epoch(number(row, "epoch")?),
        at: Timestamp(row.number("at")?),
    })
}

/// A dead letter, from a row of its table.
pub(super) fn dead_letter(row: &impl Columns) -> sqlx::Result<DeadLetter> {
    let pace_us = row.number_or_null("redrive_pace")?.unwrap_or_default();
    let redrive_pace = Duration::from_micros(u64::try_from(pace_us).unwrap_or_default());
    Ok(DeadLetter { redrive_pace, ..letter(row)? })
}

/// The same without its pace: events that wait have none.
fn letter(row: &impl Columns) -> sqlx::Result<DeadLetter> {
    let id = EventId(bytes(row, "event")?.try_into().map_err(decode)?);
    let redrive_at = row.number_or_null("redrive_at")?.map(Timestamp);
    DeadLetter::read(shard(row)?, id, bytes(row, "metadata")?.into(), redrive_at, &text(row, "record")?).map_err(decode)
}

/// An event that waits, from a row of its table.
pub(super) fn parked(row: &impl Columns) -> sqlx::Result<Parked> {
    Ok(Parked { place: number(row, "place")?, letter: letter(row)? })
}

/// A key that is parked, from its first row, with the places of the first and the last one and their number.
pub(super) fn parked_key(row: &impl Columns) -> sqlx::Result<ParkedKey> {
    let (first, last, events) = (number(row, "first")?, number(row, "last")?, number(row, "events")?);
    Ok(ParkedKey { head: letter(row)?, first, last, events })
}

/// A tenant's id, from its column.
pub(super) fn tenant(text: String) -> Result<TenantId> {
    Ok(TenantId(text.parse()?))
}

fn consumer(row: &impl Columns) -> sqlx::Result<ConsumerId> {
    let name = text(row, "consumer")?.parse().map_err(decode)?;
    Ok(ConsumerId { tenant: tenant(text(row, "tenant")?).map_err(decode)?, name })
}

/// A text that is there.
fn text(row: &impl Columns, column: &str) -> sqlx::Result<String> {
    row.text(column)?.ok_or_else(|| decode(format!("`{column}` is NULL")))
}

/// Bytes that are there.
fn bytes(row: &impl Columns, column: &str) -> sqlx::Result<Vec<u8>> {
    row.bytes(column)?.ok_or_else(|| decode(format!("`{column}` is NULL")))
}

/// 64 bits, which a database holds as a signed number.
fn number(row: &impl Columns, column: &str) -> sqlx::Result<u64> {
    Ok(row.number(column)?.cast_unsigned())
}

fn small(row: &impl Columns, column: &str) -> sqlx::Result<u32> {
    u32::try_from(row.number(column)?).map_err(decode)
}

fn digest(bytes: Vec<u8>) -> sqlx::Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| width())
}

/// A status, as its column holds it.
pub(super) fn status_text(status: Status) -> &'static str {
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

/// What is not what a column must hold.
pub(super) fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
