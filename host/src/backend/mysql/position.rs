//! Positions: the compare that everything rests on, and the move.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, MySqlConnection, mysql::MySqlRow};

use super::{Mysql, commit::Item, failure::Failed, text::Row, transaction::Transaction};
use crate::{
    backend::{item, row, row::status_text},
    error::{Error, Result},
    store::{Committed, Move, Position},
    tenant::ShardId,
};

/// The row must be as it was loaded.
const MOVE_ONE: &str = "
    UPDATE tendon_position SET `cursor` = ?, revision = ?, fence = ?, generation = ?, epoch = ?, status = ?, reason = ?,
        attempts = ?, digest = ?, last_event = ?, high_water = ?, features = ?, updated_at = ?, owner = ?
    WHERE tenant = ? AND consumer = ? AND shard = ? AND fence = ? AND revision = ? AND epoch = ?";

/// Rows that are locked, and so are there. (As rows of text they are written three times as fast as from JSON.)
pub(super) const MOVE_MANY: &str = "
    INSERT INTO tendon_position (tenant, consumer, shard, `cursor`, revision, fence, generation, epoch, status, reason,
        attempts, digest, last_event, high_water, features, updated_at, topology, incarnation, owner) VALUES ";
const MOVE_MANY_END: &str = " ON DUPLICATE KEY UPDATE `cursor` = VALUES(`cursor`), revision = VALUES(revision),
    fence = VALUES(fence), generation = VALUES(generation), epoch = VALUES(epoch), status = VALUES(status),
    reason = VALUES(reason), attempts = VALUES(attempts), digest = VALUES(digest), last_event = VALUES(last_event),
    high_water = VALUES(high_water), features = VALUES(features), updated_at = VALUES(updated_at), owner = VALUES(owner)";
/// How many rows the server says that it has changed for each that was there.
const CHANGES_A_ROW: u64 = 2;

/// The rows of moves, locked in the order of the moves: that of their shards. The index is named: of a small table the
/// server would rather read and lock every row.
const LOCK: &str = "
    SELECT p.* FROM JSON_TABLE(?, '$[*]' COLUMNS (
        tenant   VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]',
        consumer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin PATH '$[1]',
        shard    BIGINT PATH '$[2]'
    )) AS w STRAIGHT_JOIN tendon_position AS p FORCE INDEX (PRIMARY)
        ON p.tenant = w.tenant AND p.consumer = w.consumer AND p.shard = w.shard
    FOR UPDATE";

type Found = HashMap<ShardId, Position>;

