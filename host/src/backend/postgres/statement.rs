//! The one statement of a commit: positions are compared and moved, and whatever rests on a move that took place is
//! written with it. One statement is one transaction and one round trip, and no session is ever left between.
//!
//! Every value is in an array of its own kind, so the text depends only on which tables are written, not on how much.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Postgres as Driver, postgres::PgArguments, query::Query};

use super::{
    Log,
    commit::{Item, emits},
};
use crate::{
    backend::{Order, dead_letter, foreign::to_trace, item, row::status_text},
    changes::{Emit, Write, latest},
    error::{Error, Result},
    store::Committed,
};

/// The rows must be as they were loaded; `standing` are the commits that may write: those that won, and those that
/// move nothing.
const MOVE: &str = "
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($1::int4[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[], $7::int8[],
            $8::bytea[], $9::int8[], $10::int8[], $11::int8[], $12::text[], $13::text[], $14::int8[], $15::bytea[],
            $16::bytea[], $17::bytea[], $18::int8[], $19::int8[], $42::text[])
        AS wanted (item, tenant, consumer, shard, was_fence, was_revision, was_epoch, cursor, fence, generation, epoch,
            status, reason, attempts, digest, last_event, high_water, features, updated_at, owner)
    ), moved AS (
        UPDATE tendon.position AS p SET cursor = w.cursor, revision = p.revision + 1, fence = w.fence,
            generation = w.generation, epoch = w.epoch, status = w.status, reason = w.reason, attempts = w.attempts,
            digest = w.digest, last_event = w.last_event, high_water = w.high_water, features = w.features,
            updated_at = w.updated_at, owner = w.owner
        FROM wanted AS w
        WHERE p.tenant = w.tenant AND p.consumer = w.consumer AND p.shard = w.shard
            AND p.fence = w.was_fence AND p.revision = w.was_revision AND p.epoch = w.was_epoch
        RETURNING w.item
    ), standing AS MATERIALIZED (SELECT item FROM moved UNION ALL SELECT unnest($20::int4[]))";

/// Most keys are there already, and an update costs the server two thirds of what an insert does that finds a conflict.
const STATE: &str = ", writes AS MATERIALIZED (
        SELECT ($21::text[])[item + 1] AS tenant, ($22::text[])[item + 1] AS consumer, part, key, value, place
        FROM unnest($23::int4[], $24::bytea[], $25::bytea[], $26::bytea[])
        WITH ORDINALITY AS write (item, part, key, value, place)
        WHERE item IN (SELECT item FROM standing)
    ), updated AS (
        UPDATE tendon.state AS s SET value = w.value FROM writes AS w WHERE w.value IS NOT NULL
            AND s.tenant = w.tenant AND s.consumer = w.consumer AND s.part = w.part AND s.key = w.key
        RETURNING w.place
    ), sets AS (
        INSERT INTO tendon.state (tenant, consumer, part, key, value)
        SELECT tenant, consumer, part, key, value FROM writes
        WHERE value IS NOT NULL AND place NOT IN (SELECT place FROM updated)
        ON CONFLICT (tenant, consumer, part, key) DO UPDATE SET value = excluded.value
    )";

const DELETES: &str = ", deletes AS (
        DELETE FROM tendon.state AS s USING writes AS w WHERE w.value IS NULL
            AND s.tenant = w.tenant AND s.consumer = w.consumer AND s.part = w.part AND s.key = w.key
    )";

const EMITS: &str = ", emits AS MATERIALIZED (
        SELECT * FROM unnest($27::int4[], $28::bytea[], $29::int8[], $30::int4[], $31::bytea[], $32::int8[],
            $33::bytea[], $34::text[], $35::bytea[])
        WITH ORDINALITY AS emit (item, key, number, type, foreign_id, timestamp, metadata, headers, trace, place)
        WHERE item IN (SELECT item FROM standing)
    ), fresh AS (INSERT INTO tendon.event_key (key) SELECT key FROM emits ";

/// What is appended.
const ALL: &str = ", appended AS (SELECT * FROM emits)";
const FRESH: &str = ", appended AS MATERIALIZED (SELECT * FROM emits WHERE key IN (SELECT key FROM fresh))";

/// Ids of streams that are in their order: whoever draws the next ones waits for this transaction. The rows are locked
/// after the positions, and in one order, so that two commits never wait for each other.
const DRAWN: &str = ", counted AS MATERIALIZED (
        SELECT number, count(*) AS events FROM appended GROUP BY number
    ), locked AS MATERIALIZED (
        SELECT number FROM tendon.stream WHERE last_id IS NOT NULL AND number IN (SELECT number FROM counted)
        ORDER BY number FOR UPDATE
    ), drawn AS (
        UPDATE tendon.stream AS s SET last_id = s.last_id + c.events FROM locked JOIN counted AS c USING (number)
        WHERE s.number = c.number RETURNING s.number, s.last_id
    )";

