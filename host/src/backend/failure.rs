//! What all databases have to say of an error and of a schema.

use std::ops::RangeInclusive;

use crate::error::{Error, Kind, Result};

/// What an error means: its kind, in a few words, and a way out.
pub(super) type Meaning<'a> = (Kind, &'static str, Option<&'a str>);

/// The error for "failed to `doing` database …".
pub(super) fn explained(doing: &str, database: &str, (kind, what, help): Meaning<'_>, error: sqlx::Error) -> Error {
    // sqlx says a database's sentence twice, once as its own, and so it does a connection's.
    let cause: Box<dyn std::error::Error + Send + Sync> = match error {
        sqlx::Error::Database(error) => error.message().to_owned().into(),
        sqlx::Error::Io(error) => error.into(),
        error => error.into(),
    };
    let context = Error::new(kind, format!("{doing} database {database}: {what}")).because(cause);
    match help {
        Some(help) => context.help(help),
        None => context,
    }
}

/// What it means that there was no answer from a server.
pub(super) fn without_answer(error: &sqlx::Error) -> Meaning<'static> {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
            (Kind::Unavailable, "it cannot be reached", Some("the server must run, and the url name its host and port"))
        }
        sqlx::Error::PoolTimedOut => (Kind::Unavailable, "no connection came free in time", None),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => (Kind::Unavailable, "it was closed", None),
        _ => (Kind::Corrupt, "it holds what this version cannot have written", None),
    }
}

/// Refuses to write through a handle that was opened for reading.
pub(super) fn only_read(doing: &str, database: &str) -> Error {
    Error::unavailable(format!("{doing} database {database}: it was opened only to be read"))
}

/// Whether a database of this version must be brought to ours, the first of those that we can work with; an error where
/// that cannot or may not be.
pub(super) fn is_older(found: i64, known: RangeInclusive<i64>, database: &str, read_only: bool) -> Result<bool> {
    let (ours, newest) = known.into_inner();
    if found > newest {
        return Err(Error::unavailable(format!(
            "database {database} has schema version {found}, this tendon knows versions up to {newest}"
        ))
        .help("a newer tendon has written it: use that one"));
    }
    if found < ours && read_only {
        return Err(Error::unavailable(format!(
            "database {database} has schema version {found}, this tendon reads {ours}, and it may not write"
        ))
        .help("start a host on it once: that brings it to this version"));
    }
    Ok(found < ours)
}
