//! The routes of what consumers have set aside.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};

use crate::{
    dead_letter::DeadLetter,
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

/// Dead letters that one answer holds, and one commit purges, at the most.
const LETTERS_MAX: u32 = 1_000;

/// Which are asked for.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    tenant: TenantId,
    /// Those that were set aside after this one.
    after: Option<EventId>,
    limit: Option<u32>,
}

/// What is to be purged.
#[derive(Deserialize, Serialize)]
pub struct Purge {
    /// These events.
    pub events: Vec<EventId>,
    /// Or all.
    pub all: bool,
    /// Only to be counted.
    pub dry_run: bool,
}

/// What was purged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Purged {
    /// How many.
    pub purged: u64,
    /// Whether they were only counted.
    pub dry_run: bool,
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
    let letters = store.dead_letters(&id, after, query.limit.unwrap_or(LETTERS_MAX).min(LETTERS_MAX)).await?;
    Ok(Json(letters.into_iter().map(DeadLetterView::from).collect()))
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
    Json(purge): Json<Purge>,
) -> Result<Json<Purged>, Failure> {
    api.host()?;
    let id = id(query.tenant, &name)?;
    let store = store(&api, &id).await?;
    let Purge { events, all, dry_run } = purge;
    let purged = match (all, events.as_slice()) {
        (true, []) => purge_all(&*store, &id, dry_run).await?,
        (false, [_, ..]) => purge_these(&*store, &id, events, dry_run).await?,
        _ => return Err(Failure(Error::invalid("say which events are to be purged, or that all are"))),
    };
    Ok(Json(Purged { purged, dry_run }))
}

/// These, or none where one of them is not there.
async fn purge_these(store: &dyn Store, id: &ConsumerId, mut events: Vec<EventId>, dry_run: bool) -> Result<u64> {
    events.sort_unstable();
    events.dedup();
    for event in &events {
        store.dead_letter(id, event).await?;
    }
    let purged = events.len() as u64;
    remove(store, id, events, dry_run).await.map(|()| purged)
}

async fn purge_all(store: &dyn Store, id: &ConsumerId, dry_run: bool) -> Result<u64> {
    let (mut purged, mut after): (u64, Option<(Timestamp, EventId)>) = (0, None);
    loop {
        let letters = store.dead_letters(id, after, LETTERS_MAX).await?;
        let Some(last) = letters.last() else { return Ok(purged) };
        after = Some((last.at(), last.event.id.clone()));
        purged += letters.len() as u64;
        let events = letters.into_iter().map(|letter| letter.event.id).collect();
        remove(store, id, events, dry_run).await?;
    }
}

async fn remove(store: &dyn Store, id: &ConsumerId, events: Vec<EventId>, dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    let purged = events.into_iter().map(|event| (id.clone(), event)).collect();
    let answers = store.commit(&[Commit { purged, ..Commit::default() }]).await;
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}
