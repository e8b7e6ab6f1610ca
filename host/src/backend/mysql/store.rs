//! The database as a store: what it reads, and the claim. What it writes is in `commit.rs`.

use std::{borrow::Cow, collections::HashMap};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{AssertSqlSafe, Row as _, mysql::MySqlRow};

use super::{
    Mysql,
    commit::{TRIES, pause},
    failure::Failed,
    text::literal,
    transaction::Transaction,
    write,
};
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

/// Makes the row, or takes its lock; a fence is never 0 but here.
const CLAIM: &str = "
    INSERT INTO tendon_position (tenant, consumer, shard, `cursor`, revision, fence, incarnation, generation, epoch,
        status, attempts, high_water, features, updated_at, owner)
    VALUES (?, ?, ?, '', 0, 0, 0, 0, 0, 'running', 0, '', 0, 0, ?) ON DUPLICATE KEY UPDATE owner = VALUES(owner)";

/// The assignments are made from left to right.
const FENCE: &str = "
    UPDATE tendon_position SET incarnation = IF(fence = 0, ?, incarnation), fence = ?
    WHERE tenant = ? AND consumer = ? AND shard = ?";

const LOAD: &str = "SELECT * FROM tendon_position WHERE tenant = ? AND consumer = ? AND shard = ?";

const SCAN: &str = "
    SELECT `key`, value FROM tendon_state
    WHERE tenant = ? AND consumer = ? AND part = ? AND `key` >= ? AND `key` < ? ORDER BY `key` LIMIT ?";

const ACTIVE: &str = "
    SELECT d.* FROM tendon_deployment AS d
    JOIN (SELECT tenant, consumer, MAX(epoch) AS epoch FROM tendon_deployment GROUP BY tenant, consumer) AS newest
        ON newest.tenant = d.tenant AND newest.consumer = d.consumer AND newest.epoch = d.epoch
    ORDER BY d.tenant, d.consumer";

/// The longest part that is in its column as it is.
const PART_BYTES_MAX: usize = 255;

/// Dead letters, as long as what is ahead of them has not too many bytes. Keys and lengths come first, then whole rows.
const LETTERS: &str = "
    SELECT d.* FROM (
        SELECT event, SUM(bytes) OVER (ORDER BY at, event ROWS UNBOUNDED PRECEDING) - bytes AS ahead FROM (
            SELECT at, event, LENGTH(metadata) + LENGTH(record) AS bytes FROM tendon_dead_letter
            WHERE tenant = ? AND consumer = ? AND (at > ? OR at = ? AND event > ?) {wished} ORDER BY at, event LIMIT ?
        ) AS first
    ) AS page JOIN tendon_dead_letter AS d ON d.event = page.event
    WHERE ahead < ? AND d.tenant = ? AND d.consumer = ? ORDER BY d.at, d.event";

/// The keys that are parked: what is first of each, and how many there are.
const PARKED_KEYS: &str = "
    SELECT p.tenant, p.consumer, p.event, p.shard, '' AS metadata, p.record, p.redrive_at, k.first, k.last, k.events
    FROM (
        SELECT `key`, MIN(place) AS first, MAX(place) AS last, COUNT(*) AS events FROM tendon_parked
        WHERE tenant = ? AND consumer = ? GROUP BY `key`
    ) AS k JOIN tendon_parked AS p ON p.`key` = k.`key` AND p.place = k.first
    WHERE p.tenant = ? AND p.consumer = ? ORDER BY p.`key`";

/// Events of a key, as long as what is ahead of them has not too many bytes.
const PARKED: &str = "
    SELECT p.* FROM (
        SELECT place, SUM(bytes) OVER (ORDER BY place ROWS UNBOUNDED PRECEDING) - bytes AS ahead FROM (
            SELECT place, LENGTH(metadata) + LENGTH(record) AS bytes FROM tendon_parked
            WHERE tenant = ? AND consumer = ? AND `key` = ? AND place >= ? ORDER BY place LIMIT ?
        ) AS first
    ) AS page JOIN tendon_parked AS p ON p.place = page.place
    WHERE ahead < ? AND p.tenant = ? AND p.consumer = ? AND p.`key` = ? ORDER BY p.place";

