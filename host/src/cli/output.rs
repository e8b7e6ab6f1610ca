//! Stdout is data, stderr is talk.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

use crate::error::{Error, Result};

/// Tables are no wider, in characters, whatever the terminal is.
const TABLE_WIDTH: u16 = 100;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// An array for lists, an object otherwise, one object a line for what goes on.
    Json,
}

/// When text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether stderr is coloured.
    pub fn on_stderr(self) -> bool {
        match self {
            Self::Auto => no_color_is_unset() && io::stderr().is_terminal(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

fn no_color_is_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whoever read stdout has gone: not an error of ours, the command just ends.
#[derive(Debug)]
pub struct ClosedPipe;

impl fmt::Display for ClosedPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads it")
    }
}

impl std::error::Error for ClosedPipe {}

/// Where a command's data and talk go.
#[derive(Clone, Debug)]
pub struct Output {
    /// How data is written.
    pub format: Format,
    /// Whether talk is left out; errors are not.
    pub quiet: bool,
}

impl Output {
    /// Writes a list: an array, or a table with these headers.
    pub fn list<T: Serialize>(&self, items: &[T], headers: &[&str], row: impl Fn(&T) -> Vec<String>) -> Result<()> {
        match self.format {
            Format::Json => self.json(items),
            Format::Table => self.text(&table(headers, items.iter().map(row))),
        }
    }

    /// Writes one thing: an object, or its names and values below each other.
    pub fn object<T: Serialize>(&self, item: &T, lines: impl FnOnce(&T) -> Vec<(&'static str, String)>) -> Result<()> {
        match self.format {
            Format::Json => self.json(item),
            Format::Table => {
                let rows = lines(item).into_iter().map(|(name, value)| vec![name.to_owned(), value]);
                self.text(&table(&[], rows))
            }
        }
    }

    /// Writes a value as JSON, over many lines.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(unwritable)?;
        self.text(&text)
    }

    /// Writes a value as one line of JSON, for output that goes on.
    pub fn json_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value).map_err(unwritable)?;
        self.text(&text)
    }

    /// Writes text to stdout, with a newline at its end, at once.
    pub fn text(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write!(stdout, "{text}{newline}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Error::unavailable("stdout is closed").because(ClosedPipe),
            _ => Error::unavailable("stdout cannot be written to").because(error),
        })
    }

    /// Says something to whoever watches. Nobody watching is no error.
    pub fn talk(&self, text: impl fmt::Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::corrupt("a value cannot be written as JSON").because(error)
}

/// A table without lines; where there are no rows, nothing but the headers.
fn table(headers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(TABLE_WIDTH);
    if !headers.is_empty() {
        table.set_header(headers.iter().map(|header| header.to_uppercase()).collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = rows.map(|cells| cells.iter().map(|cell| printable(cell)).collect()).collect();
    table.add_rows(rows);
    table.discover_columns();
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Text of guests and files, without what would move a terminal's cursor.
fn printable(cell: &str) -> String {
    cell.chars().map(|letter| if letter.is_control() && letter != '\n' { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_at_most_100_wide_and_has_no_control_characters() {
        let row = |text: &str| vec!["name".to_owned(), text.to_owned()];
        let text = table(&["a", "b"], [row(&"word ".repeat(60)), row(&"x".repeat(300)), row("\u{1b}[2J")].into_iter());
        assert!(text.starts_with("A     B"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert_eq!(table(&["a", "b"], std::iter::empty()), "A  B");
    }
}
