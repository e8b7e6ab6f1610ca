//! What an operator does to a consumer's position: through the same compare as every commit, with a fence of its own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{Host, Running};
use crate::{
    committer::Committer,
    dead_letter::DeadLetter,
    deployment::Spec,
    error::{Error, Kind, Result},
    event::{Cursor, Event, EventId},
    limits::EVENT_BYTES_MAX,
    open::OpenStore,
    parked::{Parked, ParkedKey},
    policy,
    source::{Source, Until},
    store::{Commit, Move, Position, Reason, Revision, Status, Store},
    tenant::{ConsumerId, ShardId},
};

/// How often a move is tried beside a consumer that commits all the time.
const MOVE_ATTEMPTS: u32 = 20;
/// Parked events that one move changes at the most.
const HEADS_A_MOVE: usize = 32;

impl Host {
    /// Stops a consumer where it is, until it is resumed.
    pub async fn pause(&self, consumer: &ConsumerId, why: String) -> Result<()> {
        let (code, since) = ("paused".into(), self.clock.now());
        let reason = Reason { code, message: why, event: None, since, retry_at: None, logs: String::new() };
        self.move_positions(consumer, |position| {
            position.status = Status::Paused;
            position.reason = Some(reason.clone());
        })
        .await
    }

    /// Lets a blocked or paused consumer go on; the event in its way is tried anew, and so is what is parked.
    pub async fn resume(&self, consumer: &ConsumerId) -> Result<()> {
        self.state.read().await.config.consumer(consumer)?;
        self.retry_parked(consumer).await?;
        self.move_positions(consumer, |position| {
            position.status = Status::Running;
            position.reason = None;
            position.attempts = 0;
        })
        .await
    }

    /// Changes what a consumer has set aside of these events, as `change` says. Each commit fences the shard whose events they
    /// are, where that runs: what its loop has read of them before is not committed after.
    pub async fn change_letters(
        &self,
        consumer: &ConsumerId,
        events: &[Event],
        change: impl Fn(Vec<EventId>) -> Commit,
    ) -> Result<()> {
        let state = self.state.read().await;
        let config = state.config.consumer(consumer)?;
        let store = state.open.store(&config.store)?;
        let Some(running) = state.consumers.get(consumer) else {
            let all = events.iter().map(|event| event.id.clone()).collect();
            return store.committer.commit(change(all)).await.map(drop);
        };
        let mut shards: BTreeMap<u32, Vec<EventId>> = BTreeMap::new();
        for event in events {
            shards.entry(running.version().spec.shards.of(event)).or_default().push(event.id.clone());
        }
        for (index, events) in shards {
            fence(store, &shard(consumer, index), change(events)).await?;
            running.poke(index);
        }
        Ok(())
    }

    /// Gives an event that was set aside another payload. It stays set aside, and says so.
    pub async fn edit_letter(&self, consumer: &ConsumerId, event: &EventId, metadata: Bytes) -> Result<()> {
        let most = EVENT_BYTES_MAX;
        if metadata.len() > most {
            return Err(Error::limit(format!("a payload of {} bytes, at most {most} are allowed", metadata.len())));
        }
        let state = self.state.read().await;
        state.config.consumer(consumer)?;
        let running = state.consumers.get(consumer).ok_or_else(|| not_here(consumer))?;
        let spec = running.version().spec.clone();
        let store = state.open.store(&spec.store)?;
        let port = store.database.store();
        for _ in 0..MOVE_ATTEMPTS {
            // The row of its shard first, so that the compare fails should it have been handled since.
            let shard = shard(consumer, spec.shards.of(&port.dead_letter(consumer, event).await?.event));
            let row = port.load(&shard).await?;
            let mut letter = port.dead_letter(consumer, event).await?;
            if letter.redrive_at.is_some() {
                return Err(Error::invalid(format!("event {event} is to be handled again, as it is"))
                    .help(format!("`tendon dlq cancel {} {event}` first", consumer.name)));
            }
            let edited = format!("its payload was edited by an operator at {}", self.clock.now());
            letter.reason.message = format!("{}\n{edited}", letter.reason.message);
            letter.event.metadata = metadata.clone();
            let with = Commit { dead_letters: vec![letter], ..Commit::default() };
            if commit(&store.committer, row.clone(), row, with).await?.is_some() {
                running.poke(shard.index);
                return Ok(());
            }
        }
        Err(too_fast(consumer))
    }

