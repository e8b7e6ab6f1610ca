//! `tendon event append|import|list|tail`.

use std::path::PathBuf;

use clap::Subcommand;

use crate::event::Timestamp;

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
