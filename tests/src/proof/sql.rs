//! What a database on a server costs: replays beside the plain reading, commits of many shards, and how long an event
//! takes from its commit to its handler. Both sides are CPU of this process; the server's own is not counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, future::join_all};
use sqlx::{Connection as _, PgConnection, Row as _};
use tendon::{
    backend::{Database, Durability, Options, Order},
    changes::Changes,
    clock::Clock,
    committer::Committer,
    event::{Cursor, NewEvent},
    source::Until,
    store::{Commit, Move, Owner, Position, Store},
    tenant::{ConsumerId, ShardId},
};

use super::{
    Scale,
    replay::{Case, Cost, event, fill, measure, stream},
    report::{Report, cpu_time},
};
use crate::{
    bench::{self, Bench},
    place::emit_new,
    servers::PostgresDatabase,
};

/// Events that are appended one by one while a reader waits, and the time between two.
const LATENCY_EVENTS: u64 = 5_000;
const LATENCY_PAUSE: Duration = Duration::from_millis(2);
/// Shards that commit small commits.
const SHARDS: u32 = 64;

/// Runs all of it.
pub(super) fn prove(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        replay(report).await?;
        if report.is_whole() {
            shards(report).await?;
            latency(report).await?;
        }
        Ok(())
    })
}

async fn replay(report: &mut Report) -> Result<()> {
    let (events, rounds) = if report.scale() == Scale::Full { (300_000, 5) } else { (10_000, 1) };
    let server = PostgresDatabase::fresh().await;
    let url = server.url();
    fill(&url, events, report.seed()).await?;
    let bench = Bench::new().await?;
    let case = |what, factory| Case { what, factory, durability: Durability::Full };
    let cases = [
        case("PostgreSQL: guest, parses JSON", bench.guest("parse").await?),
        case("PostgreSQL: guest, parses, one get and set", bench.guest("count").await?),
    ];
    let plain = async || plain_loop(&url, events).await;
    let measured = measure(report, &url, (events, rounds), &cases, plain).await?;
    let figures = [
        ("PostgreSQL: replay through a guest that parses", 2.0, measured.ratio(cases[0].what)),
        ("PostgreSQL: replay with one state read and write", 3.5, measured.ratio(cases[1].what)),
    ];
    for (what, target, measured) in figures {
        if let Some(measured) = measured {
            report.at_most(what, "U", target, measured);
        }
    }
    Ok(())
}

/// The yardstick: what anybody would write to read these rows.
async fn plain_loop(url: &str, events: u64) -> Result<Cost> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT id, type, foreign_id, timestamp, metadata, headers FROM tendon.events_1
        WHERE id > $1 ORDER BY id LIMIT 256";
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
                row.try_get::<Vec<u8>, _>(2)?,
                row.try_get::<i64, _>(3)?,
                row.try_get::<Vec<u8>, _>(4)?,
                row.try_get::<Option<String>, _>(5)?,
            ));
        }
        seen += rows.len() as u64;
    }
    ensure!(seen == events, "the plain loop saw {seen} of {events} events");
    let cost = Cost::since(began, cpu, events);
    connection.close().await?;
    Ok(cost)
}

/// Many shards with a small commit each, merged by one committer, and the same on eight connections that commit singly.
async fn shards(report: &mut Report) -> Result<()> {
    let server = PostgresDatabase::fresh().await;
    let database = Database::open(&server.url(), Options::default()).await?;
    let store = database.store();
    let rounds = if report.scale() == Scale::Full { 200 } else { 5 };
    let committer = Committer::start(store.clone());
    let began = Instant::now();
    let merged = (0..SHARDS).map(|index| {
        let (store, committer) = (store.clone(), committer.clone());
        tokio::spawn(async move {
            let mut position = claim(&*store, "merged", index).await?;
            for n in 0..rounds {
                position = committer.commit(step(&position, n)).await?.position.unwrap();
            }
            anyhow::Ok(position.revision.0)
        })
    });
    let merged = rate(began, join_all(merged).await)?;
    let began = Instant::now();
    let alone = (0..8).map(|index| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut position = claim(&*store, "alone", index).await?;
            for n in 0..rounds {
                position = store.commit(&[step(&position, n)]).await.remove(0)?.position.unwrap();
            }
            anyhow::Ok(position.revision.0)
        })
    });
    let alone = rate(began, join_all(alone).await)?;
    report.beside("PostgreSQL: shard commits/s, 64 shards merged, 8 singly", format!("{merged:.0}, {alone:.0}"));
    report.at_most("PostgreSQL: commits singly, of the merged ones", "", 0.25, alone / merged);
    database.close().await;
    Ok(())
}

fn rate(began: Instant, commits: Vec<Result<Result<u64>, tokio::task::JoinError>>) -> Result<f64> {
    let seconds = began.elapsed().as_secs_f64();
    let commits: Result<Vec<u64>> = commits.into_iter().map(|commits| commits?).collect();
    Ok(commits?.iter().sum::<u64>() as f64 / seconds)
}

async fn claim(store: &dyn Store, consumer: &str, index: u32) -> Result<Position> {
    let shard = ShardId {
        consumer: ConsumerId { name: format!("{consumer}-{index}").parse()?, ..bench::consumer("x") },
        index,
    };
    Ok(store.claim(&shard, &Owner("bench".into())).await?)
}

/// A cursor and one key.
fn step(from: &Position, n: u32) -> Commit {
    let to = Position { cursor: Cursor(n.to_string().into()), ..from.clone() };
    let changes = crate::state_suite::writes(&from.shard.consumer, "", [("k", Some(n.to_string().as_bytes()))]);
    Commit { r#move: Some(Move { from: from.clone(), to, takes_fence: false }), changes, ..Commit::default() }
}

/// From the answer to the append of an event until a reader on connections of its own has it: what another process's
/// events take.
async fn latency(report: &mut Report) -> Result<()> {
    let server = PostgresDatabase::fresh().await;
    let writer = Database::open(&server.url(), Options::default()).await?;
    let reader = Database::open(&server.url(), Options::default()).await?;
    writer.create_stream(&stream(), Order::Native).await?;
    let mut chunks = reader.source(&stream()).await?.stream(Cursor::START, Until::Forever).await?;
    let events = if report.scale() == Scale::Full { LATENCY_EVENTS } else { 200 };
    let committed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let append = {
        let committed = committed.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(LATENCY_PAUSE);
            for n in 0..events {
                tick.tick().await;
                let event = NewEvent { timestamp: Clock::System.now(), ..event(n).event };
                let changes = Changes { emits: vec![emit_new(&stream(), event)], ..Changes::default() };
                writer.store().commit(&[Commit { changes, ..Commit::default() }]).await.remove(0)?;
                committed.lock().unwrap().push(Instant::now());
            }
            anyhow::Ok(())
        })
    };
    let mut seen = Vec::new();
    while (seen.len() as u64) < events {
        let Some(chunk) = chunks.next().await else { break };
        let events = chunk?.events.len();
        seen.extend(std::iter::repeat_n(Instant::now(), events));
    }
    append.await??;
    let committed = std::mem::take(&mut *committed.lock().unwrap());
    let mut waits: Vec<Duration> =
        committed.iter().zip(&seen).map(|(committed, seen)| seen.saturating_duration_since(*committed)).collect();
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    report.count("PostgreSQL: events read of those appended at 500/s", events, seen.len() as u64);
    report.at_most("PostgreSQL: append to read, p50", "ms", 5.0, at(0.5));
    report.at_most("PostgreSQL: append to read, p99", "ms", 25.0, at(0.99));
    Ok(())
}
