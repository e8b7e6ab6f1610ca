//! What a commit writes beside positions and state: history, deployments, events.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use sqlx::{AssertSqlSafe, MySql, MySqlConnection, mysql::MySqlArguments, query::Query};

use super::{
    Log, Mysql,
    commit::Item,
    failure::Failed,
    foreign::ForeignLog,
    store::part,
    table::Table,
    text::{Batches, Row, literal},
    transaction::Transaction,
};
use crate::{
    backend::{
        dead_letter::pace_us,
        item, label, overtaken,
        round::{Wanted, wanted},
    },
    changes::Emit,
    dead_letter::Redrive,
    error::{Error, Result},
    event::{EventId, EventKey},
    parked::ParkedId,
    store::{Committed, Epoch},
    tenant::ConsumerId,
};

const HISTORY: &str = "INSERT INTO tendon_history (tenant, consumer, shard, revision, digest, epoch, at) VALUES ";

/// By itself and with parameters: a letter may be as big as what the server takes at once, and digits are twice as many.
const SET_ASIDE: &str = "
    INSERT INTO tendon_dead_letter (tenant, consumer, event, shard, at, metadata, record) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON DUPLICATE KEY UPDATE shard = VALUES(shard), at = VALUES(at), metadata = VALUES(metadata),
        record = VALUES(record), redrive_at = NULL, redrive_pace = NULL";

const PARK: &str = "
    INSERT INTO tendon_parked (tenant, consumer, `key`, place, event, shard, at, metadata, record, redrive_at) VALUES ";
const PARK_END: &str = "
    ON DUPLICATE KEY UPDATE event = VALUES(event), shard = VALUES(shard), at = VALUES(at), metadata = VALUES(metadata),
        record = VALUES(record), redrive_at = VALUES(redrive_at)";

const COMPONENT: &str = "INSERT INTO tendon_component (digest, piece, bytes) VALUES ";
/// A component that is there stays.
const COMPONENT_END: &str = " ON DUPLICATE KEY UPDATE piece = VALUES(piece)";
const PIECE_BYTES: usize = 256 * 1024;

/// A row that is always there: where a consumer has no deployment yet there is nothing of its own to lock.
const TURN: &str = "SELECT value FROM tendon_counter WHERE id = 1 FOR UPDATE";
const NEWEST_DEPLOYMENT: &str =
    "SELECT epoch FROM tendon_deployment WHERE tenant = ? AND consumer = ? ORDER BY epoch DESC
    LIMIT 1 FOR UPDATE";
const DEPLOYMENT: &str = "INSERT INTO tendon_deployment (tenant, consumer, epoch, digest, spec, at) VALUES ";

const KEYS: &str = "INSERT INTO tendon_event_key (`key`) VALUES ";
const KNOWN_KEYS: &str = "SELECT `key` FROM tendon_event_key WHERE `key` IN (";

/// Ids have no holes and become visible in their order: whoever draws the next waits for this transaction.
const IDS: &str = "UPDATE tendon_stream SET last_id = LAST_INSERT_ID(last_id + ?) WHERE number = ?";

/// Draws numbers of the store's counter; the last of them is the answer's `last_insert_id`.
pub(super) fn draw(count: u64) -> Query<'static, MySql, MySqlArguments> {
    let sql = "UPDATE tendon_counter SET value = LAST_INSERT_ID(value + ?) WHERE id = 1";
    sqlx::query(sql).bind(count.cast_signed())
}

