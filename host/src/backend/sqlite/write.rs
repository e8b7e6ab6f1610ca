//! What a commit writes beside positions and state: events, history, deployments.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    Sqlite,
    commit::Item,
    encode::{self, Parameters},
    table::Table,
    transaction::Transaction,
};
use crate::{
    backend::{
        dead_letter, item, overtaken,
        round::{Wanted, wanted},
    },
    error::{Error, Result},
    event::EventKey,
    store::Committed,
};

const INSERT_HISTORY: &str = "
    INSERT INTO history (tenant, consumer, shard, revision, digest, epoch, at)
    SELECT value->>0, value->>1, value->>2, value->>3, unhex(value->>4), value->>5, value->>6 FROM json_each(?1)";

const SET_ASIDE: &str = "
    INSERT OR REPLACE INTO dead_letter (tenant, consumer, event, shard, at, metadata, record)
    SELECT value->>1, value->>2, unhex(value->>3), value->>4, value->>5, unhex(value->>6), value->>7 FROM json_each(?1)";

const REDRIVE: &str = "
    UPDATE dead_letter SET redrive_at = value->>4, redrive_pace = value->>5 FROM json_each(?1)
    WHERE tenant = value->>1 AND consumer = value->>2 AND event = unhex(value->>3)";

const PURGE: &str = "
    DELETE FROM dead_letter WHERE (tenant, consumer, event) IN (
        SELECT value->>1, value->>2, unhex(value->>3) FROM json_each(?1)
    )";

const PARK: &str = "
    INSERT OR REPLACE INTO parked (tenant, consumer, event, shard, at, metadata, record, key, place, redrive_at)
    SELECT value->>1, value->>2, unhex(value->>3), value->>4, value->>5, unhex(value->>6), value->>7, unhex(value->>8),
        value->>9, value->>10 FROM json_each(?1)";

const UNPARK: &str = "
    DELETE FROM parked WHERE (tenant, consumer, key, place) IN (
        SELECT value->>1, value->>2, unhex(value->>3), value->>4 FROM json_each(?1)
    )";

const INSERT_COMPONENT: &str = "INSERT INTO component (digest, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING";

const NEWEST_DEPLOYMENT: &str = "SELECT ifnull(max(epoch), 0) FROM deployment WHERE tenant = ? AND consumer = ?";

const INSERT_DEPLOYMENT: &str =
    "INSERT INTO deployment (tenant, consumer, epoch, digest, spec, at) VALUES (?, ?, ?, ?, ?, ?)";

/// What was appended.
#[derive(Default)]
pub(super) struct Appended {
    /// How many events of each item.
    pub(super) counts: Vec<u64>,
    /// The newest id of each stream.
    pub(super) newest: Vec<(Arc<Table>, i64)>,
}

