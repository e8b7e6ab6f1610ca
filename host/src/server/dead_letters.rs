//! The routes of what consumers have set aside.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    dead_letter::{DeadLetter, Letters, Redrive},
    error::{Error, Result},
    event::{EventId, Timestamp},
    store::{Commit, Reason, Store},
    tenant::{ConsumerId, TenantId},
};

use super::{
    Api,
    consumers::{Tenant, id},
    failure::Failure,
    views::EventView,
};

/// Dead letters that one answer holds, and one commit changes, at the most.
const LETTERS_MAX: u32 = 1_000;

/// Which are asked for.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    tenant: TenantId,
    /// Those that were set aside after this one.
    after: Option<EventId>,
    /// Those with this reason.
    r#match: Option<String>,
    limit: Option<u32>,
}

/// A reason: `trap`, or `trap~overflow` for those traps whose message has that in it, or `~overflow`.
struct Match<'a> {
    code: &'a str,
    text: &'a str,
}

impl<'a> Match<'a> {
    fn of(text: Option<&'a str>) -> Self {
        let text = text.unwrap_or_default();
        let (code, text) = text.split_once('~').unwrap_or((text, ""));
        Self { code, text }
    }

    fn matches(&self, letter: &DeadLetter) -> bool {
        let reason = &letter.reason;
        (self.code.is_empty() || reason.code == self.code) && reason.message.contains(self.text)
    }
}

/// Which are to be changed.
#[derive(Deserialize, Serialize)]
pub struct Chosen {
    /// These events.
    pub events: Vec<EventId>,
    /// Or all.
    pub all: bool,
    /// Of all those with this reason: `trap`, `trap~overflow`, `~overflow`.
    #[serde(default)]
    pub r#match: Option<String>,
    /// Only to be counted.
    pub dry_run: bool,
}

/// What was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// How many.
    pub changed: u64,
    /// Whether they were only counted.
    pub dry_run: bool,
}

/// What becomes of dead letters.
#[derive(Clone, Copy)]
enum Change {
    /// They are forgotten.
    Purge,
    /// They are handled again, as is wished since then.
    Redrive(Timestamp),
    /// They are not, after all.
    Cancel,
}

impl Change {
    fn of(self, consumer: &ConsumerId, events: Vec<EventId>) -> Commit {
        let id = || consumer.clone();
        let redrives = |at| events.iter().map(|event| Redrive { consumer: id(), event: event.clone(), at }).collect();
        match self {
            Self::Redrive(at) => Commit { redrives: redrives(Some(at)), ..Commit::default() },
            Self::Cancel => Commit { redrives: redrives(None), ..Commit::default() },
            Self::Purge => {
                Commit { purged: events.into_iter().map(|event| (id(), event)).collect(), ..Commit::default() }
            }
        }
    }
}

/// An event that a consumer has set aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// The event.
    pub event: EventView,
    /// What happened at the last attempt.
    pub reason: Reason,
    /// Whether the consumer's policy is to skip: nobody is expected to look at it.
    pub skipped: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// The component that failed.
    pub digest: String,
    /// What the guest logged and printed in the last attempt.
    pub logs: String,
    /// Since when it is to be handled again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub redrive_since: Option<Timestamp>,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            event: letter.event.into(),
            reason: letter.reason,
            skipped: letter.is_skipped,
            attempts: letter.attempts,
            digest: letter.digest.to_string(),
            logs: letter.logs,
            redrive_since: letter.redrive_at,
        }
    }
}

async fn store(api: &Api, id: &ConsumerId) -> Result<Arc<dyn Store>> {
    let catalog = api.catalog().await;
    Ok(catalog.database(&catalog.config.consumer(id)?.store)?.store())
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Page>,
) -> Result<Json<Vec<DeadLetterView>>, Failure> {
    let id = id(query.tenant, &name)?;
    let store = store(&api, &id).await?;
    let after = match &query.after {
        Some(event) => Some((store.dead_letter(&id, event).await?.at(), event.clone())),
        None => None,
    };
    let limit = query.limit.unwrap_or(LETTERS_MAX).min(LETTERS_MAX);
    let wanted = Match::of(query.r#match.as_deref());
    let mut which = Letters { after, is_due: false, limit };
    loop {
        let letters = store.dead_letters(&id, &which).await?;
        let Some(last) = letters.last() else { return Ok(Json(Vec::new())) };
        which.after = Some((last.at(), last.event.id.clone()));
        let found: Vec<_> = letters.into_iter().filter(|letter| wanted.matches(letter)).collect();
        if !found.is_empty() {
            return Ok(Json(found.into_iter().map(DeadLetterView::from).collect()));
        }
    }
}

pub(super) async fn show(
    State(api): State<Api>,
    Path((name, event)): Path<(String, EventId)>,
    Query(query): Query<Tenant>,
) -> Result<Json<DeadLetterView>, Failure> {
    let id = id(query.tenant, &name)?;
    Ok(Json(store(&api, &id).await?.dead_letter(&id, &event).await?.into()))
}

pub(super) async fn purge(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Changed>, Failure> {
    Ok(Json(change(&api, &id(query.tenant, &name)?, chosen, Change::Purge).await?))
}

pub(super) async fn redrive(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Changed>, Failure> {
    let id = id(query.tenant, &name)?;
    let changed = change(&api, &id, chosen, Change::Redrive(Clock::System.now())).await?;
    api.host()?.poke(&id).await;
    Ok(Json(changed))
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Changed>, Failure> {
    Ok(Json(change(&api, &id(query.tenant, &name)?, chosen, Change::Cancel).await?))
}

async fn change(api: &Api, id: &ConsumerId, chosen: Chosen, change: Change) -> Result<Changed> {
    api.host()?;
    let store = store(api, id).await?;
    let Chosen { events, all, r#match, dry_run } = chosen;
    let changed = match (all, events.as_slice()) {
        (true, []) => change_all(&*store, id, &Match::of(r#match.as_deref()), change, dry_run).await?,
        (false, [_, ..]) => change_these(&*store, id, events, change, dry_run).await?,
        _ => return Err(Error::invalid("say which events are meant, or that all are")),
    };
    Ok(Changed { changed, dry_run })
}

/// These, or none where one of them is not there.
async fn change_these(
    store: &dyn Store,
    id: &ConsumerId,
    mut events: Vec<EventId>,
    change: Change,
    dry_run: bool,
) -> Result<u64> {
    events.sort_unstable();
    events.dedup();
    for event in &events {
        store.dead_letter(id, event).await?;
    }
    let changed = events.len() as u64;
    commit(store, change.of(id, events), dry_run).await.map(|()| changed)
}

async fn change_all(
    store: &dyn Store,
    id: &ConsumerId,
    wanted: &Match<'_>,
    change: Change,
    dry_run: bool,
) -> Result<u64> {
    let mut which = Letters { is_due: matches!(change, Change::Cancel), limit: LETTERS_MAX, after: None };
    let mut changed = 0;
    loop {
        let letters = store.dead_letters(id, &which).await?;
        let Some(last) = letters.last() else { return Ok(changed) };
        which.after = Some((last.at(), last.event.id.clone()));
        let found = letters.into_iter().filter(|letter| wanted.matches(letter));
        let events: Vec<EventId> = found.map(|letter| letter.event.id).collect();
        if !events.is_empty() {
            changed += events.len() as u64;
            commit(store, change.of(id, events), dry_run).await?;
        }
    }
}

async fn commit(store: &dyn Store, commit: Commit, dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    let answers = store.commit(&[commit]).await;
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}
