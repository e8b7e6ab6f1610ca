//! A database in memory as a store.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use bytestring::ByteString;

use super::{Memory, Tables, no_stream};
use crate::{
    backend::{self, cursor_at},
    changes::{Emit, StateKey, Write},
    dead_letter::{DeadLetter, Letters, Redrive, Wished},
    deployment::Deployment,
    error::{Error, Kind, Result},
    event::{Event, EventId, Timestamp},
    owner::Owner,
    parked::{Parked, ParkedId, ParkedKey},
    store::{Commit, Committed, Digest, Duplicates, Epoch, Fence, Key, Position, Revision, Scope, Store, Swap},
    tenant::{ConsumerId, ShardId},
};

#[async_trait]
impl Store for Memory {
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position> {
        let mut tables = self.tables.lock().await;
        self.failpoints.hit("memory claim")?;
        let fence = Fence(tables.draw());
        let fresh = || Position::start(shard.clone(), fence);
        let position = tables.positions.entry(shard.clone()).or_insert_with(fresh);
        position.fence = fence;
        position.owner = owner.clone();
        let position = position.clone();
        self.failpoints.hit("memory claim answer")?;
        Ok(position)
    }

    async fn load(&self, shard: &ShardId) -> Result<Position> {
        let tables = self.tables.lock().await;
        tables.positions.get(shard).cloned().ok_or_else(|| Error::not_found(format!("nobody ever ran shard {shard}")))
    }

    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        let tables = self.tables.lock().await;
        let value = |key: &Key| tables.state.get(&row(scope, key)).cloned();
        Ok(keys.iter().map(value).collect())
    }

    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>> {
        let tables = self.tables.lock().await;
        let from = row(scope, after.unwrap_or_default().max(prefix));
        let in_scope = |consumer: &_, key: &StateKey| *consumer == scope.consumer && key.part == scope.part;
        let rows = tables.state.range(from..).map_while(|((consumer, key), value)| {
            (in_scope(consumer, key) && key.key.starts_with(prefix)).then(|| (key.key.clone(), value.clone()))
        });
        Ok(rows.filter(|(key, _)| after.is_none_or(|after| **key > *after)).take(limit as usize).collect())
    }

    async fn has_state(&self, consumer: &ConsumerId) -> Result<bool> {
        Ok(self.tables.lock().await.state.keys().any(|(owner, _)| owner == consumer))
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        let mut tables = self.tables.lock().await;
        let mut shards = HashSet::new();
        let mut answers = Vec::new();
        for commit in commits {
            let again = commit.r#move.as_ref().is_some_and(|r#move| !shards.insert(&r#move.from.shard));
            answers.push(if again { Err(backend::twice(commit)) } else { self.write(&mut tables, commit) });
        }
        answers
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        Ok(self.tables.lock().await.positions.values().cloned().collect())
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        Ok(self.tables.lock().await.deployments.values().filter_map(|rows| rows.last().cloned()).collect())
    }

    async fn component(&self, digest: &Digest) -> Result<Bytes> {
        let tables = self.tables.lock().await;
        tables
            .components
            .get(digest)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("there is no component {digest}")))
    }

    async fn dead_letters(&self, consumer: &ConsumerId, which: &Letters) -> Result<Vec<DeadLetter>> {
        let tables = self.tables.lock().await;
        let letters = tables.dead_letters.get(consumer).into_iter().flatten();
        let is_wanted = |(at, letter): &(&(Timestamp, EventId), &DeadLetter)| {
            which.after.as_ref().is_none_or(|after| *at > after)
                && match which.wished {
                    Wished::Either => true,
                    Wished::Yes => letter.redrive_at.is_some(),
                    Wished::AtOnce => letter.redrive_at.is_some() && letter.redrive_pace.is_zero(),
                }
        };
        let mut bytes = 0;
        let fits = |letter: &&DeadLetter| {
            let is_within = bytes < backend::CHUNK_BYTES_MAX;
            bytes += letter.event.metadata.len() + letter.record().map_or(0, |record| record.len());
            is_within
        };
        let wanted = letters.filter(is_wanted).map(|(_, letter)| letter).take(which.limit as usize);
        Ok(wanted.take_while(fits).cloned().collect())
    }

    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter> {
        let tables = self.tables.lock().await;
        let mut letters = tables.dead_letters.get(consumer).into_iter().flat_map(|letters| letters.values());
        let letter = letters.find(|letter| letter.event.id == *event);
        letter.cloned().ok_or_else(|| backend::no_letter(consumer, event))
    }

    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>> {
        let tables = self.tables.lock().await;
        let mut keys: Vec<ParkedKey> = Vec::new();
        for ((_, key, place), letter) in tables.parked.iter().filter(|((owner, ..), _)| owner == consumer) {
            match keys.last_mut().filter(|last| last.key() == key) {
                Some(last) => (last.last, last.events) = (*place, last.events + 1),
                None => {
                    let mut head = letter.clone();
                    head.event.metadata = Bytes::new();
                    keys.push(ParkedKey { head, first: *place, last: *place, events: 1 });
                }
            }
        }
        Ok(keys)
    }

    async fn parked(&self, consumer: &ConsumerId, key: &str, from: u64, limit: u32) -> Result<Vec<Parked>> {
        let tables = self.tables.lock().await;
        let from = (consumer.clone(), ByteString::from(key), from);
        let rows = tables.parked.range(from..).take_while(|((owner, other, _), _)| owner == consumer && *other == *key);
        let mut bytes = 0;
        let fits = |(_, letter): &(_, &DeadLetter)| {
            let is_within = bytes < backend::CHUNK_BYTES_MAX;
            bytes += letter.event.metadata.len() + letter.record().map_or(0, |record| record.len());
            is_within
        };
        let parked =
            |((.., place), letter): (&(_, _, u64), &DeadLetter)| Parked { place: *place, letter: letter.clone() };
        Ok(rows.take(limit as usize).take_while(fits).map(parked).collect())
    }

    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>> {
        Ok(self.tables.lock().await.history.get(shard).cloned().unwrap_or_default())
    }
}

