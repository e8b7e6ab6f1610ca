//! Takes the oldest events out of a stream, those that no consumer needs any more.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::Host;
use crate::{
    config::start::Start,
    error::{Error, Result},
    event::{Cursor, Event, Timestamp},
    open::Open,
    source::{Source, Until},
    start,
    store::{Position, Status},
    tenant::{ConsumerId, StreamId},
    topology,
};

/// How often it is looked for events that are kept no longer.
const RETAIN_INTERVAL: Duration = Duration::from_secs(60);

/// Prunes what is kept no longer, now and then, for as long as it is polled.
pub async fn retain(host: Arc<Host>) {
    loop {
        for (stream, pruned) in host.prune_old().await {
            match pruned {
                Ok(Pruned { events: 0, .. }) => {}
                Ok(pruned) => {
                    tracing::info!(%stream, events = pruned.events, held_back_by = pruned.held_back_by, "pruned")
                }
                Err(error) => tracing::warn!(%stream, "not pruned: {}", error.chain()),
            }
        }
        tokio::time::sleep(RETAIN_INTERVAL).await;
    }
}

/// Which events are to go.
#[derive(Clone, Debug)]
pub struct Prune {
    /// All before this place.
    pub before: Start,
    /// Also those that a consumer has not passed that stands still, unless it has passed none at all: it then finds that its next
    /// event is gone.
    pub force: bool,
    /// Whether they are only counted.
    pub dry_run: bool,
}

/// What a pruning did, or would do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pruned {
    /// How many events went.
    pub events: u64,
    /// The consumer for which the others stay, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_back_by: Option<String>,
    /// Whether they were only counted.
    pub dry_run: bool,
}

/// How far a stream can be pruned.
struct Bound {
    /// The event after which this cursor is, and all later ones, stay.
    cursor: Cursor,
    /// For whom; for nobody but who comes where that is the newest event.
    by: Option<ConsumerId>,
}

impl Host {
    /// Prunes a stream. The event that a consumer has passed last stays, by which it knows its place, and so does the newest.
    pub async fn prune(&self, stream: &StreamId, prune: Prune) -> Result<Pruned> {
        let (config, open) = self.snapshot().await;
        let known = config.stream(stream)?;
        if known.table.is_some() {
            return Err(Error::invalid(format!("stream {stream} is another program's table"))
                .help("delete its rows there, none of them after the cursor of a consumer"));
        }
        let source = open.tailer(stream)?.source().clone();
        let before = start::resolve(&prune.before, &*source).await?;
        self.prune_while(&open, stream, &prune, |event| source.compare(&event.cursor, &before) != Ordering::Greater)
            .await
    }

    /// Prunes what is older than each stream's config says that it is to be kept.
    pub async fn prune_old(&self) -> Vec<(StreamId, Result<Pruned>)> {
        let (config, open) = self.snapshot().await;
        let mut all = Vec::new();
        for stream in config.streams.values() {
            let Some(retain) = stream.retain else { continue };
            let until = ago(self.clock.now(), retain);
            let prune = Prune { before: Start::Latest, force: false, dry_run: false };
            let pruned = self.prune_while(&open, &stream.id, &prune, |event| event.timestamp < until).await;
            all.push((stream.id.clone(), pruned));
        }
        all
    }

    /// Prunes from the first event on, as long as they are to go and may.
    async fn prune_while(
        &self,
        open: &Open,
        stream: &StreamId,
        prune: &Prune,
        is_over: impl Fn(&Event) -> bool,
    ) -> Result<Pruned> {
        let source = open.tailer(stream)?.source();
        let database = open.stream_database(stream)?;
        let mut pruned = Pruned { dry_run: prune.dry_run, ..Pruned::default() };
        let mut chunks = source.stream(Cursor::START, Until::Head).await?;
        while let Some(chunk) = chunks.next().await {
            let events = chunk?.events;
            // Whoever deploys or resets a consumer waits for a chunk, and this then looks again.
            let _control = self.control.lock().await;
            let bound = bound(open, stream, &**source, prune.force).await?;
            let old = events.iter().take_while(|event| is_over(event)).count();
            let may_go = |event: &&Event| source.compare(&event.cursor, &bound.cursor).is_lt();
            let gone: Vec<&Event> = events.iter().take(old).take_while(may_go).collect();
            if let (Some(last), false) = (gone.last(), prune.dry_run) {
                database.prune(stream, &last.cursor).await?;
            }
            pruned.events += gone.len() as u64;
            if gone.len() < old {
                pruned.held_back_by = bound.by.map(|by| by.to_string());
                break;
            }
            if old < events.len() {
                break;
            }
        }
        Ok(pruned)
    }
}

fn ago(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)))
}

/// The consumer of a stream that is furthest behind, whichever host runs it; without those that stand still where they do not
/// count.
async fn bound(open: &Open, stream: &StreamId, source: &dyn Source, force: bool) -> Result<Bound> {
    let mut bound = Bound { cursor: source.head().await?, by: None };
    for store in open.stores() {
        let deployments = store.database.store().deployments().await?;
        let rows = store.database.store().positions().await?;
        for deployment in deployments {
            if deployment.spec.stream != *stream {
                continue;
            }
            let number = deployment.spec.past.number;
            let is_other = |row: &&Position| row.shard.consumer == deployment.consumer && row.topology != number;
            if let Some(row) = rows.iter().find(is_other) {
                return Err(Error::unavailable(format!("{} is being moved by another host; try again", row.shard)));
            }
            let own: Vec<_> = rows.iter().filter(|row| row.shard.consumer == deployment.consumer).cloned().collect();
            for (index, cursor) in (0..).zip(topology::cursors(&deployment.spec, &own)) {
                let stands = own.iter().any(|row| row.shard.index == index && row.status != Status::Running);
                // Who has passed nothing has no event by which it would notice.
                let may_pass = force && stands && !cursor.is_start();
                if source.compare(&cursor, &bound.cursor).is_lt() && !may_pass {
                    bound = Bound { cursor, by: Some(deployment.consumer.clone()) };
                }
            }
        }
    }
    Ok(bound)
}
