//! `tendon cursor get`.

use clap::Subcommand;

use super::{
    Ctx,
    client::{Client, escape},
    problem::Exit,
};
use crate::{
    error::Result,
    server::views::{ConsumerView, known},
};

/// What about cursors.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with cursors.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print a consumer's place in its stream
    Get {
        /// The consumer
        name: String,
    },
}

/// Asks the host, and shows what it says.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let Verb::Get { name } = args.verb;
    let client = Client::connect(ctx).await?;
    let path = format!("/v1/consumers/{}/cursor", escape(&name));
    let consumer: ConsumerView = client.get(&path, vec![("tenant", ctx.tenant().to_string())]).await?;
    ctx.out.object(&consumer, |consumer| {
        vec![
            ("cursor", consumer.cursor.clone()),
            ("stream", consumer.stream.clone()),
            ("lag", format!("{} events", known(consumer.lag_events))),
            ("revision", consumer.revision.to_string()),
        ]
    })?;
    Ok(Exit::Ok)
}
