//! What the errors of MySQL and MariaDB mean, with the database and a way out.

use sqlx::mysql::MySqlDatabaseError;

use crate::{
    backend::failure::{Meaning, explained, without_answer},
    error::{Error, Kind},
};

/// A commit that did not happen, or of which nobody knows.
pub(super) enum Failed {
    /// The server, or the way to it, before anything could stand.
    Sql(sqlx::Error),
    /// It may stand or not.
    Lost(sqlx::Error),
    /// Another one was first with an event key; a second look at what is there helps.
    Late(Error),
    /// What is no matter of the server.
    Own(Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

impl Failed {
    /// What it means that the statement failed which makes everything true.
    pub(super) fn at_the_end(error: sqlx::Error) -> Self {
        if is_undone(&error) { Self::Sql(error) } else { Self::Lost(error) }
    }

    /// Whether the same transaction does better a moment later.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Sql(error) => matches!(number(error), Some(1205 | 1213)),
            Self::Late(_) => true,
            Self::Lost(_) | Self::Own(_) => false,
        }
    }
}

/// The number of an error that the server itself reported: https://mariadb.com/kb/en/mariadb-error-code-reference/
pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// Whether what ended so has certainly changed nothing: the server answered, and not that it was interrupted (by its
/// end, by a time limit, by an operator, or by the disk).
fn is_undone(error: &sqlx::Error) -> bool {
    let doubtful = [1053, 1180, 1317, 1927, 1969, 2006, 2013, 3024, 4031];
    number(error).is_some_and(|number| !doubtful.contains(&number) && !(1158..=1161).contains(&number))
}

/// The error for "failed to `doing` database …".
pub(super) fn mysql(name: &str, doing: &str, error: sqlx::Error) -> Error {
    let meaning = match number(&error) {
        Some(number) => reported(number),
        None => without_answer(&error),
    };
    explained(doing, name, meaning, error)
}

fn reported(number: u16) -> Meaning<'static> {
    match number {
        1045 | 1698 => {
            (Kind::Unavailable, "it refuses this user", Some("look at the user and the password in the url"))
        }
        1044 => (
            Kind::Unavailable,
            "this user may not use it",
            Some("GRANT ALL ON the database TO this user; or the url names another database than it should"),
        ),
        1142 | 1143 | 1227 | 1370 => (
            Kind::Unavailable,
            "this user lacks a right",
            Some("GRANT CREATE, ALTER, SELECT, INSERT, UPDATE, DELETE ON the database TO this user"),
        ),
        1049 => (Kind::Unavailable, "there is no such database", Some("CREATE DATABASE makes it")),
        1040 | 1203 | 1226 => (
            Kind::Unavailable,
            "it has no connection left",
            Some("raise max_connections, or lower the number of hosts"),
        ),
        3 | 28 | 1021 | 1114 => {
            (Kind::Unavailable, "its disk is full", Some("free space there; what was committed is safe"))
        }
        1290 | 1792 | 1836 => (
            Kind::Unavailable,
            "it is read-only",
            Some("positions, state and streams are written on the primary: name that in the url"),
        ),
        1153 => (Kind::Limit, "it takes no packet of this size", Some("raise max_allowed_packet on the server")),
        1665 => (
            Kind::Unavailable,
            "its binary log takes statements only",
            Some("set binlog_format to ROW or MIXED on the server"),
        ),
        1048 | 1264 | 1265 | 1292 | 1364 | 1366 | 1406 | 1452 => (
            Kind::Invalid,
            "a value does not fit its table",
            Some("what is emitted must fit the columns of its stream"),
        ),
        1205 | 1213 => (Kind::Unavailable, "others were in the way", None),
        1053 | 1077..=1079 | 1158..=1161 | 1180 | 1317 | 1927 | 1969 | 2006 | 2013 | 3024 | 4031 => {
            (Kind::Unavailable, "it went away", None)
        }
        1037 | 1038 | 1041 | 1461 => (Kind::Unavailable, "it has no room left", None),
        _ => (Kind::Corrupt, "a statement failed", None),
    }
}
