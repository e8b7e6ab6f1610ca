//! What a commit needs and comes to, whichever database writes it.

use std::collections::{HashMap, HashSet};

use super::{fenced, label};
use crate::{
    error::{Error, Kind, Result},
    event::EventKey,
    owner::Owner,
    store::{Commit, Committed, Epoch, Fence, Position, Revision, Rewrite},
    tenant::{ConsumerId, ShardId},
};

/// How many numbers of the counter a commit draws.
pub(super) fn draws(commit: &Commit) -> usize {
    let fence = commit.r#move.as_ref().is_some_and(|r#move| r#move.takes_fence);
    usize::from(fence) + usize::from(commit.deployment.is_some())
}

/// Whether its shard's commits are another component's from now on.
pub(super) fn swaps(commit: &Commit) -> bool {
    commit.r#move.as_ref().is_some_and(|r#move| r#move.to.digest.is_some() && r#move.from.digest != r#move.to.digest)
}

/// Whether it does no more than move a position, under the component that has made it.
pub(super) fn only_moves(commit: &Commit) -> bool {
    draws(commit) == 0
        && commit.changes.is_empty()
        && commit.dead_letters.is_empty()
        && commit.purged.is_empty()
        && commit.redrives.is_empty()
        && commit.parked.is_empty()
        && commit.unparked.is_empty()
        && commit.mirror.is_none()
        && commit.r#move.is_some()
        && !swaps(commit)
}

/// What the answer will be if it stands, but for the count of its events.
pub(super) fn answer(commit: &Commit, mut draw: impl FnMut() -> u64) -> Committed {
    let epoch = commit.deployment.as_ref().map(|_| Epoch(draw()));
    let position = commit.r#move.as_ref().map(|r#move| Position {
        shard: r#move.from.shard.clone(),
        revision: Revision(r#move.from.revision.0 + 1),
        fence: if r#move.takes_fence { Fence(draw()) } else { r#move.from.fence },
        incarnation: r#move.from.incarnation,
        epoch: epoch.unwrap_or(r#move.to.epoch),
        ..r#move.to.clone()
    });
    Committed { position, appended: 0, epoch }
}

/// What the rows of a consumer become that are found like this; an error where they are not those that it was meant for.
pub(super) fn rewritten(
    rewrite: &Rewrite,
    mut found: Vec<Position>,
    fence: Fence,
    epoch: Option<Epoch>,
) -> Result<Vec<Position>> {
    let mut from: Vec<&Position> = rewrite.from.iter().collect();
    from.sort_unstable_by_key(|row| row.shard.index);
    found.sort_unstable_by_key(|row| row.shard.index);
    let key = |row: &Position| (row.shard.index, row.fence, row.revision, row.epoch);
    if !from.iter().map(|row| key(row)).eq(found.iter().map(key)) {
        return Err(moved_meanwhile(&rewrite.consumer));
    }
    let row = |to: &Position| Position {
        fence,
        incarnation: if to.incarnation == 0 { fence.0 } else { to.incarnation },
        epoch: epoch.unwrap_or(to.epoch),
        owner: Owner::default(),
        ..to.clone()
    };
    Ok(rewrite.to.iter().map(row).collect())
}

/// The error of a rewrite that comes too late.
pub(super) fn moved_meanwhile(consumer: &ConsumerId) -> Error {
    Error::fenced(format!("{consumer}: one of its shards has moved meanwhile"))
}

/// The answer, once it is known whose rows were as expected, and how the others were found.
pub(super) fn judged(
    commit: &Commit,
    answer: Committed,
    won: &HashSet<ShardId>,
    found: &HashMap<ShardId, Position>,
) -> Result<Committed> {
    match &commit.r#move {
        Some(r#move) if !won.contains(&r#move.from.shard) => Err(fenced(r#move, found.get(&r#move.from.shard))),
        _ => Ok(answer),
    }
}

/// The error of commits that may stand or not.
pub(super) fn lost(first: Option<&Commit>, error: Error) -> Error {
    let label = first.map(label).unwrap_or_default();
    Error::new(Kind::Ambiguous, format!("{label}: the answer was lost, it may stand or not")).because(error)
}

/// The error of an event key that was not taken.
pub(super) fn key_refused(first: Option<&Commit>, known: Option<EventKey>, error: sqlx::Error) -> Error {
    let label = first.map(label).unwrap_or_default();
    match known {
        Some(key) => Error::corrupt(format!("{label}: event key {} is in the store already", key.0)),
        None => Error::corrupt(format!("{label}: two of its events have the same key")),
    }
    .because(error)
}
