//! `tendon cursor get`.

use clap::Subcommand;

/// What about cursors.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with cursors.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print a consumer's place in its stream
    Get {
        /// The consumer
        name: String,
    },
}
