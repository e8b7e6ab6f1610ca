//! The commit: commits that do not touch each other share one statement.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use sqlx::{
    PgConnection,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::time::sleep;

use super::{Log, Postgres, failure, statement::statement};
use crate::{
    backend::{
        item, overtaken,
        round::{self, Writer},
        row,
    },
    changes::Emit,
    error::Result,
    event::EventKey,
    store::{Commit, Committed, Duplicates, Position, Rewrite},
    tenant::{ConsumerId, ShardId, StreamId},
};

/// Every place at which a test can make a claim or a commit crash.
pub const FAILPOINTS: [&str; 11] = [
    "postgres claim",
    "postgres claim answer",
    "postgres counter",
    "postgres commit",
    "postgres found",
    "postgres answer",
    "postgres rewrite begin",
    "postgres rewrite positions",
    "postgres rewrite state",
    "postgres rewrite commit",
    "postgres rewrite answer",
];

/// How often a statement is sent that others were in the way of.
const TRIES: u32 = 6;
/// The most that is waited before the second time; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(4);

const PATIENCE: &str = "SET LOCAL idle_in_transaction_session_timeout = '10s'";
const TURN: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

const DRAW: &str = "SELECT nextval('tendon.counter') FROM generate_series(1, $1)";

/// The rows of the moves that lost their compare.
const FOUND: &str = "
    SELECT position.* FROM unnest($1::text[], $2::text[], $3::int8[]) AS wanted (tenant, consumer, shard)
    JOIN tendon.position USING (tenant, consumer, shard)";

/// One commit on its way.
pub(super) type Item<'a> = round::Item<'a, Log>;

/// The events that a commit appends: a producer may repeat itself within one.
pub(super) fn emits<'a>(item: &Item<'a>) -> impl Iterator<Item = &'a Emit> + use<'a> {
    let (skips, mut seen) = (item.skips(), HashSet::new());
    item.commit.changes.emits.iter().filter(move |emit| !skips || seen.insert(emit.key))
}

/// Whether a commit has a statement to itself.
fn comes_alone(commit: &Commit) -> bool {
    commit.duplicates == Duplicates::Skip || commit.deployment.is_some()
}

impl Writer for Postgres {
    type Table = Log;

    async fn table(&self, stream: &StreamId) -> Result<Option<Log>> {
        self.find(stream).await
    }

    /// A statement must not set a key twice.
    fn collide(&self, one: &Commit, other: &Commit) -> bool {
        let writer = |commit: &Commit| commit.changes.consumer.clone().filter(|_| !commit.changes.writes.is_empty());
        comes_alone(one) || comes_alone(other) || writer(one).is_some_and(|consumer| writer(other) == Some(consumer))
    }

    async fn rewrite(&self, commit: &Commit, rewrite: &Rewrite) -> Result<Committed> {
        self.rewrite_in(commit, rewrite).await
    }

