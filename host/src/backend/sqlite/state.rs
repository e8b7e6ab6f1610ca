//! The state: a table, and a log of what was written lately (see `recent.rs`).

use std::sync::{MutexGuard, PoisonError};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, SqliteExecutor};

use super::{
    Sqlite,
    commit::Item,
    encode::{self, Parameters, STATEMENT_BYTES_MAX},
    recent::{Logged, Recent, Slice, Written},
    transaction::Transaction,
};
use crate::{
    changes::{StateKey, latest},
    error::{Error, Result},
    scan,
    store::{Key, Scope},
    tenant::ConsumerId,
};

const LOG: &str = "INSERT INTO state_log (writes) VALUES (?)";
/// As this row is added, or for a reader: all of them.
const LOGGED: &str = "SELECT id, writes FROM state_log WHERE id < ? ORDER BY id";
const FORGET: &str = "DELETE FROM state_log WHERE id <= ?";
const NEWEST: &str = "SELECT ifnull(max(id), 0) FROM state_log";

impl Sqlite {
    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values of keys. What is held is looked up before the table is: it leaves here only after it has come there.
    pub(super) async fn values(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        loop {
            let (held, mark) = self.recent().look(scope, keys);
            let (newest, stored) = self.stored(scope, keys).await?;
            if self.recent().covers(newest, mark) {
                return Ok(held.into_iter().zip(stored).map(|(held, stored)| held.unwrap_or(stored)).collect());
            }
            self.catch_up().await?;
        }
    }

    /// Entries by prefix, in the order of their keys.
    pub(super) async fn entries(
        &self,
        scope: &Scope,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(Key, Bytes)>> {
        loop {
            let (held, mark) = self.recent().range(scope, prefix, after);
            let found = scan::merged(held, after, limit, |from, want| self.page(scope, prefix, from, want)).await?;
            let newest = sqlx::query_scalar(NEWEST).fetch_one(&self.0.readers).await;
            if self.recent().covers(newest.map_err(|error| self.failed("read state from", error))?, mark) {
                return Ok(found);
            }
            self.catch_up().await?;
        }
    }

    /// Whether there is any entry of a consumer: one that is held, or one of the table that is not held as deleted.
    pub(super) async fn any_entry(&self, consumer: &ConsumerId) -> Result<bool> {
        let failed = |error| self.failed("read state from", error);
        loop {
            let (is_set, deleted, mark) = self.recent().of(consumer);
            let some = sqlx::query_as("SELECT part, key FROM state WHERE tenant = ? AND consumer = ? LIMIT ?")
                .bind(consumer.tenant.0.as_str())
                .bind(consumer.name.as_str())
                .bind(i64::try_from(deleted.len() + 1).unwrap_or(i64::MAX));
            let some: Vec<(String, String)> = some.fetch_all(&self.0.readers).await.map_err(failed)?;
            let key = |(part, key): (String, String)| StateKey { part: part.into(), key: key.into() };
            let is_there = is_set || some.into_iter().any(|place| !deleted.contains(&key(place)));
            let newest = sqlx::query_scalar(NEWEST).fetch_one(&self.0.readers).await;
            if self.recent().covers(newest.map_err(failed)?, mark) {
                return Ok(is_there);
            }
            self.catch_up().await?;
        }
    }

    /// Adds what is written to the log, and folds a slice of it into the table when that is due.
    pub(super) async fn write_state(&self, open: &mut Transaction<'_>, items: &[&Item<'_>]) -> Result<()> {
        let logged = logged(items);
        if logged.is_empty() {
            return Ok(());
        }
        let failed = |error| self.failed("commit to", error);
        let bytes =
            postcard::to_allocvec(&logged).map_err(|error| Error::corrupt("state cannot be encoded").because(error))?;
        if bytes.len() > STATEMENT_BYTES_MAX {
            let found = bytes.len();
            return Err(Error::limit(format!(
                "a commit has {found} bytes of state, at most {STATEMENT_BYTES_MAX} fit"
            )));
        }
        self.0.failpoints.hit("sqlite state")?;
        let added = sqlx::query(LOG).bind(bytes.clone()).execute(open.connection()).await.map_err(failed)?;
        let row = added.last_insert_rowid();
        if !self.recent().begin(row) {
            self.0.failpoints.hit("sqlite state log")?;
            self.load_log(open.connection(), row).await?;
            self.recent().begin(row);
        }
        let slice = self.recent().slice(&logged);
        if let Some(slice) = &slice {
            self.fold(open, slice).await?;
        }
        open.written = Some(Written { row, bytes, slice });
        Ok(())
    }

