//! The database as a store: what it reads, and the claim. What it writes is in `commit.rs`.

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, postgres::PgRow};

use super::Postgres;
use crate::{
    backend::{CHUNK_BYTES_MAX, dead_letter::wished, no_letter, round, row},
    dead_letter::{DeadLetter, Letters},
    deployment::Deployment,
    error::{Error, Result},
    event::EventId,
    owner::Owner,
    parked::{Parked, ParkedKey},
    store::{Commit, Committed, Digest, Key, Position, Scope, Store, Swap},
    tenant::{ConsumerId, ShardId},
};

const CLAIM: &str = "
    WITH drawn AS MATERIALIZED (SELECT nextval('tendon.counter') AS number)
    INSERT INTO tendon.position (tenant, consumer, shard, cursor, revision, fence, incarnation, generation, epoch,
        status, attempts, high_water, features, updated_at, owner)
    SELECT $1, $2, $3, '', 0, number, number, 0, 0, 'running', 0, '', 0, 0, $4 FROM drawn
    ON CONFLICT (tenant, consumer, shard) DO UPDATE SET fence = excluded.fence, owner = excluded.owner
    RETURNING *";

const GET: &str = "
    SELECT wanted.place, state.value
    FROM unnest($4::bytea[]) WITH ORDINALITY AS wanted (key, place) JOIN tendon.state ON state.key = wanted.key
    WHERE state.tenant = $1 AND state.consumer = $2 AND state.part = $3";

const SCAN: &str = "
    SELECT key, value FROM tendon.state
    WHERE tenant = $1 AND consumer = $2 AND part = $3 AND key >= $4 AND ($5::bytea IS NULL OR key > $5)
        AND ($6::bytea IS NULL OR key < $6)
    ORDER BY key LIMIT $7";

const ACTIVE: &str = "
    SELECT DISTINCT ON (tenant, consumer) * FROM tendon.deployment ORDER BY tenant, consumer, epoch DESC";

/// Dead letters, as long as what is ahead of them has not too many bytes. Keys and lengths come first, then whole rows.
const LETTERS: &str = "
    SELECT d.* FROM (
        SELECT event, SUM(bytes) OVER (ORDER BY at, event ROWS UNBOUNDED PRECEDING) - bytes AS ahead FROM (
            SELECT at, event, LENGTH(metadata) + LENGTH(record) AS bytes FROM tendon.dead_letter
            WHERE tenant = $1 AND consumer = $2 AND (at, event) > ($3, $4) {wished} ORDER BY at, event LIMIT $5
        ) AS first
    ) AS page JOIN tendon.dead_letter AS d ON d.event = page.event
    WHERE ahead < $6 AND d.tenant = $1 AND d.consumer = $2 ORDER BY d.at, d.event";

/// The keys that are parked: what is first of each, and how many there are.
const PARKED_KEYS: &str = "
    SELECT p.tenant, p.consumer, p.event, p.shard, ''::bytea AS metadata, p.record, p.redrive_at, k.first, k.last, k.events
    FROM (
        SELECT key, MIN(place) AS first, MAX(place) AS last, COUNT(*) AS events FROM tendon.parked
        WHERE tenant = $1 AND consumer = $2 GROUP BY key
    ) AS k JOIN tendon.parked AS p ON p.key = k.key AND p.place = k.first
    WHERE p.tenant = $1 AND p.consumer = $2 ORDER BY p.key";

/// Events of a key, as long as what is ahead of them has not too many bytes.
const PARKED: &str = "
    SELECT p.* FROM (
        SELECT place, SUM(bytes) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) - bytes AS ahead FROM (
            SELECT place, LENGTH(metadata) + LENGTH(record) AS bytes FROM tendon.parked
            WHERE tenant = $1 AND consumer = $2 AND key = $3 AND place >= $4 ORDER BY place LIMIT $5
        ) AS first
    ) AS page JOIN tendon.parked AS p ON p.place = page.place
    WHERE ahead < $6 AND p.tenant = $1 AND p.consumer = $2 AND p.key = $3 ORDER BY p.place";

#[async_trait]
impl Store for Postgres {
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position> {
        self.may_write("claim a shard in")?;
        self.0.failpoints.hit("postgres claim")?;
        let claim = sqlx::query(CLAIM)
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .bind(&*owner.0)
            .try_map(|found: PgRow| row::position(&found));
        let position = claim.fetch_one(&self.0.writers).await;
        let position = position.map_err(|error| self.failed("claim a shard in", error))?;
        self.0.failpoints.hit("postgres claim answer")?;
        Ok(position)
    }

