//! `tendon test [DIR|FILE.wasm]`: a component against events, with its effects printed.

use std::path::PathBuf;

/// What to test with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A component, or a folder whose consumer is built first
    #[arg(value_name = "DIR|FILE.wasm", default_value = ".")]
    pub target: PathBuf,
    /// The consumer of the folder's tendon.toml that is meant, where it has several
    #[arg(long, value_name = "NAME")]
    pub consumer: Option<String>,
    /// Events to handle, one JSON object a line [default: the stream's sample]
    #[arg(long, value_name = "F.jsonl", conflicts_with_all = ["event", "stdin"])]
    pub fixture: Option<PathBuf>,
    /// An event to handle, as JSON; can be given several times
    #[arg(long, value_name = "JSON", conflicts_with = "stdin")]
    pub event: Vec<String>,
    /// Read events from stdin, one JSON object a line
    #[arg(long)]
    pub stdin: bool,
}
