//! Other positions in the place of all that a consumer has. Rare, and so the one write that is a transaction of several
//! statements; the server ends it should its host fall silent in between.

use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};

use super::{
    Postgres,
    commit::{Item, is_activated, take_turn},
    failure,
    statement::statement,
};
use crate::{
    backend::{item, row, row::status_text},
    error::{Error, Result},
    store::{Commit, Committed, Epoch, Fence, Position, Rewrite},
    tenant::ConsumerId,
};

const FOUND: &str = "SELECT * FROM tendon.position WHERE tenant = $1 AND consumer = $2 ORDER BY shard FOR UPDATE";

const PUT: &str = "
    INSERT INTO tendon.position (tenant, consumer, shard, cursor, revision, fence, incarnation, generation, epoch, status,
        reason, attempts, digest, last_event, high_water, features, updated_at, topology, owner)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, '')";

/// What a consumer has, beside its positions and its state.
const ALL: [&str; 4] = ["dead_letter", "parked", "deployment", "history"];

impl Postgres {
    pub(super) async fn rewrite_in(&self, commit: &Commit, rewrite: &Rewrite) -> Result<Committed> {
        self.may_write("commit to")?;
        let points = &self.0.failpoints;
        let failed = |error| self.failed("commit to", error);
        points.hit("postgres rewrite begin")?;
        let drawn = self.draw(2).await?;
        let mut drawn = drawn.into_iter().map(i64::cast_unsigned);
        let fence = Fence(drawn.next().unwrap_or_default());
        let epoch = drawn.next().filter(|_| commit.deployment.is_some()).map(Epoch);
        let mut open = self.0.writers.begin().await.map_err(failed)?;
        let rows = self.put_all(&mut open, rewrite, (fence, epoch)).await?;
        if rewrite.clears_state || rows.is_empty() {
            points.hit("postgres rewrite state")?;
            self.empty(&mut open, "state", &rewrite.consumer).await?;
        }
        if rows.is_empty() {
            for table in ALL {
                self.empty(&mut open, table, &rewrite.consumer).await?;
            }
        }
        let answer = Committed { position: None, appended: 0, epoch };
        let items = [Item { commit, tables: Default::default() }];
        let wanted = [answer.clone()];
        let row = statement(&items, &wanted)?.fetch_one(&mut *open).await.map_err(failed)?;
        is_activated(&row, Some(commit))?;
        points.hit("postgres rewrite commit")?;
        open.commit().await.map_err(|error| match failure::is_undone(&error) {
            true => failed(error),
            false => item::lost(Some(commit), failed(error)),
        })?;
        points.hit("postgres rewrite answer").map_err(|error| item::lost(Some(commit), error))?;
        Ok(answer)
    }

    async fn put_all(
        &self,
        open: &mut PgConnection,
        rewrite: &Rewrite,
        (fence, epoch): (Fence, Option<Epoch>),
    ) -> Result<Vec<Position>> {
        let consumer = &rewrite.consumer;
        let failed = |error| self.failed("commit to", error);
        take_turn(open, consumer).await.map_err(failed)?;
        let found = sqlx::query(FOUND)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found: PgRow| row::position(&found));
        let found = found.fetch_all(&mut *open).await.map_err(failed)?;
        let rows = item::rewritten(rewrite, found, fence, epoch)?;
        self.0.failpoints.hit("postgres rewrite positions")?;
        self.empty(open, "position", consumer).await?;
        for row in &rows {
            self.put(open, row).await?;
        }
        Ok(rows)
    }

    /// Deletes what a consumer has in a table.
    async fn empty(&self, open: &mut PgConnection, table: &str, consumer: &ConsumerId) -> Result<()> {
        let sql = format!("DELETE FROM tendon.{table} WHERE tenant = $1 AND consumer = $2");
        let done =
            sqlx::query(AssertSqlSafe(sql)).bind(consumer.tenant.0.as_str()).bind(consumer.name.as_str()).execute(open);
        done.await.map(drop).map_err(|error| self.failed("commit to", error))
    }

    async fn put(&self, open: &mut PgConnection, to: &Position) -> Result<()> {
        let reason = to.reason.as_ref().map(serde_json::to_string).transpose();
        let done = sqlx::query(PUT)
            .bind(to.shard.consumer.tenant.0.as_str())
            .bind(to.shard.consumer.name.as_str())
            .bind(i64::from(to.shard.index))
            .bind(&to.cursor.0[..])
            .bind(to.revision.0.cast_signed())
            .bind(to.fence.0.cast_signed())
            .bind(to.incarnation.cast_signed())
            .bind(i64::from(to.generation))
            .bind(to.epoch.0.cast_signed())
            .bind(status_text(to.status))
            .bind(reason.map_err(|error| Error::corrupt("a reason is not JSON").because(error))?)
            .bind(i64::from(to.attempts))
            .bind(to.digest.as_ref().map(|digest| digest.0.as_slice()))
            .bind(to.last_event.as_ref().map(|hash| hash.0.as_slice()))
            .bind(&to.high_water.0[..])
            .bind(to.features.cast_signed())
            .bind(to.updated_at.0)
            .bind(to.topology.cast_signed())
            .execute(open);
        match done.await {
            // A shard that nobody had run yet was claimed meanwhile.
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                Err(item::moved_meanwhile(&to.shard.consumer).because(error))
            }
            done => done.map(drop).map_err(|error| self.failed("commit to", error)),
        }
    }
}