const HISTORY: &str = ", swaps AS (
        INSERT INTO tendon.history (tenant, consumer, shard, revision, digest, epoch, at)
        SELECT tenant, consumer, shard, was_revision + 1, digest, epoch, updated_at FROM wanted
        WHERE item = ANY ($36::int4[]) AND item IN (SELECT item FROM moved)
    )";

/// They are few: one parameter holds them all.
const SET_ASIDE: &str = ", set_aside AS (
        INSERT INTO tendon.dead_letter (tenant, consumer, event, shard, at, metadata, record)
        SELECT l->>1, l->>2, decode(l->>3, 'hex'), (l->>4)::int8, (l->>5)::int8, decode(l->>6, 'hex'), l->>7
        FROM json_array_elements($37::json) AS l WHERE (l->>0)::int4 IN (SELECT item FROM standing)
        ON CONFLICT (tenant, consumer, event) DO UPDATE
            SET shard = excluded.shard, at = excluded.at, metadata = excluded.metadata, record = excluded.record,
                redrive_at = NULL, redrive_pace = NULL
    )";

const REDRIVE: &str = ", redriven AS (
        UPDATE tendon.dead_letter AS d SET redrive_at = (l->>4)::int8, redrive_pace = (l->>5)::int8
        FROM json_array_elements($39::json) AS l
        WHERE d.tenant = l->>1 AND d.consumer = l->>2 AND d.event = decode(l->>3, 'hex')
            AND (l->>0)::int4 IN (SELECT item FROM standing)
    )";

const PURGE: &str = ", purged AS (
        DELETE FROM tendon.dead_letter AS d USING json_array_elements($38::json) AS l
        WHERE d.tenant = l->>1 AND d.consumer = l->>2 AND d.event = decode(l->>3, 'hex')
            AND (l->>0)::int4 IN (SELECT item FROM standing)
    )";

const UNPARK: &str = ", unparked AS (
        DELETE FROM tendon.parked AS p USING json_array_elements($41::json) AS l
        WHERE p.tenant = l->>1 AND p.consumer = l->>2 AND p.key = decode(l->>3, 'hex') AND p.place = (l->>4)::int8
            AND (l->>0)::int4 IN (SELECT item FROM standing)
    )";

const PARK: &str = ", parked AS (
        INSERT INTO tendon.parked (tenant, consumer, event, shard, at, metadata, record, key, place, redrive_at)
        SELECT l->>1, l->>2, decode(l->>3, 'hex'), (l->>4)::int8, (l->>5)::int8, decode(l->>6, 'hex'), l->>7,
            decode(l->>8, 'hex'), (l->>9)::int8, (l->>10)::int8
        FROM json_array_elements($40::json) AS l WHERE (l->>0)::int4 IN (SELECT item FROM standing)
        ON CONFLICT (tenant, consumer, key, place) DO UPDATE
            SET event = excluded.event, shard = excluded.shard, at = excluded.at, metadata = excluded.metadata,
                record = excluded.record, redrive_at = excluded.redrive_at
    )";

const DEPLOYMENT: &str = ", component AS (
        INSERT INTO tendon.component (digest, bytes)
        SELECT $43, $44 WHERE EXISTS (SELECT 1 FROM standing) ON CONFLICT DO NOTHING
    ), deployment AS (
        INSERT INTO tendon.deployment (tenant, consumer, epoch, digest, spec, at)
        SELECT $45, $46, $47, $43, $48, $49 WHERE EXISTS (SELECT 1 FROM standing) AND $50::int8 IN (-1, (
            SELECT coalesce(max(epoch), 0) FROM tendon.deployment WHERE tenant = $45 AND consumer = $46
        ))
        RETURNING 1
    )";

/// The columns of the commits' moves.
#[derive(Default)]
struct Moves<'a> {
    item: Vec<i32>,
    tenant: Vec<&'a str>,
    consumer: Vec<&'a str>,
    numbers: [Vec<i64>; 10],
    cursor: Vec<&'a [u8]>,
    status: Vec<&'static str>,
    reason: Vec<Option<String>>,
    digest: Vec<Option<&'a [u8]>>,
    last_event: Vec<Option<&'a [u8]>>,
    high_water: Vec<&'a [u8]>,
    owner: Vec<&'a str>,
    /// Commits that move nothing.
    free: Vec<i32>,
    /// Moves to another component.
    swaps: Vec<i32>,
}

