//! The commit: one transaction with a constant number of statements, however much it carries.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{Sqlite, encode, failure, table::Table, transaction::Transaction, write::Appended};
use crate::{
    backend::{
        item,
        round::{self, Writer},
        row,
    },
    error::{Error, Result},
    store::{Commit, Committed, Position, Rewrite},
    tenant::{ShardId, StreamId},
};

/// Every place at which a test can make a claim or a commit crash, in the order in which a full commit passes them.
pub const FAILPOINTS: [&str; 31] = [
    "sqlite claim counter",
    "sqlite claim position",
    "sqlite claim commit",
    "sqlite claim answer",
    "sqlite begin",
    "sqlite counter",
    "sqlite position",
    "sqlite found",
    "sqlite state",
    "sqlite state log",
    "sqlite fold",
    "sqlite fold deletes",
    "sqlite fold end",
    "sqlite known keys",
    "sqlite event keys",
    "sqlite events",
    "sqlite history",
    "sqlite dead letters",
    "sqlite redrives",
    "sqlite purge",
    "sqlite unpark",
    "sqlite park",
    "sqlite component",
    "sqlite deployment",
    "sqlite commit",
    "sqlite answer",
    "sqlite rewrite begin",
    "sqlite rewrite positions",
    "sqlite rewrite state",
    "sqlite rewrite commit",
    "sqlite rewrite answer",
];

/// The row must be as it was loaded; the rest of the parameters are what it becomes. See `encode::move_json`.
const ADVANCE: &str = "
    UPDATE position SET
        cursor = unhex(m.value->>6), revision = revision + 1, fence = m.value->>7, generation = m.value->>8,
        epoch = m.value->>9, status = m.value->>10, reason = m.value->>11, attempts = m.value->>12,
        digest = unhex(m.value->>13), last_event = unhex(m.value->>14), high_water = unhex(m.value->>15),
        features = m.value->>16, updated_at = m.value->>17, owner = m.value->>18
    FROM json_each(?1) AS m
    WHERE tenant = m.value->>0 AND consumer = m.value->>1 AND shard = m.value->>2
        AND fence = m.value->>3 AND revision = m.value->>4 AND epoch = m.value->>5
    RETURNING tenant, consumer, shard";

/// The rows of the moves that lost their compare.
const FOUND: &str = "
    SELECT position.* FROM json_each(?1) AS m CROSS JOIN position
    WHERE tenant = m.value->>0 AND consumer = m.value->>1 AND shard = m.value->>2";

/// One commit on its way.
pub(super) type Item<'a> = round::Item<'a, Arc<Table>>;

impl Writer for Sqlite {
    type Table = Arc<Table>;

    async fn table(&self, stream: &StreamId) -> Result<Option<Arc<Table>>> {
        self.find(stream).await
    }

    async fn rewrite(&self, commit: &Commit, rewrite: &Rewrite) -> Result<Committed> {
        self.rewrite_in(commit, rewrite).await
    }

