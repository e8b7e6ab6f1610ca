//! What the columns of a foreign table hold, and what is wrong with them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::ForeignTable;
use crate::{
    error::{Error, Result},
    tenant::Identifier,
};

/// What a column holds, of whichever database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Kind {
    /// A whole number.
    Number,
    /// Characters.
    Text,
    /// Bytes.
    Bytes,
    /// A date and a time of day without a zone: taken for UTC.
    Time,
    /// A moment.
    Moment,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Column {
    pub(in crate::backend) name: Identifier,
    pub(in crate::backend) kind: Kind,
    /// As the server calls its type.
    pub(in crate::backend) r#type: String,
}

/// See the module. The id and the type are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Shape {
    pub(in crate::backend) foreign_id: Column,
    pub(in crate::backend) timestamp: Column,
    pub(in crate::backend) metadata: Option<Column>,
    pub(in crate::backend) trace: Option<Column>,
}

/// Something that was found out about a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it is as it must be.
    pub is_ok: bool,
    /// What was found.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub help: Option<String>,
}

/// All that was found out, in the order in which it was looked for.
#[derive(Debug, Default)]
pub(in crate::backend) struct Findings {
    pub(in crate::backend) findings: Vec<Finding>,
}

impl Findings {
    pub(in crate::backend) fn ok(&mut self, what: impl Into<String>) {
        self.findings.push(Finding { is_ok: true, what: what.into(), help: None });
    }

    pub(in crate::backend) fn problem(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding { is_ok: false, what: what.into(), help: Some(help.into()) });
    }

    /// Readers begin at 0.
    pub(in crate::backend) fn lowest_id(&mut self, lowest: Option<i64>) {
        if let Some(id) = lowest.filter(|id| *id < 1) {
            let what = format!("row {id} has an id below 1: nobody who reads from the start on sees it");
            self.problem(what, "delete it, or give it another id");
        }
    }

    /// Whether nothing is wrong so far.
    pub(in crate::backend) fn are_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.is_ok)
    }

    /// The first problem as an error, if there is one.
    pub(in crate::backend) fn refuse(&self, table: &ForeignTable) -> Result<()> {
        match self.findings.iter().find(|finding| !finding.is_ok) {
            Some(Finding { what, help, .. }) => {
                Err(Error::invalid(format!("table {table}: {what}")).help(help.clone().unwrap_or_default()))
            }
            None => Ok(()),
        }
    }

    /// The shape of a table with these columns, by their types; none where one is missing or of another type.
    pub(in crate::backend) fn shape(
        &mut self,
        table: &ForeignTable,
        types: &HashMap<String, String>,
        kind: impl Fn(&str) -> Option<Kind>,
    ) -> Option<Shape> {
        let mut look = Look { findings: self, types, kind };
        let id = look.column("id", &table.id, &[Kind::Number]);
        let foreign_id = look.column("foreign-id", &table.foreign_id, &[Kind::Number, Kind::Text]);
        let timestamp = look.column("timestamp", &table.timestamp, &[Kind::Time, Kind::Moment]);
        let r#type = look.column("type", &table.r#type, &[Kind::Number]);
        let metadata = look.optional("metadata", table.metadata.as_ref(), &[Kind::Bytes, Kind::Text]);
        let trace = look.optional("trace", table.trace.as_ref(), &[Kind::Bytes]);
        (id?, r#type?);
        Some(Shape { foreign_id: foreign_id?, timestamp: timestamp?, metadata: metadata?, trace: trace? })
    }
}

struct Look<'a, K> {
    findings: &'a mut Findings,
    types: &'a HashMap<String, String>,
    kind: K,
}

impl<K: Fn(&str) -> Option<Kind>> Look<'_, K> {
    fn column(&mut self, key: &str, name: &Identifier, wanted: &[Kind]) -> Option<Column> {
        let Some(r#type) = self.types.get(name.as_str()) else {
            let mut known: Vec<&str> = self.types.keys().map(String::as_str).collect();
            known.sort_unstable();
            self.findings.problem(
                format!("it has no column `{name}`"),
                format!("say with `{key} = \"…\"` what it is called; its columns are {}", known.join(", ")),
            );
            return None;
        };
        let kind = (self.kind)(r#type).filter(|kind| wanted.contains(kind));
        if kind.is_none() {
            let wanted: Vec<_> = wanted.iter().map(|kind| kind.word()).collect();
            self.findings.problem(
                format!("column `{name}` is of type {type}, expected {}", wanted.join(" or ")),
                format!("say with `{key} = \"…\"` which other column it is"),
            );
        }
        Some(Column { name: name.clone(), kind: kind?, r#type: r#type.clone() })
    }

    /// A column that there need not be, unless it is named. None where it is wrong.
    fn optional(&mut self, key: &'static str, name: Option<&Identifier>, wanted: &[Kind]) -> Option<Option<Column>> {
        let usual = Identifier::plain(key);
        let name = match name {
            Some(name) => name,
            None if self.types.contains_key(key) => &usual,
            None => return Some(None),
        };
        self.column(key, name, wanted).map(Some)
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Number => "a whole number",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::Time => "a date and time",
            Self::Moment => "a timestamp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(r#type: &str) -> Option<Kind> {
        match r#type {
            "bigint" => Some(Kind::Number),
            "text" => Some(Kind::Text),
            "blob" => Some(Kind::Bytes),
            "datetime" => Some(Kind::Time),
            _ => None,
        }
    }

    fn types(columns: &[(&str, &str)]) -> HashMap<String, String> {
        columns.iter().map(|(name, r#type)| ((*name).to_owned(), (*r#type).to_owned())).collect()
    }

    #[test]
    fn a_table_of_reflex_has_a_shape() {
        let table = ForeignTable::named("events".parse().unwrap());
        let mut columns = vec![("id", "bigint"), ("foreign_id", "text"), ("timestamp", "datetime"), ("type", "bigint")];
        let mut findings = Findings::default();
        let bare = findings.shape(&table, &types(&columns), kind).unwrap();
        assert_eq!((bare.foreign_id.kind, bare.metadata, bare.trace), (Kind::Text, None, None));
        columns.extend([("metadata", "blob"), ("trace", "blob")]);
        let full = findings.shape(&table, &types(&columns), kind).unwrap();
        assert_eq!(full.metadata.unwrap().kind, Kind::Bytes);
        assert_eq!(full.trace.unwrap().name.as_str(), "trace");
        findings.refuse(&table).unwrap();
    }

    #[test]
    fn every_column_that_is_wrong_is_named_with_its_key() {
        let table = ForeignTable { trace: Some("span".parse().unwrap()), ..ForeignTable::named("e".parse().unwrap()) };
        let columns = [("id", "float"), ("fid", "text"), ("timestamp", "datetime"), ("type", "bigint")];
        let mut findings = Findings::default();
        assert_eq!(findings.shape(&table, &types(&columns), kind), None);
        let said: Vec<_> = findings.findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            said,
            [
                "column `id` is of type float, expected a whole number",
                "it has no column `foreign_id`",
                "it has no column `span`"
            ]
        );
        let error = findings.refuse(&table).unwrap_err();
        assert_eq!(error.to_string(), "table e: column `id` is of type float, expected a whole number");
    }
}
