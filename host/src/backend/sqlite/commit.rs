//! The commit: one transaction with a constant number of statements, however much it carries.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{Sqlite, encode, failure, table::Table, transaction::Transaction, write::Appended};
use crate::{
    backend::{self, item, row},
    changes::Emit,
    error::{Error, Result},
    store::{Commit, Committed, Position},
    tenant::{ShardId, StreamId},
};

/// Every place at which a test can make a claim or a commit crash, in the order in which a full commit passes them.
pub const FAILPOINTS: [&str; 21] = [
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
    "sqlite component",
    "sqlite deployment",
    "sqlite commit",
    "sqlite answer",
];

/// The row must be as it was loaded; the rest of the parameters are what it becomes. See `encode::move_json`.
const ADVANCE: &str = "
    UPDATE position SET
        cursor = unhex(m.value->>6), revision = revision + 1, fence = m.value->>7, generation = m.value->>8,
        epoch = m.value->>9, status = m.value->>10, reason = m.value->>11, attempts = m.value->>12,
        digest = unhex(m.value->>13), last_event = unhex(m.value->>14), high_water = unhex(m.value->>15),
        features = m.value->>16, updated_at = m.value->>17
    FROM json_each(?1) AS m
    WHERE tenant = m.value->>0 AND consumer = m.value->>1 AND shard = m.value->>2
        AND fence = m.value->>3 AND revision = m.value->>4 AND epoch = m.value->>5
    RETURNING tenant, consumer, shard";

/// The rows of the moves that lost their compare.
const FOUND: &str = "
    SELECT position.* FROM json_each(?1) AS m CROSS JOIN position
    WHERE tenant = m.value->>0 AND consumer = m.value->>1 AND shard = m.value->>2";

/// One commit on its way.
pub(super) struct Item<'a> {
    /// What is asked for.
    pub(super) commit: &'a Commit,
    /// The tables of the streams that it appends to.
    pub(super) tables: HashMap<&'a StreamId, Arc<Table>>,
}

/// A transaction that did not happen, or of which nobody knows.
struct Failed {
    error: Error,
    /// Whether its commits may do better one by one.
    try_alone: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, try_alone: true }
    }
}

impl Sqlite {
    /// Writes commits together. If that fails for another reason than a lost compare, each is written alone, so that
    /// each gets its own answer.
    pub(super) async fn write(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        let mut answers: Vec<Option<Result<Committed>>> = Vec::new();
        let (mut items, mut shards) = (Vec::new(), HashSet::new());
        for commit in commits {
            let again = commit.r#move.as_ref().is_some_and(|r#move| !shards.insert(&r#move.from.shard));
            let item = if again { Err(backend::twice(commit)) } else { self.prepare(commit).await };
            match item {
                Ok(item) => {
                    items.push(item);
                    answers.push(None);
                }
                Err(error) => answers.push(Some(Err(error))),
            }
        }
        let mut written = self.write_all(&items).await.into_iter();
        let missing = || Err(Error::corrupt("a commit was left without an answer"));
        answers.into_iter().map(|answer| answer.or_else(|| written.next()).unwrap_or_else(missing)).collect()
    }

    async fn write_all(&self, items: &[Item<'_>]) -> Vec<Result<Committed>> {
        if items.is_empty() {
            return Vec::new();
        }
        let failed = match self.transact(items).await {
            Ok(answers) => return answers,
            Err(failed) => failed,
        };
        if items.len() == 1 {
            return vec![Err(failed.error)];
        }
        let mut answers = Vec::new();
        for item in items {
            answers.push(if failed.try_alone {
                match self.transact(std::slice::from_ref(item)).await {
                    Ok(mut answers) => answers.pop().unwrap_or_else(|| Ok(Committed::default())),
                    Err(failed) => Err(failed.error),
                }
            } else {
                Err(Error::new(failed.error.kind(), failed.error.chain())
                    .help(failed.error.way_out().unwrap_or_default()))
            });
        }
        answers
    }

    /// Looks the streams up that a commit appends to.
    async fn prepare<'a>(&self, commit: &'a Commit) -> Result<Item<'a>> {
        backend::check(commit)?;
        let mut tables = HashMap::new();
        for Emit { stream, .. } in &commit.changes.emits {
            if !tables.contains_key(stream) {
                let table = self.table(stream).await?;
                tables.insert(stream, table.ok_or_else(|| Error::not_found(format!("there is no stream {stream}")))?);
            }
        }
        Ok(Item { commit, tables })
    }

    /// One transaction. Where all that is asked for is to move positions, that is one statement, which needs no BEGIN and
    /// no COMMIT around it: each is a hop to the thread of the connection, and as expensive as 20 events.
    async fn transact(&self, items: &[Item<'_>]) -> Result<Vec<Result<Committed>>, Failed> {
        let points = &self.0.failpoints;
        // Who does not get the lock would not get it alone either.
        let together = |error| Failed { error, try_alone: false };
        if items.iter().all(|item| item::only_moves(item.commit)) {
            let mut open = self.connect("commit to").await.map_err(together)?;
            let answers = self.advance(&mut open, items).await.map_err(together)?;
            open.give_back();
            points
                .hit("sqlite answer")
                .map_err(|error| together(item::lost(items.first().map(|item| item.commit), error)))?;
            return Ok(answers);
        }
        points.hit("sqlite begin")?;
        let mut open = self.begin("commit to").await.map_err(together)?;
        let mut answers = self.advance(&mut open, items).await?;
        let standing = items.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let standing: Vec<&Item<'_>> = standing.map(|(item, _)| item).collect();
        self.write_state(&mut open, &standing).await?;
        let Appended { counts, newest } = self.append(&mut open, &standing).await?;
        answers.iter_mut().flatten().zip(counts).for_each(|(answer, count)| answer.appended = count);
        self.write_history(&mut open, items, &answers).await?;
        self.deploy(&mut open, items, &answers).await?;
        points.hit("sqlite commit")?;
        open.commit().await.map_err(|error| self.uncertain(items, error))?;
        for (table, id) in newest {
            table.announce(id);
        }
        points
            .hit("sqlite answer")
            .map_err(|error| together(item::lost(items.first().map(|item| item.commit), error)))?;
        Ok(answers)
    }

    /// What it means that COMMIT failed.
    fn uncertain(&self, items: &[Item<'_>], error: sqlx::Error) -> Failed {
        let undone = failure::is_undone(&error);
        let error = self.failed("commit to", error);
        if undone {
            error.into()
        } else {
            Failed { error: item::lost(items.first().map(|item| item.commit), error), try_alone: false }
        }
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
                false => self.uncertain(items, error).error,
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