    async fn load(&self, shard: &ShardId) -> Result<Position> {
        let found = sqlx::query("SELECT * FROM tendon.position WHERE tenant = $1 AND consumer = $2 AND shard = $3")
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .try_map(|found: PgRow| row::position(&found));
        let found = found.fetch_optional(&self.0.readers).await.map_err(|error| self.failed("read", error))?;
        found.ok_or_else(|| Error::not_found(format!("nobody ever ran shard {shard}")))
    }

    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        let wanted: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes().as_ref()).collect();
        let rows = sqlx::query_as(GET)
            .bind(scope.consumer.tenant.0.as_str())
            .bind(scope.consumer.name.as_str())
            .bind(scope.part.as_bytes().as_ref())
            .bind(wanted);
        let rows: Vec<(i64, Vec<u8>)> =
            rows.fetch_all(&self.0.readers).await.map_err(|error| self.failed("read state from", error))?;
        let mut values = vec![None; keys.len()];
        for (place, value) in rows {
            // Places count from 1.
            let place = usize::try_from(place).ok().and_then(|place| values.get_mut(place.wrapping_sub(1)));
            if let Some(found) = place {
                *found = Some(value.into());
            }
        }
        Ok(values)
    }

    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        let rows = sqlx::query_as(SCAN)
            .bind(scope.consumer.tenant.0.as_str())
            .bind(scope.consumer.name.as_str())
            .bind(scope.part.as_bytes().as_ref())
            .bind(prefix.as_bytes())
            .bind(after.map(str::as_bytes))
            .bind(beyond(prefix))
            .bind(i64::from(limit));
        let rows: Vec<(Vec<u8>, Vec<u8>)> =
            rows.fetch_all(&self.0.readers).await.map_err(|error| self.failed("read state from", error))?;
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let key = Key::try_from(key).map_err(|error| Error::corrupt("a state key is not UTF-8").because(error))?;
            Ok((key, value.into()))
        };
        rows.into_iter().map(entry).collect()
    }

    async fn has_state(&self, consumer: &ConsumerId) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM tendon.state WHERE tenant = $1 AND consumer = $2)";
        let found = sqlx::query_scalar(sql).bind(consumer.tenant.0.as_str()).bind(consumer.name.as_str());
        found.fetch_one(&self.0.readers).await.map_err(|error| self.failed("read state from", error))
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        round::write(self, commits).await
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        let sql = "SELECT * FROM tendon.position ORDER BY tenant, consumer, shard";
        self.rows(sqlx::query(sql).try_map(|found: PgRow| row::position(&found)).fetch_all(&self.0.readers).await)
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        self.rows(sqlx::query(ACTIVE).try_map(|found: PgRow| row::deployment(&found)).fetch_all(&self.0.readers).await)
    }

    async fn component(&self, digest: &Digest) -> Result<Bytes> {
        let sql = "SELECT bytes FROM tendon.component WHERE digest = $1";
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
            .try_map(|found: PgRow| row::dead_letter(&found));
        self.rows(letters.fetch_all(&self.0.readers).await)
    }

    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter> {
        let letter = sqlx::query("SELECT * FROM tendon.dead_letter WHERE tenant = $1 AND consumer = $2 AND event = $3")
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(event.0.as_bytes().as_ref())
            .try_map(|found: PgRow| row::dead_letter(&found));
        let letter = letter.fetch_optional(&self.0.readers).await.map_err(|error| self.failed("read", error))?;
        letter.ok_or_else(|| no_letter(consumer, event))
    }

    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>> {
        let keys = sqlx::query(PARKED_KEYS)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: PgRow| row::parked_key(&found));
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
            .try_map(|found: PgRow| row::parked(&found));
        self.rows(parked.fetch_all(&self.0.readers).await)
    }

    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>> {
        let sql = "SELECT * FROM tendon.history WHERE tenant = $1 AND consumer = $2 AND shard = $3 ORDER BY revision";
        let swaps = sqlx::query(sql)
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .try_map(|found: PgRow| row::swap(&found));
        self.rows(swaps.fetch_all(&self.0.readers).await)
    }
}

impl Postgres {
    fn rows<T>(&self, rows: sqlx::Result<Vec<T>>) -> Result<Vec<T>> {
        rows.map_err(|error| self.failed("read", error))
    }
}

/// The first bytes after all that begin with a prefix; none where there is no end to them.
fn beyond(prefix: &str) -> Option<Vec<u8>> {
    let mut bytes = prefix.as_bytes().to_vec();
    // UTF-8 has no byte of 255: there is always a next one.
    let last = bytes.last_mut()?;
    *last += 1;
    Some(bytes)
}
