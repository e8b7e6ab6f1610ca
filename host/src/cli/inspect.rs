//! `tendon inspect FILE.wasm`: what a component is, and what is guaranteed for it.

use std::path::PathBuf;

use super::{Ctx, problem::Exit};
use crate::{
    error::{Error, Result},
    runtime::{Inspection, Tool, inspect},
};

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,
}

/// Looks at the component's bytes; nothing of it runs.
pub fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let bytes = std::fs::read(&args.file)
        .map_err(|error| Error::invalid(format!("{} cannot be read", args.file.display())).because(error))?;
    ctx.out.object(&inspect(&bytes)?, lines)?;
    Ok(Exit::Ok)
}

fn lines(component: &Inspection) -> Vec<(&'static str, String)> {
    let tool = |tool: &Option<Tool>| match tool {
        Some(tool) => format!("{} {}", tool.name, tool.version).trim_end().to_owned(),
        None => "not said".to_owned(),
    };
    let mut lines = vec![
        ("digest", component.digest.to_string()),
        ("size", format!("{} bytes", component.size_bytes)),
        ("world", format!("tendon:consumer/{}", component.world)),
        ("language", tool(&component.language)),
        ("sdk", tool(&component.sdk)),
    ];
    let named = |name: &'static str, values: &[String]| -> Vec<_> {
        values.iter().enumerate().map(|(at, value)| (if at == 0 { name } else { "" }, value.clone())).collect()
    };
    lines.extend(named("exports", &component.exports));
    lines.extend(named("imports", &component.imports));
    let guarantees: Vec<String> =
        component.guarantees.iter().map(|held| format!("{}: {}", held.effect, held.promise)).collect();
    lines.extend(named("guarantee", &guarantees));
    lines
}
