//! Cursors tables of reflex: where a consumer left off there, and the row that moves along so that it can go back.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::{
    Mysql,
    commit::Item,
    failure::{self, Failed},
    foreign::quote,
    text::Row,
    transaction::Transaction,
};
use crate::{
    deployment::LegacyCursor,
    error::{Error, Result},
    event::Cursor,
};

impl Mysql {
    /// The cursor of a consumer of reflex; none where it has no row.
    pub(in crate::backend) async fn legacy_cursor(&self, legacy: &LegacyCursor) -> Result<Option<Cursor>> {
        let sql = format!(
            "SELECT CONVERT({} USING utf8mb4) FROM {} WHERE {} = ?",
            quote(&legacy.cursor),
            table(legacy),
            quote(&legacy.id)
        );
        let cursor = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&legacy.name).fetch_optional(&self.0.readers).await;
        let cursor: Option<Option<String>> = cursor.map_err(|error| {
            let is_wrong = matches!(failure::number(&error), Some(1054 | 1146));
            let error = self.failed("read a cursor of reflex in", error);
            if is_wrong { Error::invalid("`legacy-cursor` does not fit the database").because(error) } else { error }
        })?;
        let Some(text) = cursor.flatten().filter(|text| !text.is_empty() && text != "0") else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(id @ 1..) => Ok(Some(Cursor(id.to_string().into()))),
            _ => Err(Error::invalid(format!("the cursor of `{}` in {} is {text:?}, no id", legacy.name, legacy.table))),
        }
    }

    /// Moves the rows of those that have one, in the order of their names: a statement for each table.
    pub(super) async fn mirror(&self, open: &mut Transaction, items: &[&Item<'_>]) -> Result<(), Failed> {
        let mut rows = BTreeMap::new();
        for commit in items.iter().map(|item| item.commit) {
            let (Some(legacy), Some(r#move)) = (&commit.mirror, &commit.r#move) else { continue };
            if r#move.to.cursor != r#move.from.cursor && !r#move.to.cursor.is_start() {
                rows.insert((table(legacy), &legacy.name), (legacy, &r#move.to.cursor));
            }
        }
        let mut statements = BTreeMap::new();
        for ((table, name), (legacy, cursor)) in rows {
            let batches = statements.entry(table).or_insert_with_key(|table| {
                let [id, place, at] = [&legacy.id, &legacy.cursor, &legacy.updated_at].map(quote);
                let end = format!(" ON DUPLICATE KEY UPDATE {place} = VALUES({place}), {at} = VALUES({at})");
                self.batches(format!("INSERT INTO {table} ({id}, {place}, {at}) VALUES "), end)
            });
            let text = |bytes: &[u8]| format!("_utf8mb4 x'{}'", hex::encode(bytes));
            let row = Row::new().raw(&text(name.as_bytes())).raw(&text(&cursor.0)).raw("now(6)");
            batches.push(&row.end())?;
        }
        for batches in statements.into_values() {
            self.send(open, "mysql mirror", batches).await?;
        }
        Ok(())
    }
}

fn table(legacy: &LegacyCursor) -> String {
    match &legacy.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&legacy.table)),
        None => quote(&legacy.table),
    }
}
