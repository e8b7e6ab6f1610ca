//! The commit: one transaction with a constant number of statements, however much it carries.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    Mysql,
    failure::Failed,
    table::Table,
    transaction::Transaction,
    write::{self, Tables},
};
use crate::{
    backend::{self, item},
    changes::Emit,
    error::{Error, Kind, Result},
    store::{Commit, Committed},
    tenant::StreamId,
};

/// Every place at which a test can make a claim or a commit crash, in the order in which a full commit passes them.
pub const FAILPOINTS: [&str; 22] = [
    "mysql claim begin",
    "mysql claim position",
    "mysql claim counter",
    "mysql claim fence",
    "mysql claim read",
    "mysql claim commit",
    "mysql claim answer",
    "mysql counter",
    "mysql begin",
    "mysql lock",
    "mysql position",
    "mysql found",
    "mysql state",
    "mysql deletes",
    "mysql history",
    "mysql deploy",
    "mysql known keys",
    "mysql event keys",
    "mysql ids",
    "mysql events",
    "mysql commit",
    "mysql answer",
];

/// How often a transaction is tried that others were in the way of.
pub(super) const TRIES: u32 = 10;
/// The most that is waited before the second time; twice as long before each further one, up to a limit.
const PAUSE: Duration = Duration::from_millis(8);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// One commit on its way.
pub(super) struct Item<'a> {
    /// What is asked for.
    pub(super) commit: &'a Commit,
    /// The tables of the streams that it appends to.
    pub(super) tables: HashMap<&'a StreamId, Arc<Table>>,
}

impl Mysql {
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
        let error = match self.transact(items).await {
            Ok(answers) => return answers,
            Err(error) => error,
        };
        if items.len() == 1 {
            return vec![Err(error)];
        }
        let mut answers = Vec::new();
        for item in items {
            answers.push(match error.kind() {
                // Who was refused for the database's sake would be refused alone, too.
                Kind::Unavailable | Kind::Ambiguous => {
                    Err(Error::new(error.kind(), error.chain()).help(error.way_out().unwrap_or_default()))
                }
                _ => match self.transact(std::slice::from_ref(item)).await {
                    Ok(mut answers) => answers.pop().unwrap_or_else(|| Ok(Committed::default())),
                    Err(error) => Err(error),
                },
            });
        }
        answers
    }

    /// Looks the streams up that a commit appends to.
    async fn prepare<'a>(&self, commit: &'a Commit) -> Result<Item<'a>> {
        self.may_write("commit to")?;
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

    async fn transact(&self, items: &[Item<'_>]) -> Result<Vec<Result<Committed>>> {
        let mut drawn = self.draw(items.iter().map(|item| item::draws(item.commit)).sum()).await?;
        let mut draw = || drawn.next().unwrap_or_default();
        let wanted: Vec<Committed> = items.iter().map(|item| item::answer(item.commit, &mut draw)).collect();
        let lost = |error| item::lost(items.first().map(|item| item.commit), error);
        let mut tries = 1;
        let answers = loop {
            match self.attempt(items, &wanted).await {
                Ok(answers) => break answers,
                Err(failed) if failed.is_conflict() && tries < TRIES => pause(tries).await,
                Err(Failed::Own(error) | Failed::Late(error)) => return Err(error),
                Err(Failed::Sql(error)) => return Err(self.failed("commit to", error)),
                Err(Failed::Lost(error)) => return Err(lost(self.failed("commit to", error))),
            }
            tries += 1;
        };
        for table in items.iter().flat_map(|item| item.tables.values()) {
            table.appended.send_replace(());
        }
        self.0.failpoints.hit("mysql answer").map_err(lost)?;
        Ok(answers)
    }

    async fn attempt(&self, items: &[Item<'_>], wanted: &[Committed]) -> Result<Vec<Result<Committed>>, Failed> {
        if let ([item], [wanted]) = (items, wanted)
            && item::only_moves(item.commit)
        {
            return Ok(vec![self.move_alone(item, wanted).await?]);
        }
        self.0.failpoints.hit("mysql begin")?;
        let mut open = Transaction::begin(&self.0.writers).await?;
        match self.fill(&mut open, items, wanted).await {
            Ok(answers) => {
                open.commit().await.map_err(Failed::at_the_end)?;
                Ok(answers)
            }
            Err(failed) => {
                open.roll_back().await;
                Err(failed)
            }
        }
    }

    /// Positions first, so that whoever lost changes nothing. Events last: their streams are others', too.
    async fn fill(
        &self,
        open: &mut Transaction,
        items: &[Item<'_>],
        wanted: &[Committed],
    ) -> Result<Vec<Result<Committed>>, Failed> {
        let mut answers = self.advance(open, items, wanted).await?;
        let standing = items.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let standing: Vec<&Item<'_>> = standing.map(|(item, _)| item).collect();
        self.write_state(open, &standing).await?;
        self.write_history(open, items, &answers).await?;
        self.deploy(open, items, &answers).await?;
        let counts = self.append(open, &standing).await?;
        answers.iter_mut().flatten().zip(counts).for_each(|(answer, count)| answer.appended = count);
        self.0.failpoints.hit("mysql commit")?;
        Ok(answers)
    }

    /// Numbers of the store's counter. They are drawn before the transaction that needs them, so that nobody holds the
    /// counter while waiting for a position; those of one that fails are nobody's.
    async fn draw(&self, count: usize) -> Result<impl Iterator<Item = u64>> {
        let count = count as u64;
        if count == 0 {
            return Ok(1..=0);
        }
        self.0.failpoints.hit("mysql counter")?;
        let drawn = write::draw(count).execute(&self.0.writers).await;
        let last = drawn.map_err(|error| self.failed("draw a number from", error))?.last_insert_id();
        Ok((last + 1).saturating_sub(count)..=last)
    }
}

/// Lets others go first.
pub(super) async fn pause(tries: u32) {
    sleep(PAUSE_MAX.min(PAUSE * (1 << tries.saturating_sub(1).min(8))).mul_f64(fastrand::f64())).await;
}

/// The tables that commits append to, in the order of their numbers: all take them in that order.
pub(super) fn tables<'a>(items: &[&Item<'a>]) -> Tables<'a> {
    let tables = items.iter().flat_map(|item| item.tables.values());
    tables.map(|table| (table.number, (table.clone(), Vec::new()))).collect()
}
