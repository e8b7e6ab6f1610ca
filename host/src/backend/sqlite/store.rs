//! The database as a store: what it reads, and the claim. What it writes is in `commit.rs`.

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, sqlite::SqliteRow};

use super::Sqlite;
use crate::{
    backend::{CHUNK_BYTES_MAX, dead_letter::wished, no_letter, round, row},
    dead_letter::{DeadLetter, Letters},
    deployment::Deployment,
    error::{Error, Result},
    event::EventId,
    owner::Owner,
    parked::{Parked, ParkedKey},
    store::{Commit, Committed, Digest, Fence, Key, Position, Scope, Store, Swap},
    tenant::{ConsumerId, ShardId},
};

const CLAIM: &str = "
    INSERT INTO position (tenant, consumer, shard, cursor, revision, fence, incarnation, generation, epoch, status,
        attempts, high_water, features, updated_at, owner)
    VALUES (?1, ?2, ?3, x'', 0, ?4, ?4, 0, 0, 'running', 0, x'', 0, 0, ?5)
    ON CONFLICT DO UPDATE SET fence = excluded.fence, owner = excluded.owner
    RETURNING *";

const ACTIVE: &str = "
    SELECT * FROM deployment AS d
    WHERE epoch = (SELECT max(epoch) FROM deployment WHERE tenant = d.tenant AND consumer = d.consumer)
    ORDER BY tenant, consumer";

/// Dead letters, as long as what is ahead of them has not too many bytes. Keys and lengths come first, then whole rows.
const LETTERS: &str = "
    SELECT d.* FROM (
        SELECT event, SUM(bytes) OVER (ORDER BY at, event ROWS UNBOUNDED PRECEDING) - bytes AS ahead FROM (
            SELECT at, event, LENGTH(metadata) + LENGTH(record) AS bytes FROM dead_letter
            WHERE tenant = ? AND consumer = ? AND (at, event) > (?, ?) {wished} ORDER BY at, event LIMIT ?
        ) AS first
    ) AS page JOIN dead_letter AS d ON d.event = page.event
    WHERE ahead < ? AND d.tenant = ? AND d.consumer = ? ORDER BY d.at, d.event";

/// The keys that are parked: what is first of each, and how many there are.
const PARKED_KEYS: &str = "
    SELECT p.tenant, p.consumer, p.event, p.shard, x'' AS metadata, p.record, p.redrive_at, k.first, k.last, k.events
    FROM (
        SELECT key, MIN(place) AS first, MAX(place) AS last, COUNT(*) AS events FROM parked
        WHERE tenant = ?1 AND consumer = ?2 GROUP BY key
    ) AS k JOIN parked AS p ON p.key = k.key AND p.place = k.first
    WHERE p.tenant = ?1 AND p.consumer = ?2 ORDER BY p.key";

/// Events of a key, as long as what is ahead of them has not too many bytes.
const PARKED: &str = "
    SELECT p.* FROM (
        SELECT place, SUM(bytes) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) - bytes AS ahead FROM (
            SELECT place, LENGTH(metadata) + LENGTH(record) AS bytes FROM parked
            WHERE tenant = ?1 AND consumer = ?2 AND key = ?3 AND place >= ?4 ORDER BY place LIMIT ?5
        ) AS first
    ) AS page JOIN parked AS p ON p.place = page.place
    WHERE ahead < ?6 AND p.tenant = ?1 AND p.consumer = ?2 AND p.key = ?3 ORDER BY p.place";

#[async_trait]
impl Store for Sqlite {
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position> {
        let failed = |error| self.failed("claim a shard in", error);
        let mut transaction = self.begin("claim a shard in").await?;
        self.0.failpoints.hit("sqlite claim counter")?;
        let fence = Fence(self.draw(&mut transaction, 1).await?);
        self.0.failpoints.hit("sqlite claim position")?;
        let claim = sqlx::query(CLAIM)
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .bind(fence.0.cast_signed())
            .bind(&*owner.0);
        let claimed = claim.fetch_one(transaction.connection()).await.map_err(failed)?;
        let position = row::position(&claimed).map_err(failed)?;
        self.0.failpoints.hit("sqlite claim commit")?;
        transaction.commit().await.map_err(failed)?;
        self.0.failpoints.hit("sqlite claim answer")?;
        Ok(position)
    }

