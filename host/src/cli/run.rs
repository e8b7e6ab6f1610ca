//! `tendon run`: the host.

/// How to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only check that it could run: config, components, stores
    #[arg(long, conflicts_with = "until_head")]
    pub check: bool,
    /// End when every consumer is at its head; exit code 1 if one is blocked
    #[arg(long)]
    pub until_head: bool,
}
