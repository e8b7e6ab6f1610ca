//! `tendon dev [DIR]`: build, import the sample events once, run, and reload what changes.

use std::{io::BufReader, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Ctx, build,
    hosting::{End, Hosting},
    output::Format,
    problem::Exit,
    rebuild,
};
use crate::{
    changes::Changes,
    config::{
        self, Components,
        resolved::{Consumer, Stream},
    },
    deployment::StateScope,
    error::{Error, Result},
    event::Cursor,
    event_file,
    host::Host,
    limits::SCAN_ENTRIES_MAX,
    server::{Api, fleet, views},
    store::{Commit, Duplicates, Key, Scope, Store},
    tenant::{ConsumerId, TenantId},
};

/// How to develop.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder with tendon.toml and the consumers' sources
    #[arg(value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// End when every consumer is at its head; exit code 1 if one is blocked
    #[arg(long)]
    pub until_head: bool,
    /// How long files must be left alone before they are looked at
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = humantime::parse_duration)]
    pub debounce: Duration,
    /// Run the components as they are, without building them
    #[arg(long)]
    pub no_build: bool,
}

/// Builds, imports, runs and reloads until it is asked to stop, or until everything is at its head.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    super::logs::start(ctx);
    let file = ctx.config_file(&args.folder);
    config::read(&file, Components::MayBeMissing)?;
    let builds = !args.no_build && args.folder.join("Cargo.toml").is_file();
    // What is edited from here on is built again, also where nobody watches yet.
    let sources = rebuild::sources(&args.folder);
    if builds {
        build::build(&build::Args::of(&args.folder), |line| ctx.out.talk(line)).await?;
    }
    let config = config::read(&file, Components::MustExist)?;
    let samples: Vec<Stream> = config.streams.values().filter(|stream| stream.sample.is_some()).cloned().collect();
    let listen = free(config.host.listen).await;
    let mut hosting = Hosting::open(config, listen).await?;
    for stream in &samples {
        import(&hosting.host, stream, ctx).await?;
    }
    let out = ctx.out.clone();
    hosting.start(args.debounce, move |notice| out.talk(notice)).await?;
    if builds && !args.until_head {
        hosting.attach(tokio::spawn(rebuild::follow(args.folder.clone(), sources, args.debounce, ctx.clone())));
    }
    ctx.out.talk(format!("running; the API is at http://{}; ctrl-c stops", hosting.api));
    let end = hosting.wait(args.until_head).await?;
    let summary = Summary::of(&hosting.host).await;
    hosting.stop().await;
    summary?.show(ctx)?;
    match end {
        End::Head(stuck) if !stuck.is_empty() => Ok(Exit::Failed),
        End::Head(_) | End::Asked => Ok(Exit::Ok),
    }
}

/// An address whose port is free: two projects may be developed at once, commands find each by its store.
async fn free(mut listen: SocketAddr) -> SocketAddr {
    if tokio::net::TcpListener::bind(listen).await.is_err() {
        listen.set_port(0);
    }
    listen
}

/// Appends a stream's sample events, those that are there already left out.
async fn import(host: &Host, stream: &Stream, ctx: &Ctx) -> Result<()> {
    let Some(sample) = &stream.sample else { return Ok(()) };
    let name = sample.display().to_string();
    let file =
        std::fs::File::open(sample).map_err(|error| Error::invalid(format!("{name} cannot be read")).because(error))?;
    let emits = event_file::read(&name, BufReader::new(file), &stream.id)?;
    let changes = Changes { emits, ..Changes::default() };
    let commit = Commit { changes, duplicates: Duplicates::Skip, ..Commit::default() };
    let appended = host.commit(&stream.store, commit).await?.appended;
    if appended > 0 {
        ctx.out.talk(format!("imported {appended} events into {}", stream.id.name));
    }
    Ok(())
}

/// What each consumer did.
#[derive(Serialize)]
struct Line {
    consumer: String,
    stream: String,
    status: String,
    /// Events that this run handled.
    handled: u64,
    /// Events up to its cursor, those of earlier runs included.
    consumed: u64,
    lag: u64,
    /// Keys of its state.
    keys: Option<u64>,
    /// Events that this run emitted.
    emitted: u64,
}

/// What came of a run.
#[derive(Serialize)]
struct Summary {
    consumers: Vec<Line>,
    streams: Vec<views::StreamView>,
}

impl Summary {
    async fn of(host: &Arc<Host>) -> Result<Self> {
        let catalog = host.catalog().await;
        let mut lines = Vec::new();
        for view in fleet::consumers(&Api::Live(host.clone()), None).await {
            let id = ConsumerId { tenant: TenantId(view.tenant.parse()?), name: view.name.parse()? };
            let consumer = catalog.config.consumer(&id)?;
            let source = catalog.source(&consumer.stream).await?;
            let all = source.lag(&Cursor::START, u64::MAX).await?.events;
            let lag = view.lag_events.unwrap_or(all);
            let metrics = host.telemetry.metrics().of(&id);
            lines.push(Line {
                keys: keys(&*catalog.database(&consumer.store)?.store(), consumer).await?,
                consumer: view.name,
                stream: view.stream,
                status: view.status,
                handled: metrics.events.get(),
                consumed: all.saturating_sub(lag),
                lag,
                emitted: metrics.emitted.get(),
            });
        }
        let streams = views::streams(&catalog, None).await;
        Ok(Self { consumers: lines, streams })
    }

    fn show(&self, ctx: &Ctx) -> Result<()> {
        if ctx.out.format == Format::Json {
            return ctx.out.json(self);
        }
        let headers = ["consumer", "stream", "status", "this run", "consumed", "lag", "keys", "emitted"];
        ctx.out.list(&self.consumers, &headers, |line| {
            let keys = line.keys.map_or("-".to_owned(), |keys| keys.to_string());
            let numbers = [line.handled, line.consumed, line.lag].map(|number| number.to_string());
            let words = [line.consumer.clone(), line.stream.clone(), line.status.clone()];
            words.into_iter().chain(numbers).chain([keys, line.emitted.to_string()]).collect()
        })?;
        ctx.out.text("\n")?;
        ctx.out
            .list(&self.streams, &["stream", "events"], |stream| vec![stream.name.clone(), views::known(stream.events)])
    }
}

/// How many keys a consumer's state has; none where every foreign id has a state of its own.
async fn keys(store: &dyn Store, consumer: &Consumer) -> Result<Option<u64>> {
    let state = consumer.state();
    let parts = match state {
        StateScope::Consumer => 0..1,
        StateScope::Shard => 0..consumer.shards.count,
        StateScope::Key => return Ok(None),
    };
    let mut count = 0;
    for index in parts {
        let scope = Scope { consumer: consumer.id.clone(), part: state.part(index) };
        let mut after = None::<Key>;
        loop {
            let page = store.scan(&scope, "", after.as_deref(), SCAN_ENTRIES_MAX).await?;
            count += page.len() as u64;
            after = page.last().map(|(key, _)| key.clone());
            if page.len() < SCAN_ENTRIES_MAX as usize {
                break;
            }
        }
    }
    Ok(Some(count))
}
