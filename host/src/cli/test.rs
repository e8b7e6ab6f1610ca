//! `tendon test [DIR|FILE.wasm]`: a component against events, with its effects printed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;

use super::{Ctx, build, engine::engine, output::Format, problem::Exit};
use crate::{
    backend::{Database, Options, Order},
    changes::{Changes, Emit, Write},
    clock::Clock,
    config::{self, Components, Config, resolved::Consumer},
    deployment::Spec,
    error::{Error, Result},
    event::{Cursor, Event},
    event_file,
    filter::Matcher,
    handler::{Failure, Handled, Handler, HandlerFactory as _},
    runtime::GuestFactory,
    source::Until,
    store::{Commit, Store},
    tenant::{ConsumerId, Name, ShardId},
    view::{View, ViewSpec},
};

/// What to test with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A component, or a folder whose consumer is built first
    #[arg(value_name = "DIR|FILE.wasm", default_value = ".")]
    pub target: PathBuf,
    /// The consumer of the folder's tendon.toml that is meant, where it has several
    #[arg(long, value_name = "NAME")]
    pub consumer: Option<String>,
    /// Events to handle, one JSON object a line [default: the stream's sample]
    #[arg(long, value_name = "F.jsonl", conflicts_with_all = ["event", "stdin"])]
    pub fixture: Option<PathBuf>,
    /// An event to handle, as JSON; can be given several times
    #[arg(long, value_name = "JSON", conflicts_with = "stdin")]
    pub event: Vec<String>,
    /// Read events from stdin, one JSON object a line
    #[arg(long)]
    pub stdin: bool,
}

/// Handles the events one by one, in memory, and prints what each of them did.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let subject = Subject::find(&args, ctx).await?;
    // What is no component is told before anybody is asked for events.
    let engine = engine(subject.code_cache.as_deref())?;
    let compiled = engine.compile(subject.component.clone(), &subject.spec.limits).await?;
    let database = Database::open("memory:", Options::default()).await?;
    let store = database.store();
    database.create_stream(&subject.spec.stream, Order::Native).await?;
    let emits = events(&args, &subject)?;
    let changes = Changes { emits, ..Changes::default() };
    store.commit(&[Commit { changes, ..Commit::default() }]).await.into_iter().collect::<Result<Vec<_>>>()?;

    let factory = GuestFactory::new(&engine, compiled, subject.spec.config.clone(), &subject.spec.limits)?;
    let matcher = Matcher::new(&subject.spec.filter);
    let mut tester = Tester { store: store.clone(), subject, factory, matcher, handler: None };
    let mut chunks = database.source(&tester.subject.spec.stream).await?.stream(Cursor::START, Until::Head).await?;
    let mut effects = Vec::new();
    while let Some(chunk) = chunks.next().await {
        for event in &chunk?.events {
            effects.push(tester.handle(event).await?);
        }
    }
    show(&effects, ctx)?;
    let failed = effects.iter().filter(|effect| effect.failure.is_some()).count();
    ctx.out.talk(format!("{} events, {failed} failed", effects.len()));
    Ok(if failed > 0 { Exit::Failed } else { Exit::Ok })
}

/// The component, and what its consumer would be.
struct Subject {
    id: ConsumerId,
    component: Bytes,
    spec: Spec,
    sample: Option<PathBuf>,
    code_cache: Option<PathBuf>,
}

impl Subject {
    /// A file is tested by itself and may emit nowhere; a folder's consumer as its config says, built first.
    async fn find(args: &Args, ctx: &Ctx) -> Result<Self> {
        if !args.target.is_dir() {
            let name: Name = "test".parse()?;
            let id = ConsumerId { tenant: ctx.tenant(), name: name.clone() };
            let consumer = Consumer { component: args.target.clone(), ..Consumer::of(id, name) };
            return Self::read(&consumer, None, None);
        }
        let file = ctx.config_file(&args.target);
        if args.target.join("Cargo.toml").is_file() {
            let building = build::Args { folder: args.target.clone(), debug: false, cargo: Vec::new() };
            build::build(&building, |line| ctx.out.talk(line)).await?;
        }
        let config = config::read(&file, Components::MustExist)?;
        let consumer = choose(&config, args.consumer.as_deref())?;
        let sample = config.stream(&consumer.stream)?.sample.clone();
        Self::read(consumer, sample, config.host.code_cache.clone())
    }

    fn read(consumer: &Consumer, sample: Option<PathBuf>, code_cache: Option<PathBuf>) -> Result<Self> {
        let failed = |error| Error::invalid(format!("{} cannot be read", consumer.component.display())).because(error);
        let component = std::fs::read(&consumer.component).map_err(failed)?.into();
        Ok(Self { id: consumer.id.clone(), component, spec: consumer.spec(Cursor::START), sample, code_cache })
    }
}

fn choose<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Consumer> {
    let mut all = config.consumers.values();
    let names = || config.consumers.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
    match (name, all.next(), all.next()) {
        (Some(name), ..) => {
            let found = config.consumers.values().find(|consumer| consumer.id.name.as_str() == name);
            found.ok_or_else(|| {
                Error::invalid(format!("there is no consumer `{name}`")).help(format!("there are: {}", names()))
            })
        }
        (None, Some(only), None) => Ok(only),
        (None, None, _) => Err(Error::invalid("the config has no consumer to test")),
        (None, ..) => {
            Err(Error::invalid("the config has several consumers")
                .help(format!("say which with --consumer: {}", names())))
        }
    }
}

