//! The check for unknown keys and wrong types, against the schema of [`super::authored`].
//!
//! What is wrong is reported and taken out, so that the rest can be read and checked as well.

use schemars::generate::SchemaSettings;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use super::{
    places::{Places, below, did_you_mean},
    problem::Code,
};

/// The JSON Schema of a config file, as `config schema` prints it. TOML has no null, so it is left out.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<super::authored::Root>().to_value();
    without_null(&mut schema);
    schema
}

/// Takes `null` out of types, and defaults out altogether: the authored form has none but "nothing".
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("default");
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|r#type| r#type != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
                if let [only] = choices.as_slice() {
                    let only = only.as_object().cloned().unwrap_or_default();
                    object.remove("anyOf");
                    for (key, value) in only {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Reports what in `table` is not as the schema says, takes it out, and remembers where everything stands.
pub(super) fn check_table(schema: &Schema<'_>, table: &mut DeTable<'_>, path: &str, places: &mut Places<'_>) {
    let mut kept = DeTable::new();
    for (key, mut value) in std::mem::take(table) {
        let below = below(path, key.get_ref());
        places.remember(&below, Some(key.span()), value.span());
        let Some(inner) = schema.key(key.get_ref()) else {
            let known: Vec<&str> = schema.keys().collect();
            let suggestion = did_you_mean(key.get_ref(), known.iter().copied())
                .unwrap_or_else(|| format!("the keys here are {}", known.join(", ")));
            places.at_key(Code::UnknownKey, &below, format!("unknown key `{}`", key.get_ref()), Some(suggestion));
            continue;
        };
        if check_value(&inner, &mut value, &below, places) {
            kept.insert(key, value);
        }
    }
    *table = kept;
}

/// Whether the value may stay.
fn check_value(schema: &Schema<'_>, value: &mut Spanned<DeValue<'_>>, path: &str, places: &mut Places<'_>) -> bool {
    let found = value.get_ref().type_str();
    let fits = match (schema.kind(), value.get_mut()) {
        ("object", DeValue::Table(table)) => {
            check_table(schema, table, path, places);
            true
        }
        ("array", DeValue::Array(array)) => {
            check_array(schema, array, path, places);
            true
        }
        ("string", DeValue::String(text)) => return check_choice(schema, text, path, places),
        ("integer", DeValue::Integer(number)) => whole(number).is_some(),
        ("number", DeValue::Integer(number)) => whole(number).is_some(),
        ("number", DeValue::Float(number)) => number.as_str().parse::<f64>().is_ok_and(f64::is_finite),
        ("boolean", DeValue::Boolean(_)) => true,
        _ => false,
    };
    if !fits {
        let expected = schema.expected();
        let message = format!("`{}` is {} {found}, expected {expected}", last(path), article(found));
        places.at_value(Code::WrongType, path, message, schema.example(path));
    }
    fits
}

fn check_array<'i>(schema: &Schema<'_>, array: &mut DeArray<'i>, path: &str, places: &mut Places<'_>) {
    let items = schema.items();
    let mut kept = DeArray::new();
    for mut item in std::mem::replace(array, DeArray::new()) {
        // Counted without those that were taken out, as whoever resolves the rest will count.
        let below = format!("{path}[{}]", kept.len());
        places.remember(&below, None, item.span());
        if check_value(&items, &mut item, &below, places) {
            kept.push(item);
        }
    }
    *array = kept;
}

/// Strings that only have a few values.
fn check_choice(schema: &Schema<'_>, text: &str, path: &str, places: &mut Places<'_>) -> bool {
    let choices = schema.choices();
    if choices.is_empty() || choices.contains(&text) {
        return true;
    }
    let message = format!("`{}` is {text:?}, expected {}", last(path), choices.join(" or "));
    let suggestion = did_you_mean(text, choices.iter().copied()).or_else(|| schema.example(path));
    places.at_value(Code::BadValue, path, message, suggestion);
    false
}

fn whole(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The last key of a path.
fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, key)| key)
}

/// One level of the schema.
pub(super) struct Schema<'a>(pub(super) &'a Value);

impl<'a> Schema<'a> {
    fn key(&self, key: &str) -> Option<Schema<'a>> {
        let named = self.0.get("properties").and_then(|properties| properties.get(key));
        named.or_else(|| self.0.get("additionalProperties").filter(|any| any.is_object())).map(Schema)
    }

    fn keys(&self) -> impl Iterator<Item = &'a str> {
        let properties = self.0.get("properties").and_then(Value::as_object);
        properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str))
    }

    fn items(&self) -> Schema<'a> {
        Schema(self.0.get("items").unwrap_or(&Value::Null))
    }

    fn kind(&self) -> &'a str {
        let kind = self.0.get("type").and_then(Value::as_str);
        kind.unwrap_or(if self.0.get("oneOf").is_some() { "string" } else { "" })
    }

    fn choices(&self) -> Vec<&'a str> {
        let list = |key| self.0.get(key).and_then(Value::as_array).into_iter().flatten();
        let consts = list("oneOf").filter_map(|choice| choice.get("const"));
        list("enum").chain(consts).filter_map(Value::as_str).collect()
    }

    fn expected(&self) -> &'static str {
        match self.kind() {
            "object" => "a table",
            "array" => "an array",
            "string" => "a string",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "true or false",
            _ => "something else",
        }
    }

    fn example(&self, path: &str) -> Option<String> {
        let example = self.0.get("examples").and_then(Value::as_array)?.first()?;
        Some(format!("write it as `{} = {example}`", last(path)))
    }
}