impl Sqlite {
    /// Appends the emitted events: the keys of all, then those of each stream in their order.
    pub(super) async fn append<'a>(&self, open: &mut Transaction<'_>, items: &[&'a Item<'a>]) -> Result<Appended> {
        let known = self.known(open, items).await?;
        let Wanted { counts, keys, streams } = wanted(items, &known);
        if !keys.is_empty() {
            self.0.failpoints.hit("sqlite event keys")?;
            let Parameters { json, bytes } = encode::event_keys(&keys)?;
            let done = sqlx::query(encode::INSERT_KEYS).bind(json).bind(bytes).execute(open.connection()).await;
            if let Err(error) = done {
                return Err(self.refused(open, items, &keys, error).await);
            }
        }
        let mut newest = Vec::new();
        for (table, emits) in streams.into_values() {
            self.0.failpoints.hit("sqlite events")?;
            let Parameters { json, bytes } = encode::events(&emits)?;
            let done = sqlx::query(table.append()).bind(json).bind(bytes).execute(open.connection()).await;
            newest.push((table, done.map_err(|error| self.failed("append to", error))?.last_insert_rowid()));
        }
        Ok(Appended { counts, newest })
    }

    /// The keys, of items that skip duplicates, that are in the store already.
    async fn known(&self, open: &mut Transaction<'_>, items: &[&Item<'_>]) -> Result<HashSet<EventKey>> {
        let skipping = items.iter().filter(|item| item.skips());
        let emits = skipping.flat_map(|item| &item.commit.changes.emits);
        let keys: Vec<&EventKey> = emits.map(|emit| &emit.key).collect();
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        self.0.failpoints.hit("sqlite known keys")?;
        self.known_of(open, &keys).await
    }

    async fn known_of(&self, open: &mut Transaction<'_>, keys: &[&EventKey]) -> Result<HashSet<EventKey>> {
        let Parameters { json, bytes } = encode::event_keys(keys)?;
        let known = sqlx::query_scalar(encode::KNOWN_KEYS).bind(json).bind(bytes).fetch_one(open.connection()).await;
        let known: String = known.map_err(|error| self.failed("read", error))?;
        let known: Vec<usize> = serde_json::from_str(&known)
            .map_err(|error| Error::corrupt("a list of numbers from SQLite is not one").because(error))?;
        Ok(known.into_iter().filter_map(|n| keys.get(n).map(|key| **key)).collect())
    }

    /// Why the keys were not taken.
    async fn refused(
        &self,
        open: &mut Transaction<'_>,
        items: &[&Item<'_>],
        keys: &[&EventKey],
        error: sqlx::Error,
    ) -> Error {
        if !error.as_database_error().is_some_and(|error| error.is_unique_violation()) {
            return self.failed("append to", error);
        }
        let known = self.known_of(open, keys).await.unwrap_or_default().into_iter().next();
        item::key_refused(items.first().map(|item| item.commit), known, error)
    }

    /// A line for each shard whose component is another one than before.
    pub(super) async fn write_history(
        &self,
        open: &mut Transaction<'_>,
        items: &[Item<'_>],
        answers: &[Result<Committed>],
    ) -> Result<()> {
        let swaps = items.iter().zip(answers).filter_map(|(item, answer)| {
            let before = item.commit.r#move.as_ref()?.from.digest;
            let position = answer.as_ref().ok()?.position.as_ref()?;
            let digest = position.digest.filter(|digest| before != Some(*digest))?;
            Some(json!([
                position.shard.consumer.tenant,
                position.shard.consumer.name,
                position.shard.index,
                position.revision.0.cast_signed(),
                hex::encode(digest.0),
                position.epoch.0.cast_signed(),
                position.updated_at.0,
            ]))
        });
        let swaps: Vec<Value> = swaps.collect();
        if swaps.is_empty() {
            return Ok(());
        }
        self.0.failpoints.hit("sqlite history")?;
        let done = sqlx::query(INSERT_HISTORY).bind(Value::from(swaps).to_string()).execute(open.connection()).await;
        done.map(drop).map_err(|error| self.failed("commit to", error))
    }

    /// What is set aside, what of it is to be handled again, and what no longer is there; what waits, and what does no longer.
    pub(super) async fn write_dead_letters(&self, open: &mut Transaction<'_>, items: &[&Item<'_>]) -> Result<()> {
        let commits = || items.iter().map(|item| (0, item.commit));
        let all = [
            ("sqlite dead letters", SET_ASIDE, dead_letter::set_aside(commits())?),
            ("sqlite redrives", REDRIVE, dead_letter::redrives(commits())),
            ("sqlite purge", PURGE, dead_letter::purged(commits())),
            ("sqlite unpark", UNPARK, dead_letter::unparked(commits())),
            ("sqlite park", PARK, dead_letter::parked(commits())?),
        ];
        for (point, sql, rows) in all {
            if let Some(rows) = rows {
                self.0.failpoints.hit(point)?;
                let done = sqlx::query(sql).bind(rows).execute(open.connection()).await;
                done.map_err(|error| self.failed("commit to", error))?;
            }
        }
        Ok(())
    }

    /// Activates deployments; they are rare and big, so each has its own two statements.
    pub(super) async fn deploy(
        &self,
        open: &mut Transaction<'_>,
        items: &[Item<'_>],
        answers: &[Result<Committed>],
    ) -> Result<()> {
        let failed = |error| self.failed("deploy to", error);
        for (item, answer) in items.iter().zip(answers) {
            let (Some((deployment, component)), Ok(Committed { epoch: Some(epoch), .. })) =
                (&item.commit.deployment, answer)
            else {
                continue;
            };
            if let Some(follows) = item.commit.follows {
                let newest = sqlx::query_scalar(NEWEST_DEPLOYMENT)
                    .bind(deployment.consumer.tenant.0.as_str())
                    .bind(deployment.consumer.name.as_str());
                let found: i64 = newest.fetch_one(open.connection()).await.map_err(failed)?;
                if found.cast_unsigned() != follows.0 {
                    return Err(overtaken(deployment, follows));
                }
            }
            let spec = serde_json::to_string(&deployment.spec)
                .map_err(|error| Error::corrupt("a spec is not JSON").because(error))?;
            self.0.failpoints.hit("sqlite component")?;
            let digest = deployment.digest.0.as_slice();
            let insert = sqlx::query(INSERT_COMPONENT).bind(digest).bind(&component[..]);
            insert.execute(open.connection()).await.map_err(failed)?;
            self.0.failpoints.hit("sqlite deployment")?;
            let insert = sqlx::query(INSERT_DEPLOYMENT)
                .bind(deployment.consumer.tenant.0.as_str())
                .bind(deployment.consumer.name.as_str())
                .bind(epoch.0.cast_signed())
                .bind(digest)
                .bind(spec)
                .bind(deployment.at.0);
            insert.execute(open.connection()).await.map_err(failed)?;
        }
        Ok(())
    }
}
