//! `tendon config check|show|schema`.

use clap::Subcommand;
use serde::Serialize;

use super::{Ctx, output::Format, problem::Exit};
use crate::{
    config::{Components, schema, shown},
    error::Result,
};

/// What about the config.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with a config.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Find everything that is wrong with it, each with its line; nothing is started. Exit code 2 if there is anything
    Check,
    /// Print it with every default, variables replaced and paths absolute
    Show,
    /// Print its JSON Schema, for editors
    Schema,
    /// Print a commented config that names every key
    Sample,
}

/// What `check` found in a config without mistakes.
#[derive(Serialize)]
struct Checked {
    file: String,
    stores: usize,
    streams: usize,
    consumers: usize,
}

/// Does it.
pub fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    match args.verb {
        Verb::Check => check(ctx)?,
        Verb::Show => show(ctx)?,
        Verb::Schema => ctx.out.json(&schema())?,
        Verb::Sample => ctx.out.text(crate::config::SAMPLE)?,
    }
    Ok(Exit::Ok)
}

fn check(ctx: &Ctx) -> Result<()> {
    let config = ctx.config(Components::MustExist)?;
    let checked = Checked {
        file: config.file.display().to_string(),
        stores: config.stores.len(),
        streams: config.streams.len(),
        consumers: config.consumers.len(),
    };
    ctx.out.object(&checked, |checked| {
        vec![
            ("file", checked.file.clone()),
            ("stores", checked.stores.to_string()),
            ("streams", checked.streams.to_string()),
            ("consumers", checked.consumers.to_string()),
        ]
    })?;
    ctx.out.talk("the config is good");
    Ok(())
}

fn show(ctx: &Ctx) -> Result<()> {
    let config = ctx.config(Components::MayBeMissing)?;
    match ctx.out.format {
        Format::Json => ctx.out.json(&shown::shown(&config)),
        Format::Table => ctx.out.text(&shown::to_toml(&config)?),
    }
}
