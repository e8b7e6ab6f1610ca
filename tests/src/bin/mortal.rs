//! `mortal URL POLICY VERSION [EVENT ...]`: a host whose process ends, as if by a crash, whenever its handler is given one of
//! the named events, or, named `init`, whenever a handler is made. It runs a consumer, whose state is by key, until nothing is
//! left to do, and stops in order. With the word `slow` another one runs beside it, which takes its time for its first event;
//! with the word `single` each event has a commit of its own.
//!
//! A sandboxed guest must not be able to do that to a host; what is left are bugs, and memory that runs out.

use std::{process::abort, sync::Arc, time::Duration};

use anyhow::{bail, ensure};
use async_trait::async_trait;
use tendon::{
    backend::Database,
    batch::BatchPolicy,
    committer::Committer,
    dead_letter::{Letters, Wished},
    deployment::{Spec, StateScope},
    event::{Cursor, Event},
    handler::{Failure, Handler, HandlerFactory},
    policy::{OnExhausted, RetryPolicy},
    shard::Version,
    store::{Digest, Epoch, Store},
    supervisor::Standing,
    tailer::Tailer,
    view::View,
};
use tendon_tests::{
    bench::{self, Running},
    native::{Logic, Native, infrastructure},
    place::{shard, stream},
};

/// Counts what a key's events are, and ends with the process at some of them.
struct Mortal(Vec<String>);

impl Logic for Mortal {
    async fn handle(&self, event: &Event, view: &mut View) -> Result<(), Failure> {
        if self.0.iter().any(|id| *id == *event.id.0) {
            abort();
        }
        let ids = view.get("ids").await.map_err(infrastructure)?.unwrap_or_default();
        let ids = [ids, format!("{} ", event.id).into_bytes()].concat();
        view.write("ids", Some(&ids)).map_err(infrastructure)
    }
}

/// Harmless, and always at its first event when something happens to the host.
struct Slow;

impl Logic for Slow {
    async fn handle(&self, event: &Event, _: &mut View) -> Result<(), Failure> {
        if &*event.id.0 == "1" {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }
}

/// Makes handlers, unless that is what ends the process.
struct Makes(Arc<dyn HandlerFactory>, bool);

#[async_trait]
impl HandlerFactory for Makes {
    fn digest(&self) -> Digest {
        self.0.digest()
    }

    async fn create(&self, view: View) -> Result<Box<dyn Handler>, Failure> {
        if self.1 {
            abort();
        }
        self.0.create(view).await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, policy, version, fatal @ ..] = &words[..] else { bail!("usage: mortal URL POLICY VERSION [EVENT ...]") };
    let on_exhausted: OnExhausted = serde_json::from_value(policy.as_str().into())?;
    let database = Database::open(url, tendon::backend::Options::default()).await?;
    let retry = RetryPolicy { on_exhausted, ..RetryPolicy::default() };
    let max = if fatal.iter().any(|word| word == "single") { 1 } else { BatchPolicy::default().max };
    let batch = BatchPolicy { max, ..BatchPolicy::default() };
    let spec = Arc::new(Spec { retry, batch, state: StateScope::Key, ..bench::spec(stream("in")) });
    let handlers = Native::new(version, Mortal(fatal.to_vec()));
    let factory = Arc::new(Makes(handlers, fatal.iter().any(|word| word == "init")));
    let version = Version { epoch: Epoch(1), spec: spec.clone(), factory };
    let tailer = Tailer::start(database.source(&stream("in")).await?);
    let committer = Committer::start(database.store());
    let mut all = vec![("c", version)];
    if fatal.iter().any(|word| word == "slow") {
        all.insert(0, ("slow", Version { epoch: Epoch(1), spec, factory: Native::new("slow", Slow) }));
    }
    let start =
        |(name, version)| Ok((name, Running::start(name, &database, committer.clone(), tailer.clone(), version)?));
    let all: Vec<(&str, Running)> = all.into_iter().map(start).collect::<anyhow::Result<_>>()?;
    let head = tailer.source().head().await?;
    for (name, running) in &all {
        while !is_over(&*database.store(), name, running, &head).await? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for (_, running) in all {
        running.stop().await;
    }
    database.close().await;
    Ok(())
}

/// Whether everything is handled, or the consumer stands.
async fn is_over(store: &dyn Store, name: &str, running: &Running, head: &Cursor) -> anyhow::Result<bool> {
    let standing = running.supervised.standing();
    ensure!(!matches!(standing, Standing::Stalled { .. }), "{standing:?}");
    if matches!(standing, Standing::Blocked(_)) {
        return Ok(true);
    }
    let due = Letters { wished: Wished::Yes, limit: 1, after: None };
    let row = store.load(&shard(name)).await;
    Ok(row.is_ok_and(|row| row.cursor == *head) && store.dead_letters(&bench::consumer(name), &due).await?.is_empty())
}
