//! Many shards with a small commit each, merged by one committer, beside connections that commit singly.

use std::time::Instant;

use anyhow::Result;
use futures_util::future::join_all;
use tendon::{
    committer::Committer,
    event::Cursor,
    owner::Owner,
    store::{Commit, Move, Position, Store},
    tenant::{ConsumerId, ShardId},
};
use tokio::task::JoinHandle;

use super::{Scale, report::Report};
use crate::{bench, both::Server, state_suite::writes};

/// Shards whose commits are merged.
const SHARDS: u32 = 64;
/// Connections that commit singly, each of a pool of its own.
const ALONE: u32 = 8;

pub(super) async fn run(report: &mut Report, server: &Server) -> Result<()> {
    let rounds = if report.scale() == Scale::Full { 200 } else { 5 };
    let database = server.open().await;
    let store = database.store();
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
    let merged = total(merged).await?;
    let merged_rate = merged as f64 / began.elapsed().as_secs_f64();
    database.close().await;

    let hosts = join_all((0..ALONE).map(|_| server.open())).await;
    let began = Instant::now();
    let alone = (0..).zip(&hosts).map(|(index, host)| {
        let store = host.store();
        tokio::spawn(async move {
            let mut position = claim(&*store, "alone", index).await?;
            for n in 0..rounds {
                position = store.commit(&[step(&position, n)]).await.remove(0)?.position.unwrap();
            }
            anyhow::Ok(position.revision.0)
        })
    });
    let alone = total(alone).await?;
    let alone_rate = alone as f64 / began.elapsed().as_secs_f64();
    for host in hosts {
        host.close().await;
    }
    let name = server.name();
    let expected = u64::from(SHARDS + ALONE) * u64::from(rounds);
    report.count(&format!("{name}: shard commits made"), expected, merged + alone);
    let rates = format!("{merged_rate:.0}, {alone_rate:.0}");
    report.beside(&format!("{name}: shard commits/s, {SHARDS} shards merged, {ALONE} singly"), rates);
    report.at_most(&format!("{name}: commits singly, of the merged ones"), "", 0.25, alone_rate / merged_rate);
    Ok(())
}

async fn total(shards: impl Iterator<Item = JoinHandle<Result<u64>>>) -> Result<u64> {
    let commits: Result<Vec<u64>> = join_all(shards).await.into_iter().map(|commits| commits?).collect();
    Ok(commits?.iter().sum())
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
    let changes = writes(&from.shard.consumer, "", [("k", Some(n.to_string().as_bytes()))]);
    Commit { r#move: Some(Move { from: from.clone(), to, takes_fence: false }), changes, ..Commit::default() }
}