impl Mysql {
    /// A line for each shard whose component is another one than before.
    pub(super) async fn write_history(
        &self,
        open: &mut Transaction,
        items: &[Item<'_>],
        answers: &[Result<Committed>],
    ) -> Result<(), Failed> {
        let mut lines = self.batches(HISTORY, "");
        for (item, answer) in items.iter().zip(answers) {
            let Ok(Committed { position: Some(position), .. }) = answer else { continue };
            let Some(digest) = position.digest.filter(|_| item::swaps(item.commit)) else { continue };
            let consumer = &position.shard.consumer;
            let row = Row::new().name(consumer.tenant.0.as_str()).name(consumer.name.as_str());
            let row = row.number(i64::from(position.shard.index)).number(position.revision.0.cast_signed());
            let row = row.bytes(&digest.0).number(position.epoch.0.cast_signed()).number(position.updated_at.0);
            lines.push(&row.end())?;
        }
        self.send(open, "mysql history", lines).await
    }

    /// What is set aside, what of it is to be handled again, and what no longer is there.
    pub(super) async fn write_dead_letters(&self, open: &mut Transaction, items: &[&Item<'_>]) -> Result<(), Failed> {
        for letter in items.iter().flat_map(|item| &item.commit.dead_letters) {
            self.0.failpoints.hit("mysql dead letters")?;
            let ConsumerId { tenant, name } = &letter.shard.consumer;
            sqlx::query(SET_ASIDE)
                .bind(tenant.0.as_str())
                .bind(name.as_str())
                .bind(letter.event.id.0.as_bytes().as_ref())
                .bind(i64::from(letter.shard.index))
                .bind(letter.at().0)
                .bind(letter.event.metadata.as_ref())
                .bind(letter.record()?)
                .execute(open.connection())
                .await?;
        }
        let redrives = items.iter().flat_map(|item| &item.commit.redrives);
        let redrives = redrives.map(|Redrive { consumer, event, at, pace }| {
            let number = |number: Option<i64>| number.map_or("NULL".to_owned(), |number| number.to_string());
            let (at, pace) = (number(at.map(|at| at.0)), number(pace_us(*pace)));
            let what = format!("UPDATE tendon_dead_letter SET redrive_at = {at}, redrive_pace = {pace}");
            (what, consumer, event)
        });
        self.change_letters(open, "mysql redrives", redrives).await?;
        let purged = items.iter().flat_map(|item| &item.commit.purged);
        let purged = purged.map(|(consumer, event)| ("DELETE FROM tendon_dead_letter".to_owned(), consumer, event));
        self.change_letters(open, "mysql purge", purged).await?;
        self.write_parked(open, items).await
    }

    /// What waits no longer, and what does.
    async fn write_parked(&self, open: &mut Transaction, items: &[&Item<'_>]) -> Result<(), Failed> {
        let mut keys: BTreeMap<(&ConsumerId, &str), Vec<u64>> = BTreeMap::new();
        for ParkedId { consumer, key, place } in items.iter().flat_map(|item| &item.commit.unparked) {
            keys.entry((consumer, key)).or_default().push(*place);
        }
        for ((ConsumerId { tenant, name }, key), places) in keys {
            let key = literal(&part(key));
            let head = format!(
                "DELETE FROM tendon_parked WHERE tenant = '{tenant}' AND consumer = '{name}' AND `key` = {key} AND place IN ("
            );
            let mut rows = self.batches(head, ")");
            for place in places {
                rows.push(&place.to_string())?;
            }
            self.send(open, "mysql unpark", rows).await?;
        }
        let mut rows = self.batches(PARK, PARK_END);
        for parked in items.iter().flat_map(|item| &item.commit.parked) {
            let letter = &parked.letter;
            let ConsumerId { tenant, name } = &letter.shard.consumer;
            let row = Row::new().name(tenant.0.as_str()).name(name.as_str()).bytes(&part(&letter.event.foreign_id));
            let row = row.number(parked.place.cast_signed()).bytes(letter.event.id.0.as_bytes());
            let row = row.number(i64::from(letter.shard.index)).number(letter.at().0).bytes(&letter.event.metadata);
            let row = row.bytes(letter.record()?.as_bytes());
            let again = letter.redrive_at.map_or("NULL".to_owned(), |at| at.0.to_string());
            rows.push(&row.raw(&again).end())?;
        }
        self.send(open, "mysql park", rows).await
    }

    /// Does something to dead letters, with a statement for all of a consumer's to which the same is done: by ids alone the
    /// server finds them in its index, whatever its version.
    async fn change_letters<'a>(
        &self,
        open: &mut Transaction,
        failpoint: &'static str,
        letters: impl Iterator<Item = (String, &'a ConsumerId, &'a EventId)>,
    ) -> Result<(), Failed> {
        let mut groups: BTreeMap<(String, &ConsumerId), Vec<&EventId>> = BTreeMap::new();
        for (what, consumer, event) in letters {
            groups.entry((what, consumer)).or_default().push(event);
        }
        for ((what, ConsumerId { tenant, name }), events) in groups {
            let head = format!("{what} WHERE tenant = '{tenant}' AND consumer = '{name}' AND event IN (");
            let mut rows = self.batches(head, ")");
            for event in events {
                rows.push(&literal(event.0.as_bytes()))?;
            }
            self.send(open, failpoint, rows).await?;
        }
        Ok(())
    }

    /// Activates deployments.
    pub(super) async fn deploy(
        &self,
        open: &mut Transaction,
        items: &[Item<'_>],
        answers: &[Result<Committed>],
    ) -> Result<(), Failed> {
        let mut pieces = self.batches(COMPONENT, COMPONENT_END);
        let mut deployments = self.batches(DEPLOYMENT, "");
        for (item, answer) in items.iter().zip(answers) {
            let (Some((deployment, component)), Ok(Committed { epoch: Some(epoch), .. })) =
                (&item.commit.deployment, answer)
            else {
                continue;
            };
            if let Some(follows) = item.commit.follows {
                sqlx::query(TURN).execute(open.connection()).await?;
                let newest = sqlx::query_scalar(NEWEST_DEPLOYMENT)
                    .bind(deployment.consumer.tenant.0.as_str())
                    .bind(deployment.consumer.name.as_str());
                // None that is newer may come while this transaction is open.
                let found: Option<i64> = newest.fetch_optional(open.connection()).await?;
                let found = Epoch(found.unwrap_or_default().cast_unsigned());
                if found != follows {
                    return Err(overtaken(deployment, follows).into());
                }
            }
            let digest = deployment.digest.0.as_slice();
            // A component of no bytes has a piece, too.
            let parts = component.chunks(PIECE_BYTES).chain(component.is_empty().then_some(&[][..]));
            for (number, bytes) in (0..).zip(parts) {
                pieces.push(&Row::new().bytes(digest).number(number).bytes(bytes).end())?;
            }
            let spec = serde_json::to_string(&deployment.spec)
                .map_err(|error| Error::corrupt("a spec is not JSON").because(error))?;
            let row = Row::new().name(deployment.consumer.tenant.0.as_str()).name(deployment.consumer.name.as_str());
            let row = row.number(epoch.0.cast_signed()).bytes(digest).bytes(spec.as_bytes()).number(deployment.at.0);
            deployments.push(&row.end())?;
        }
        self.send(open, "mysql deploy", pieces).await?;
        self.send(open, "mysql deploy", deployments).await
    }

    /// Appends the emitted events: the keys of all, then those of each stream in their order. How many of each item.
    pub(super) async fn append<'a>(&self, open: &mut Transaction, items: &[&'a Item<'a>]) -> Result<Vec<u64>, Failed> {
        let skipping = items.iter().filter(|item| item.skips());
        let skipping: HashSet<EventKey> =
            skipping.flat_map(|item| &item.commit.changes.emits).map(|emit| emit.key).collect();
        let mut known = HashSet::new();
        if !skipping.is_empty() {
            self.0.failpoints.hit("mysql known keys")?;
            known = self.known(open.connection(), skipping.iter()).await?;
        }
        let Wanted { counts, mut keys, streams } = wanted(items, &known);
        keys.sort_unstable_by_key(|key| key.0);
        let mut rows = self.batches(KEYS, "");
        for key in &keys {
            rows.push(&Row::new().bytes(key.0.as_bytes()).end())?;
        }
        match self.send(open, "mysql event keys", rows).await {
            Err(Failed::Sql(error)) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                let known = self.known(open.connection(), keys.into_iter()).await?;
                return Err(refused(items, &skipping, &known, error));
            }
            sent => sent?,
        }
        for (log, emits) in streams.into_values() {
            match log {
                Log::Own(table) => self.append_to(open, &table, &emits).await?,
                Log::Foreign(log) => self.append_to_foreign(open, &log, &emits).await?,
            }
        }
        Ok(counts)
    }

    async fn append_to(&self, open: &mut Transaction, table: &Table, emits: &[&Emit]) -> Result<(), Failed> {
        let count = i64::try_from(emits.len()).unwrap_or(i64::MAX);
        self.0.failpoints.hit("mysql ids")?;
        let ids = sqlx::query(IDS).bind(count).bind(table.number).execute(open.connection()).await?;
        let first = ids.last_insert_id().cast_signed() - count + 1;
        let mut rows = self.batches(table.append(), "");
        for (id, Emit { event, .. }) in (first..).zip(emits) {
            let headers = (!event.headers.is_empty()).then(|| serde_json::to_string(&event.headers)).transpose();
            let headers = headers.map_err(|error| Error::corrupt("headers are not JSON").because(error))?;
            let size = event.foreign_id.len() + event.metadata.len() + headers.as_ref().map_or(0, String::len);
            let row = Row::new().number(id).number(i64::from(event.r#type)).bytes(event.foreign_id.as_bytes());
            let row = row.number(event.timestamp.0).bytes(&event.metadata);
            let row = row.bytes_or_null(headers.as_deref().map(str::as_bytes));
            rows.push(&row.number(i64::try_from(size).unwrap_or(i64::MAX)).end())?;
        }
        self.send(open, "mysql events", rows).await
    }

    async fn append_to_foreign(&self, open: &mut Transaction, log: &ForeignLog, emits: &[&Emit]) -> Result<(), Failed> {
        let mut rows = self.batches(log.append(), "");
        for Emit { event, .. } in emits {
            rows.push(&log.append_row(event)?)?;
        }
        self.send(open, "mysql events", rows).await
    }

    /// Which of the keys are in the store.
    async fn known(
        &self,
        connection: &mut MySqlConnection,
        keys: impl Iterator<Item = &EventKey>,
    ) -> Result<HashSet<EventKey>, Failed> {
        let mut batches = self.batches(KNOWN_KEYS, ")");
        let mut asked = Vec::new();
        for key in keys {
            batches.push(&literal(key.0.as_bytes()))?;
            asked.push(*key);
        }
        let mut found: HashSet<Vec<u8>> = HashSet::new();
        for batch in batches.finish() {
            use sqlx::Row as _;
            let rows = sqlx::raw_sql(AssertSqlSafe(batch)).fetch_all(&mut *connection).await?;
            for row in rows {
                found.insert(row.try_get(0)?);
            }
        }
        Ok(asked.into_iter().filter(|key| found.contains(key.0.as_bytes().as_slice())).collect())
    }

    pub(super) async fn send(
        &self,
        open: &mut Transaction,
        failpoint: &'static str,
        rows: Batches,
    ) -> Result<(), Failed> {
        for sql in rows.finish() {
            self.0.failpoints.hit(failpoint)?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(open.connection()).await?;
        }
        Ok(())
    }

    pub(super) fn batches(&self, head: impl Into<String>, tail: impl Into<Cow<'static, str>>) -> Batches {
        Batches::new(head, tail, self.0.packet_bytes_max)
    }
}

/// Why keys were not taken. One that a producer repeats was written by another one since this one looked.
fn refused(items: &[&Item<'_>], skipping: &HashSet<EventKey>, known: &HashSet<EventKey>, error: sqlx::Error) -> Failed {
    let first = items.first().map(|item| item.commit);
    if known.iter().any(|key| skipping.contains(key)) {
        let label = first.map(label).unwrap_or_default();
        return Failed::Late(Error::unavailable(format!("{label}: others append the same events")).because(error));
    }
    Failed::Own(item::key_refused(first, known.iter().next().copied(), error))
}
