//! How connections are made, and what each of them is told first.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    ConnectOptions as _, Executor as _, MySqlConnection, MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};

use super::failure;
use crate::error::{Error, Result};

/// How long anybody waits for a connection before that is an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// A statement sees what was committed when it began, text that does not fit is an error, and nothing waits long for a
/// lock. Only MariaDB can end a session that was cut off in a transaction, so that it holds up no takeover for longer.
///
/// A chunk is read as one row of columns, each as long as it may be.
///
/// What a commit survives is the server's own setting, `innodb_flush_log_at_trx_commit`: a session cannot ask for less,
/// so `relaxed` durability is as full here as the server is.
const SESSION: &str = "
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', SESSION autocommit = 1,
        SESSION innodb_lock_wait_timeout = 3, SESSION time_zone = '+00:00',
        SESSION group_concat_max_len = 1073741824
        /*M!100300 , SESSION idle_transaction_timeout = 5 */ /*!80000 , SESSION information_schema_stats_expiry = 0 */;
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

const READ_ONLY: &str = "SET SESSION TRANSACTION READ ONLY";

/// What commits are made with, and what chunks are chosen with.
const PROBE: &str = "
    SELECT COUNT(*) FROM (
        SELECT SUM(n) OVER (ORDER BY n) AS total FROM JSON_TABLE('[1]', '$[*]' COLUMNS (n BIGINT PATH '$')) AS given
    ) AS counted";

const READ_ONLY_VARIABLES: &str =
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', 'innodb_read_only')";

/// The number of `you have an error in your SQL syntax`.
const SYNTAX: u16 = 1064;
const NEEDED: &str = "JSON_TABLE is needed, and window functions: MariaDB 10.6, or MySQL 8";

/// The server and the database of a url, and how errors name them: without the password.
pub(super) fn options(url: &str) -> Result<(MySqlConnectOptions, String)> {
    let help = "write it as `mysql://user:password@host:3306/database`";
    let rest = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let connect = MySqlConnectOptions::from_str(&format!("mysql://{rest}")).map_err(|error| {
        Error::invalid("this is not the url of a MySQL or MariaDB database").because(error).help(help)
    })?;
    let Some(database) = connect.get_database() else {
        return Err(Error::invalid("the url of a MySQL or MariaDB server names no database").help(help));
    };
    let name = format!("mysql://{}:{}/{database}", connect.get_host(), connect.get_port());
    // Times are numbers here, and SESSION says the rest.
    let connect = connect.timezone(None).pipes_as_concat(false).no_engine_substitution(false);
    Ok((connect.disable_statement_logging(), name))
}

/// A pool. Connections are not asked whether they live before they are lent: a dead one is an error that is tried again.
pub(super) fn pool(connect: &MySqlConnectOptions, most: u32, read_only: bool) -> MySqlPool {
    let pool =
        MySqlPoolOptions::new().max_connections(most).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
    let pool = pool.after_connect(move |connection, _| Box::pin(begin_session(connection, read_only)));
    pool.connect_lazy_with(connect.clone())
}

/// Tells a new connection what holds for all its statements.
pub(super) async fn begin_session(connection: &mut MySqlConnection, read_only: bool) -> sqlx::Result<()> {
    connection.execute(sqlx::raw_sql(SESSION)).await?;
    if read_only {
        connection.execute(sqlx::raw_sql(READ_ONLY)).await?;
    }
    Ok(())
}

/// Refuses a server that is too old.
pub(super) async fn refuse_old(connection: &mut MySqlConnection, name: &str) -> Result<()> {
    let probed = sqlx::query_scalar(PROBE).fetch_one(connection).await;
    probed.map(|_: i64| ()).map_err(|error| match failure::number(&error) {
        Some(SYNTAX) => {
            Error::unavailable(format!("open database {name}: its server is too old")).because(error).help(NEEDED)
        }
        _ => failure::mysql(name, "open", error),
    })
}

/// Refuses a server on which nothing can be written. Some users could write even there, to a replica that goes its own
/// way from then on.
pub(super) async fn refuse_read_only(connection: &mut MySqlConnection, name: &str) -> Result<()> {
    let variables: sqlx::Result<Vec<(String, String)>> =
        sqlx::query_as(READ_ONLY_VARIABLES).fetch_all(connection).await;
    let variables = variables.map_err(|error| failure::mysql(name, "open", error))?;
    match variables.into_iter().find(|(_, value)| value != "OFF") {
        Some((variable, _)) => Err(Error::unavailable(format!("open database {name}: it is read-only ({variable})"))
            .help("positions, state and streams are written on the primary: name that in the url")),
        None => Ok(()),
    }
}