/// The columns of their state.
#[derive(Default)]
struct Writes<'a> {
    tenants: Vec<&'a str>,
    consumers: Vec<&'a str>,
    item: Vec<i32>,
    part: Vec<&'a [u8]>,
    key: Vec<&'a [u8]>,
    value: Vec<Option<&'a [u8]>>,
    has_deletes: bool,
}

/// The columns of their events.
#[derive(Default)]
struct Emits<'a> {
    item: Vec<i32>,
    key: Vec<&'a [u8]>,
    number: Vec<i64>,
    r#type: Vec<i32>,
    foreign_id: Vec<&'a [u8]>,
    timestamp: Vec<i64>,
    metadata: Vec<&'a [u8]>,
    headers: Vec<Option<String>>,
    logs: Vec<&'a Log>,
    /// Only foreign tables have a column for them.
    trace: Vec<Option<Vec<u8>>>,
}

/// The statement for commits that become `wanted` where they stand. It answers with the items that have moved, and how
/// many event keys were new.
pub(super) fn statement<'a>(items: &'a [Item<'a>], wanted: &'a [Committed]) -> Result<Query<'a, Driver, PgArguments>> {
    let (mut moves, mut writes, mut emits) = (Moves::default(), Writes::default(), Emits::default());
    for ((number, item), to) in (0..).zip(items).zip(wanted) {
        moves.push(number, item, to)?;
        writes.push(number, item);
        emits.push(number, item)?;
    }
    let deployment =
        items.iter().zip(wanted).find_map(|(item, to)| Some((item.commit.deployment.as_ref()?, to.epoch?)));
    let commits = || items.iter().enumerate().map(|(number, item)| (number, item.commit));
    let (set_aside, purged) = (dead_letter::set_aside(commits())?, dead_letter::purged(commits()));
    let redrives = dead_letter::redrives(commits());
    let (parked, unparked) = (dead_letter::parked(commits())?, dead_letter::unparked(commits()));
    let mut sql = sql(&moves, &writes, &emits, items);
    sql.push_str(set_aside.as_ref().map_or("", |_| SET_ASIDE));
    sql.push_str(redrives.as_ref().map_or("", |_| REDRIVE));
    sql.push_str(purged.as_ref().map_or("", |_| PURGE));
    sql.push_str(parked.as_ref().map_or("", |_| PARK));
    sql.push_str(unparked.as_ref().map_or("", |_| UNPARK));
    sql.push_str(if deployment.is_some() { DEPLOYMENT } else { "" });
    sql.push_str(" SELECT ARRAY(SELECT item FROM moved), ");
    sql.push_str(if emits.item.is_empty() { "0::int8" } else { "(SELECT count(*) FROM fresh)" });
    sql.push_str(if deployment.is_some() { ", (SELECT count(*) FROM deployment)" } else { ", 1::int8" });
    let mut query = sqlx::query(AssertSqlSafe(sql)).bind(moves.item).bind(moves.tenant).bind(moves.consumer);
    let [shard, was_fence, was_revision, was_epoch, fence, generation, epoch, attempts, features, updated_at] =
        moves.numbers;
    query = query.bind(shard).bind(was_fence).bind(was_revision).bind(was_epoch).bind(moves.cursor).bind(fence);
    query = query.bind(generation).bind(epoch).bind(moves.status).bind(moves.reason).bind(attempts).bind(moves.digest);
    query = query.bind(moves.last_event).bind(moves.high_water).bind(features).bind(updated_at).bind(moves.free);
    query = query.bind(writes.tenants).bind(writes.consumers).bind(writes.item).bind(writes.part).bind(writes.key);
    query = query.bind(writes.value).bind(emits.item).bind(emits.key).bind(emits.number).bind(emits.r#type);
    query =
        query.bind(emits.foreign_id).bind(emits.timestamp).bind(emits.metadata).bind(emits.headers).bind(emits.trace);
    query = query
        .bind(moves.swaps)
        .bind(set_aside)
        .bind(purged)
        .bind(redrives)
        .bind(parked)
        .bind(unparked)
        .bind(moves.owner);
    if let Some(((deployment, component), epoch)) = deployment {
        let spec = serde_json::to_string(&deployment.spec)
            .map_err(|error| Error::corrupt("a spec is not JSON").because(error))?;
        query = query.bind(deployment.digest.0.as_slice()).bind(&component[..]);
        query = query.bind(deployment.consumer.tenant.0.as_str()).bind(deployment.consumer.name.as_str());
        query = query.bind(epoch.0.cast_signed()).bind(spec).bind(deployment.at.0);
        let follows = items.iter().find_map(|item| item.commit.follows);
        query = query.bind(follows.map_or(-1, |follows| follows.0.cast_signed()));
    }
    Ok(query)
}

