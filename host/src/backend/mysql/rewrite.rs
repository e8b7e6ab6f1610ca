//! Other positions in the place of all that a consumer has.

use sqlx::{AssertSqlSafe, mysql::MySqlRow};

use super::{
    Mysql,
    commit::{Item, TRIES, pause},
    failure::Failed,
    position::{self, MOVE_MANY},
    transaction::Transaction,
};
use crate::{
    backend::{item, row},
    error::Result,
    store::{Commit, Committed, Epoch, Fence, Rewrite},
    tenant::ConsumerId,
};

const FOUND: &str = "SELECT * FROM tendon_position WHERE tenant = ? AND consumer = ? ORDER BY shard FOR UPDATE";

/// What a consumer has, beside its positions and its state.
const ALL: [&str; 4] = ["dead_letter", "parked", "deployment", "history"];

impl Mysql {
    pub(super) async fn rewrite_in(&self, commit: &Commit, rewrite: &Rewrite) -> Result<Committed> {
        self.may_write("commit to")?;
        self.0.failpoints.hit("mysql rewrite begin")?;
        let mut drawn = self.draw(2).await?;
        let fence = Fence(drawn.next().unwrap_or_default());
        let epoch = drawn.next().filter(|_| commit.deployment.is_some()).map(Epoch);
        let lost = |error| item::lost(Some(commit), error);
        let mut tries = 1;
        let answer = loop {
            match self.try_rewrite(commit, rewrite, (fence, epoch)).await {
                Ok(answer) => break answer,
                Err(failed) if failed.is_conflict() && tries < TRIES => pause(tries).await,
                Err(Failed::Own(error) | Failed::Late(error)) => return Err(error),
                Err(Failed::Sql(error))
                    if error.as_database_error().is_some_and(|error| error.is_unique_violation()) =>
                {
                    // A shard that nobody had run yet was claimed meanwhile.
                    return Err(item::moved_meanwhile(&rewrite.consumer).because(error));
                }
                Err(Failed::Sql(error)) => return Err(self.failed("commit to", error)),
                Err(Failed::Lost(error)) => return Err(lost(self.failed("commit to", error))),
            }
            tries += 1;
        };
        self.0.failpoints.hit("mysql rewrite answer").map_err(lost)?;
        Ok(answer)
    }

    async fn try_rewrite(
        &self,
        commit: &Commit,
        rewrite: &Rewrite,
        numbers: (Fence, Option<Epoch>),
    ) -> Result<Committed, Failed> {
        let mut open = Transaction::begin(&self.0.writers).await?;
        match self.fill_rewrite(&mut open, commit, rewrite, numbers).await {
            Ok(answer) => {
                open.commit().await.map_err(Failed::at_the_end)?;
                Ok(answer)
            }
            Err(failed) => {
                open.roll_back().await;
                Err(failed)
            }
        }
    }

    async fn fill_rewrite(
        &self,
        open: &mut Transaction,
        commit: &Commit,
        rewrite: &Rewrite,
        (fence, epoch): (Fence, Option<Epoch>),
    ) -> Result<Committed, Failed> {
        let consumer = &rewrite.consumer;
        let found = sqlx::query(FOUND)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: MySqlRow| row::position(&found));
        let found = found.fetch_all(open.connection()).await?;
        let rows = item::rewritten(rewrite, found, fence, epoch)?;
        self.empty(open, "position", consumer).await?;
        let mut batches = self.batches(MOVE_MANY, "");
        for row in &rows {
            batches.push(&position::row(row)?)?;
        }
        self.send(open, "mysql rewrite positions", batches).await?;
        if rewrite.clears_state || rows.is_empty() {
            self.0.failpoints.hit("mysql rewrite state")?;
            self.empty(open, "state", consumer).await?;
        }
        if rows.is_empty() {
            for table in ALL {
                self.empty(open, table, consumer).await?;
            }
        }
        let items = [Item { commit, tables: Default::default() }];
        self.write_dead_letters(open, &items.iter().collect::<Vec<_>>()).await?;
        let answer = Committed { position: None, appended: 0, epoch };
        self.deploy(open, &items, &[Ok(answer.clone())]).await?;
        self.0.failpoints.hit("mysql rewrite commit")?;
        Ok(answer)
    }

    /// Deletes what a consumer has in a table.
    async fn empty(&self, open: &mut Transaction, table: &str, consumer: &ConsumerId) -> Result<(), Failed> {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM tendon_{table} WHERE tenant = ? AND consumer = ?")))
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .execute(open.connection())
            .await?;
        Ok(())
    }
}
