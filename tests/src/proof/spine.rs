//! What the spine costs: an event through source, loop, guest and commit, beside the plain reading of the same rows.
//!
//! The yardstick U is the CPU that a plain sqlx loop needs per event to SELECT and decode the rows in chunks of 256.
//! Every figure is CPU per event of the whole process, so that ratios within one run hold on any machine.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result};
use sqlx::{Connection as _, Row as _, sqlite::SqliteConnectOptions};
use tendon::backend::Durability;

use super::{
    Scale, idle, logic, reload,
    replay::{Case, Cost, Replay, fill, measure},
    report::{Report, cpu_time},
    sweep,
};
use crate::bench::Bench;

/// Events of the full run.
const EVENTS: u64 = 1_000_000;
/// Events of a quick one.
const EVENTS_QUICK: u64 = 20_000;
/// How often each replay of the full run is made.
const ROUNDS: u64 = 5;

/// Runs all of it.
pub(super) fn prove(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(replay(report))?;
    if !report.is_whole() {
        return Ok(());
    }
    runtime.block_on(reload::run(report))?;
    runtime.block_on(idle::run(report))?;
    runtime.block_on(sweep::crashes(report))?;
    sweep::simulation(report)
}

async fn replay(report: &mut Report) -> Result<()> {
    let (events, rounds) = if report.scale() == Scale::Full { (EVENTS, ROUNDS) } else { (EVENTS_QUICK, 1) };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("spine.db");
    let url = format!("sqlite://{}", file.display());
    fill(&url, events, report.seed()).await?;
    let bench = Bench::new().await?;

    use Durability::{Full, Relaxed};
    let case = |what: &str, factory, durability| Case { what: what.to_owned(), factory, durability, table: None };
    let cases = [
        case("native closure, empty body", logic::empty(), Relaxed),
        case("guest, empty body", bench.guest("empty").await?, Relaxed),
        case("native closure, parses JSON", logic::parse(), Relaxed),
        case("guest, parses JSON", bench.guest("parse").await?, Relaxed),
        case("guest, parses, one get and set", bench.guest("count").await?, Relaxed),
        case("guest, parses JSON, durability full", bench.guest("parse").await?, Full),
        case("guest, one get and set, durability full", bench.guest("count").await?, Full),
    ];
    let plain = async || plain_loop(&file, events).await;
    let replay = Replay { url: &url, what: "", events, rounds };
    let measured = measure(report, &replay, &cases, plain).await?;
    let figures = [
        ("replay through a guest that parses", "U", 1.8, measured.ratio("guest, parses JSON")),
        (
            "the same, beyond a native closure",
            "µs",
            1.2,
            measured.beyond("guest, parses JSON", "native closure, parses JSON"),
        ),
        ("replay with one state read and write", "U", 3.0, measured.ratio("guest, parses, one get and set")),
        (
            "an empty handler call, beyond a native one",
            "µs",
            0.8,
            measured.beyond("guest, empty body", "native closure, empty body"),
        ),
    ];
    for (what, unit, target, measured) in figures {
        if let Some(measured) = measured {
            report.at_most(what, unit, target, measured);
        }
    }
    Ok(())
}

/// The yardstick: what anybody would write to read these rows.
async fn plain_loop(file: &Path, events: u64) -> Result<Cost> {
    let mut connection = sqlx::SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await?;
    let sql = r#"SELECT id, type, foreign_id, timestamp, metadata, headers FROM "events:default/bench"
        WHERE id > ? ORDER BY id LIMIT 256"#;
    let (began, cpu) = (Instant::now(), cpu_time());
    let (mut after, mut seen) = (0_i64, 0_u64);
    loop {
        let rows = sqlx::query(sql).bind(after).fetch_all(&mut connection).await?;
        let Some(last) = rows.last() else { break };
        after = last.try_get(0)?;
        for row in &rows {
            let _ = std::hint::black_box((
                row.try_get::<i64, _>(0)?,
                row.try_get::<i32, _>(1)?,
                row.try_get::<String, _>(2)?,
                row.try_get::<i64, _>(3)?,
                row.try_get::<Vec<u8>, _>(4)?,
                row.try_get::<Option<String>, _>(5)?,
            ));
        }
        seen += rows.len() as u64;
    }
    anyhow::ensure!(seen == events, "the plain loop saw {seen} of {events} events");
    let cost = Cost::since(began, cpu, events);
    connection.close().await.context("the plain loop's connection did not close")?;
    Ok(cost)
}
