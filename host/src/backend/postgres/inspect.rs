//! Looks whether a foreign table is one that can be read without losing a row, and says what is wrong with it.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;

use super::{
    Postgres,
    foreign::{ForeignLog, quote},
};
use crate::{
    backend::foreign::{Findings, ForeignTable, Kind, Shape, Tracked},
    error::{Error, Result},
    tenant::{Identifier, StreamId},
};

const COLUMNS: &str = "
    SELECT a.attname::text, t.typname::text FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped";

/// Whether it is a table that can be locked, this user may read it and insert into it, and an index leads with the id.
const TABLE: &str = "
    SELECT relkind IN ('r', 'p'), has_table_privilege(oid, 'SELECT'), has_table_privilege(oid, 'INSERT'),
        EXISTS (
            SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
            WHERE indrelid = pg_class.oid AND attname = $2 AND indisunique AND indisvalid
        )
    FROM pg_class WHERE oid = $1::text::regclass";

/// The sequence that a column draws from: its own, or the one that its default names.
const SEQUENCE: &str = "
    SELECT coalesce(
        pg_get_serial_sequence($1, $2),
        (SELECT c.oid::regclass::text FROM pg_attrdef AS d
            JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            JOIN pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
            JOIN pg_class AS c ON c.oid = p.refobjid AND c.relkind = 'S'
            WHERE d.adrelid = $1::text::regclass AND a.attname = $2)
    )";

/// How many ids a session takes at once, and the step.
const DRAWS: &str = "SELECT seqcache, seqincrement FROM pg_sequence WHERE seqrelid = $1::text::regclass";

impl Postgres {
    /// A foreign table as a log; an error where it cannot be one.
    pub(super) async fn foreign(&self, stream: &StreamId, table: &ForeignTable, number: i64) -> Result<ForeignLog> {
        let (findings, found) = self.inspect(table).await?;
        findings.refuse(table)?;
        let Found { shape, name, sequence } =
            found.ok_or_else(|| Error::corrupt(format!("table {table} has no fault and no shape")))?;
        Ok(ForeignLog::new(Tracked::new(stream.clone(), table.clone(), shape), number, name, sequence))
    }

    /// What there is to say about a table, and what was found where nothing is wrong.
    pub(in crate::backend) async fn inspect(&self, table: &ForeignTable) -> Result<(Findings, Option<Found>)> {
        let mut findings = Findings::default();
        let readers = &self.0.readers;
        let failed = |error| self.failed("look at a table of", error);
        let name = qualified(table, &table.name);
        if !exists(self, &name).await? {
            findings.problem("it does not exist", "`tendon stream create` makes it; or say with `schema` where it is");
            return Ok((findings, None));
        }
        let columns: Vec<(String, String)> =
            sqlx::query_as(COLUMNS).bind(&name).fetch_all(readers).await.map_err(failed)?;
        let types: HashMap<String, String> = columns.into_iter().collect();
        let shape = findings.shape(table, &types, kind);
        let about: (bool, bool, bool, bool) =
            sqlx::query_as(TABLE).bind(&name).bind(table.id.as_str()).fetch_one(readers).await.map_err(failed)?;
        let (is_table, may_read, may_insert, is_indexed) = about;
        if !is_table {
            findings.problem("it is no table", "name the table itself: who writes to a view cannot be seen");
        }
        if !may_read {
            findings.problem("this user may not read it", format!("GRANT SELECT ON {table} TO this user"));
        }
        if !is_indexed {
            let help = format!("ALTER TABLE {table} ADD PRIMARY KEY ({})", table.id);
            findings.problem(format!("no unique index leads with `{}`", table.id), help);
        }
        let sequence = self.sequence(table, &name, &mut findings).await?;
        let Some((shape, sequence)) = shape.zip(sequence).filter(|_| findings.are_ok()) else {
            return Ok((findings, None));
        };
        let lowest = format!("SELECT min({})::int8 FROM {name}", quote(&table.id));
        let lowest = sqlx::query_scalar(AssertSqlSafe(lowest)).fetch_one(readers).await.map_err(failed)?;
        findings.lowest_id(lowest);
        findings.ok("its columns are those of events");
        findings.ok(format!("ids come from {sequence}; holes are final once those end that hold its locks (pg_locks)"));
        findings.ok(if may_insert { "this user may insert into it" } else { "this user may only read it" });
        Ok((findings, Some(Found { shape, name, sequence })))
    }

