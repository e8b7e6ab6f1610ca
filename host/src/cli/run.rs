//! `tendon run`: the host.

use super::{
    Ctx,
    hosting::{End, Hosting},
    problem::Exit,
};
use crate::{config::Components, error::Result, watch};

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

/// Runs until it is asked to stop, or until everything is at its head.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    super::logs::start(ctx);
    let config = ctx.config(Components::MustExist)?;
    if args.check {
        ctx.out.talk("the config is good");
        return Ok(Exit::Ok);
    }
    let mut hosting = Hosting::open(config).await?;
    let out = ctx.out.clone();
    hosting.start(watch::DEBOUNCE, move |notice| out.talk(notice)).await?;
    ctx.out.talk(format!("running; the API is at http://{}", hosting.api));
    let end = hosting.wait(args.until_head).await?;
    hosting.stop().await;
    match end {
        End::Head(stuck) if !stuck.is_empty() => {
            for consumer in stuck {
                ctx.out.talk(format!("{consumer} stands still: see `tendon consumer show {}`", consumer.name));
            }
            Ok(Exit::Failed)
        }
        End::Head(_) | End::Asked => Ok(Exit::Ok),
    }
}
