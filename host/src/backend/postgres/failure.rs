//! What PostgreSQL's errors mean, with the database and a way out.

use crate::{
    backend::failure::{explained, without_answer},
    error::{Error, Kind},
};

/// The SQLSTATE of an error that the server itself reported: https://www.postgresql.org/docs/current/errcodes-appendix.html
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether the statement that ended so has certainly changed nothing. A server that answers with an error has rolled
/// back, unless it says that it is going away.
pub(super) fn is_undone(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| !code.starts_with("57P") && !code.starts_with("08"))
}

/// Whether the same statement does better a moment later: a deadlock, a serialization failure, a lock that was not had.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01" | "55P03"))
}

/// The error for "failed to `doing` database …".
pub(super) fn postgres(name: &str, doing: &str, error: sqlx::Error) -> Error {
    let meaning = match code(&error).as_deref() {
        Some("28P01" | "28000") => {
            (Kind::Unavailable, "it refuses this user", Some("look at the user and the password in the url"))
        }
        Some("3D000") => (Kind::Unavailable, "there is no such database", Some("`createdb` makes it")),
        Some("42501") => (
            Kind::Unavailable,
            "this user lacks a right",
            Some(
                "GRANT CREATE ON DATABASE … TO this user lets it make the schema `tendon`; where that is there already, its \
                owner GRANTs ALL ON SCHEMA tendon, and ON ALL TABLES and ALL SEQUENCES IN SCHEMA tendon",
            ),
        ),
        Some("53100") => (Kind::Unavailable, "its disk is full", Some("free space there; what was committed is safe")),
        Some("53300") => (
            Kind::Unavailable,
            "it has no connection left",
            Some("raise max_connections, or lower the number of hosts"),
        ),
        Some("25006") => (
            Kind::Unavailable,
            "it is read-only",
            Some("positions, state and streams are read and written on the primary: name that in the url"),
        ),
        Some("40001" | "40P01" | "55P03") => (Kind::Unavailable, "others were in the way", None),
        Some(code) if code.starts_with("57") || code.starts_with("08") => (Kind::Unavailable, "it went away", None),
        Some(code) if code.starts_with("53") => (Kind::Unavailable, "it has no room left", None),
        Some(code) if code.starts_with("22") || code.starts_with("23") => (
            Kind::Invalid,
            "a value does not fit its table",
            Some("what is emitted must fit the columns of its stream"),
        ),
        Some(_) => (Kind::Corrupt, "a statement failed", None),
        None => without_answer(&error),
    };
    explained(doing, name, meaning, error)
}