    /// Makes a table of reflex's reference schema under the names of another one, unless it is there.
    pub(in crate::backend) async fn create_table(&self, table: &ForeignTable) -> Result<()> {
        self.may_write("make a table in")?;
        let ForeignTable { id, foreign_id, timestamp, r#type, .. } = table;
        let [id, foreign_id, timestamp, r#type] = [id, foreign_id, timestamp, r#type].map(quote);
        let metadata = table.metadata.as_ref().map_or_else(|| "metadata".to_owned(), quote);
        let trace = table.trace.as_ref().map_or_else(|| "trace".to_owned(), quote);
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (
                {id} bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, {foreign_id} text NOT NULL,
                {timestamp} timestamptz NOT NULL, {type} integer NOT NULL, {metadata} bytea, {trace} bytea
            )",
            qualified(table, &table.name)
        );
        let made = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0.writers).await;
        made.map(drop).map_err(|error| self.failed("make a table in", error))
    }

    async fn sequence(&self, table: &ForeignTable, name: &str, findings: &mut Findings) -> Result<Option<String>> {
        let readers = &self.0.readers;
        let failed = |error| self.failed("look at a sequence of", error);
        let sequence = match &table.sequence {
            Some(sequence) => {
                let sequence = qualified(table, sequence);
                exists(self, &sequence).await?.then_some(sequence)
            }
            None if !findings.are_ok() => return Ok(None),
            None => {
                let found = sqlx::query_scalar(SEQUENCE).bind(name).bind(table.id.as_str());
                found.fetch_one(readers).await.map_err(failed)?
            }
        };
        let draws: Option<(i64, i64)> = match &sequence {
            Some(sequence) => sqlx::query_as(DRAWS).bind(sequence).fetch_optional(readers).await.map_err(failed)?,
            None => None,
        };
        match draws {
            Some((1, 1..)) => return Ok(sequence),
            Some((cache, _)) if cache > 1 => findings.problem(
                format!(
                    "its sequence gives each session {cache} ids at once, so that nobody can tell which are yet to come"
                ),
                format!("ALTER SEQUENCE {} CACHE 1", sequence.unwrap_or_default()),
            ),
            Some(_) => findings.problem("its sequence counts down", "ids must rise"),
            None => findings.problem(
                format!("nobody knows where the ids in `{}` come from", table.id),
                "say with `sequence = \"…\"` which sequence; ids that are drawn in another way cannot be read safely",
            ),
        }
        Ok(None)
    }
}

/// What a log needs to know of a table.
pub(in crate::backend) struct Found {
    shape: Shape,
    name: String,
    sequence: String,
}

async fn exists(postgres: &Postgres, name: &str) -> Result<bool> {
    let exists = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(name).fetch_one(&postgres.0.readers);
    exists.await.map_err(|error| postgres.failed("look for a table in", error))
}

/// A name of the table's schema.
pub(super) fn qualified(table: &ForeignTable, name: &Identifier) -> String {
    match &table.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(name)),
        None => quote(name),
    }
}

fn kind(r#type: &str) -> Option<Kind> {
    Some(match r#type {
        "int2" | "int4" | "int8" => Kind::Number,
        "text" | "varchar" | "bpchar" | "uuid" | "json" | "jsonb" => Kind::Text,
        "bytea" => Kind::Bytes,
        "timestamp" => Kind::Time,
        "timestamptz" => Kind::Moment,
        _ => return None,
    })
}
