//! A transaction that leaves nothing open, wherever it is given up.

use sqlx::{MySql, MySqlConnection, MySqlPool, pool::PoolConnection};

/// Dropping it before its end closes the connection, and then the server rolls back: even where it was dropped within a
/// statement, BEGIN included, no connection that is in a transaction goes back to the pool.
pub(super) struct Transaction {
    connection: PoolConnection<MySql>,
    is_ended: bool,
}

impl Transaction {
    pub(super) async fn begin(pool: &MySqlPool) -> sqlx::Result<Self> {
        let mut open = Self { connection: pool.acquire().await?, is_ended: false };
        sqlx::raw_sql("START TRANSACTION").execute(open.connection()).await?;
        Ok(open)
    }

    /// Where its statements go.
    pub(super) fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }

    /// Makes what was written true.
    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("COMMIT").execute(self.connection()).await?;
        self.is_ended = true;
        Ok(())
    }

    /// Ends it without a trace. Where that fails, so does the connection, and the server does it.
    pub(super) async fn roll_back(mut self) {
        self.is_ended = sqlx::raw_sql("ROLLBACK").execute(self.connection()).await.is_ok();
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_ended {
            self.connection.close_on_drop();
        }
    }
}
