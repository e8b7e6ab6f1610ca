//! `tendon stream list`.

use clap::Subcommand;

use super::{Ctx, client::Client, problem::Exit};
use crate::{
    error::Result,
    server::views::{StreamView, known},
};

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

/// Asks the host, and shows what it says.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let Verb::List = args.verb;
    let client = Client::connect(ctx).await?;
    let streams: Vec<StreamView> = client.get("/v1/streams", ctx.one_tenant()).await?;
    ctx.out.list(&streams, &["stream", "store", "head", "events"], |stream| {
        let head = stream.head.clone().unwrap_or_else(|| "?".to_owned());
        vec![stream.name.clone(), stream.store.clone(), head, known(stream.events)]
    })?;
    for (stream, problem) in streams.iter().filter_map(|stream| Some((stream, stream.problem.as_ref()?))) {
        ctx.out.talk(format!("{}: {problem}", stream.name));
    }
    Ok(Exit::Ok)
}
