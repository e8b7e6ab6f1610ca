//! The one transaction that writes.

use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::MutexGuard;

use super::Sqlite;
use crate::error::{Error, Result};

/// Holds the writing connection. Dropping it closes the connection, which rolls back, wherever the transaction was: not
/// even an error that made SQLite itself roll back leaves anything that has to be known.
pub(super) struct Transaction<'a> {
    home: MutexGuard<'a, Option<SqliteConnection>>,
    connection: SqliteConnection,
}

impl Sqlite {
    /// Begins to write: waits for the lock, so that nothing later can be refused for another process's sake.
    pub(super) async fn begin(&self, doing: &str) -> Result<Transaction<'_>> {
        if self.0.read_only {
            let file = self.0.path.display();
            return Err(Error::unavailable(format!("{doing} database {file}: it was opened only to be read")));
        }
        let mut home = self.0.writer.lock().await;
        let connection = match home.take() {
            Some(connection) => connection,
            None => {
                let options = self.0.options.clone().create_if_missing(false);
                options.connect().await.map_err(|error| self.failed(doing, error))?
            }
        };
        let mut transaction = Transaction { home, connection };
        let begin = sqlx::query("BEGIN IMMEDIATE").execute(transaction.connection()).await;
        begin.map_err(|error| self.failed(doing, error))?;
        Ok(transaction)
    }
}

impl Transaction<'_> {
    /// Where its statements go.
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Makes what was written true.
    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        *self.home = Some(self.connection);
        Ok(())
    }
}
