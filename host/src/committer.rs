//! Merges the commits of many shards into one transaction: while one is written, the next ones gather.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Error, Kind, Result},
    store::{Commit, Committed, Store},
    tenant::ShardId,
};

/// Commits that share a transaction at the most.
pub const ROUND_COMMITS_MAX: usize = 256;
/// Bytes of changes that share a transaction, one commit of any size apart.
pub const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Commits that may wait for their turn; a shard has one at the most, so whoever comes later just waits.
const QUEUE_COMMITS_MAX: usize = 1024;

/// The way to a store for every writer of a host. Clones share one queue; it ends with the last of them.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::Sender<Request>,
}

struct Request {
    commit: Commit,
    answer: oneshot::Sender<Result<Committed>>,
}

/// A commit whose answer is not there yet.
pub struct Pending(oneshot::Receiver<Result<Committed>>);

impl Committer {
    /// Starts the one task that writes to this store.
    pub fn start(store: Arc<dyn Store>) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_COMMITS_MAX);
        tokio::spawn(write(store, requests));
        Self { queue }
    }

    /// Queues a commit. Its answer comes through the pending one; dropping that does not take the commit back.
    pub async fn submit(&self, commit: Commit) -> Pending {
        let (answer, pending) = oneshot::channel();
        // A closed queue drops the request and with it `answer`, which is what `wait` then reports.
        let _ = self.queue.send(Request { commit, answer }).await;
        Pending(pending)
    }

    /// Writes a commit and waits for its answer.
    pub async fn commit(&self, commit: Commit) -> Result<Committed> {
        self.submit(commit).await.wait().await
    }
}

impl Pending {
    /// The commit's answer. May be called again if the wait was given up.
    pub async fn wait(&mut self) -> Result<Committed> {
        match (&mut self.0).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(Kind::Ambiguous, "the store's writer ended before it answered a commit")),
        }
    }
}

/// What shares one transaction. No shard twice: the second one's compare rests on the first one's answer.
#[derive(Default)]
struct Round {
    commits: Vec<Commit>,
    answers: Vec<oneshot::Sender<Result<Committed>>>,
    shards: HashSet<ShardId>,
    bytes: usize,
}

impl Round {
    /// Takes the request in, or gives it back for the next round.
    fn take(&mut self, request: Request) -> Option<Request> {
        let letters: usize = request.commit.dead_letters.iter().map(|letter| letter.event.bytes()).sum();
        let parked: usize = request.commit.parked.iter().map(|parked| parked.letter.event.bytes()).sum();
        let bytes = request.commit.changes.bytes() + letters + parked;
        let shard = request.commit.r#move.as_ref().map(|r#move| &r#move.from.shard);
        let full = self.commits.len() >= ROUND_COMMITS_MAX || self.bytes + bytes > ROUND_BYTES_MAX;
        if !self.commits.is_empty() && (full || shard.is_some_and(|shard| self.shards.contains(shard))) {
            return Some(request);
        }
        self.shards.extend(shard.cloned());
        self.bytes += bytes;
        self.commits.push(request.commit);
        self.answers.push(request.answer);
        None
    }
}

/// The store may have written before it panicked. The writer itself goes on: every consumer needs it.
fn panicked() -> Error {
    Error::new(Kind::Ambiguous, "the store panicked over a commit: this is a bug of the host")
}

async fn write(store: Arc<dyn Store>, mut requests: mpsc::Receiver<Request>) {
    let mut next = requests.recv().await;
    while let Some(first) = next {
        let mut round = Round::default();
        next = round.take(first);
        // Whoever was answered a moment ago has its next commit ready soon: without a turn for them, rounds are halves.
        tokio::task::yield_now().await;
        while next.is_none() {
            let Ok(request) = requests.try_recv() else { break };
            next = round.take(request);
        }
        let written = AssertUnwindSafe(store.commit(&round.commits)).catch_unwind().await;
        let answers = written.unwrap_or_else(|_| round.commits.iter().map(|_| Err(panicked())).collect());
        for (waiting, answer) in round.answers.into_iter().zip(answers) {
            // Whoever no longer waits has dropped its changes; the row tells it what became of them.
            let _ = waiting.send(answer);
        }
        if next.is_none() {
            next = requests.recv().await;
        }
    }
}