    /// One transaction. Where all that is asked for is to move positions, that is one statement, which needs no BEGIN and
    /// no COMMIT around it: each is a hop to the thread of the connection, and as expensive as 20 events.
    async fn transact(&self, items: &[Item<'_>]) -> Result<Vec<Result<Committed>>> {
        let points = &self.0.failpoints;
        let lost = |error| item::lost(items.first().map(|item| item.commit), error);
        if items.iter().all(|item| item::only_moves(item.commit)) {
            let mut open = self.connect("commit to").await?;
            let answers = self.advance(&mut open, items).await?;
            open.give_back();
            points.hit("sqlite answer").map_err(lost)?;
            return Ok(answers);
        }
        points.hit("sqlite begin")?;
        let mut open = self.begin("commit to").await?;
        let mut answers = self.advance(&mut open, items).await?;
        let standing = items.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let standing: Vec<&Item<'_>> = standing.map(|(item, _)| item).collect();
        self.write_state(&mut open, &standing).await?;
        let Appended { counts, newest } = self.append(&mut open, &standing).await?;
        answers.iter_mut().flatten().zip(counts).for_each(|(answer, count)| answer.appended = count);
        self.write_history(&mut open, items, &answers).await?;
        self.write_dead_letters(&mut open, &standing).await?;
        self.deploy(&mut open, items, &answers).await?;
        points.hit("sqlite commit")?;
        open.commit().await.map_err(|error| self.uncertain(items, error))?;
        for (table, id) in newest {
            table.announce(id);
        }
        points.hit("sqlite answer").map_err(lost)?;
        Ok(answers)
    }
}

impl Sqlite {
    /// What it means that COMMIT failed.
    pub(super) fn uncertain(&self, items: &[Item<'_>], error: sqlx::Error) -> Error {
        let undone = failure::is_undone(&error);
        let error = self.failed("commit to", error);
        if undone { error } else { item::lost(items.first().map(|item| item.commit), error) }
    }

    /// The next number of the store's counter after `count` were drawn: those are the ones up to it.
    pub(super) async fn draw(&self, open: &mut Transaction<'_>, count: u64) -> Result<u64> {
        let sql = "UPDATE counter SET value = value + ? RETURNING value";
        let drawn = sqlx::query_scalar(sql).bind(count.cast_signed()).fetch_one(open.connection()).await;
        let drawn: i64 = drawn.map_err(|error| self.failed("draw a number from", error))?;
        Ok(drawn.cast_unsigned())
    }

    /// Moves the positions. First of all, so that whoever lost changes nothing.
    async fn advance(&self, open: &mut Transaction<'_>, items: &[Item<'_>]) -> Result<Vec<Result<Committed>>> {
        let draws: usize = items.iter().map(|item| item::draws(item.commit)).sum();
        let mut drawn = 0;
        if draws > 0 {
            self.0.failpoints.hit("sqlite counter")?;
            drawn = self.draw(open, draws as u64).await? - draws as u64;
        }
        let mut draw = || {
            drawn += 1;
            drawn
        };
        let wanted: Vec<Committed> = items.iter().map(|item| item::answer(item.commit, &mut draw)).collect();
        let moves = || items.iter().zip(&wanted).filter_map(|(item, to)| Some((item.commit.r#move.as_ref()?, to)));
        let rows: Result<Vec<Value>> =
            moves().filter_map(|(r#move, to)| Some(encode::move_json(r#move, to.position.as_ref()?))).collect();
        let rows = rows?;
        let mut won = HashSet::new();
        let mut found = HashMap::new();
        if !rows.is_empty() {
            self.0.failpoints.hit("sqlite position")?;
            let json = Value::from(rows).to_string();
            won = self.compare(open, &json).await.map_err(|error| match open.is_begun() {
                true => self.failed("move a position in", error),
                false => self.uncertain(items, error),
            })?;
            if won.len() < moves().count() {
                // By itself the statement is done, and those who won have moved.
                found = self.found(open, &json).await.map_err(|error| match open.is_begun() {
                    true => error,
                    false => item::lost(items.first().map(|item| item.commit), error),
                })?;
            }
        }
        let judged = |(item, answer): (&Item<'_>, _)| item::judged(item.commit, answer, &won, &found);
        Ok(items.iter().zip(wanted).map(judged).collect())
    }

    /// The shards whose rows were as expected and have moved.
    async fn compare(&self, open: &mut Transaction<'_>, moves: &str) -> sqlx::Result<HashSet<ShardId>> {
        let won = sqlx::query(ADVANCE).bind(moves).try_map(|found| row::shard(&found)).fetch_all(open.connection());
        Ok(won.await?.into_iter().collect())
    }

    async fn found(&self, open: &mut Transaction<'_>, moves: &str) -> Result<HashMap<ShardId, Position>> {
        self.0.failpoints.hit("sqlite found")?;
        let rows =
            sqlx::query(FOUND).bind(moves).try_map(|found| row::position(&found)).fetch_all(open.connection()).await;
        let rows = rows.map_err(|error| self.failed("read", error))?;
        Ok(rows.into_iter().map(|position| (position.shard.clone(), position)).collect())
    }
}
