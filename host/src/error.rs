//! One error for the whole library: what happened, whether trying again helps, and where.

use std::{error::Error as StdError, fmt};

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to whoever has to go on. A kind exists where a caller branches on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's input is wrong: a config, a component, a cursor, an event. Exit code 2.
    Invalid,
    /// Nothing has that name.
    NotFound,
    /// Something was not granted.
    Denied,
    /// A limit was passed; the message names it, its value and what was found.
    Limit,
    /// Another owner or an operator moved the position: drop everything held in memory and load the row.
    Fenced,
    /// A store, a source or another process cannot be had right now. Exit code 3.
    Unavailable,
    /// The answer to a commit was lost: look at the row, never repeat blindly.
    Ambiguous,
    /// What was read contradicts what must be true.
    Corrupt,
}

/// Whether the same call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// At once.
    Now,
    /// After a pause.
    Later,
    /// Not without somebody's help.
    Never,
}

/// What happened, where, and what lies under it. The text is lowercase and fits "failed to …"; the source's text is
/// not repeated in it.
pub struct Error {
    kind: Kind,
    context: String,
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with its sentence.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), help: None, source: None }
    }

    /// Wrong input.
    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, context)
    }

    /// A name that nothing has.
    pub fn not_found(context: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, context)
    }

    /// A limit that was passed.
    pub fn limit(context: impl Into<String>) -> Self {
        Self::new(Kind::Limit, context)
    }

    /// A position that somebody else moved.
    pub fn fenced(context: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, context)
    }

    /// Something that cannot be had right now.
    pub fn unavailable(context: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, context)
    }

    /// Data that contradicts what must be true.
    pub fn corrupt(context: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, context)
    }

    /// Adds what to do about it; shown as `help:`.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says first where it happened, such as in which of many consumers.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.context = format!("{place}: {}", self.context);
        self
    }

    /// Adds what lies under it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What it means.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it, if that is known.
    pub fn way_out(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retry {
        match self.kind {
            Kind::Fenced => Retry::Now,
            Kind::Unavailable | Kind::Ambiguous => Retry::Later,
            Kind::Invalid | Kind::NotFound | Kind::Denied | Kind::Limit | Kind::Corrupt => Retry::Never,
        }
    }

    /// The sentence and those of its causes, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.context.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