    /// Lets a consumer go on without the event that blocks it, which the same commit sets aside.
    pub async fn skip(&self, consumer: &ConsumerId, event: &EventId) -> Result<()> {
        let state = self.state.read().await;
        state.config.consumer(consumer)?;
        let running = state.consumers.get(consumer).ok_or_else(|| not_here(consumer))?;
        let version = running.version();
        let store = state.open.store(&version.spec.store)?;
        let source = state.open.tailer(&version.spec.stream)?.source();
        if self.skip_parked(running, store, consumer, event).await? {
            return Ok(());
        }
        for _ in 0..MOVE_ATTEMPTS {
            let (from, reason) =
                self.blocked_by(consumer, version.spec.shards.count, &*store.database.store(), event).await?;
            let index = from.shard.index;
            let event = event_after(&**source, from.cursor.clone(), event).await?;
            let mut to = Position {
                cursor: event.cursor.clone(),
                status: Status::Running,
                reason: None,
                attempts: 0,
                last_event: Some(event.hash()),
                updated_at: self.clock.now(),
                ..from.clone()
            };
            if source.compare(&to.cursor, &to.high_water).is_gt() {
                to.high_water = to.cursor.clone();
            }
            let letter = DeadLetter {
                shard: from.shard.clone(),
                event,
                reason: policy::skipped(reason),
                attempts: from.attempts,
                digest: from.digest.unwrap_or_else(|| version.factory.digest()),
                redrive_at: None,
                redrive_pace: Duration::ZERO,
            };
            let legacy = version.spec.legacy_cursor.as_deref().filter(|legacy| legacy.mirror);
            let mirror = legacy.map(|legacy| Arc::new(legacy.of(&version.spec.shards, index)));
            let with = Commit { dead_letters: vec![letter], mirror, ..Commit::default() };
            if commit(&store.committer, from, to, with).await?.is_some() {
                self.telemetry.metrics().of(consumer).dead_letters.inc();
                running.poke(index);
                return Ok(());
            }
        }
        Err(too_fast(consumer))
    }

    /// Has the first event of each parked key tried anew, with all its attempts.
    async fn retry_parked(&self, consumer: &ConsumerId) -> Result<()> {
        let state = self.state.read().await;
        let running = state.consumers.get(consumer).ok_or_else(|| not_here(consumer))?;
        let spec = running.version().spec.clone();
        let store = state.open.store(&spec.store)?;
        let port = store.database.store();
        let mut shards: BTreeMap<u32, Vec<ParkedKey>> = BTreeMap::new();
        for key in port.parked_keys(consumer).await? {
            shards.entry(spec.shards.of(&key.head.event)).or_default().push(key);
        }
        let anew = |heads: Vec<Parked>| {
            let anew = |mut head: Parked| {
                (head.letter.redrive_at, head.letter.attempts) = (Some(self.clock.now()), 0);
                head
            };
            Commit { parked: heads.into_iter().map(anew).collect(), ..Commit::default() }
        };
        for (index, keys) in shards {
            for keys in keys.chunks(HEADS_A_MOVE) {
                change_heads(store, &shard(consumer, index), keys, anew).await?;
            }
            running.poke(index);
        }
        Ok(())
    }

    /// Sets an event aside that keeps its key parked, where there is such a one.
    async fn skip_parked(
        &self,
        running: &Running,
        store: &OpenStore,
        consumer: &ConsumerId,
        event: &EventId,
    ) -> Result<bool> {
        let port = store.database.store();
        let keys = port.parked_keys(consumer).await?;
        let Some(key) = keys.into_iter().find(|key| key.head.event.id == *event) else { return Ok(false) };
        let index = running.version().spec.shards.of(&key.head.event);
        let set_aside = |heads: Vec<Parked>| Commit {
            unparked: heads.iter().map(Parked::id).collect(),
            dead_letters: heads.into_iter().map(|head| skipped(head.letter)).collect(),
            ..Commit::default()
        };
        let is_there = change_heads(store, &shard(consumer, index), &[key], set_aside).await?;
        self.telemetry.metrics().of(consumer).dead_letters.inc_by(u64::from(is_there));
        running.poke(index);
        Ok(is_there)
    }

    /// Moves all of a consumer's positions, one after the other: the same move again does no harm.
    async fn move_positions(&self, consumer: &ConsumerId, change: impl Fn(&mut Position)) -> Result<()> {
        let state = self.state.read().await;
        state.config.consumer(consumer)?;
        let running = state.consumers.get(consumer).ok_or_else(|| not_here(consumer))?;
        let spec = running.version().spec.clone();
        let store = state.open.store(&spec.store)?;
        for index in 0..spec.shards.count {
            self.move_position(store, &spec, &shard(consumer, index), &change).await?;
            running.poke(index);
        }
        Ok(())
    }

    async fn move_position(
        &self,
        store: &OpenStore,
        spec: &Spec,
        shard: &ShardId,
        change: impl Fn(&mut Position),
    ) -> Result<()> {
        for _ in 0..MOVE_ATTEMPTS {
            let port = store.database.store();
            let from = match port.load(shard).await {
                // It has not begun yet, and must not before it is moved.
                Err(error) if error.kind() == Kind::NotFound => port.claim(shard, &self.owner).await?,
                row => row?,
            };
            let mut to = from.clone();
            if from.revision == Revision(0) {
                // Nothing has moved it yet, and after this it is no new one that its start holds for.
                to.cursor = spec.start.clone();
            }
            change(&mut to);
            to.updated_at = self.clock.now();
            if commit(&store.committer, from, to, Commit::default()).await?.is_some() {
                return Ok(());
            }
        }
        Err(too_fast(&shard.consumer))
    }

