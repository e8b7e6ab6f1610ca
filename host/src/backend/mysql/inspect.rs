//! Looks whether a foreign table is one that can be read without losing a row, and says what is wrong with it.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;

use super::{
    Mysql,
    foreign::{ForeignLog, quote},
    holders::{Holders, method, several_servers, what_to_grant},
};
use crate::{
    backend::foreign::{Findings, ForeignTable, Kind, Shape, Tracked},
    error::{Error, Result},
    tenant::StreamId,
};

const TABLE: &str = "
    SELECT CONVERT(table_schema USING utf8mb4), CONVERT(COALESCE(engine, 'none') USING utf8mb4),
        CONVERT(table_type USING utf8mb4)
    FROM information_schema.tables WHERE table_schema = COALESCE(?, DATABASE()) AND table_name = ?";

const COLUMNS: &str = "
    SELECT CONVERT(column_name USING utf8mb4), CONVERT(data_type USING utf8mb4)
    FROM information_schema.columns WHERE table_schema = ? AND table_name = ?";

/// The column that draws its value, where that is unique by itself.
const DRAWN: &str = "
    SELECT CONVERT(column_name USING utf8mb4) FROM information_schema.columns
    WHERE table_schema = ? AND table_name = ? AND extra LIKE '%auto_increment%' AND column_key IN ('PRI', 'UNI')";

impl Mysql {
    /// A foreign table as a log; an error where it cannot be one.
    pub(super) async fn foreign(&self, stream: &StreamId, table: &ForeignTable) -> Result<ForeignLog> {
        let (findings, found) = self.inspect(table).await?;
        findings.refuse(table)?;
        let Found { shape, holders, schema } =
            found.ok_or_else(|| Error::corrupt(format!("table {table} has no fault and no shape")))?;
        Ok(ForeignLog::new(Tracked::new(stream.clone(), table.clone(), shape), holders, &schema))
    }

    /// What there is to say about a table, and what was found where nothing is wrong.
    pub(in crate::backend) async fn inspect(&self, table: &ForeignTable) -> Result<(Findings, Option<Found>)> {
        let mut findings = Findings::default();
        let failed = |error| self.failed("look at a table of", error);
        let about = sqlx::query_as(TABLE).bind(table.schema.as_ref().map(|schema| schema.as_str()));
        let about: Option<(String, String, String)> =
            about.bind(table.name.as_str()).fetch_optional(&self.0.readers).await.map_err(failed)?;
        let Some((schema, engine, r#type)) = about else {
            let help =
                "`tendon stream create` makes it; or GRANT SELECT on it TO this user; or say with `schema` where it is";
            findings.problem("it does not exist, or this user may not read it", help);
            return Ok((findings, None));
        };
        if r#type != "BASE TABLE" {
            findings.problem("it is no table", "name the table itself: who writes to a view cannot be seen");
        } else if !engine.eq_ignore_ascii_case("innodb") {
            findings.problem(format!("its engine is {engine}"), format!("ALTER TABLE {table} ENGINE = InnoDB"));
        }
        let shape = self.shape(table, &schema, &mut findings).await?;
        if let Some(reason) = several_servers(self).await? {
            findings.problem(reason, "read from a server that alone is written to");
        }
        let Some(shape) = shape.filter(|_| findings.are_ok()) else { return Ok((findings, None)) };
        let lowest = format!("SELECT CAST(MIN({}) AS SIGNED) FROM `{schema}`.{}", quote(&table.id), quote(&table.name));
        let lowest = sqlx::query_scalar(AssertSqlSafe(lowest)).fetch_one(&self.0.readers).await.map_err(failed)?;
        findings.lowest_id(lowest);
        findings.ok("its columns are those of events");
        match method(self, &schema, table.name.as_str()).await {
            Ok(method) => {
                findings.ok(method.says());
                let holders = Holders::new(method, &schema, table.name.as_str());
                Ok((findings, Some(Found { shape, holders, schema })))
            }
            Err(reasons) => {
                let what = format!("nobody tells this user who writes to it ({reasons})");
                findings.problem(what, what_to_grant(&schema, table.name.as_str()));
                Ok((findings, None))
            }
        }
    }

    /// Makes a table of reflex's reference schema under the names of another one, unless it is there.
    pub(in crate::backend) async fn create_table(&self, table: &ForeignTable) -> Result<()> {
        self.may_write("make a table in")?;
        let ForeignTable { id, foreign_id, timestamp, r#type, .. } = table;
        let [id, foreign_id, timestamp, r#type] = [id, foreign_id, timestamp, r#type].map(quote);
        let metadata = table.metadata.as_ref().map_or_else(|| "`metadata`".to_owned(), quote);
        let trace = table.trace.as_ref().map_or_else(|| "`trace`".to_owned(), quote);
        let schema = table.schema.as_ref().map(|schema| quote(schema) + ".").unwrap_or_default();
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {schema}{} (
                {id} BIGINT AUTO_INCREMENT PRIMARY KEY, {foreign_id} VARCHAR(255) NOT NULL, {timestamp} DATETIME(6) NOT NULL,
                {type} INT NOT NULL, {metadata} LONGBLOB, {trace} BLOB
            ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin",
            quote(&table.name)
        );
        let made = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0.writers).await;
        made.map(drop).map_err(|error| self.failed("make a table in", error))
    }

    async fn shape(&self, table: &ForeignTable, schema: &str, findings: &mut Findings) -> Result<Option<Shape>> {
        let failed = |error| self.failed("look at a table of", error);
        let columns = sqlx::query_as(COLUMNS).bind(schema).bind(table.name.as_str());
        let columns: Vec<(String, String)> = columns.fetch_all(&self.0.readers).await.map_err(failed)?;
        let types: HashMap<String, String> = columns.into_iter().collect();
        let shape = findings.shape(table, &types, kind);
        let drawn = sqlx::query_scalar(DRAWN).bind(schema).bind(table.name.as_str());
        let drawn: Option<String> = drawn.fetch_optional(&self.0.readers).await.map_err(failed)?;
        if types.contains_key(table.id.as_str()) && drawn.as_deref() != Some(table.id.as_str()) {
            findings.problem(
                format!("`{}` is no AUTO_INCREMENT column with a unique index", table.id),
                "ids that are drawn in another way cannot be read safely",
            );
        }
        Ok(shape)
    }
}

/// What a log needs to know of a table.
pub(in crate::backend) struct Found {
    shape: Shape,
    holders: Holders,
    schema: String,
}

fn kind(r#type: &str) -> Option<Kind> {
    Some(match r#type {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Kind::Number,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "json" | "uuid" => Kind::Text,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes,
        "datetime" => Kind::Time,
        "timestamp" => Kind::Moment,
        _ => return None,
    })
}
