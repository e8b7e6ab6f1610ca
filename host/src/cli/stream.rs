//! `tendon stream list|check|create|prune`.

use clap::Subcommand;
use serde_json::json;

use super::{
    Ctx,
    client::{Client, escape, running},
    problem::Exit,
};
use crate::{
    config::Components,
    error::{Error, Result},
    host::prune::Pruned,
    open::create_stream,
    server::views::{CheckView, StreamView, known},
    tenant::StreamId,
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
    /// Look whether a stream can be read without losing an event, and what holds it up
    Check {
        /// The stream
        name: String,
    },
    /// Make a stream's table in its store, unless it is there
    Create {
        /// The stream, as the config names it
        name: String,
    },
    /// Take the oldest events out of a stream, those that no consumer needs any more; the newest one stays
    Prune {
        /// The stream
        name: String,
        /// All before this place: @-30d, @2026-11-24T08:30:00Z, -1000000, id:EVENT (that one included) or latest
        #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
        before: String,
        /// Also those that a paused or blocked consumer has yet to handle, which then finds its next event gone;
        /// one that has passed none at all keeps its events even so
        #[arg(long)]
        force: bool,
        /// Only say how many
        #[arg(long)]
        dry_run: bool,
    },
}

/// Does it, and shows what there is to say.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    match args.verb {
        Verb::List => list(ctx).await,
        Verb::Check { name } => check(ctx, &name).await,
        Verb::Create { name } => create(ctx, &name).await,
        Verb::Prune { name, before, force, dry_run } => {
            let body = json!({ "before": before, "force": force, "dry_run": dry_run }).to_string().into_bytes();
            let path = format!("/v1/streams/{}/prune", escape(&name));
            let client = Client::connect(ctx).await?;
            let pruned: Pruned = client.post(&path, vec![("tenant", ctx.tenant().to_string())], body).await?;
            ctx.out.object(&pruned, pruned_lines)?;
            Ok(Exit::Ok)
        }
    }
}

async fn list(ctx: &Ctx) -> Result<Exit> {
    let client = Client::connect(ctx).await?;
    let streams: Vec<StreamView> = client.get("/v1/streams", ctx.one_tenant()).await?;
    ctx.out.list(&streams, &["stream", "store", "head", "events"], |stream| {
        let head = stream.head.clone().unwrap_or_else(|| "?".to_owned());
        vec![stream.name.clone(), stream.store.clone(), head, known(stream.events)]
    })?;
    for stream in &streams {
        if let Some(problem) = &stream.problem {
            ctx.out.talk(format!("{}: {problem}", stream.name));
        }
        if let Some(by) = &stream.held_up {
            ctx.out.talk(format!("{}: held up by {by}", stream.name));
        }
    }
    Ok(Exit::Ok)
}

fn pruned_lines(pruned: &Pruned) -> Vec<(&'static str, String)> {
    let what = if pruned.dry_run { "would go" } else { "gone" };
    let mut lines = vec![(what, format!("{} events", pruned.events))];
    let by = pruned.held_back_by.as_ref();
    lines.extend(by.map(|by| ("held back by", format!("{by}, which has yet to handle what comes then"))));
    lines
}

async fn check(ctx: &Ctx, name: &str) -> Result<Exit> {
    let client = Client::connect(ctx).await?;
    let path = format!("/v1/streams/{}/check", escape(name));
    let view: CheckView = client.get(&path, vec![("tenant", ctx.tenant().to_string())]).await?;
    ctx.out.object(&view, lines)?;
    Ok(if view.findings.iter().all(|finding| finding.is_ok) { Exit::Ok } else { Exit::Failed })
}

fn lines(CheckView { stream, findings }: &CheckView) -> Vec<(&'static str, String)> {
    let head = stream.head.clone().unwrap_or_else(|| "?".to_owned());
    let mut lines = vec![
        ("stream", format!("{}/{}", stream.tenant, stream.name)),
        ("store", stream.store.clone()),
        ("head", head),
        ("events", known(stream.events)),
    ];
    for finding in findings {
        lines.push((if finding.is_ok { "ok" } else { "problem" }, finding.what.clone()));
        lines.extend(finding.help.clone().map(|help| ("help", help)));
    }
    lines.extend(stream.held_up.as_ref().map(|by| ("held up by", by.to_string())));
    lines
}

/// Without a host: one that runs has made all its streams.
async fn create(ctx: &Ctx, name: &str) -> Result<Exit> {
    let config = ctx.config(Components::MayBeMissing)?;
    if let Some(api) = running(&config) {
        return Err(Error::unavailable(format!("the host at {api} has the stores open"))
            .help("a host makes the streams of its config when it starts, and when that changes"));
    }
    create_stream(&config, &StreamId { tenant: ctx.tenant(), name: name.parse()? }).await?;
    ctx.out.talk(format!("stream {name} is there"));
    Ok(Exit::Ok)
}
