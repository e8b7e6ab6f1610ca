//! The one transaction that writes.

use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::MutexGuard;

use super::{Sqlite, recent::Written};
use crate::{backend::failure::only_read, error::Result};

/// Holds the writing connection. Dropping it closes the connection, which rolls back, wherever the transaction was: not
/// even an error that made SQLite itself roll back leaves anything that has to be known.
pub(super) struct Transaction<'a> {
    end: End<'a>,
    home: MutexGuard<'a, Option<SqliteConnection>>,
    connection: SqliteConnection,
    is_begun: bool,
    /// The state that it has written.
    pub(super) written: Option<Written>,
    /// The one row that it has left of the log, if so.
    pub(super) log: Option<(i64, Vec<u8>)>,
}

/// However a transaction ends, it writes no more. While it is open readers take its row of the log for one that is known.
struct End<'a>(&'a Sqlite);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.recent().end(None);
    }
}

impl Sqlite {
    /// Begins to write: waits for the lock, so that nothing later can be refused for another process's sake.
    pub(super) async fn begin(&self, doing: &str) -> Result<Transaction<'_>> {
        let mut transaction = self.connect(doing).await?;
        let begin = sqlx::query("BEGIN IMMEDIATE").execute(transaction.connection()).await;
        begin.map_err(|error| self.failed(doing, error))?;
        transaction.is_begun = true;
        Ok(transaction)
    }

    /// Takes the writing connection, for one statement that is a transaction of its own.
    pub(super) async fn connect(&self, doing: &str) -> Result<Transaction<'_>> {
        if self.0.read_only {
            return Err(only_read(doing, &self.0.path.display().to_string()));
        }
        let mut home = self.0.writer.lock().await;
        let connection = match home.take() {
            Some(connection) => connection,
            None => {
                let options = self.0.options.clone().create_if_missing(false);
                options.connect().await.map_err(|error| self.failed(doing, error))?
            }
        };
        Ok(Transaction { end: End(self), home, connection, is_begun: false, written: None, log: None })
    }
}

impl Transaction<'_> {
    /// Where its statements go.
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Whether nothing is true before `commit`.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Makes what was written true.
    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        match self.log.take() {
            // A row that cannot be read is one that is not known: whoever reads next takes the log in, and says so.
            Some(row) => drop(self.end.0.recent().load(vec![row])),
            None => self.end.0.recent().end(self.written.take()),
        }
        self.give_back();
        Ok(())
    }

    /// Gives the connection back, on which nothing is open.
    pub(super) fn give_back(mut self) {
        *self.home = Some(self.connection);
    }
}
