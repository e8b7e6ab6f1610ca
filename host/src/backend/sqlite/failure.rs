//! What SQLite's errors mean, with the file and a way out.

use std::path::Path;

use crate::{
    backend::failure::explained,
    error::{Error, Kind},
};

// The primary result codes that mean something here: https://www.sqlite.org/rescode.html
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const NOTADB: i32 = 26;

/// The primary result code of an error that SQLite itself reported.
pub(super) fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether another process stands in the way.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED))
}

/// Whether a COMMIT that ended so has certainly not happened; of any other error nobody knows.
pub(super) fn is_undone(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED | READONLY | FULL))
}

/// The error for "failed to `doing` database …".
pub(super) fn sqlite(path: &Path, doing: &str, error: sqlx::Error) -> Error {
    let file = path.display();
    let (kind, what, help) = match code(&error) {
        Some(BUSY | LOCKED) => (
            Kind::Unavailable,
            "another process has locked it",
            Some(format!("end the process that writes to it; `fuser {file}` names it")),
        ),
        Some(READONLY) => (
            Kind::Unavailable,
            "it is read-only",
            Some("allow this user to write the file and its folder, and mount its disk for writing".to_owned()),
        ),
        Some(FULL) => (
            Kind::Unavailable,
            "its disk is full",
            Some(format!("free space on the disk that holds {file}; nothing that was committed is lost")),
        ),
        Some(CANTOPEN) => (
            Kind::Unavailable,
            "the file cannot be opened",
            Some("its folder must exist, and this user must be allowed to write there".to_owned()),
        ),
        Some(IOERR) => {
            (Kind::Unavailable, "its disk failed", Some("look at the disk and at the system's log".to_owned()))
        }
        Some(NOTADB) => (
            Kind::Corrupt,
            "the file is not a SQLite database",
            Some("name another file, or move this one away".to_owned()),
        ),
        Some(CORRUPT) => (
            Kind::Corrupt,
            "the file is damaged",
            Some(format!("restore it from a backup; `sqlite3 {file} .recover` saves what can be read")),
        ),
        Some(_) => (Kind::Corrupt, "a statement failed", None),
        None => match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => (Kind::Unavailable, "it does not answer", None),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => (Kind::Unavailable, "it was closed", None),
            _ => (Kind::Corrupt, "it holds what this version cannot have written", None),
        },
    };
    explained(doing, &file.to_string(), (kind, what, help.as_deref()), error)
}
