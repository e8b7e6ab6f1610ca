//! `tendon completions SHELL`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Ctx, problem::Exit};
use crate::error::Result;

/// Which shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell; put what is printed where it looks for completions
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the completions.
pub fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tendon", &mut script);
    ctx.out.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
