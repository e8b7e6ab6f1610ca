//! What is wrong, where, and what to do about it: as text for people, as an object for programs.

use std::{borrow::Cow, error::Error as StdError, fmt, path::Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// What is wrong with a config. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is no file.
    NotFound,
    /// The file cannot be read, is too large, or is not UTF-8.
    Unreadable,
    /// It is not TOML.
    Syntax,
    /// A key, a consumer, a stream or a store is there twice.
    Duplicate,
    /// A key that nothing reads.
    UnknownKey,
    /// A number where a string belongs, and the like.
    WrongType,
    /// A value that cannot be.
    BadValue,
    /// A required key is not there.
    MissingKey,
    /// An environment variable is not set and has no default.
    MissingVariable,
    /// The component's file is not there.
    MissingComponent,
    /// A stream that the file does not declare.
    UnknownStream,
    /// A store that the file does not declare.
    UnknownStore,
    /// A stream that a consumer may emit to is in another store: no transaction could cover both.
    OtherStore,
    /// A consumer and its stream belong to different tenants.
    OtherTenant,
    /// The API would listen where others can reach it.
    NotLoopback,
    /// Something that a later version may do.
    Unsupported,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::NotFound,
        Self::Unreadable,
        Self::Syntax,
        Self::Duplicate,
        Self::UnknownKey,
        Self::WrongType,
        Self::BadValue,
        Self::MissingKey,
        Self::MissingVariable,
        Self::MissingComponent,
        Self::UnknownStream,
        Self::UnknownStore,
        Self::OtherStore,
        Self::OtherTenant,
        Self::NotLoopback,
        Self::Unsupported,
    ];

    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "config.not-found",
            Self::Unreadable => "config.unreadable",
            Self::Syntax => "config.syntax",
            Self::Duplicate => "config.duplicate",
            Self::UnknownKey => "config.unknown-key",
            Self::WrongType => "config.wrong-type",
            Self::BadValue => "config.bad-value",
            Self::MissingKey => "config.missing-key",
            Self::MissingVariable => "config.missing-variable",
            Self::MissingComponent => "config.missing-component",
            Self::UnknownStream => "config.unknown-stream",
            Self::UnknownStore => "config.unknown-store",
            Self::OtherStore => "config.other-store",
            Self::OtherTenant => "config.other-tenant",
            Self::NotLoopback => "config.not-loopback",
            Self::Unsupported => "config.unsupported",
        }
    }
}

/// One thing that is wrong: the object that the CLI and the API answer with. Fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name, such as `config.unknown-key`.
    pub code: Cow<'static, str>,
    /// One lowercase sentence.
    pub message: String,
    /// The place in a config, a WIT or a table: `consumer.billing.retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file that `line` counts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// In characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// A command or an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Problem {
    /// A problem without a place.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (code, message) = (code.into(), message.into());
        Self { code, message, path: None, file: None, line: None, column: None, suggestion: None }
    }

    /// The problems that an error stands for: those of a config where it carries them, else the error itself.
    pub fn of(error: &Error) -> Vec<Self> {
        if let Some(errors) = error.source().and_then(|source| source.downcast_ref::<ConfigErrors>()) {
            return errors.0.clone();
        }
        let mut problem = Self::new(code(error.kind()), error.chain());
        problem.suggestion = error.way_out().map(str::to_owned);
        vec![problem]
    }
}

/// The stable name of an error that has no narrower one.
pub fn code(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "invalid",
        Kind::NotFound => "not-found",
        Kind::Denied => "denied",
        Kind::Limit => "limit",
        Kind::Fenced => "fenced",
        Kind::Unavailable => "unavailable",
        Kind::Ambiguous => "ambiguous",
        Kind::Corrupt => "corrupt",
    }
}

impl fmt::Display for Problem {
    /// `error[code]: message`, the place on a line of its own, `help:` on another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(file) = &self.file {
            write!(f, "\n  --> {file}")?;
            for number in [self.line, self.column].into_iter().flatten() {
                write!(f, ":{number}")?;
            }
        }
        match &self.suggestion {
            Some(suggestion) => write!(f, "\nhelp: {suggestion}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a config, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl ConfigErrors {
    /// One that concerns the file as a whole.
    pub fn of_file(code: Code, file: &Path, message: impl Into<String>, suggestion: Option<String>) -> Self {
        let mut problem = Problem::new(code.as_str(), message);
        problem.file = Some(file.display().to_string());
        problem.suggestion = suggestion;
        Self(vec![problem])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "\n" };
            write!(f, "{between}{problem}")?;
        }
        Ok(())
    }
}

impl StdError for ConfigErrors {}

impl From<ConfigErrors> for Error {
    fn from(errors: ConfigErrors) -> Self {
        let file = errors.0.first().and_then(|problem| problem.file.clone()).unwrap_or_else(|| "the config".to_owned());
        let context = match errors.0.len() {
            1 => format!("{file} has an error"),
            count => format!("{file} has {count} errors"),
        };
        Self::invalid(context).because(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_these_for_ever() {
        let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let expected = "config.not-found config.unreadable config.syntax config.duplicate config.unknown-key \
             config.wrong-type config.bad-value config.missing-key config.missing-variable config.missing-component \
             config.unknown-stream config.unknown-store config.other-store config.other-tenant config.not-loopback \
             config.unsupported";
        assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn an_error_without_problems_of_its_own_becomes_one() {
        let error = Error::unavailable("store main is locked").help("stop the other host");
        let problems = Problem::of(&error);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].to_string(), "error[unavailable]: store main is locked\nhelp: stop the other host");
    }
}