    async fn load(&self, shard: &ShardId) -> Result<Position> {
        let found = sqlx::query("SELECT * FROM position WHERE tenant = ? AND consumer = ? AND shard = ?")
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index));
        let found = found.fetch_optional(&self.0.readers).await.map_err(|error| self.failed("read", error))?;
        let found = found.ok_or_else(|| Error::not_found(format!("nobody ever ran shard {shard}")))?;
        row::position(&found).map_err(|error| self.failed("read", error))
    }

    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        self.values(scope, keys).await
    }

    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        self.entries(scope, prefix, after, limit).await
    }

    async fn has_state(&self, consumer: &ConsumerId) -> Result<bool> {
        self.any_entry(consumer).await
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        round::write(self, commits).await
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        let sql = "SELECT * FROM position ORDER BY tenant, consumer, shard";
        self.rows(sqlx::query(sql).try_map(|found| row::position(&found)).fetch_all(&self.0.readers).await)
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        self.rows(sqlx::query(ACTIVE).try_map(|found| row::deployment(&found)).fetch_all(&self.0.readers).await)
    }

    async fn component(&self, digest: &Digest) -> Result<Bytes> {
        let sql = "SELECT bytes FROM component WHERE digest = ?";
        let bytes = sqlx::query_scalar(sql).bind(digest.0.as_slice()).fetch_optional(&self.0.readers).await;
        let bytes: Option<Vec<u8>> = bytes.map_err(|error| self.failed("read a component from", error))?;
        bytes.map(Bytes::from).ok_or_else(|| Error::not_found(format!("there is no component {digest}")))
    }

    async fn dead_letters(&self, consumer: &ConsumerId, which: &Letters) -> Result<Vec<DeadLetter>> {
        let (at, event) = which.begin();
        let sql = LETTERS.replace("{wished}", wished(which.wished));
        let letters = sqlx::query(AssertSqlSafe(sql))
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(at.0)
            .bind(event.0.as_bytes().as_ref())
            .bind(i64::from(which.limit))
            .bind(CHUNK_BYTES_MAX as i64)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: SqliteRow| row::dead_letter(&found));
        self.rows(letters.fetch_all(&self.0.readers).await)
    }

    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter> {
        let letter = sqlx::query("SELECT * FROM dead_letter WHERE tenant = ? AND consumer = ? AND event = ?")
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(event.0.as_bytes().as_ref())
            .try_map(|found: SqliteRow| row::dead_letter(&found));
        let letter = letter.fetch_optional(&self.0.readers).await.map_err(|error| self.failed("read", error))?;
        letter.ok_or_else(|| no_letter(consumer, event))
    }

    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>> {
        let keys = sqlx::query(PARKED_KEYS)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: SqliteRow| row::parked_key(&found));
        self.rows(keys.fetch_all(&self.0.readers).await)
    }

    async fn parked(&self, consumer: &ConsumerId, key: &str, from: u64, limit: u32) -> Result<Vec<Parked>> {
        let parked = sqlx::query(PARKED)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(key.as_bytes())
            .bind(from.cast_signed())
            .bind(i64::from(limit))
            .bind(CHUNK_BYTES_MAX as i64)
            .try_map(|found: SqliteRow| row::parked(&found));
        self.rows(parked.fetch_all(&self.0.readers).await)
    }

    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>> {
        let sql = "SELECT * FROM history WHERE tenant = ? AND consumer = ? AND shard = ? ORDER BY revision";
        let swaps = sqlx::query(sql)
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .try_map(|found: SqliteRow| row::swap(&found));
        self.rows(swaps.fetch_all(&self.0.readers).await)
    }
}

impl Sqlite {
    fn rows<T>(&self, rows: sqlx::Result<Vec<T>>) -> Result<Vec<T>> {
        rows.map_err(|error| self.failed("read", error))
    }
}
