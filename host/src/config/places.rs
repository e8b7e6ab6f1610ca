//! Where in the file each key stands, and the problems that were found there.

use std::{collections::HashMap, ops::Range, path::Path};

use super::problem::{Code, ConfigErrors, Problem};

/// Gathers problems of one file: a check tells a key's path, this finds its line.
pub(super) struct Places<'a> {
    text: &'a str,
    file: String,
    keys: HashMap<String, Range<usize>>,
    values: HashMap<String, Range<usize>>,
    found: Vec<(usize, Problem)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(text: &'a str, file: &Path) -> Self {
        Self { text, file: file.display().to_string(), keys: HashMap::new(), values: HashMap::new(), found: Vec::new() }
    }

    /// Remembers where a key, and its value, stands.
    pub(super) fn remember(&mut self, path: &str, key: Option<Range<usize>>, value: Range<usize>) {
        if let Some(key) = key {
            self.keys.insert(path.to_owned(), key);
        }
        self.values.insert(path.to_owned(), value);
    }

    /// Where the value of a path stands in the text.
    pub(super) fn value_at(&self, path: &str) -> Option<Range<usize>> {
        self.values.get(path).cloned()
    }

    /// A problem with a key, or with all that stands below it.
    pub(super) fn at_key(&mut self, code: Code, path: &str, message: impl Into<String>, suggestion: Option<String>) {
        let span = nearest(path, |path| self.keys.get(path).or_else(|| self.values.get(path)).cloned());
        self.add(code, Some(path), span, message, suggestion);
    }

    /// A problem with a value.
    pub(super) fn at_value(&mut self, code: Code, path: &str, message: impl Into<String>, suggestion: Option<String>) {
        let span = nearest(path, |path| self.values.get(path).or_else(|| self.keys.get(path)).cloned());
        self.add(code, Some(path), span, message, suggestion);
    }

    /// A problem at a place in the text.
    pub(super) fn add(
        &mut self,
        code: Code,
        path: Option<&str>,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) {
        let offset = span.map_or(0, |span| span.start);
        let (line, column) = self.line_and_column(offset);
        let mut problem = Problem::new(code.as_str(), message);
        problem.path = path.map(str::to_owned);
        problem.file = Some(self.file.clone());
        (problem.line, problem.column) = (Some(line), Some(column));
        problem.suggestion = suggestion;
        self.found.push((offset, problem));
    }

    /// The line, from 1, of an offset in bytes, and the column in characters, from 1.
    pub(super) fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// What was found, in the order of the file.
    pub(super) fn into_errors(mut self) -> Result<(), ConfigErrors> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(offset, _)| *offset);
        Err(ConfigErrors(self.found.into_iter().map(|(_, problem)| problem).collect()))
    }
}

/// The place of a path, or of the nearest path above it that has one: a missing key stands nowhere.
fn nearest(path: &str, place: impl Fn(&str) -> Option<Range<usize>>) -> Option<Range<usize>> {
    let mut path = path;
    loop {
        if let Some(span) = place(path) {
            return Some(span);
        }
        path = path.rsplit_once(['.', '['])?.0;
    }
}

/// A key below a path, quoted where TOML would quote it.
pub(super) fn below(path: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let dot = if path.is_empty() { "" } else { "." };
    if !key.is_empty() && key.bytes().all(bare) { format!("{path}{dot}{key}") } else { format!("{path}{dot}{key:?}") }
}

/// A suggestion of the name that was probably meant; none when nothing is near.
pub(super) fn did_you_mean<'n>(found: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let folded = found.to_lowercase().replace('_', "-");
    let distance = |name: &str| strsim::damerau_levenshtein(&folded, name);
    let (name, distance) =
        names.into_iter().map(|name| (name, distance(name))).min_by_key(|(_, distance)| *distance)?;
    let near = distance <= 1.max(name.len().max(found.len()) / 3) || strsim::jaro_winkler(&folded, name) > 0.85;
    near.then(|| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_a_column_count_from_one_and_in_characters() {
        let places = Places::new("a\nä = x\n", Path::new("tendon.toml"));
        assert_eq!(places.line_and_column(0), (1, 1));
        assert_eq!(places.line_and_column("a\nä = ".len()), (2, 5));
        assert_eq!(places.line_and_column(usize::MAX), (3, 1));
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let names = ["retry", "limits", "on-exhausted", "emit"];
        assert_eq!(did_you_mean("retires", names).as_deref(), Some("did you mean `retry`?"));
        assert_eq!(did_you_mean("on_exhausted", names).as_deref(), Some("did you mean `on-exhausted`?"));
        assert_eq!(did_you_mean("zzzzzzz", names), None);
        assert_eq!(did_you_mean("x", []), None);
    }

    #[test]
    fn a_path_quotes_what_toml_quotes() {
        assert_eq!(below("", "host"), "host");
        assert_eq!(below("consumer", "my one"), "consumer.\"my one\"");
    }
}
