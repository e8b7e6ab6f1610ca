//! `tendon dlq list|show|edit|redrive|jobs|cancel|purge`.

use std::io::Read as _;

use clap::Subcommand;

use super::{
    Ctx,
    client::{Client, Query, escape},
    problem::Exit,
};
use crate::{
    error::{Error, Result},
    event::{EventId, Timestamp},
    server::{
        dead_letters::{Changed, Chosen, DeadLetterView, Edit, Job},
        views::base64,
    },
};

/// What about dead letters.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with what a consumer has set aside.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List what a consumer has set aside, oldest first
    #[command(visible_alias = "ls")]
    List {
        /// The consumer
        name: String,
        /// Those that were set aside after this one
        #[arg(long, value_name = "EVENT")]
        after: Option<String>,
        /// Those with this reason: trap, or trap~overflow where the message has that in it, or ~overflow; skipped for all that were
        #[arg(long, value_name = "REASON")]
        r#match: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show everything about one: the event, its error with a trap's backtrace, what the guest logged
    Show {
        /// The consumer
        name: String,
        /// The event's id
        event: String,
    },
    /// Give one another payload, to be handled again with; it says then that it was edited
    Edit {
        /// The consumer
        name: String,
        /// The event's id
        event: String,
        /// The payload
        #[arg(long, value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
        metadata: Option<String>,
        /// A file that holds the payload; - is the standard input
        #[arg(long, value_name = "FILE")]
        file: Option<String>,
    },
    /// List the redrives that have something left to do
    Jobs {
        /// The consumer
        name: String,
    },
    /// Have some, or all, handled again, each once: those that fail stay, with their new error
    Redrive {
        /// Which
        #[command(flatten)]
        choice: Choice,
        /// At most so many a second, all shards together; after a restart the next one comes at once
        #[arg(long, value_name = "N", value_parser = rate)]
        rate: Option<f64>,
    },
    /// Take back the wish to have some, or all, handled again, for those that have not been
    Cancel(Choice),
    /// Forget some, or all, for ever
    Purge(Choice),
}

/// Which of a consumer's dead letters are meant.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// The consumer
    name: String,
    /// The events' ids
    #[arg(value_name = "EVENT", required_unless_present_any = ["all", "match", "job"],
        conflicts_with_all = ["all", "match", "job"])]
    events: Vec<String>,
    /// All that there are
    #[arg(long)]
    all: bool,
    /// All with this reason: trap, or trap~overflow where the message has that in it, or ~overflow; skipped for all that were
    #[arg(long, value_name = "REASON")]
    r#match: Option<String>,
    /// All of one redrive, as `dlq jobs` names it
    #[arg(long, value_name = "ID")]
    job: Option<Timestamp>,
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
}

/// Asks the host, and shows what it says.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let client = Client::connect(ctx).await?;
    let query: Query = vec![("tenant", ctx.tenant().to_string())];
    let path = |name: &str| format!("/v1/consumers/{}/dead-letters", escape(name));
    match args.verb {
        Verb::List { name, after, r#match, limit } => {
            let mut query = query;
            query.extend(r#match.map(|reason| ("match", reason)));
            let letters = list(&client, &path(&name), &query, after, limit as usize).await?;
            ctx.out.list(
                &letters,
                &["event", "set aside", "reason", "attempts", "type", "foreign id", "message"],
                row,
            )?;
            if letters.len() == limit as usize {
                let last = letters.last().map(|letter| letter.event.id.as_str()).unwrap_or_default();
                ctx.out.talk(format!("there may be more: --after {last}"));
            }
        }
        Verb::Show { name, event } => {
            let letter: DeadLetterView = client.get(&format!("{}/{}", path(&name), escape(&event)), query).await?;
            ctx.out.object(&letter, lines)?;
        }
        Verb::Edit { name, event, metadata, file } => {
            let metadata = match (metadata, file.as_deref()) {
                (Some(text), _) => text.into_bytes(),
                (None, file) => payload(file.unwrap_or("-"))?,
            };
            let edit = Edit { metadata_base64: base64(&metadata.into()) };
            let body =
                serde_json::to_vec(&edit).map_err(|error| Error::corrupt("a request is not JSON").because(error))?;
            let path = format!("{}/{}/edit", path(&name), escape(&event));
            let letter: DeadLetterView = client.post(&path, query, body).await?;
            ctx.out.object(&letter, lines)?;
        }
        Verb::Jobs { name } => {
            let jobs: Vec<Job> = client.get(&format!("/v1/consumers/{}/redrives", escape(&name)), query).await?;
            let rate = |job: &Job| job.rate.map_or("-".to_owned(), |rate| format!("{rate}/s"));
            ctx.out.list(&jobs, &["job", "left", "rate"], |job| {
                vec![job.id.to_string(), job.left.to_string(), rate(job)]
            })?;
        }
        Verb::Redrive { choice, rate } => {
            change(
                ctx,
                &client,
                (choice, rate),
                "redrive-dead-letters",
                ["to be handled again", "would be handled again"],
            )
            .await?
        }
        Verb::Cancel(choice) => {
            change(ctx, &client, (choice, None), "cancel-redrives", ["cancelled", "would be cancelled"]).await?
        }
        Verb::Purge(choice) => {
            change(ctx, &client, (choice, None), "purge-dead-letters", ["purged", "would be purged"]).await?
        }
    }
    Ok(Exit::Ok)
}

