//! What a host tells whoever watches it: one line each.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Retry},
    event::Timestamp,
    tenant::ConsumerId,
};

/// Something that happened to a consumer's version.
#[derive(Debug)]
pub enum Notice {
    /// Another component took over.
    Reloaded {
        /// Whose.
        consumer: ConsumerId,
        /// The short digest before.
        from: String,
        /// The short digest now.
        to: String,
        /// From the wish to the first event that it could handle; none where a call that runs must end first.
        swap: Option<Duration>,
        /// How long compiling took before that; zero when it was in the cache.
        compiled_in: Duration,
    },
    /// It runs in other shards now.
    Divided {
        /// Whose.
        consumer: ConsumerId,
        /// How many shards it had.
        from: u32,
        /// How many it has.
        to: u32,
    },
    /// What was proposed was not taken.
    Refused {
        /// Whose.
        consumer: ConsumerId,
        /// The short digest that runs on; none where nothing ran.
        running: Option<String>,
        /// Why.
        error: Error,
    },
    /// A consumer that is new in the config, or that was changed there, runs.
    Started {
        /// Whose.
        consumer: ConsumerId,
    },
    /// A consumer that is no longer in the config was stopped.
    Stopped {
        /// Whose.
        consumer: ConsumerId,
    },
    /// The config file was edited and is wrong: nothing was changed.
    ConfigRefused {
        /// What is wrong with it.
        problems: String,
        /// Whether the same file may be taken later: it is not the file's fault.
        may_pass: bool,
    },
}

/// Why a consumer is not what its files propose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub help: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Whether it was an edit of the config: the one before it is kept, which a component that fits says nothing about.
    #[serde(skip)]
    pub is_of_config: bool,
}

impl Notice {
    /// What it says was refused, if so.
    pub(crate) fn refused(&self, since: Timestamp, is_of_config: bool) -> Option<Refused> {
        let Self::Refused { error, .. } = self else { return None };
        Some(Refused { message: error.chain(), help: error.way_out().map(str::to_owned), since, is_of_config })
    }

    /// Whether the same change may be taken later: what refused it was a store, for example, that is not there now.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { error, .. } => error.retry() != Retry::Never,
            Self::ConfigRefused { may_pass, .. } => *may_pass,
            Self::Reloaded { .. } | Self::Divided { .. } | Self::Started { .. } | Self::Stopped { .. } => false,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reloaded { consumer, from, to, swap, compiled_in } => {
                let name = &consumer.name;
                match swap {
                    Some(swap) if from == to => write!(f, "changed {name} in {} ", millis(*swap))?,
                    Some(swap) => write!(f, "reloaded {name} {from}… → {to}… in {} ", millis(*swap))?,
                    None => write!(f, "{name}: {to}… takes over from {from}… when the call that runs ends ")?,
                }
                if compiled_in.is_zero() {
                    f.write_str("(was compiled)")
                } else {
                    write!(f, "(compiled in {:.0} ms)", compiled_in.as_secs_f64() * 1e3)
                }
            }
            Self::Divided { consumer, from, to } if from == to => {
                write!(f, "divided {} anew, by another key or with another state", consumer.name)
            }
            Self::Divided { consumer, from, to } => write!(f, "divided {} anew: {from} → {to} shards", consumer.name),
            Self::Refused { consumer, running, error } => {
                write!(f, "refused {}: {}; ", consumer.name, error.chain())?;
                match running {
                    Some(running) => write!(f, "{running}… runs on"),
                    None => f.write_str("it does not run"),
                }
            }
            Self::Started { consumer } => write!(f, "started {}", consumer.name),
            Self::Stopped { consumer } => write!(f, "stopped {}", consumer.name),
            Self::ConfigRefused { problems, .. } => write!(f, "config refused, nothing was changed:\n{problems}"),
        }
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
