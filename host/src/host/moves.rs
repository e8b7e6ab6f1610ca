//! What an operator does to a consumer's position: through the same compare as every commit, with a fence of its own.

use futures_util::StreamExt as _;

use super::Host;
use crate::{
    committer::Committer,
    dead_letter::DeadLetter,
    error::{Error, Kind, Result},
    event::{Cursor, Event, EventId},
    source::{Source, Until},
    store::{Commit, Move, Position, Reason, Revision, Status},
    tenant::{ConsumerId, ShardId},
};

/// How often a move is tried beside a consumer that commits all the time.
const MOVE_ATTEMPTS: u32 = 20;

impl Host {
    /// Stops a consumer where it is, until it is resumed.
    pub async fn pause(&self, consumer: &ConsumerId, why: String) -> Result<Position> {
        let (code, since) = ("paused".into(), self.clock.now());
        let reason = Reason { code, message: why, event: None, since, retry_at: None, logs: String::new() };
        self.move_position(consumer, |position| {
            position.status = Status::Paused;
            position.reason = Some(reason.clone());
        })
        .await
    }

    /// Lets a blocked or paused consumer go on; the event in its way is tried anew.
    pub async fn resume(&self, consumer: &ConsumerId) -> Result<Position> {
        self.move_position(consumer, |position| {
            position.status = Status::Running;
            position.reason = None;
            position.attempts = 0;
        })
        .await
    }

    /// Changes what a consumer has set aside. The commit fences the consumer where it runs: what its loop has read of that
    /// before is not committed after.
    pub async fn change_letters(&self, consumer: &ConsumerId, letters: Commit) -> Result<()> {
        let state = self.state.read().await;
        let config = state.config.consumer(consumer)?;
        let store = state.open.store(&config.store)?;
        let Some(supervised) = state.consumers.get(consumer) else {
            return store.committer.commit(letters).await.map(drop);
        };
        for _ in 0..MOVE_ATTEMPTS {
            let row = match store.database.store().load(&shard(consumer)).await {
                Err(error) if error.kind() == Kind::NotFound => return store.committer.commit(letters).await.map(drop),
                row => row?,
            };
            if commit(&store.committer, row.clone(), row, letters.clone()).await?.is_some() {
                supervised.poke();
                return Ok(());
            }
        }
        Err(too_fast(consumer))
    }

    /// Lets a consumer go on without the event that blocks it, which the same commit sets aside.
    pub async fn skip(&self, consumer: &ConsumerId, event: &EventId) -> Result<Position> {
        let state = self.state.read().await;
        state.config.consumer(consumer)?;
        let supervised = state.consumers.get(consumer).ok_or_else(|| not_here(consumer))?;
        let version = supervised.version();
        let store = state.open.store(&version.spec.store)?;
        let source = state.open.tailer(&version.spec.stream)?.source();
        for _ in 0..MOVE_ATTEMPTS {
            let from = store.database.store().load(&shard(consumer)).await?;
            let reason = blocked_by(&from, event)?;
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
                reason,
                is_skipped: true,
                attempts: from.attempts,
                digest: from.digest.unwrap_or_else(|| version.factory.digest()),
                redrive_at: None,
            };
            let mirror = version.spec.legacy_cursor.clone().filter(|legacy| legacy.mirror);
            let with = Commit { dead_letters: vec![letter], mirror, ..Commit::default() };
            if let Some(position) = commit(&store.committer, from, to, with).await? {
                supervised.poke();
                return Ok(position);
            }
        }
        Err(too_fast(consumer))
    }

    async fn move_position(&self, consumer: &ConsumerId, change: impl Fn(&mut Position)) -> Result<Position> {
        let state = self.state.read().await;
        state.config.consumer(consumer)?;
        let supervised = state.consumers.get(consumer).ok_or_else(|| not_here(consumer))?;
        let spec = supervised.version().spec.clone();
        let store = state.open.store(&spec.store)?;
        for _ in 0..MOVE_ATTEMPTS {
            let from = store.database.store().load(&shard(consumer)).await?;
            let mut to = from.clone();
            if from.revision == Revision(0) {
                // Nothing has moved it yet, and after this it is no new one that its start holds for.
                to.cursor = spec.start.clone();
            }
            change(&mut to);
            to.updated_at = self.clock.now();
            if let Some(position) = commit(&store.committer, from, to, Commit::default()).await? {
                supervised.poke();
                return Ok(position);
            }
        }
        Err(too_fast(consumer))
    }
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

fn shard(consumer: &ConsumerId) -> ShardId {
    ShardId { consumer: consumer.clone(), index: 0 }
}

fn not_here(consumer: &ConsumerId) -> Error {
    Error::not_found(format!("{consumer} does not run here"))
}

fn too_fast(consumer: &ConsumerId) -> Error {
    Error::fenced(format!("{consumer} commits faster than it can be moved; try again"))
}
