//! `tendon compile-worker`: what a host starts to have a component compiled; nothing for people.

use std::time::Duration;

use super::problem::Exit;
use crate::{error::Result, limits::Limits, runtime::serve_compiler};

/// How much it may take.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CPU time, in seconds
    cpu_s: u64,
    /// Memory, in bytes
    memory_bytes: u64,
}

/// Compiles what comes in and writes the machine code out. It makes no thread before it has confined itself.
pub fn run(args: &Args) -> Result<Exit> {
    let limits = Limits {
        compile_cpu: Duration::from_secs(args.cpu_s),
        compile_memory_bytes: args.memory_bytes,
        ..Limits::default()
    };
    serve_compiler(&limits, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(Exit::Ok)
}
