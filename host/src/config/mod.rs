//! One `tendon.toml`: what it says, and what is wrong with it.
//!
//! A type per stage: [`authored`] is what the file may contain, [`resolved`] what the host uses. Between them every
//! mistake is found that can be found without starting anything, each with its line and a suggestion.

pub mod authored;
mod consumers;
mod document;
mod places;
pub mod problem;
mod resolve;
pub mod resolved;
mod shape;
pub mod shown;
pub mod start;
mod streams;
mod units;

use std::{io::Read as _, path::Path};

pub use self::{
    document::Variables,
    problem::{ConfigErrors, Problem},
    resolved::Config,
    shape::schema,
    shown::show_limits,
    units::{show_duration, show_size},
};
use self::{places::Places, problem::Code, resolve::Resolver};
use crate::error::Result;

/// The file's name where none is given.
pub const FILE_NAME: &str = "tendon.toml";
/// A commented config that names every key; a test reads it.
pub const SAMPLE: &str = include_str!("sample.toml");
/// The largest config file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Whether the files of components are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Components {
    /// A missing one is a problem: the config is about to be used.
    MustExist,
    /// A missing one is not: it is about to be built.
    MayBeMissing,
}

/// Reads a config file with the process's environment. The error is `Invalid` and carries [`ConfigErrors`].
pub fn read(file: &Path, components: Components) -> Result<Config> {
    let text = text(file)?;
    Ok(parse(&text, file, components, &|name| std::env::var(name).ok())?)
}

/// Reads the text of a config. `file` is what problems name and what paths are relative to.
pub fn parse(
    text: &str,
    file: &Path,
    components: Components,
    variables: Variables<'_>,
) -> Result<Config, ConfigErrors> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let mut places = Places::new(text, file);
    let root = document::read(text, &mut places, variables);
    let config = root.and_then(|root| {
        let mut resolver = Resolver { places: &mut places, folder, components };
        resolve::resolve(&root, &absolute, &mut resolver)
    });
    places.into_errors()?;
    let nothing = || ConfigErrors::of_file(Code::Unreadable, file, "the config cannot be read", None);
    config.ok_or_else(nothing)
}

fn text(file: &Path) -> Result<String, ConfigErrors> {
    let shown = file.display();
    let failed = |code, message: String, suggestion: &str| {
        Err(ConfigErrors::of_file(code, file, message, Some(suggestion.to_owned())))
    };
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let way_out = "start with `tendon new NAME`, or name a file with --config";
            return failed(Code::NotFound, format!("there is no {shown}"), way_out);
        }
        Err(error) => return failed(Code::Unreadable, format!("{shown} cannot be read: {error}"), "look at its mode"),
        Ok(length) if length as u64 > FILE_BYTES_MAX => {
            let message = format!("{shown} has more than {FILE_BYTES_MAX} bytes");
            return failed(Code::Unreadable, message, "a config is small: is it the right file?");
        }
        Ok(_) => {}
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            failed(Code::Unreadable, format!("{shown} is not UTF-8 at byte {offset}"), "save it as UTF-8")
        }
    }
}

#[cfg(test)]
mod tests;
