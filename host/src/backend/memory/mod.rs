//! The reference: everything in this process's memory, under one lock. It waits only on tokio's primitives and asks no
//! clock, so that a simulation can run on it in virtual time.

mod rewrite;
mod source;
mod store;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::{Mutex, Notify};

use super::{Failpoints, number_of};
use crate::{
    changes::StateKey,
    dead_letter::DeadLetter,
    deployment::Deployment,
    error::{Error, Result},
    event::{Cursor, Event, EventId, EventKey, Timestamp},
    store::{Digest, Position, Swap},
    tenant::{ConsumerId, ShardId, StreamId},
};

pub use self::source::MemorySource;

/// A database in memory. Clones are the same database.
#[derive(Clone, Default)]
pub struct Memory {
    tables: Arc<Mutex<Tables>>,
    failpoints: Failpoints,
}

#[derive(Default)]
struct Tables {
    /// Fences, incarnations and epochs are drawn from it.
    counter: u64,
    positions: BTreeMap<ShardId, Position>,
    state: BTreeMap<(ConsumerId, StateKey), Bytes>,
    event_keys: HashSet<EventKey>,
    streams: BTreeMap<StreamId, Log>,
    deployments: BTreeMap<ConsumerId, Vec<Deployment>>,
    components: BTreeMap<Digest, Bytes>,
    history: BTreeMap<ShardId, Vec<Swap>>,
    parked: BTreeMap<(ConsumerId, ByteString, u64), DeadLetter>,
    dead_letters: BTreeMap<ConsumerId, BTreeMap<(Timestamp, EventId), DeadLetter>>,
}

/// One stream. Those that wait at its head are woken in the order in which they came, so that a simulation repeats
/// itself.
#[derive(Default)]
struct Log {
    events: Vec<Event>,
    /// How many there were before these.
    pruned: usize,
    appended: Arc<Notify>,
}

impl Memory {
    pub(super) async fn create_stream(&self, stream: &StreamId) -> Result<()> {
        self.tables.lock().await.streams.entry(stream.clone()).or_default();
        Ok(())
    }

    pub(super) async fn prune(&self, stream: &StreamId, through: &Cursor) -> Result<()> {
        let through = usize::try_from(number_of(through, stream)?).unwrap_or(usize::MAX);
        let mut tables = self.tables.lock().await;
        let log = tables.streams.get_mut(stream).ok_or_else(|| no_stream(stream))?;
        let gone = through.saturating_sub(log.pruned).min(log.events.len());
        log.events.drain(..gone);
        log.pruned += gone;
        Ok(())
    }

    pub(super) async fn source(&self, stream: &StreamId) -> Result<MemorySource> {
        let tables = self.tables.lock().await;
        let log = tables.streams.get(stream).ok_or_else(|| no_stream(stream))?;
        Ok(MemorySource::new(self.clone(), stream.clone(), log.appended.clone()))
    }

    pub(super) async fn streams(&self) -> Result<Vec<StreamId>> {
        Ok(self.tables.lock().await.streams.keys().cloned().collect())
    }

    pub(super) fn failpoints(&self) -> &Failpoints {
        &self.failpoints
    }
}

impl Tables {
    fn draw(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

fn no_stream(stream: &StreamId) -> Error {
    Error::not_found(format!("there is no stream {stream}"))
}
