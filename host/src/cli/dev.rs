//! `tendon dev [DIR]`: build, import the sample events once, run, and reload what changes.

use std::{path::PathBuf, time::Duration};

/// How to develop.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder with tendon.toml and the consumers' sources
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// End when every consumer is at its head; exit code 1 if one is blocked
    #[arg(long)]
    pub until_head: bool,
    /// How long files must be left alone before they are looked at
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = humantime::parse_duration)]
    pub debounce: Duration,
    /// Run the components as they are, without building them
    #[arg(long)]
    pub no_build: bool,
}