fn events(args: &Args, subject: &Subject) -> Result<Vec<Emit>> {
    let stream = &subject.spec.stream;
    if !args.event.is_empty() {
        return event_file::read("--event", args.event.join("\n").as_bytes(), stream);
    }
    if args.stdin {
        return event_file::read("stdin", std::io::stdin().lock(), stream);
    }
    let file = args.fixture.clone().or_else(|| subject.sample.clone()).ok_or_else(|| {
        Error::invalid("there are no events to test with").help("give some with --fixture, --event or --stdin")
    })?;
    let failed = |error| Error::invalid(format!("{} cannot be read", file.display())).because(error);
    let open = std::fs::File::open(&file).map_err(failed)?;
    event_file::read(&file.display().to_string(), std::io::BufReader::new(open), stream)
}

/// Handles events as the host does, but commits after each of them.
struct Tester {
    store: Arc<dyn Store>,
    subject: Subject,
    factory: GuestFactory,
    matcher: Matcher,
    handler: Option<Box<dyn Handler>>,
}

/// What became of an event.
#[derive(Serialize)]
struct Effect {
    event: String,
    /// Whether the consumer's filter leaves it out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    state: BTreeMap<String, Option<serde_json::Value>>,
    emitted: Vec<Emitted>,
}

/// An event that it emitted.
#[derive(Serialize)]
struct Emitted {
    stream: String,
    r#type: i32,
    foreign_id: String,
    metadata: serde_json::Value,
}

impl Tester {
    async fn handle(&mut self, event: &Event) -> Result<Effect> {
        let selected = self.matcher.select(std::slice::from_ref(event));
        let skipped = selected.failure.is_none() && selected.matching.is_empty();
        let handled = match selected.failure.map(Failure::of_filter) {
            None if skipped => Handled::default(),
            None => self.call(event).await,
            failure => Handled { failure, ..Handled::default() },
        };
        if handled.failure.is_some() {
            self.handler = None;
        }
        let Changes { writes, emits, .. } = &handled.changes;
        let effect = Effect {
            event: event.id.to_string(),
            skipped,
            failure: handled.failure.map(|failure| format!("{}: {}", failure.kind.code(), failure.message)),
            state: writes.iter().map(|Write { key, value, .. }| (key.to_owned(), value.map(readable))).collect(),
            emitted: emits.iter().map(Emitted::from).collect(),
        };
        let changes = Changes { emits: Vec::new(), ..handled.changes };
        self.store.commit(&[Commit { changes, ..Commit::default() }]).await.into_iter().collect::<Result<Vec<_>>>()?;
        if let Some(handler) = &mut self.handler {
            handler.committed();
        }
        Ok(effect)
    }

    async fn call(&mut self, event: &Event) -> Handled {
        match self.handler().await {
            Ok(handler) => handler.handle(std::slice::from_ref(event)).await,
            Err(failure) => Handled { failure: Some(failure), ..Handled::default() },
        }
    }

    async fn handler(&mut self) -> Result<&mut Box<dyn Handler>, Failure> {
        let handler = match self.handler.take() {
            Some(handler) => handler,
            None => self.factory.create(self.view()).await?,
        };
        Ok(self.handler.insert(handler))
    }

    fn view(&self) -> View {
        let Spec { state, stream, grants_emit, limits, .. } = &self.subject.spec;
        View::new(ViewSpec {
            store: self.store.clone(),
            shard: ShardId { consumer: self.subject.id.clone(), index: 0 },
            scope: *state,
            stream: stream.clone(),
            incarnation: (0, 0),
            granted: Arc::new(grants_emit.iter().cloned().collect()),
            limits: Arc::new(limits.clone()),
            clock: Clock::System,
            emitted: None,
        })
    }
}

impl From<&Emit> for Emitted {
    fn from(emit: &Emit) -> Self {
        Self {
            stream: emit.stream.name.to_string(),
            r#type: emit.event.r#type,
            foreign_id: emit.event.foreign_id.to_string(),
            metadata: readable(&emit.event.metadata),
        }
    }
}

/// Bytes as JSON where they are, as text otherwise.
fn readable(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into())
}

fn show(effects: &[Effect], ctx: &Ctx) -> Result<()> {
    if ctx.out.format == Format::Json {
        return ctx.out.json(effects);
    }
    for effect in effects {
        let ok = if effect.skipped { "left out by the filter" } else { "ok" };
        let outcome = effect.failure.as_deref().unwrap_or(ok);
        ctx.out.text(&format!("event {}: {outcome}", effect.event))?;
        for (key, value) in &effect.state {
            match value {
                Some(value) => ctx.out.text(&format!("  set {key} = {value}"))?,
                None => ctx.out.text(&format!("  delete {key}"))?,
            }
        }
        for emitted in &effect.emitted {
            let Emitted { stream, r#type, foreign_id, metadata } = emitted;
            ctx.out.text(&format!("  emit to {stream}: type {type}, about {foreign_id}, {metadata}"))?;
        }
    }
    Ok(())
}
