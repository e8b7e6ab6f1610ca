//! The commit: one transaction with a constant number of statements, however much it carries.

use std::time::Duration;

use tokio::time::sleep;

use super::{Log, Mysql, failure::Failed, transaction::Transaction, write};
use crate::{
    backend::{
        item,
        round::{self, Writer},
    },
    error::Result,
    store::{Commit, Committed, Rewrite},
    tenant::StreamId,
};

/// Every place at which a test can make a claim or a commit crash, in the order in which a full commit passes them.
pub const FAILPOINTS: [&str; 33] = [
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
    "mysql mirror",
    "mysql history",
    "mysql dead letters",
    "mysql redrives",
    "mysql purge",
    "mysql unpark",
    "mysql park",
    "mysql deploy",
    "mysql known keys",
    "mysql event keys",
    "mysql ids",
    "mysql events",
    "mysql commit",
    "mysql answer",
    "mysql rewrite begin",
    "mysql rewrite positions",
    "mysql rewrite state",
    "mysql rewrite commit",
    "mysql rewrite answer",
];

/// How often a transaction is tried that others were in the way of.
pub(super) const TRIES: u32 = 10;
/// The most that is waited before the second time; twice as long before each further one, up to a limit.
const PAUSE: Duration = Duration::from_millis(8);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// One commit on its way.
pub(super) type Item<'a> = round::Item<'a, Log>;

impl Writer for Mysql {
    type Table = Log;

    async fn table(&self, stream: &StreamId) -> Result<Option<Log>> {
        self.find(stream).await
    }

    async fn rewrite(&self, commit: &Commit, rewrite: &Rewrite) -> Result<Committed> {
        self.rewrite_in(commit, rewrite).await
    }

    async fn transact(&self, items: &[Item<'_>]) -> Result<Vec<Result<Committed>>> {
        self.may_write("commit to")?;
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
        for log in items.iter().flat_map(|item| item.tables.values()) {
            log.appended().send_replace(());
        }
        self.0.failpoints.hit("mysql answer").map_err(lost)?;
        Ok(answers)
    }
}

impl Mysql {
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
        self.mirror(open, &standing).await?;
        self.write_history(open, items, &answers).await?;
        self.write_dead_letters(open, &standing).await?;
        self.deploy(open, items, &answers).await?;
        let counts = self.append(open, &standing).await?;
        answers.iter_mut().flatten().zip(counts).for_each(|(answer, count)| answer.appended = count);
        self.0.failpoints.hit("mysql commit")?;
        Ok(answers)
    }

    /// Numbers of the store's counter. They are drawn before the transaction that needs them, so that nobody holds the
    /// counter while waiting for a position; those of one that fails are nobody's.
    pub(super) async fn draw(&self, count: usize) -> Result<impl Iterator<Item = u64>> {
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