#[async_trait]
impl Store for Mysql {
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position> {
        self.may_write("claim a shard in")?;
        let mut tries = 1;
        let position = loop {
            match self.claim_once(shard, owner).await {
                Ok(position) => break position,
                Err(failed) if failed.is_conflict() && tries < TRIES => pause(tries).await,
                Err(Failed::Own(error) | Failed::Late(error)) => return Err(error),
                Err(Failed::Sql(error) | Failed::Lost(error)) => return Err(self.failed("claim a shard in", error)),
            }
            tries += 1;
        };
        self.0.failpoints.hit("mysql claim answer")?;
        Ok(position)
    }

    async fn load(&self, shard: &ShardId) -> Result<Position> {
        let found = sqlx::query(LOAD)
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .try_map(|found: MySqlRow| row::position(&found));
        let found = found.fetch_optional(&self.0.readers).await.map_err(|error| self.failed("read", error))?;
        found.ok_or_else(|| Error::not_found(format!("nobody ever ran shard {shard}")))
    }

    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        // Names have nothing to quote, and a part is in hexadecimal digits.
        let (tenant, consumer) = (&scope.consumer.tenant, &scope.consumer.name);
        let part = literal(&part(&scope.part));
        let head = format!(
            "SELECT `key`, value FROM tendon_state
            WHERE tenant = '{tenant}' AND consumer = '{consumer}' AND part = {part} AND `key` IN ("
        );
        let mut batches = self.batches(head, ")");
        for key in keys {
            batches.push(&literal(key.as_bytes()))?;
        }
        let failed = |error| self.failed("read state from", error);
        let mut values: HashMap<Vec<u8>, Bytes> = HashMap::new();
        for sql in batches.finish() {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&self.0.readers).await.map_err(failed)?;
            for row in rows {
                let value: Vec<u8> = row.try_get(1).map_err(failed)?;
                values.insert(row.try_get(0).map_err(failed)?, value.into());
            }
        }
        Ok(keys.iter().map(|key| values.get(key.as_bytes().as_ref()).cloned()).collect())
    }

    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        // The first bytes after some others are those with a zero behind them.
        let after = after.map(|after| [after.as_bytes(), b"\0"].concat()).unwrap_or_default();
        let rows = sqlx::query_as(SCAN)
            .bind(scope.consumer.tenant.0.as_str())
            .bind(scope.consumer.name.as_str())
            .bind(part(&scope.part).into_owned())
            .bind(after.max(prefix.as_bytes().to_vec()))
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
        let sql = "SELECT EXISTS (SELECT 1 FROM tendon_state WHERE tenant = ? AND consumer = ?)";
        let found = sqlx::query_scalar(sql).bind(consumer.tenant.0.as_str()).bind(consumer.name.as_str());
        found.fetch_one(&self.0.readers).await.map_err(|error| self.failed("read state from", error))
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        round::write(self, commits).await
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        let sql = "SELECT * FROM tendon_position ORDER BY tenant, consumer, shard";
        self.rows(sqlx::query(sql).try_map(|found: MySqlRow| row::position(&found)).fetch_all(&self.0.readers).await)
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        let rows = sqlx::query(ACTIVE).try_map(|found: MySqlRow| row::deployment(&found));
        self.rows(rows.fetch_all(&self.0.readers).await)
    }

    async fn component(&self, digest: &Digest) -> Result<Bytes> {
        let sql = "SELECT bytes FROM tendon_component WHERE digest = ? ORDER BY piece";
        let pieces = sqlx::query_scalar(sql).bind(digest.0.as_slice()).fetch_all(&self.0.readers).await;
        let pieces: Vec<Vec<u8>> = pieces.map_err(|error| self.failed("read a component from", error))?;
        if pieces.is_empty() {
            return Err(Error::not_found(format!("there is no component {digest}")));
        }
        Ok(pieces.concat().into())
    }

    async fn dead_letters(&self, consumer: &ConsumerId, which: &Letters) -> Result<Vec<DeadLetter>> {
        let (at, event) = which.begin();
        let sql = LETTERS.replace("{wished}", wished(which.wished));
        let letters = sqlx::query(AssertSqlSafe(sql))
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(at.0)
            .bind(at.0)
            .bind(event.0.as_bytes().as_ref())
            .bind(i64::from(which.limit))
            .bind(CHUNK_BYTES_MAX as i64)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: MySqlRow| row::dead_letter(&found));
        self.rows(letters.fetch_all(&self.0.readers).await)
    }

    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter> {
        let letter = sqlx::query("SELECT * FROM tendon_dead_letter WHERE tenant = ? AND consumer = ? AND event = ?")
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(event.0.as_bytes().as_ref())
            .try_map(|found: MySqlRow| row::dead_letter(&found));
        let letter = letter.fetch_optional(&self.0.readers).await.map_err(|error| self.failed("read", error))?;
        letter.ok_or_else(|| no_letter(consumer, event))
    }

    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>> {
        let keys = sqlx::query(PARKED_KEYS)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: MySqlRow| row::parked_key(&found));
        self.rows(keys.fetch_all(&self.0.readers).await)
    }

    async fn parked(&self, consumer: &ConsumerId, key: &str, from: u64, limit: u32) -> Result<Vec<Parked>> {
        let parked = sqlx::query(PARKED)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(part(key).into_owned())
            .bind(from.cast_signed())
            .bind(i64::from(limit))
            .bind(CHUNK_BYTES_MAX as i64)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .bind(part(key).into_owned())
            .try_map(|found: MySqlRow| row::parked(&found));
        self.rows(parked.fetch_all(&self.0.readers).await)
    }

    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>> {
        let sql = "SELECT * FROM tendon_history WHERE tenant = ? AND consumer = ? AND shard = ? ORDER BY revision";
        let swaps = sqlx::query(sql)
            .bind(shard.consumer.tenant.0.as_str())
            .bind(shard.consumer.name.as_str())
            .bind(i64::from(shard.index))
            .try_map(|found: MySqlRow| row::swap(&found));
        self.rows(swaps.fetch_all(&self.0.readers).await)
    }
}