/// Moves, and what they carry.
fn sql(moves: &Moves<'_>, writes: &Writes<'_>, emits: &Emits<'_>, items: &[Item<'_>]) -> String {
    let mut sql = MOVE.to_owned();
    if !writes.item.is_empty() {
        sql.push_str(STATE);
    }
    if writes.has_deletes {
        sql.push_str(DELETES);
    }
    if !emits.item.is_empty() {
        // Commits that skip duplicates come alone.
        let skips = items.iter().any(Item::skips);
        sql.push_str(EMITS);
        sql.push_str(if skips { "ON CONFLICT DO NOTHING RETURNING key)" } else { "RETURNING key)" });
        sql.push_str(if skips { FRESH } else { ALL });
        if emits.logs.iter().any(|log| matches!(log, Log::Own(table) if table.order == Order::Id)) {
            sql.push_str(DRAWN);
        }
        for log in &emits.logs {
            let (number, name) = (log.number(), log.number().unsigned_abs());
            let (kind, insert) = match log {
                Log::Own(table) => ("events", table.insert()),
                Log::Foreign(log) => ("foreign", log.insert()),
            };
            // Writing to a String cannot fail. Ids are drawn in the order of the rows.
            let _ = write!(sql, ", {kind}_{name} AS ({insert} FROM appended WHERE number = {number} ORDER BY place)");
        }
    }
    if !moves.swaps.is_empty() {
        sql.push_str(HISTORY);
    }
    sql
}

impl<'a> Moves<'a> {
    fn push(&mut self, number: i32, item: &Item<'a>, to: &'a Committed) -> Result<()> {
        let (Some(r#move), Some(to)) = (&item.commit.r#move, &to.position) else {
            self.free.push(number);
            return Ok(());
        };
        let from = &r#move.from;
        let reason = to.reason.as_ref().map(serde_json::to_string).transpose();
        self.item.push(number);
        self.tenant.push(from.shard.consumer.tenant.0.as_str());
        self.consumer.push(from.shard.consumer.name.as_str());
        let numbers = [
            i64::from(from.shard.index),
            from.fence.0.cast_signed(),
            from.revision.0.cast_signed(),
            from.epoch.0.cast_signed(),
            to.fence.0.cast_signed(),
            i64::from(to.generation),
            to.epoch.0.cast_signed(),
            i64::from(to.attempts),
            to.features.cast_signed(),
            to.updated_at.0,
        ];
        self.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        self.cursor.push(&to.cursor.0);
        self.status.push(status_text(to.status));
        self.reason.push(reason.map_err(|error| Error::corrupt("a reason is not JSON").because(error))?);
        self.digest.push(to.digest.as_ref().map(|digest| digest.0.as_slice()));
        self.last_event.push(to.last_event.as_ref().map(|hash| hash.0.as_slice()));
        self.high_water.push(&to.high_water.0);
        self.owner.push(&to.owner.0);
        if item::swaps(item.commit) {
            self.swaps.push(number);
        }
        Ok(())
    }
}

impl<'a> Writes<'a> {
    fn push(&mut self, number: i32, item: &Item<'a>) {
        let changes = &item.commit.changes;
        self.tenants.push(changes.consumer.as_ref().map_or("", |consumer| consumer.tenant.0.as_str()));
        self.consumers.push(changes.consumer.as_ref().map_or("", |consumer| consumer.name.as_str()));
        for Write { part, key, value } in latest(changes.writes.iter()) {
            self.item.push(number);
            self.part.push(part.as_bytes());
            self.key.push(key.as_bytes());
            self.value.push(value);
            self.has_deletes |= value.is_none();
        }
    }
}

impl<'a> Emits<'a> {
    fn push(&mut self, number: i32, item: &'a Item<'a>) -> Result<()> {
        for Emit { key, stream, event } in emits(item) {
            let Some(log) = item.tables.get(stream) else { continue };
            if !self.logs.iter().any(|known| known.number() == log.number()) {
                self.logs.push(log);
            }
            let mut trace = None;
            if let Log::Foreign(log) = log {
                log.tracked.check(event)?;
                trace = to_trace(&event.headers);
            }
            self.trace.push(trace);
            let headers = (!event.headers.is_empty()).then(|| serde_json::to_string(&event.headers)).transpose();
            self.item.push(number);
            self.key.push(key.0.as_bytes());
            self.number.push(log.number());
            self.r#type.push(event.r#type);
            self.foreign_id.push(event.foreign_id.as_bytes());
            self.timestamp.push(event.timestamp.0);
            self.metadata.push(&event.metadata);
            self.headers.push(headers.map_err(|error| Error::corrupt("headers are not JSON").because(error))?);
        }
        Ok(())
    }
}