    async fn transact(&self, items: &[Item<'_>]) -> Result<Vec<Result<Committed>>> {
        self.may_write("commit to")?;
        let points = &self.0.failpoints;
        let draws: usize = items.iter().map(|item| item::draws(item.commit)).sum();
        let mut drawn = self.draw(draws).await?.into_iter();
        let mut draw = || drawn.next().unwrap_or_default().cast_unsigned();
        let wanted: Vec<Committed> = items.iter().map(|item| item::answer(item.commit, &mut draw)).collect();
        points.hit("postgres commit")?;
        let (moved, fresh) = self.send(items, &wanted).await?;
        for log in items.iter().flat_map(|item| item.tables.values()) {
            log.appended().send_replace(());
            if let Log::Own(table) = log {
                self.0.notices.add(table.number);
            }
        }
        let lost = |error| item::lost(items.first().map(|item| item.commit), error);
        points.hit("postgres answer").map_err(lost)?;
        let shard = |at: &i32| Some(items.get(usize::try_from(*at).ok()?)?.commit.r#move.as_ref()?.from.shard.clone());
        let won: HashSet<ShardId> = moved.iter().filter_map(shard).collect();
        let moves = items.iter().filter_map(|item| item.commit.r#move.as_ref());
        let losers: Vec<&ShardId> =
            moves.map(|r#move| &r#move.from.shard).filter(|shard| !won.contains(shard)).collect();
        let found = if losers.is_empty() { HashMap::new() } else { self.found(&losers).await.map_err(lost)? };
        let judged = |(item, answer): (&Item<'_>, Committed)| {
            let appended = if comes_alone(item.commit) { fresh.unsigned_abs() } else { emits(item).count() as u64 };
            item::judged(item.commit, Committed { appended, ..answer }, &won, &found)
        };
        Ok(items.iter().zip(wanted).map(judged).collect())
    }
}

impl Postgres {
    /// Sends the statement, again where others were in its way; which items have moved, and how many keys were new.
    async fn send(&self, items: &[Item<'_>], wanted: &[Committed]) -> Result<(Vec<i32>, i64)> {
        let mut tries = 1;
        loop {
            let statement = statement(items, wanted)?;
            let follower = items.iter().find_map(|item| item.commit.follows.and(item.commit.deployment.as_ref()));
            let answered = match follower {
                Some((deployment, _)) => self.in_turn(&deployment.consumer, statement).await,
                None => statement.fetch_one(&self.0.writers).await,
            };
            let error = match answered {
                Ok(row) => {
                    is_activated(&row, items.first().map(|item| item.commit))?;
                    return answer(&row).map_err(|error| self.failed("commit to", error));
                }
                Err(error) => error,
            };
            if failure::is_conflict(&error) && tries < TRIES {
                sleep(PAUSE.mul_f64(fastrand::f64() * f64::from(1 << tries))).await;
                tries += 1;
                continue;
            }
            let first = items.first().map(|item| item.commit);
            if error.as_database_error().is_some_and(|error| error.is_unique_violation()) {
                return Err(item::key_refused(first, self.known_key(items).await, error));
            }
            // Without a connection nothing was sent.
            let is_undone =
                failure::is_undone(&error) || matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed);
            let error = self.failed("commit to", error);
            return Err(if is_undone { error } else { item::lost(first, error) });
        }
    }

    /// A statement that activates a deployment only after a certain one: whoever does so at the same time waits until this one can
    /// be seen.
    async fn in_turn(
        &self,
        consumer: &ConsumerId,
        statement: Query<'_, sqlx::Postgres, PgArguments>,
    ) -> sqlx::Result<PgRow> {
        let mut open = self.0.writers.begin().await?;
        take_turn(&mut open, consumer).await?;
        let row = statement.fetch_one(&mut *open).await?;
        open.commit().await?;
        Ok(row)
    }

    /// A key of the commits that is in the store.
    async fn known_key(&self, items: &[Item<'_>]) -> Option<EventKey> {
        let emits = || items.iter().flat_map(emits);
        let keys: Vec<&[u8]> = emits().map(|emit| emit.key.0.as_bytes().as_slice()).collect();
        let known = sqlx::query_scalar("SELECT key FROM tendon.event_key WHERE key = ANY($1) LIMIT 1").bind(keys);
        let known: Vec<u8> = known.fetch_optional(&self.0.writers).await.ok()??;
        emits().map(|emit| emit.key).find(|key| key.0.as_bytes().as_slice() == known)
    }

    pub(super) async fn draw(&self, count: usize) -> Result<Vec<i64>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        self.0.failpoints.hit("postgres counter")?;
        let drawn = sqlx::query_scalar(DRAW).bind(i64::try_from(count).unwrap_or(i64::MAX));
        drawn.fetch_all(&self.0.writers).await.map_err(|error| self.failed("draw a number from", error))
    }

    async fn found(&self, shards: &[&ShardId]) -> Result<HashMap<ShardId, Position>> {
        self.0.failpoints.hit("postgres found")?;
        let tenants: Vec<&str> = shards.iter().map(|shard| shard.consumer.tenant.0.as_str()).collect();
        let consumers: Vec<&str> = shards.iter().map(|shard| shard.consumer.name.as_str()).collect();
        let indexes: Vec<i64> = shards.iter().map(|shard| i64::from(shard.index)).collect();
        let rows = sqlx::query(FOUND).bind(tenants).bind(consumers).bind(indexes);
        let rows = rows.try_map(|found: PgRow| row::position(&found)).fetch_all(&self.0.writers).await;
        let rows = rows.map_err(|error| self.failed("read", error))?;
        Ok(rows.into_iter().map(|position| (position.shard.clone(), position)).collect())
    }
}

/// Waits until nobody else's transaction is about a consumer's deployments, and lets none begin before this one has ended. A
/// host that is gone holds nobody up for long.
pub(super) async fn take_turn(open: &mut PgConnection, consumer: &ConsumerId) -> sqlx::Result<()> {
    sqlx::query(PATIENCE).execute(&mut *open).await?;
    sqlx::query(TURN).bind(format!("tendon {consumer}")).execute(open).await.map(drop)
}

/// An error where a deployment was to be activated, and another one had come before it.
pub(super) fn is_activated(row: &PgRow, commit: Option<&Commit>) -> Result<()> {
    use sqlx::Row as _;
    let deployment = commit.and_then(|commit| Some((&commit.deployment.as_ref()?.0, commit.follows?)));
    match (row.try_get::<i64, _>(2), deployment) {
        (Ok(0), Some((deployment, follows))) => Err(overtaken(deployment, follows)),
        _ => Ok(()),
    }
}

fn answer(row: &PgRow) -> sqlx::Result<(Vec<i32>, i64)> {
    use sqlx::Row as _;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
