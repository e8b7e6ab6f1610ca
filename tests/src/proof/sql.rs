//! What databases on servers cost and how fast they are: replays beside the plain reading of the same rows, commits of many
//! shards, and how long an event takes from its commit to its handler. CPU is that of this process; the server's own is not
//! counted.

use anyhow::{Result, ensure};
use sqlx::{Connection as _, MySqlConnection, PgConnection};
use tendon::backend::{CHUNK_EVENTS_MAX, Durability};

use super::{
    Scale, latency,
    replay::{Case, Cost, Replay, fill, measure},
    report::Report,
    shards, yardstick,
};
use crate::{
    bench::Bench,
    both::{Server, named},
    servers::{has_mariadb, has_postgres},
};

/// The foreign table of the replays.
const FOREIGN: &str = "events";

/// Rows of a page of the plain loop: the yardstick is that of `spine`.
const PAGE: i64 = 256;
/// And as many as a chunk of ours has events, to be shown beside.
const BIG_PAGE: i64 = CHUNK_EVENTS_MAX as i64;

/// Runs all of it, on each server that can be had.
pub(super) fn prove(report: &mut Report) -> Result<()> {
    ensure!(has_mariadb() || has_postgres(), "neither MariaDB nor PostgreSQL is installed");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        for server in Server::both().await {
            replay(report, &server).await?;
        }
        if !report.is_whole() {
            return Ok(());
        }
        for server in Server::both().await {
            shards::run(report, &server).await?;
            latency::run(report, &server).await?;
        }
        Ok(())
    })
}

async fn replay(report: &mut Report, server: &Server) -> Result<()> {
    let (events, rounds) = if report.scale() == Scale::Full { (300_000, 5) } else { (5_000, 1) };
    let url = server.url();
    fill(&url, events, report.seed()).await?;
    copy_to_foreign(server).await;
    let bench = Bench::new().await?;
    let name = server.name();
    let case = |what, factory| Case {
        what: format!("{name}: guest, {what}"),
        factory,
        durability: Durability::Full,
        table: None,
    };
    let cases = [
        case("parses JSON", bench.guest("parse").await?),
        case("parses, one get and set", bench.guest("count").await?),
        case("batches, parses JSON", bench.batch_guest("parse").await?),
        case("batches, parses, a get and set per event", bench.batch_guest("count").await?),
        Case { table: Some(named(FOREIGN)), ..case("parses JSON, another's table", bench.guest("parse").await?) },
    ];
    let plain = async || plain_loop(server, PAGE, events).await;
    let replay = Replay { url: &url, what: &format!("{name}: "), events, rounds };
    let measured = measure(report, &replay, &cases, plain).await?;
    let big = plain_loop(server, BIG_PAGE, events).await?.least(plain_loop(server, BIG_PAGE, events).await?);
    let what = format!("{name}: the plain loop in pages of {BIG_PAGE}, CPU per event");
    report.beside(&what, format!("{:.2} µs", big.cpu_us));
    for (what, target, case) in [
        ("replay, one event a call", 2.0, &cases[0]),
        ("replay, many events a call", 2.0, &cases[2]),
        ("replay with one state read and write, one event a call", 3.5, &cases[1]),
        ("replay with one state read and write, many events a call", 3.5, &cases[3]),
    ] {
        if let Some(measured) = measured.ratio(&case.what) {
            report.at_most(&format!("{name}: {what}"), "U", target, measured);
        }
    }
    Ok(())
}

/// The same events, in a table as other programs have one.
async fn copy_to_foreign(server: &Server) {
    server.table(FOREIGN).await;
    let (text, from) = (
        server.either("CONVERT(foreign_id USING utf8mb4)", "convert_from(foreign_id, 'UTF8')"),
        server.either("tendon_events_1", "tendon.events_1"),
    );
    server
        .run(format!(
            "INSERT INTO {FOREIGN} (foreign_id, timestamp, type, metadata)
            SELECT {text}, now(), type, metadata FROM {from} ORDER BY id"
        ))
        .await;
}

async fn plain_loop(server: &Server, rows: i64, events: u64) -> Result<Cost> {
    match server {
        Server::Mysql(database) => {
            let mut connection = MySqlConnection::connect(&database.url()).await?;
            let sql = "SELECT id, type, foreign_id, timestamp, metadata, headers FROM tendon_events_1
                WHERE id > ? ORDER BY id LIMIT ?";
            let page =
                async |after: i64| Ok(sqlx::query_as(sql).bind(after).bind(rows).fetch_all(&mut connection).await?);
            yardstick::run(events, page).await
        }
        Server::Postgres(database) => {
            let mut connection = PgConnection::connect(&database.url()).await?;
            let sql = "SELECT id, type, foreign_id, timestamp, metadata, headers FROM tendon.events_1
                WHERE id > $1 ORDER BY id LIMIT $2";
            let page =
                async |after: i64| Ok(sqlx::query_as(sql).bind(after).bind(rows).fetch_all(&mut connection).await?);
            yardstick::run(events, page).await
        }
    }
}
