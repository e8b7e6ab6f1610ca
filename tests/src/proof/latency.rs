//! How long an event takes from its commit, in another process, to its handler.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use sqlx::Connection as _;
use tendon::{
    backend::{Database, Options, Order},
    committer::Committer,
    event::{Event, NewEvent},
    handler::Failure,
    shard::Version,
    store::Epoch,
    tailer::Tailer,
    view::View,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::{interval, sleep, timeout},
};

use super::{Scale, report::Report};
use crate::{
    bench::{self, Running},
    both::{Server, named},
    gap::Connection,
    native::{Logic, Native},
    place::{append, emit_new, event, stream},
};

/// Between two commits: 500 a second.
const PAUSE: Duration = Duration::from_millis(2);
/// Writers of the foreign table, which commit in turn.
const WRITERS: u64 = 4;
/// How long events may be on their way before they count as lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// When each event was handled, by the number in its foreign id.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<u64, SystemTime>>>);

impl Seen {
    async fn wait_for(&self, n: u64) -> Result<SystemTime> {
        let look = async {
            loop {
                if let Some(at) = self.0.lock().unwrap().get(&n) {
                    return *at;
                }
                sleep(Duration::from_micros(500)).await;
            }
        };
        timeout(PATIENCE, look).await.with_context(|| format!("event {n} was never handled"))
    }
}

impl Logic for Seen {
    async fn handle(&self, event: &Event, _view: &mut View) -> Result<(), Failure> {
        let number = event.foreign_id.rsplit('-').next().and_then(|number| number.parse().ok());
        self.0.lock().unwrap().insert(number.unwrap_or(u64::MAX), SystemTime::now());
        Ok(())
    }
}

/// On a table of ours and on another's.
pub(super) async fn run(report: &mut Report, server: &Server) -> Result<()> {
    let database = server.open().await;
    database.create_stream(&stream("own"), Order::Native).await?;
    server.table("theirs").await;
    database.adopt(&stream("theirs"), &named("theirs")).await?;
    for (table, what) in [("own", "a table of ours"), ("theirs", "another's table")] {
        let seen = Seen::default();
        let running = consumer(&database, table, seen.clone()).await?;
        steady(report, &format!("{}, {what}", server.name()), &server.url(), table, &seen).await?;
        if table == "theirs" {
            after_rollbacks(report, server, &seen).await?;
        }
        running.stop().await;
    }
    database.close().await;
    Ok(())
}

async fn consumer(database: &Database, table: &str, seen: Seen) -> Result<Running> {
    let tailer = Tailer::start(database.source(&stream(table)).await?);
    let spec = Arc::new(bench::spec(stream(table)));
    let version = Version { epoch: Epoch(0), spec, factory: Native::new("latency", seen) };
    Running::start(&format!("latency-{table}"), database, Committer::start(database.store()), tailer, version)
}

/// 500 events a second.
async fn steady(report: &mut Report, what: &str, url: &str, table: &str, seen: &Seen) -> Result<()> {
    let events: u64 = if report.scale() == Scale::Full { 5_000 } else { 200 };
    let mut writer = Command::new(std::env::current_exe()?);
    writer.args(["append", url, table, &events.to_string()]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut writer = writer.spawn()?;
    let mut lines = BufReader::new(writer.stdout.take().context("the writer has no output")?).lines();
    let mut waits = Vec::new();
    while let Some(line) = lines.next_line().await? {
        let (n, micros) = line.split_once(' ').context("the writer says what nobody understands")?;
        let committed = UNIX_EPOCH + Duration::from_micros(micros.parse()?);
        let handled = seen.wait_for(n.parse()?).await?;
        // It may be handled before its writer has the answer.
        waits.push(handled.duration_since(committed).unwrap_or_default());
    }
    ensure!(writer.wait().await?.success(), "the writer failed");
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    report.count(&format!("{what}: events handled of those committed at 500/s"), events, waits.len() as u64);
    report.at_most(&format!("{what}: commit to handler, p50"), "ms", 5.0, at(0.5));
    report.at_most(&format!("{what}: commit to handler, p99"), "ms", 25.0, at(0.99));
    Ok(())
}

/// A hole on a stream where nothing else happens, and an event behind it.
async fn after_rollbacks(report: &mut Report, server: &Server, seen: &Seen) -> Result<()> {
    let rounds = if report.scale() == Scale::Full { 20 } else { 3 };
    let mut connection = server.connect().await;
    let (mut longest, first) = (Duration::ZERO, 1_000_000);
    for n in first..first + rounds {
        // Until the reader is as slow as it gets.
        sleep(Duration::from_millis(200)).await;
        connection.run("BEGIN").await;
        connection.run(insert("theirs", 0)).await;
        connection.run("ROLLBACK").await;
        connection.run(insert("theirs", n)).await;
        let committed = SystemTime::now();
        longest = longest.max(seen.wait_for(n).await?.duration_since(committed).unwrap_or_default());
    }
    let what = format!("{}: commit to handler behind a rolled-back insert, the longest of {rounds}", server.name());
    report.at_most(&what, "ms", 100.0, longest.as_secs_f64() * 1e3);
    Ok(())
}

fn insert(table: &str, n: u64) -> String {
    format!("INSERT INTO {table} (foreign_id, timestamp, type) VALUES ('key-{n}', now(), 1)")
}

/// The other process: commits events, and says of each when that was, in microseconds since 1970.
pub fn append_events(url: &str, table: &str, events: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if table == "own" { append_to_ours(url, events).await } else { append_to_theirs(url, table, events).await }
    })
}

fn say(n: u64) -> Result<()> {
    println!("{n} {}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros());
    Ok(())
}

async fn append_to_ours(url: &str, events: u64) -> Result<()> {
    let database = Database::open(url, Options::default()).await?;
    let mut tick = interval(PAUSE);
    for n in 0..events {
        tick.tick().await;
        let event = NewEvent { foreign_id: format!("key-{n}").into(), ..event(n) };
        database.store().commit(&[append(vec![emit_new(&stream("own"), event)])]).await.remove(0)?;
        say(n)?;
    }
    database.close().await;
    Ok(())
}

async fn append_to_theirs(url: &str, table: &str, events: u64) -> Result<()> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (mut connection, table) = (connect(url).await?, table.to_owned());
        writers.push(tokio::spawn(async move {
            let mut tick = interval(PAUSE * u32::try_from(WRITERS)?);
            for n in (writer..events).step_by(WRITERS as usize) {
                tick.tick().await;
                connection.run("BEGIN").await;
                connection.run(insert(&table, n)).await;
                // What else its transaction does.
                sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
                connection.run("COMMIT").await;
                say(n)?;
            }
            anyhow::Ok(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Connection> {
    Ok(if url.starts_with("postgres") {
        Connection::Postgres(sqlx::PgConnection::connect(url).await?)
    } else {
        Connection::Mysql(sqlx::MySqlConnection::connect(url).await?)
    })
}
