//! `tendon consumer list|show|pause|resume`.

use clap::Subcommand;

/// What about consumers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with consumers.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the consumers: status, lag, component
    #[command(visible_alias = "ls")]
    List,
    /// Show everything about one: why it stands still, its spec, which components made its commits
    Show {
        /// The consumer
        name: String,
    },
    /// Stop one where it is, until it is resumed
    Pause {
        /// The consumer
        name: String,
        /// Why, for whoever finds it paused
        #[arg(long, value_name = "TEXT", default_value = "an operator paused it")]
        reason: String,
    },
    /// Let one go on that is paused or blocked; attempts start anew
    Resume {
        /// The consumer
        name: String,
    },
}
