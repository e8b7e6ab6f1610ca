//! `tendon stream list`.

use clap::Subcommand;

/// What about streams.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with streams.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the streams with their heads and how many events they hold
    #[command(visible_alias = "ls")]
    List,
}