    /// The shard that this event blocks, and why; an error where there is none.
    async fn blocked_by(
        &self,
        consumer: &ConsumerId,
        shards: u32,
        store: &dyn Store,
        event: &EventId,
    ) -> Result<(Position, Reason)> {
        let mut refused = None;
        for index in 0..shards {
            let position = store.load(&shard(consumer, index)).await?;
            match blocked_by(&position, event) {
                Ok(reason) => return Ok((position, reason)),
                // What tells most is said: that another event is in the way.
                Err(error) if error.way_out().is_some() || refused.is_none() => refused = Some(error),
                Err(_) => {}
            }
        }
        Err(refused.unwrap_or_else(|| not_here(consumer)))
    }
}

/// Does something to the first events of keys that are parked, to those that still are that.
async fn change_heads(
    store: &OpenStore,
    shard: &ShardId,
    keys: &[ParkedKey],
    change: impl Fn(Vec<Parked>) -> Commit,
) -> Result<bool> {
    let port = store.database.store();
    for _ in 0..MOVE_ATTEMPTS {
        // Before the events, so that the compare fails should one have been handled since.
        let row = port.load(shard).await?;
        let mut heads = Vec::new();
        for key in keys {
            let head = port.parked(&shard.consumer, key.key(), key.first, 1).await?.pop();
            heads.extend(head.filter(|head| head.place == key.first && *head.event() == key.head.event.id));
        }
        if heads.is_empty() {
            return Ok(false);
        }
        let mut to = row.clone();
        let is_of_them = |reason: &Reason| heads.iter().any(|head| reason.event.as_ref() == Some(head.event()));
        if to.status == Status::Blocked && to.reason.take_if(|reason| is_of_them(reason)).is_some() {
            // A handler could not be made for it: the next event tells whether one can be now.
            (to.status, to.attempts) = (Status::Running, 0);
        }
        if commit(&store.committer, row, to, change(heads)).await?.is_some() {
            return Ok(true);
        }
    }
    Err(too_fast(&shard.consumer))
}

/// Commits something with a move of a shard's position that changes nothing but its fence; by itself where nobody ever ran it.
async fn fence(store: &OpenStore, shard: &ShardId, with: Commit) -> Result<()> {
    for _ in 0..MOVE_ATTEMPTS {
        let row = match store.database.store().load(shard).await {
            Err(error) if error.kind() == Kind::NotFound => return store.committer.commit(with).await.map(drop),
            row => row?,
        };
        if commit(&store.committer, row.clone(), row, with.clone()).await?.is_some() {
            return Ok(());
        }
    }
    Err(too_fast(&shard.consumer))
}

/// The row as it is now; none where somebody else has moved it since it was loaded.
async fn commit(committer: &Committer, from: Position, to: Position, with: Commit) -> Result<Option<Position>> {
    let r#move = Some(Move { from, to, takes_fence: true });
    match committer.commit(Commit { r#move, ..with }).await {
        Ok(committed) => match committed.position {
            Some(position) => Ok(Some(position)),
            None => Err(Error::corrupt("the store gave back no position")),
        },
        Err(error) if error.kind() == Kind::Fenced => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why this event blocks the shard; an error where it does not.
fn blocked_by(position: &Position, event: &EventId) -> Result<Reason> {
    let shard = &position.shard;
    if position.reason.as_ref().is_some_and(|reason| reason.code == policy::FULL) {
        return Err(Error::invalid(format!(
            "{shard} has no room to park event {event}: skip one that keeps a key parked"
        ))
        .help(format!("`tendon consumer show {}` names them", shard.consumer.name)));
    }
    let reason = position.reason.clone().filter(|_| position.status == Status::Blocked);
    let Some(reason) = reason else {
        return Err(Error::invalid(format!("{} is not blocked: there is nothing to skip", shard.consumer)));
    };
    match &reason.event {
        Some(blocking) if blocking == event => Ok(reason),
        Some(blocking) => {
            Err(Error::invalid(format!("{} is blocked by event {blocking}, not {event}", shard.consumer))
                .help(format!("`tendon consumer skip {} {blocking}` skips that one", shard.consumer.name)))
        }
        None => Err(Error::invalid(format!("{} is not blocked by an event", shard.consumer))),
    }
}

async fn event_after(source: &dyn Source, cursor: Cursor, id: &EventId) -> Result<Event> {
    let mut chunks = source.stream(cursor, Until::Head).await?;
    while let Some(chunk) = chunks.next().await {
        if let Some(event) = chunk?.events.into_iter().find(|event| event.id == *id) {
            return Ok(event);
        }
    }
    Err(Error::not_found(format!("event {id} is no longer in the stream")))
}

fn shard(consumer: &ConsumerId, index: u32) -> ShardId {
    ShardId { consumer: consumer.clone(), index }
}

pub(super) fn not_here(consumer: &ConsumerId) -> Error {
    Error::not_found(format!("{consumer} does not run here"))
}

fn too_fast(consumer: &ConsumerId) -> Error {
    Error::fenced(format!("{consumer} commits faster than it can be moved; try again"))
}

fn skipped(letter: DeadLetter) -> DeadLetter {
    DeadLetter { reason: policy::skipped(letter.reason), ..letter }
}