impl Mysql {
    async fn claim_once(&self, shard: &ShardId, owner: &Owner) -> Result<Position, Failed> {
        self.0.failpoints.hit("mysql claim begin")?;
        let mut open = Transaction::begin(&self.0.writers).await?;
        match self.claim_in(&mut open, shard, owner).await {
            Ok(position) => {
                open.commit().await?;
                Ok(position)
            }
            Err(failed) => {
                open.roll_back().await;
                Err(failed)
            }
        }
    }

    /// The row's lock comes before the number, so that fences rise; and nobody holds the counter while waiting.
    async fn claim_in(&self, open: &mut Transaction, shard: &ShardId, owner: &Owner) -> Result<Position, Failed> {
        let points = &self.0.failpoints;
        let (tenant, consumer) = (shard.consumer.tenant.0.as_str(), shard.consumer.name.as_str());
        let index = i64::from(shard.index);
        points.hit("mysql claim position")?;
        let claim = sqlx::query(CLAIM).bind(tenant).bind(consumer).bind(index).bind(&*owner.0);
        claim.execute(open.connection()).await?;
        points.hit("mysql claim counter")?;
        let fence = write::draw(1).execute(open.connection()).await?.last_insert_id().cast_signed();
        points.hit("mysql claim fence")?;
        let raise = sqlx::query(FENCE).bind(fence).bind(fence).bind(tenant).bind(consumer).bind(index);
        raise.execute(open.connection()).await?;
        points.hit("mysql claim read")?;
        let found = sqlx::query(LOAD).bind(tenant).bind(consumer).bind(index);
        let position = found.try_map(|found: MySqlRow| row::position(&found)).fetch_one(open.connection()).await?;
        points.hit("mysql claim commit")?;
        Ok(position)
    }

    fn rows<T>(&self, rows: sqlx::Result<Vec<T>>) -> Result<Vec<T>> {
        rows.map_err(|error| self.failed("read", error))
    }
}

/// A part as its column has it: itself, or its SHA-256 behind a byte with which no UTF-8 begins.
pub(super) fn part(part: &str) -> Cow<'_, [u8]> {
    if part.len() <= PART_BYTES_MAX {
        return Cow::Borrowed(part.as_bytes());
    }
    Cow::Owned([&[0xff], Digest::of(part.as_bytes()).0.as_slice()].concat())
}

/// The first bytes after all that begin with a prefix. UTF-8 has no byte of 255: there is always a next one.
fn beyond(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    match bytes.last_mut() {
        Some(last) => *last += 1,
        None => bytes.push(0xff),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_part_has_a_place_of_its_own_that_no_short_one_has() {
        let (short, long) = ("p".repeat(PART_BYTES_MAX), "p".repeat(PART_BYTES_MAX + 1));
        assert_eq!(part(&short), short.as_bytes());
        assert_eq!((part(&long).len(), part(&long)[0]), (33, 0xff));
        assert_ne!(part(&long), part(&format!("{long}p")));
    }
}
