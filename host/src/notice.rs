//! What a host tells whoever watches it: one line each.

use std::{fmt, time::Duration};

use crate::{error::Error, tenant::ConsumerId};

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
        /// From the wish to the first event that it could handle.
        swap: Duration,
        /// How long compiling took before that; zero when it was in the cache.
        compiled_in: Duration,
    },
    /// What was proposed was not taken.
    Refused {
        /// Whose.
        consumer: ConsumerId,
        /// The short digest that runs on.
        running: String,
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
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reloaded { consumer, from, to, swap, compiled_in } => {
                let (swap, compile) = (swap.as_secs_f64() * 1e3, compiled_in.as_secs_f64() * 1e3);
                write!(f, "reloaded {} {from}… → {to}… in {swap:.1} ms ", consumer.name)?;
                if compiled_in.is_zero() {
                    f.write_str("(was compiled)")
                } else {
                    write!(f, "(compiled in {compile:.0} ms)")
                }
            }
            Self::Refused { consumer, running, error } => {
                write!(f, "refused {}: {}; {running}… runs on", consumer.name, error.chain())
            }
            Self::Started { consumer } => write!(f, "started {}", consumer.name),
            Self::Stopped { consumer } => write!(f, "stopped {}", consumer.name),
            Self::ConfigRefused { problems } => write!(f, "config refused, nothing was changed:\n{problems}"),
        }
    }
}
