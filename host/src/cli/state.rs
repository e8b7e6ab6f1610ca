//! `tendon state get|list`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::{
    Ctx,
    client::{Client, Query, escape},
    problem::Exit,
};
use crate::{
    error::{Error, Result},
    server::views::EntryView,
};

/// What about state.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do with a consumer's state.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print a key's value; exit code 1 where there is none
    Get {
        /// The consumer
        name: String,
        /// The key
        key: String,
        /// The part of the state, and how it is shown
        #[command(flatten)]
        part: Part,
    },
    /// List keys and values, in the order of the keys
    #[command(visible_alias = "ls")]
    List {
        /// The consumer
        name: String,
        /// The part of the state, and how it is shown
        #[command(flatten)]
        part: Part,
        /// Only keys that begin with this
        #[arg(long, value_name = "P", default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
}

/// Which part of a consumer's state, and how values are shown.
#[derive(Debug, clap::Args)]
pub struct Part {
    /// Of this foreign id, where the consumer has a state per key
    #[arg(long, value_name = "FID")]
    pub of: Option<String>,
    /// How values are shown: text, json or hex [default: json where they are, else text, else hex]
    #[arg(long = "as", value_name = "FORM", value_enum, hide_possible_values = true)]
    pub form: Option<Form>,
}

/// How a value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// As UTF-8.
    Text,
    /// As JSON.
    Json,
    /// As hexadecimal digits.
    Hex,
}

/// A key and its value, as it was asked for.
#[derive(Serialize)]
struct Entry {
    key: String,
    value: Value,
}

/// Asks the host, and shows what it says.
pub async fn run(args: Args, ctx: &Ctx) -> Result<Exit> {
    let client = Client::connect(ctx).await?;
    let mut query: Query = vec![("tenant", ctx.tenant().to_string())];
    let (name, part) = match args.verb {
        Verb::Get { name, key, part } => {
            query.push(("key", key));
            (name, part)
        }
        Verb::List { name, part, prefix, limit } => {
            query.extend([("prefix", prefix), ("limit", limit.to_string())]);
            (name, part)
        }
    };
    let is_one = query.iter().any(|(name, _)| *name == "key");
    query.extend(part.of.clone().map(|of| ("of", of)));
    let found: Vec<EntryView> = client.get(&format!("/v1/consumers/{}/state", escape(&name)), query).await?;
    let entries = found.iter().map(|entry| show(entry, part.form)).collect::<Result<Vec<_>>>()?;
    match entries.first() {
        Some(entry) if is_one => {
            ctx.out.object(entry, |entry| vec![("key", entry.key.clone()), ("value", text(&entry.value))])?
        }
        _ => ctx.out.list(&entries, &["key", "value"], |entry| vec![entry.key.clone(), text(&entry.value)])?,
    }
    Ok(Exit::Ok)
}

fn show(entry: &EntryView, form: Option<Form>) -> Result<Entry> {
    let bytes = STANDARD.decode(&entry.value_base64);
    let bytes = bytes.map_err(|error| Error::corrupt("the host's answer is not base64").because(error))?;
    let not = |what: &str| {
        Error::new(crate::error::Kind::NotFound, format!("the value of `{}` is not {what}", entry.key))
            .help("leave --as out, or use --as hex")
    };
    let json = || serde_json::from_slice(&bytes).ok();
    let utf8 = || String::from_utf8(bytes.clone()).ok().map(Value::String);
    let hex = || Value::String(hex::encode(&bytes));
    let value = match form {
        None => json().or_else(utf8).unwrap_or_else(hex),
        Some(Form::Json) => json().ok_or_else(|| not("JSON"))?,
        Some(Form::Text) => utf8().ok_or_else(|| not("UTF-8"))?,
        Some(Form::Hex) => hex(),
    };
    Ok(Entry { key: entry.key.clone(), value })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
