//! `tendon event append|import|list|tail`.

use std::{
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{
    Ctx,
    client::{Client, Query, escape},
    problem::Exit,
};
use crate::{
    error::{Error, Result},
    event::Timestamp,
    event_file,
    server::views::{Appended, EventView},
    tenant::StreamId,
};

/// What about events.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with events.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Append one event to a stream
    Append(Append),
    /// Append a file's events to a stream, all or none of them; those that are there already are left out
    Import(Import),
    /// List a stream's events
    #[command(visible_alias = "ls")]
    List(List),
    /// Print a stream's events as they come
    Tail(Tail),
}

/// An event to append.
#[derive(Debug, clap::Args)]
pub struct Append {
    /// The stream
    pub stream: String,
    /// The event's kind, a whole number
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub r#type: i32,
    /// The id of the thing that it is about; at most 255 bytes
    #[arg(long, value_name = "F", default_value = "")]
    pub fid: String,
    /// When it happened, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    pub timestamp: Option<Timestamp>,
    /// The payload, as text; - reads stdin [default: none]
    #[arg(long, value_name = "TEXT")]
    pub metadata: Option<String>,
    /// A header; can be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A file to import.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// The stream
    pub stream: String,
    /// One JSON object a line: type, foreign_id, timestamp, metadata, headers; - reads stdin
    #[arg(value_name = "F.jsonl")]
    pub file: PathBuf,
}

/// Which events are meant.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// Only this type
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub r#type: Option<i32>,
    /// Only this foreign id
    #[arg(long, value_name = "F")]
    pub fid: Option<String>,
    /// Only those stamped at this time or later, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<Timestamp>,
}

/// Events to list.
#[derive(Debug, clap::Args)]
pub struct List {
    /// The stream
    pub stream: String,
    /// Which of them
    #[command(flatten)]
    pub wanted: Wanted,
    /// Only this event
    #[arg(long, value_name = "EVENT")]
    pub id: Option<String>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// Events to wait for.
#[derive(Debug, clap::Args)]
pub struct Tail {
    /// The stream
    pub stream: String,
    /// Which of them; with --since also those that are there already
    #[command(flatten)]
    pub wanted: Wanted,
    /// End after so many [default: never]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// Asks the host, and shows what it says.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    match args.verb {
        Verb::Append(args) => append(args, ctx).await?,
        Verb::Import(args) => import(args, ctx).await?,
        Verb::List(args) => list(args, ctx).await?,
        Verb::Tail(args) => tail(args, ctx).await?,
    }
    Ok(Exit::Ok)
}

fn path(stream: &str, what: &str) -> String {
    format!("/v1/streams/{}/{what}", escape(stream))
}

fn query(ctx: &Ctx, wanted: &Wanted) -> Query {
    let mut query = vec![("tenant", ctx.tenant().to_string())];
    query.extend(wanted.r#type.map(|r#type| ("type", r#type.to_string())));
    query.extend(wanted.fid.clone().map(|fid| ("fid", fid)));
    query.extend(wanted.since.map(|since| ("since", since.to_string())));
    query
}

async fn append(args: Append, ctx: &Ctx) -> Result<()> {
    let metadata = match args.metadata.as_deref() {
        Some("-") => String::from_utf8(read(Path::new("-"))?).map_err(|_| Error::invalid("stdin is not UTF-8"))?,
        Some(text) => text.to_owned(),
        None => String::new(),
    };
    let headers: serde_json::Map<_, _> = args.header.into_iter().map(|(name, value)| (name, value.into())).collect();
    let mut event = json!({"type": args.r#type, "foreign_id": args.fid, "metadata_text": metadata, "headers": headers});
    if let (Some(timestamp), Some(event)) = (args.timestamp, event.as_object_mut()) {
        event.insert("timestamp".into(), timestamp.to_string().into());
    }
    let event = event.to_string();
    event_file::check(&event, &StreamId { tenant: ctx.tenant(), name: args.stream.parse()? })?;
    send(ctx, &args.stream, event.into_bytes(), false).await
}

/// Checks the file as a whole, then sends it as one request.
async fn import(args: Import, ctx: &Ctx) -> Result<()> {
    let name = if args.file == Path::new("-") { "stdin".to_owned() } else { args.file.display().to_string() };
    let bytes = read(&args.file)?;
    let progress = bar(bytes.len() as u64, ctx);
    let stream = StreamId { tenant: ctx.tenant(), name: args.stream.parse()? };
    let input = BufReader::new(progress.wrap_read(&bytes[..]));
    event_file::Lines::new(&name, input, &stream).try_for_each(|line| line.map(drop))?;
    progress.set_message("sending");
    let sent = send(ctx, &args.stream, bytes, true).await;
    progress.finish_and_clear();
    sent
}

fn bar(bytes: u64, ctx: &Ctx) -> ProgressBar {
    if ctx.out.quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(bytes).with_message("checking").with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::invalid(format!("{} cannot be read", file.display())).because(error);
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        return std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes).map_err(failed);
    }
    std::fs::read(file).map_err(failed)
}

async fn send(ctx: &Ctx, stream: &str, body: Vec<u8>, once: bool) -> Result<()> {
    let client = Client::connect(ctx).await?;
    let query = vec![("tenant", ctx.tenant().to_string()), ("once", once.to_string())];
    let appended: Appended = client.post(&path(stream, "events"), query, body).await?;
    ctx.out.object(&appended, |appended| {
        vec![("appended", appended.appended.to_string()), ("there already", appended.skipped.to_string())]
    })
}

async fn list(args: List, ctx: &Ctx) -> Result<()> {
    let mut query = query(ctx, &args.wanted);
    query.push(("limit", args.limit.to_string()));
    query.extend(args.id.map(|id| ("id", id)));
    let events: Vec<EventView> = Client::connect(ctx).await?.get(&path(&args.stream, "events"), query).await?;
    ctx.out.list(&events, &["id", "type", "foreign id", "timestamp", "metadata"], |event| {
        let metadata = event.metadata.as_ref().map(ToString::to_string);
        let metadata = metadata.or_else(|| event.metadata_text.clone()).or_else(|| event.metadata_base64.clone());
        vec![
            event.id.clone(),
            event.r#type.to_string(),
            event.foreign_id.clone(),
            event.timestamp.to_string(),
            metadata.unwrap_or_default(),
        ]
    })
}

/// Prints each event as a line of JSON: the form in which it can be imported.
async fn tail(args: Tail, ctx: &Ctx) -> Result<()> {
    let client = Client::connect(ctx).await?;
    if args.limit == Some(0) {
        return Ok(());
    }
    let out = ctx.out.clone();
    let mut left = args.limit;
    client
        .lines(&path(&args.stream, "tail"), query(ctx, &args.wanted), move |line| {
            out.text(line)?;
            left = left.map(|left| left.saturating_sub(1));
            Ok(left != Some(0))
        })
        .await
}