impl Mysql {
    /// Moves positions. One decides by itself whether its row is as expected. Of several the rows are locked and looked
    /// at first: the server says how many rows a statement has changed, and not which.
    pub(super) async fn advance(
        &self,
        open: &mut Transaction,
        items: &[Item<'_>],
        wanted: &[Committed],
    ) -> Result<Vec<Result<Committed>>, Failed> {
        let moves = items.iter().zip(wanted);
        let moves = moves.filter_map(|(item, to)| Some((item.commit.r#move.as_ref()?, to.position.as_ref()?)));
        let mut moves: Vec<(&Move, &Position)> = moves.collect();
        moves.sort_unstable_by_key(|(r#move, _)| &r#move.from.shard);
        let connection = open.connection();
        let (won, found) = match moves.as_slice() {
            [] => Default::default(),
            [only] => self.move_one(connection, *only).await?,
            _ => self.move_many(connection, moves).await?,
        };
        let judged = |(item, to): (&Item<'_>, &Committed)| item::judged(item.commit, to.clone(), &won, &found);
        Ok(items.iter().zip(wanted).map(judged).collect())
    }

    /// A commit that is nothing but a move: its statement is a transaction.
    pub(super) async fn move_alone(&self, item: &Item<'_>, to: &Committed) -> Result<Result<Committed>, Failed> {
        let (Some(r#move), Some(position)) = (&item.commit.r#move, &to.position) else {
            return Ok(Ok(to.clone()));
        };
        let mut connection = self.0.writers.acquire().await?;
        let (won, found) = self.move_one(&mut connection, (r#move, position)).await.map_err(|failed| match failed {
            Failed::Sql(error) => Failed::at_the_end(error),
            failed => failed,
        })?;
        Ok(item::judged(item.commit, to.clone(), &won, &found))
    }

    async fn move_one(
        &self,
        connection: &mut MySqlConnection,
        (Move { from, .. }, to): (&Move, &Position),
    ) -> Result<(HashSet<ShardId>, Found), Failed> {
        self.0.failpoints.hit("mysql position")?;
        let moved = sqlx::query(MOVE_ONE)
            .bind(&to.cursor.0[..])
            .bind(to.revision.0.cast_signed())
            .bind(to.fence.0.cast_signed())
            .bind(i64::from(to.generation))
            .bind(to.epoch.0.cast_signed())
            .bind(status_text(to.status))
            .bind(reason(to)?)
            .bind(i64::from(to.attempts))
            .bind(to.digest.as_ref().map(|digest| digest.0.as_slice()))
            .bind(to.last_event.as_ref().map(|hash| hash.0.as_slice()))
            .bind(&to.high_water.0[..])
            .bind(to.features.cast_signed())
            .bind(to.updated_at.0)
            .bind(&*to.owner.0)
            .bind(from.shard.consumer.tenant.0.as_str())
            .bind(from.shard.consumer.name.as_str())
            .bind(i64::from(from.shard.index))
            .bind(from.fence.0.cast_signed())
            .bind(from.revision.0.cast_signed())
            .bind(from.epoch.0.cast_signed());
        if moved.execute(&mut *connection).await?.rows_affected() == 1 {
            return Ok((HashSet::from([to.shard.clone()]), Found::new()));
        }
        self.0.failpoints.hit("mysql found")?;
        Ok((HashSet::new(), found(connection, [&from.shard]).await?))
    }

    async fn move_many(
        &self,
        connection: &mut MySqlConnection,
        mut moves: Vec<(&Move, &Position)>,
    ) -> Result<(HashSet<ShardId>, Found), Failed> {
        self.0.failpoints.hit("mysql lock")?;
        let found = found(connection, moves.iter().map(|(r#move, _)| &r#move.from.shard)).await?;
        moves.retain(|(Move { from, .. }, _)| {
            let key = |position: &Position| (position.fence, position.revision, position.epoch);
            found.get(&from.shard).is_some_and(|found| key(found) == key(from))
        });
        let mut rows = self.batches(MOVE_MANY, MOVE_MANY_END);
        for (_, to) in &moves {
            rows.push(&row(to)?)?;
        }
        let mut changes = 0;
        for sql in rows.finish() {
            self.0.failpoints.hit("mysql position")?;
            changes += sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?.rows_affected();
        }
        if changes != CHANGES_A_ROW * moves.len() as u64 {
            let wanted = moves.len();
            let error = Error::corrupt(format!("{wanted} positions were locked, and other ones have moved"));
            return Err(error.into());
        }
        Ok((moves.into_iter().map(|(_, to)| to.shard.clone()).collect(), found))
    }
}

async fn found(connection: &mut MySqlConnection, shards: impl IntoIterator<Item = &ShardId>) -> sqlx::Result<Found> {
    let shards = shards.into_iter().map(|ShardId { consumer, index }| json!([consumer.tenant, consumer.name, index]));
    let shards = shards.collect::<Value>().to_string();
    let rows = sqlx::query(LOCK).bind(shards).try_map(|found: MySqlRow| row::position(&found));
    let rows = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|position| (position.shard.clone(), position)).collect())
}

/// A position as a row of `MOVE_MANY`. Topology and incarnation are written only where there is no such row yet.
pub(super) fn row(to: &Position) -> Result<String> {
    let ShardId { consumer, index } = &to.shard;
    let row = Row::new().name(consumer.tenant.0.as_str()).name(consumer.name.as_str()).number(i64::from(*index));
    let row = row.bytes(&to.cursor.0).number(to.revision.0.cast_signed()).number(to.fence.0.cast_signed());
    let row = row.number(i64::from(to.generation)).number(to.epoch.0.cast_signed()).name(status_text(to.status));
    let row = row.bytes_or_null(reason(to)?.as_deref().map(str::as_bytes)).number(i64::from(to.attempts));
    let row = row.bytes_or_null(to.digest.as_ref().map(|digest| digest.0.as_slice()));
    let row = row.bytes_or_null(to.last_event.as_ref().map(|hash| hash.0.as_slice())).bytes(&to.high_water.0);
    Ok(row
        .number(to.features.cast_signed())
        .number(to.updated_at.0)
        .number(to.topology.cast_signed())
        .number(to.incarnation.cast_signed())
        .bytes(to.owner.0.as_bytes())
        .end())
}

fn reason(to: &Position) -> Result<Option<String>> {
    let reason = to.reason.as_ref().map(serde_json::to_string).transpose();
    reason.map_err(|error| Error::corrupt("a reason is not JSON").because(error))
}
