//! `tendon run`: the host.

use super::{
    Ctx, doctor,
    engine::engine_that_keeps_nothing,
    hosting::{End, Hosting},
    problem::Exit,
};
use crate::{
    config::{Components, Config, resolved::StoreUrl},
    error::{Error, Result},
    host::Catalog,
    watch,
};

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
        check(&config).await?;
        ctx.out.talk("the config, the components and the stores are good");
        return Ok(Exit::Ok);
    }
    let listen = config.host.listen;
    let mut hosting = Hosting::open(config, listen).await?;
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

/// Compiles each component, and opens each database for reading where there is one; where there is none, one must be
/// possible. Nothing of a component runs, and nothing is written.
async fn check(config: &Config) -> Result<()> {
    let engine = engine_that_keeps_nothing()?;
    for consumer in config.consumers.values() {
        let file = consumer.component.display();
        let failed = |error| Error::invalid(format!("component {file} cannot be read")).because(error);
        let bytes = tokio::fs::read(&consumer.component).await.map_err(failed)?;
        engine.compile(bytes.into(), &consumer.limits).await.map_err(|error| {
            let said = Error::new(error.kind(), format!("consumer `{}`, {file}: {}", consumer.id.name, error.chain()));
            match error.way_out() {
                Some(help) => said.help(help),
                None => said,
            }
        })?;
    }
    let mut there = config.clone();
    for (name, store) in &config.stores {
        doctor::can_be_opened(name, store)?;
        // Nor has a database on a server, at first, anything that could be read.
        if !matches!(&store.url, StoreUrl::Sqlite(path) if path.exists()) {
            there.stores.remove(name);
        }
    }
    for database in Catalog::read_only(there).await?.databases.values() {
        database.close().await;
    }
    Ok(())
}
