//! Other positions in the place of all that a consumer has.

use sqlx::AssertSqlSafe;

use super::{
    Sqlite,
    commit::Item,
    recent::{Logged, Slice},
    transaction::Transaction,
};
use crate::{
    backend::{item, row, row::status_text},
    error::{Error, Result},
    store::{Commit, Committed, Epoch, Fence, Position, Rewrite},
    tenant::ConsumerId,
};

const FOUND: &str = "SELECT * FROM position WHERE tenant = ? AND consumer = ?";

const PUT: &str = "
    INSERT INTO position (tenant, consumer, shard, cursor, revision, fence, incarnation, generation, epoch, status, reason,
        attempts, digest, last_event, high_water, features, updated_at, topology, owner)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '')";

/// What a consumer has, beside its positions and its state.
const ALL: [&str; 4] = ["dead_letter", "parked", "deployment", "history"];

const LOG: &str = "INSERT INTO state_log (writes) VALUES (?)";
const FORGET: &str = "DELETE FROM state_log WHERE id < ?";

impl Sqlite {
    pub(super) async fn rewrite_in(&self, commit: &Commit, rewrite: &Rewrite) -> Result<Committed> {
        let points = &self.0.failpoints;
        let consumer = &rewrite.consumer;
        points.hit("sqlite rewrite begin")?;
        let mut open = self.begin("commit to").await?;
        let found = sqlx::query(FOUND)
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .try_map(|found| row::position(&found))
            .fetch_all(open.connection());
        let found = found.await.map_err(|error| self.failed("read", error))?;
        let last = self.draw(&mut open, 2).await?;
        let (fence, epoch) = (Fence(last - 1), commit.deployment.as_ref().map(|_| Epoch(last)));
        let rows = item::rewritten(rewrite, found, fence, epoch)?;
        points.hit("sqlite rewrite positions")?;
        self.empty(&mut open, "position", consumer).await?;
        for row in &rows {
            self.put(&mut open, row).await?;
        }
        if rewrite.clears_state || rows.is_empty() {
            points.hit("sqlite rewrite state")?;
            self.clear_state(&mut open, consumer).await?;
        }
        if rows.is_empty() {
            for table in ALL {
                self.empty(&mut open, table, consumer).await?;
            }
        }
        let items = [Item { commit, tables: Default::default() }];
        self.write_dead_letters(&mut open, &items.iter().collect::<Vec<_>>()).await?;
        let answer = Committed { position: None, appended: 0, epoch };
        self.deploy(&mut open, &items, &[Ok(answer.clone())]).await?;
        points.hit("sqlite rewrite commit")?;
        open.commit().await.map_err(|error| self.uncertain(&items, error))?;
        points.hit("sqlite rewrite answer").map_err(|error| item::lost(Some(commit), error))?;
        Ok(answer)
    }

    /// Deletes what a consumer has in a table.
    async fn empty(&self, open: &mut Transaction<'_>, table: &str, consumer: &ConsumerId) -> Result<()> {
        let done = sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE tenant = ? AND consumer = ?")))
            .bind(consumer.tenant.0.as_str())
            .bind(consumer.name.as_str())
            .execute(open.connection());
        done.await.map(drop).map_err(|error| self.failed("commit to", error))
    }

    async fn put(&self, open: &mut Transaction<'_>, to: &Position) -> Result<()> {
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
            .execute(open.connection());
        done.await.map(drop).map_err(|error| self.failed("commit to", error))
    }

    /// Empties a state. What the log has of others goes into the table, and the log begins anew with a row that says nothing: its
    /// numbers must go on, since readers go by them.
    async fn clear_state(&self, open: &mut Transaction<'_>, consumer: &ConsumerId) -> Result<()> {
        self.load_log(open.connection(), i64::MAX).await?;
        let mut writes = self.recent().all();
        writes.retain(|(owner, ..)| owner != consumer);
        self.fold(open, &Slice { writes, done: None }).await?;
        self.empty(open, "state", consumer).await?;
        let failed = |error| self.failed("commit to", error);
        let nothing = postcard::to_allocvec(&Logged::new());
        let nothing = nothing.map_err(|error| Error::corrupt("state cannot be encoded").because(error))?;
        let added = sqlx::query(LOG).bind(nothing.clone()).execute(open.connection()).await.map_err(failed)?;
        let row = added.last_insert_rowid();
        sqlx::query(FORGET).bind(row).execute(open.connection()).await.map_err(failed)?;
        open.log = Some((row, nothing));
        Ok(())
    }
}
