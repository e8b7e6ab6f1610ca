//! `tendon state get|list`.

use clap::{Subcommand, ValueEnum};

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