/// Changes some or all; `words` say what was done, and what would be.
async fn change(
    ctx: &Ctx,
    client: &Client,
    (choice, rate): (Choice, Option<f64>),
    route: &str,
    words: [&'static str; 2],
) -> Result<()> {
    let Choice { name, events, all, r#match, job, dry_run } = choice;
    let all = all || r#match.is_some() || job.is_some();
    let events = events.into_iter().map(|event| EventId(event.into())).collect();
    let body = serde_json::to_vec(&Chosen { events, all, r#match, job, rate, dry_run })
        .map_err(|error| Error::corrupt("a request is not JSON").because(error))?;
    let (path, query) =
        (format!("/v1/consumers/{}/{route}", escape(&name)), vec![("tenant", ctx.tenant().to_string())]);
    let changed: Changed = client.post(&path, query, body).await?;
    let [was, would] = words;
    let word = if changed.dry_run { would } else { was };
    ctx.out.object(&changed, |changed| vec![(word, changed.changed.to_string())])
}

/// A number that can be sent: JSON has no other ones, and says nothing in their place.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches("/s").parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "not a number of events a second, such as 10, 0.5 or 50/s".to_owned())
}

/// What a file holds.
fn payload(file: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match file {
        "-" => std::io::stdin().read_to_end(&mut bytes),
        file => std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    read.map(|_| bytes).map_err(|error| Error::invalid(format!("{file} cannot be read")).because(error))
}

/// As many as there are, or as are wanted: one answer has no more than fit into it.
async fn list(
    client: &Client,
    path: &str,
    query: &Query,
    after: Option<String>,
    limit: usize,
) -> Result<Vec<DeadLetterView>> {
    let mut letters: Vec<DeadLetterView> = Vec::new();
    let mut from: Query = after.into_iter().map(|after| ("after", after)).collect();
    while letters.len() < limit {
        let mut query = [query.as_slice(), &from].concat();
        query.push(("limit", (limit - letters.len()).to_string()));
        let page: Vec<DeadLetterView> = client.get(path, query).await?;
        let Some(last) = page.last() else { break };
        // It may be gone by now, or be elsewhere: what matters is where it was.
        from = vec![("after", last.event.id.clone()), ("since", last.reason.since.to_string())];
        letters.extend(page);
    }
    Ok(letters)
}

fn row(letter: &DeadLetterView) -> Vec<String> {
    vec![
        letter.event.id.clone(),
        letter.reason.since.to_string(),
        letter.reason.code.clone(),
        letter.attempts.to_string(),
        letter.event.r#type.to_string(),
        letter.event.foreign_id.clone(),
        letter.reason.message.lines().next().unwrap_or_default().to_owned(),
    ]
}

fn lines(letter: &DeadLetterView) -> Vec<(&'static str, String)> {
    let event = &letter.event;
    let json = event.metadata.as_ref().map(ToString::to_string);
    let base64 = || event.metadata_base64.as_ref().map(|base64| format!("base64 {base64}"));
    let metadata = json.or_else(|| event.metadata_text.clone()).or_else(base64).unwrap_or_default();
    let mut lines = vec![
        ("event", event.id.clone()),
        ("type", event.r#type.to_string()),
        ("foreign id", event.foreign_id.clone()),
        ("timestamp", event.timestamp.to_string()),
        ("metadata", metadata),
    ];
    lines.extend(event.headers.iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
    lines.extend([
        ("reason", letter.reason.code.clone()),
        ("", letter.reason.message.clone()),
        ("set aside", letter.reason.since.to_string()),
        ("attempts", letter.attempts.to_string()),
        ("component", letter.digest.clone()),
    ]);
    lines.extend(letter.redrive_since.map(|since| ("to be redriven", format!("since {since}"))));
    lines.extend(letter.reason.logs.lines().map(|line| ("logged", line.to_owned())));
    lines
}
