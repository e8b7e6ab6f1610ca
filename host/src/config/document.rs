//! From text to the authored form: TOML, `${VAR}`, unknown keys, wrong types.

use std::borrow::Cow;

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{
    authored::Root,
    places::Places,
    problem::Code,
    shape::{self, Schema},
};

/// More syntax errors than this in one file follow from the first ones.
const SYNTAX_ERRORS_MAX: usize = 8;

/// What the parser says of a key that is there twice.
const DUPLICATE: &str = "duplicate key";

/// Looks an environment variable up.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads what can be read; what cannot is among the problems of `places`. None when it is not TOML at all.
pub(super) fn read(text: &str, places: &mut Places<'_>, variables: Variables<'_>) -> Option<Root> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    let mut broken = false;
    let mut last_at = None;
    for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
        let at = error.span().map_or(0, |span| span.start);
        // Of a section that is there twice each key is there twice: the section was reported.
        let follows = |last: usize| text.get(last..at).is_some_and(|between| !between.contains("\n["));
        if error.message() == DUPLICATE && header(text, at).is_none() && last_at.is_some_and(follows) {
            continue;
        }
        broken |= !duplicate(text, error, places);
        last_at = header(text, at).and(Some(at)).or(last_at);
    }
    if broken {
        return None;
    }
    let schema = shape::schema();
    shape::check_table(&Schema(&schema), table.get_mut(), "", places);
    if !errors.is_empty() {
        // Which of two equal keys was read is chance: what follows from it would mislead.
        return None;
    }
    expand_table(table.get_mut(), "", places, variables);
    match Root::deserialize(Deserializer::from(table)) {
        Ok(root) => Some(root),
        Err(error) => {
            // The shape was checked, so this is a hole in that check; the author still gets line and reason.
            places.add(Code::BadValue, None, error.span(), error.message(), None);
            None
        }
    }
}

/// Reports a syntax error. True where it is a key that is there twice: its keys can still be checked.
fn duplicate(text: &str, error: &toml::de::Error, places: &mut Places<'_>) -> bool {
    let span = error.span().unwrap_or(0..0);
    if error.message() != DUPLICATE {
        places.add(Code::Syntax, None, Some(span), format!("not TOML: {}", error.message()), None);
        return false;
    }
    let key = text.get(span.clone()).unwrap_or_default();
    let (path, message, suggestion) = match header(text, span.start) {
        Some((section @ ("consumer" | "stream" | "store"), name)) => (
            format!("{section}.{name}"),
            format!("two {section}s are called `{name}`"),
            format!("give one of them another name: [{section}.{name}-2]"),
        ),
        _ => (key.to_owned(), format!("`{key}` is there twice"), "keep one of them".to_owned()),
    };
    places.add(Code::Duplicate, Some(&path), Some(span), message, Some(suggestion));
    true
}

/// The two keys of the table header `[section.name]` that holds an offset, where it is one.
fn header(text: &str, offset: usize) -> Option<(&str, &str)> {
    let begin = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(begin..)?.lines().next()?;
    let (inside, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (section, name) = inside.split_once('.')?;
    (!name.contains('.')).then(|| (section.trim(), name.trim().trim_matches(['"', '\''])))
}

fn expand_table(table: &mut DeTable<'_>, path: &str, places: &mut Places<'_>, variables: Variables<'_>) {
    let keys: Vec<_> = table.keys().cloned().collect();
    for key in keys {
        let below = super::places::below(path, key.get_ref());
        let keep = table.get_mut(&key).is_none_or(|value| expand_value(value, &below, places, variables));
        if !keep {
            table.remove(&key);
        }
    }
}

/// Puts variables into the strings of a value. False where one is missing.
fn expand_value(
    value: &mut Spanned<DeValue<'_>>,
    path: &str,
    places: &mut Places<'_>,
    variables: Variables<'_>,
) -> bool {
    match value.get_mut() {
        DeValue::String(text) => match expand(text, variables) {
            Ok(None) => true,
            Ok(Some(expanded)) => {
                *text = Cow::Owned(expanded);
                true
            }
            Err((code, message, suggestion)) => {
                places.at_value(code, path, message, Some(suggestion));
                false
            }
        },
        DeValue::Array(array) => {
            let mut keep = true;
            for (index, item) in array.iter_mut().enumerate() {
                keep &= expand_value(item, &format!("{path}[{index}]"), places, variables);
            }
            keep
        }
        DeValue::Table(table) => {
            expand_table(table, path, places, variables);
            true
        }
        _ => true,
    }
}

type Unexpandable = (Code, String, String);

/// Replaces `${VAR}` and `${VAR:-default}`; `$${` stands for a plain `${`. None where there is nothing to replace.
fn expand(text: &str, variables: Variables<'_>) -> Result<Option<String>, Unexpandable> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((inside, after)) = after.split_once('}') else {
            let message = format!("`${{` is not closed in {text:?}");
            return Err((Code::BadValue, message, "write ${NAME}, or $${ for a plain ${".to_owned()));
        };
        let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, text)| (name, Some(text)));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(allowed) {
            let message = format!("`{name}` is not the name of an environment variable");
            return Err((Code::BadValue, message, "use A-Z, 0-9 and _: ${NAME} or ${NAME:-default}".to_owned()));
        }
        // As in a shell, an empty variable gives way to the default.
        match (variables(name).filter(|value| !value.is_empty() || default.is_none()), default) {
            (Some(value), _) => expanded.push_str(&value),
            (None, Some(default)) => expanded.push_str(default),
            (None, None) => {
                let message = format!("the environment variable `{name}` is not set");
                return Err((Code::MissingVariable, message, format!("set it, or write ${{{name}:-default}}")));
            }
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_with_their_values_or_defaults() {
        let expanded = |text| expand(text, &variables).unwrap().unwrap_or_else(|| "unchanged".to_owned());
        assert_eq!(expanded("x"), "unchanged");
        assert_eq!(expanded("${A}-${B:-b}-${A:-a}"), "1-b-1");
        assert_eq!(expanded("${EMPTY:-e}${EMPTY}"), "e");
        assert_eq!(expanded("$${A} $5"), "${A} $5");
        assert_eq!(expanded("${B:-}"), "");
    }

    #[test]
    fn a_missing_or_broken_variable_is_refused() {
        assert_eq!(expand("${B}", &variables).unwrap_err().0, Code::MissingVariable);
        for broken in ["${", "${A", "${}", "${a b}", "${:-x}"] {
            assert_eq!(expand(broken, &variables).unwrap_err().0, Code::BadValue, "{broken}");
        }
    }
}