impl Memory {
    /// Looks at everything that can refuse the commit, then writes it: nothing can fail in between.
    fn write(&self, tables: &mut Tables, commit: &Commit) -> Result<Committed> {
        self.failpoints.hit("memory position")?;
        backend::check(commit)?;
        if let Some(r#move) = &commit.r#move {
            let found = tables.positions.get(&r#move.from.shard);
            let stands = |row: &&Position| {
                (row.fence, row.revision, row.epoch) == (r#move.from.fence, r#move.from.revision, r#move.from.epoch)
            };
            found.filter(stands).ok_or_else(|| backend::fenced(r#move, found))?;
        }
        if let (Some(follows), Some((deployment, _))) = (commit.follows, &commit.deployment) {
            let newest = tables.deployments.get(&deployment.consumer).and_then(|rows| rows.last());
            let found = newest.map_or(Epoch(0), |newest| newest.epoch);
            if found != follows {
                return Err(backend::overtaken(deployment, follows));
            }
        }
        let rewritten = match &commit.rewrite {
            Some(rewrite) => Some(tables.rewritten(rewrite)?),
            None => None,
        };
        self.failpoints.hit("memory events")?;
        let emits = tables.wanted(commit)?;
        self.failpoints.hit("memory commit")?;
        let epoch = tables.activate(commit);
        if let Some((rewrite, rows)) = commit.rewrite.as_ref().zip(rewritten) {
            tables.rewrite(rewrite, rows, epoch);
        }
        let position = tables.advance(commit, epoch);
        tables.apply(commit);
        tables.set_aside(commit);
        tables.park(commit);
        let appended = emits.len() as u64;
        emits.into_iter().for_each(|emit| tables.append(emit));
        self.failpoints.hit("memory answer").map_err(|error| {
            Error::new(Kind::Ambiguous, format!("{}: the answer was lost", backend::label(commit))).because(error)
        })?;
        Ok(Committed { position, appended, epoch })
    }
}

impl Tables {
    /// The events that are to be appended.
    fn wanted<'a>(&self, commit: &'a Commit) -> Result<Vec<&'a Emit>> {
        let mut keys = HashSet::new();
        let mut wanted = Vec::new();
        for emit in &commit.changes.emits {
            if !self.streams.contains_key(&emit.stream) {
                return Err(no_stream(&emit.stream));
            }
            let fresh = keys.insert(emit.key) && !self.event_keys.contains(&emit.key);
            match (fresh, commit.duplicates) {
                (true, _) => wanted.push(emit),
                (false, Duplicates::Skip) => {}
                (false, Duplicates::Refuse) => {
                    let (label, key) = (backend::label(commit), emit.key.0);
                    return Err(Error::corrupt(format!("{label}: event key {key} is in the store already")));
                }
            }
        }
        Ok(wanted)
    }

    fn activate(&mut self, commit: &Commit) -> Option<Epoch> {
        let (deployment, component) = commit.deployment.as_ref()?;
        let epoch = Epoch(self.draw());
        let row = Deployment { epoch, ..deployment.clone() };
        self.components.entry(row.digest).or_insert_with(|| component.clone());
        self.deployments.entry(row.consumer.clone()).or_default().push(row);
        Some(epoch)
    }

    fn advance(&mut self, commit: &Commit, epoch: Option<Epoch>) -> Option<Position> {
        let r#move = commit.r#move.as_ref()?;
        let (from, to) = (&r#move.from, &r#move.to);
        let fence = if r#move.takes_fence { Fence(self.draw()) } else { from.fence };
        let position = Position {
            shard: from.shard.clone(),
            revision: Revision(from.revision.0 + 1),
            fence,
            incarnation: from.incarnation,
            epoch: epoch.unwrap_or(to.epoch),
            ..to.clone()
        };
        if let Some(digest) = to.digest.filter(|digest| from.digest != Some(*digest)) {
            let Position { revision, epoch, updated_at: at, .. } = position;
            self.history.entry(from.shard.clone()).or_default().push(Swap { revision, digest, epoch, at });
        }
        self.positions.insert(from.shard.clone(), position.clone());
        Some(position)
    }

    fn apply(&mut self, commit: &Commit) {
        let Some(consumer) = &commit.changes.consumer else { return };
        for Write { part, key, value } in commit.changes.writes.iter() {
            let row = (consumer.clone(), StateKey { part: part.into(), key: key.into() });
            match value {
                Some(value) => drop(self.state.insert(row, Bytes::copy_from_slice(value))),
                None => drop(self.state.remove(&row)),
            }
        }
    }

    fn set_aside(&mut self, commit: &Commit) {
        let added = commit.dead_letters.iter().map(|letter| (&letter.shard.consumer, &letter.event.id));
        for (consumer, event) in added.chain(commit.purged.iter().map(|(consumer, event)| (consumer, event))) {
            self.dead_letters.entry(consumer.clone()).or_default().retain(|(_, id), _| id != event);
        }
        for letter in &commit.dead_letters {
            let letters = self.dead_letters.entry(letter.shard.consumer.clone()).or_default();
            let set_aside = DeadLetter { redrive_at: None, redrive_pace: Duration::ZERO, ..letter.clone() };
            letters.insert((letter.at(), letter.event.id.clone()), set_aside);
        }
        for Redrive { consumer, event, at, pace } in &commit.redrives {
            let letters = self.dead_letters.get_mut(consumer).into_iter().flat_map(|letters| letters.values_mut());
            letters.filter(|letter| letter.event.id == *event).for_each(|letter| {
                (letter.redrive_at, letter.redrive_pace) = (*at, *pace);
            });
        }
    }

    fn park(&mut self, commit: &Commit) {
        for ParkedId { consumer, key, place } in commit.unparked.iter().cloned() {
            self.parked.remove(&(consumer, key, place));
        }
        for parked in &commit.parked {
            let ParkedId { consumer, key, place } = parked.id();
            self.parked.insert((consumer, key, place), parked.letter.clone());
        }
    }

    fn append(&mut self, emit: &Emit) {
        self.event_keys.insert(emit.key);
        let Some(log) = self.streams.get_mut(&emit.stream) else { return };
        let cursor = cursor_at(i64::try_from(log.pruned + log.events.len()).unwrap_or(i64::MAX).saturating_add(1));
        let id = EventId(std::str::from_utf8(&cursor.0).unwrap_or_default().into());
        let event = emit.event.clone();
        log.events.push(Event {
            id,
            cursor,
            r#type: event.r#type,
            foreign_id: event.foreign_id,
            timestamp: event.timestamp,
            metadata: event.metadata,
            headers: event.headers,
        });
        log.appended.notify_waiters();
    }
}

fn row(scope: &Scope, key: &str) -> (ConsumerId, StateKey) {
    (scope.consumer.clone(), StateKey { part: scope.part.clone(), key: key.into() })
}
