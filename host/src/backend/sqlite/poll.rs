//! Looks for commits of other processes: SQLite tells nobody of them. One poller for a database, however many wait.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::time::sleep;

use super::{Inner, Sqlite};

/// The wait after something new.
const SHORTEST: Duration = Duration::from_millis(5);
/// The wait when nothing has come for a while: ten looks of some 20 µs a second.
const LONGEST: Duration = Duration::from_millis(100);

impl Sqlite {
    /// Begins to look, unless that is done already.
    pub(super) fn poll(&self) {
        self.poller().get_or_insert_with(|| tokio::spawn(poll(Arc::downgrade(&self.0))));
    }
}

async fn poll(database: Weak<Inner>) {
    let mut eye: Option<Eye> = None;
    let mut wait = SHORTEST;
    while let Some(inner) = database.upgrade() {
        let sqlite = Sqlite(inner);
        let moved = match look(&sqlite, &mut eye).await {
            Ok(moved) => moved,
            Err(error) => {
                tracing::warn!(error = %sqlite.failed("poll", error).chain(), "commits of other processes are not seen");
                eye = None;
                false
            }
        };
        drop(sqlite);
        wait = if moved { SHORTEST } else { LONGEST.min(wait * 2) };
        sleep(wait).await;
    }
}

/// A connection of its own: the version that it sees moves with the commits of all others.
struct Eye {
    connection: SqliteConnection,
    version: Option<i64>,
}

/// Wakes the readers of the streams that have grown; whether there was one that nobody here knew of.
async fn look(sqlite: &Sqlite, eye: &mut Option<Eye>) -> sqlx::Result<bool> {
    let eye = match eye {
        Some(eye) => eye,
        None => {
            let connection = sqlite.0.options.clone().create_if_missing(false).connect().await?;
            eye.insert(Eye { connection, version: None })
        }
    };
    let version: i64 = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut eye.connection).await?;
    if eye.version == Some(version) {
        return Ok(false);
    }
    let newest = sqlx::query_as("SELECT name, seq FROM sqlite_sequence").fetch_all(&mut eye.connection).await?;
    eye.version = Some(version);
    let newest: HashMap<String, i64> = newest.into_iter().collect();
    Ok(sqlite
        .0
        .known
        .all()
        .values()
        .fold(false, |moved, table| newest.get(&table.name).is_some_and(|newest| table.announce(*newest)) || moved))
}