    pub(super) async fn fold(&self, open: &mut Transaction<'_>, slice: &Slice) -> Result<()> {
        let failed = |error| self.failed("commit to", error);
        let writes = slice.writes.iter().map(|(consumer, key, value)| (consumer, key, value.as_deref()));
        let (sets, deletes): (Vec<_>, Vec<_>) = writes.partition(|(.., value)| value.is_some());
        let both = [("sqlite fold", encode::SET_STATE, sets), ("sqlite fold deletes", encode::DELETE_STATE, deletes)];
        for (point, sql, writes) in both {
            if !writes.is_empty() {
                self.0.failpoints.hit(point)?;
                let Parameters { json, bytes } = encode::state(&writes)?;
                sqlx::query(sql).bind(json).bind(bytes).execute(open.connection()).await.map_err(failed)?;
            }
        }
        if let Some(done) = slice.done {
            self.0.failpoints.hit("sqlite fold end")?;
            sqlx::query(FORGET).bind(done).execute(open.connection()).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Takes the log in: at the start, and when another process has written to it. Our own transactions wait.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let _ours = self.0.writer.lock().await;
        self.load_log(&self.0.readers, i64::MAX).await
    }

    /// Takes in the rows of the log before this one.
    pub(super) async fn load_log(&self, from: impl SqliteExecutor<'_>, before: i64) -> Result<()> {
        let rows = sqlx::query_as(LOGGED).bind(before).fetch_all(from).await;
        self.recent().load(rows.map_err(|error| self.failed("read state from", error))?)
    }

    /// The newest row of the log, and what the table has of keys.
    async fn stored(&self, scope: &Scope, keys: &[Key]) -> Result<(i64, Vec<Option<Bytes>>)> {
        let Parameters { json, bytes } = encode::keys(keys)?;
        let rows = sqlx::query_as(encode::GET_STATE)
            .bind(json)
            .bind(bytes)
            .bind(scope.consumer.tenant.0.as_str())
            .bind(scope.consumer.name.as_str())
            .bind(&*scope.part);
        let rows: Vec<(i64, i64, Option<Vec<u8>>)> =
            rows.fetch_all(&self.0.readers).await.map_err(|error| self.failed("read state from", error))?;
        let newest = rows.first().map_or(0, |row| row.0);
        let mut values = vec![None; keys.len()];
        for (_, number, value) in rows {
            if let Some(place) = usize::try_from(number).ok().and_then(|number| values.get_mut(number)) {
                *place = value.map(Bytes::from);
            }
        }
        Ok((newest, values))
    }

    /// Rows of the table by prefix, after a key.
    async fn page(&self, scope: &Scope, prefix: &str, after: Option<Key>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        let beyond = beyond(prefix);
        let mut sql =
            "SELECT key, value FROM state WHERE tenant = ?1 AND consumer = ?2 AND part = ?3 AND key >= ?4".to_owned();
        sql.push_str(after.as_ref().map_or("", |_| " AND key > ?5"));
        sql.push_str(beyond.as_ref().map_or("", |_| " AND key < ?6"));
        sql.push_str(" ORDER BY key LIMIT ?7");
        let rows = sqlx::query_as(AssertSqlSafe(sql))
            .bind(scope.consumer.tenant.0.as_str())
            .bind(scope.consumer.name.as_str())
            .bind(&*scope.part)
            .bind(prefix)
            .bind(after.as_deref())
            .bind(beyond)
            .bind(i64::from(limit));
        let rows: Vec<(String, Vec<u8>)> =
            rows.fetch_all(&self.0.readers).await.map_err(|error| self.failed("read state from", error))?;
        Ok(rows.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// What commits write to the state.
fn logged<'a>(items: &[&Item<'a>]) -> Logged<'a> {
    let writers = items.iter().filter_map(|item| Some((item.commit.changes.consumer.as_ref()?, &item.commit.changes)));
    let logged = writers.map(|(consumer, changes)| (consumer, latest(changes.writes.iter()).collect()));
    logged.filter(|(_, writes): &(_, Vec<_>)| !writes.is_empty()).collect()
}

/// The first text after all that begin with a prefix; none where there is no end to them.
fn beyond(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_a_prefix_follows_all_that_begin_with_it() {
        for (prefix, next) in
            [("a", "b"), ("az", "a{"), ("\u{7f}", "\u{80}"), ("\u{d7ff}", "\u{e000}"), ("a\u{10ffff}", "b")]
        {
            assert_eq!(beyond(prefix).as_deref(), Some(next));
        }
        assert_eq!(beyond(""), None);
        assert_eq!(beyond("\u{10ffff}"), None);
    }
}
