//! `tendon inspect FILE.wasm`: what a component is, and what is guaranteed for it.

use std::path::PathBuf;

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,
}
