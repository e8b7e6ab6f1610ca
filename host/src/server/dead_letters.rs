//! The routes of what consumers have set aside.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    dead_letter::{DeadLetter, Letters, Redrive, Wished},
    error::{Error, Kind, Result},
    event::{Event, EventId, Timestamp},
    host::Host,
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

/// Dead letters that a redrive has handled a second: one a day to as many as there can be.
const RATE_MIN: f64 = 0.00001;
const RATE_MAX: f64 = 1_000_000.0;

/// Which are asked for.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    tenant: TenantId,
    /// Those that were set aside after this one.
    after: Option<EventId>,
    /// When that one was set aside; where nobody says it, it must still be there.
    since: Option<Timestamp>,
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
    /// Everything, where nothing is said. What says nothing is a mistake, such as a variable that is not set: it must not mean
    /// everything.
    fn of(text: Option<&'a str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self { code: "", text: "" }) };
        match text.split_once('~').unwrap_or((text, "")) {
            ("", "") => Err(Error::invalid("the reason to be matched is empty")
                .help("write `trap`, `trap~overflow` or `~overflow`; --all means everything")),
            (code, text) => Ok(Self { code, text }),
        }
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
    /// Of all, those that are to be handled again since this moment: one redrive's.
    #[serde(default)]
    pub job: Option<Timestamp>,
    /// At most so many a second, where they are to be handled again.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Only to be counted.
    pub dry_run: bool,
}

/// A redrive that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// When it was wished, which no other one was.
    pub id: Timestamp,
    /// Events that are still to be handled again.
    pub left: u64,
    /// At most so many of them a second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate: Option<f64>,
}

/// Another payload.
#[derive(Deserialize, Serialize)]
pub struct Edit {
    /// In base64.
    pub metadata_base64: String,
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
    /// They are handled again, as is wished since then, with so much time between them.
    Redrive(Timestamp, Duration),
    /// They are not, after all.
    Cancel,
}

impl Change {
    fn of(self, consumer: &ConsumerId, events: Vec<EventId>) -> Commit {
        let id = || consumer.clone();
        let redrive = |event: &EventId, at, pace| Redrive { consumer: id(), event: event.clone(), at, pace };
        let redrives = |at, pace| events.iter().map(|event| redrive(event, at, pace)).collect();
        match self {
            Self::Redrive(at, pace) => Commit { redrives: redrives(Some(at), pace), ..Commit::default() },
            Self::Cancel => Commit { redrives: redrives(None, Duration::ZERO), ..Commit::default() },
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
    /// How often it was tried.
    pub attempts: u32,
    /// The component that failed.
    pub digest: String,
    /// Since when it is to be handled again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub redrive_since: Option<Timestamp>,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            event: letter.event.into(),
            reason: letter.reason,
            attempts: letter.attempts,
            digest: letter.digest.to_string(),
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
    let after = match (query.after, query.since) {
        (Some(event), Some(since)) => Some((since, event)),
        (Some(event), None) => Some((store.dead_letter(&id, &event).await?.at(), event)),
        (None, _) => None,
    };
    let limit = query.limit.unwrap_or(LETTERS_MAX).min(LETTERS_MAX);
    let wanted = Match::of(query.r#match.as_deref())?;
    let mut which = Letters { after, limit, ..Letters::default() };
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
    Ok(Json(change(&api, &id(query.tenant, &name)?, chosen, |_, _| Change::Purge).await?))
}

pub(super) async fn redrive(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Changed>, Failure> {
    Ok(Json(change(&api, &id(query.tenant, &name)?, chosen, Change::Redrive).await?))
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(chosen): Json<Chosen>,
) -> Result<Json<Changed>, Failure> {
    Ok(Json(change(&api, &id(query.tenant, &name)?, chosen, |_, _| Change::Cancel).await?))
}

/// The redrives that have something left to do, oldest first.
pub(super) async fn jobs(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
) -> Result<Json<Vec<Job>>, Failure> {
    let id = id(query.tenant, &name)?;
    let store = store(&api, &id).await?;
    let (mut which, mut left) = (Letters { wished: Wished::Yes, limit: LETTERS_MAX, after: None }, BTreeMap::new());
    loop {
        let letters = store.dead_letters(&id, &which).await?;
        let Some(last) = letters.last() else { break };
        which.after = Some((last.at(), last.event.id.clone()));
        for letter in &letters {
            let Some(id) = letter.redrive_at else { continue };
            let rate = (!letter.redrive_pace.is_zero()).then(|| rate_of(letter.redrive_pace));
            left.entry(id).or_insert(Job { id, left: 0, rate }).left += 1;
        }
    }
    Ok(Json(left.into_values().collect()))
}

pub(super) async fn edit(
    State(api): State<Api>,
    Path((name, event)): Path<(String, EventId)>,
    Query(query): Query<Tenant>,
    Json(Edit { metadata_base64 }): Json<Edit>,
) -> Result<Json<DeadLetterView>, Failure> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let id = id(query.tenant, &name)?;
    let metadata = STANDARD
        .decode(metadata_base64)
        .map_err(|error| Error::invalid("`metadata_base64` is not base64").because(error))?;
    let refused = |error: Error| match error.kind() {
        Kind::NotFound | Kind::Limit => Error::invalid(error.to_string()).help(error.way_out().unwrap_or_default()),
        _ => error,
    };
    api.host()?.edit_letter(&id, &event, metadata.into()).await.map_err(refused)?;
    Ok(Json(store(&api, &id).await?.dead_letter(&id, &event).await?.into()))
}

/// The time between two events of a redrive.
fn pace_of(rate: f64) -> Result<Duration> {
    if !(RATE_MIN..=RATE_MAX).contains(&rate) {
        return Err(Error::invalid(format!("{rate} is no rate"))
            .help(format!("write how many a second are handled again at the most: {RATE_MIN} to {RATE_MAX}")));
    }
    Ok(Duration::from_secs_f64(1.0 / rate))
}

/// The rate of a pace, as it was said: to six digits.
fn rate_of(pace: Duration) -> f64 {
    let rate = 1.0 / pace.as_secs_f64();
    let scale = 10_f64.powi(5 - rate.log10().floor() as i32);
    (rate * scale).round() / scale
}

async fn change(
    api: &Api,
    id: &ConsumerId,
    chosen: Chosen,
    change: impl Fn(Timestamp, Duration) -> Change,
) -> Result<Changed> {
    let host = api.host()?;
    let store = store(api, id).await?;
    let now = Clock::System.now();
    let pace = chosen.rate.map(pace_of).transpose()?.unwrap_or_default();
    let to = Changing { host, store: &*store, id, change: change(now, pace), dry_run: chosen.dry_run };
    let changed = match (chosen.all, chosen.events.as_slice()) {
        (true, []) => to.all(&Match::of(chosen.r#match.as_deref())?, chosen.job, now).await?,
        (false, [_, ..]) => to.these(chosen.events).await?,
        _ => return Err(Error::invalid("say which events are meant, or that all are")),
    };
    Ok(Changed { changed, dry_run: chosen.dry_run })
}

/// A change of a consumer's dead letters.
struct Changing<'a> {
    host: &'a Host,
    store: &'a dyn Store,
    id: &'a ConsumerId,
    change: Change,
    dry_run: bool,
}

impl Changing<'_> {
    /// These, or none where one of them is not there.
    async fn these(&self, mut events: Vec<EventId>) -> Result<u64> {
        events.sort_unstable();
        events.dedup();
        let mut found = Vec::new();
        for event in &events {
            let letter = self.store.dead_letter(self.id, event).await.map_err(|error| match error.kind() {
                Kind::NotFound => Error::invalid(error.to_string()).help(error.way_out().unwrap_or_default()),
                _ => error,
            })?;
            found.push(letter.event);
        }
        self.commit(found).await
    }

    /// All that were set aside until now: what fails again meanwhile is not meant once more.
    async fn all(&self, wanted: &Match<'_>, job: Option<Timestamp>, until: Timestamp) -> Result<u64> {
        let is_wished = matches!(self.change, Change::Cancel) || job.is_some();
        let wished = if is_wished { Wished::Yes } else { Wished::Either };
        let mut which = Letters { wished, limit: LETTERS_MAX, after: None };
        // One that fails again while this goes on has another place in the list, and is the same one.
        let mut changed = HashSet::new();
        loop {
            let mut letters = self.store.dead_letters(self.id, &which).await?;
            letters.retain(|letter| letter.at() <= until);
            let Some(last) = letters.last() else { return Ok(changed.len() as u64) };
            which.after = Some((last.at(), last.event.id.clone()));
            let is_of = |letter: &DeadLetter| job.is_none() || letter.redrive_at == job;
            let found = letters.into_iter().filter(|letter| wanted.matches(letter) && is_of(letter));
            let found = found.map(|letter| letter.event).filter(|event| changed.insert(event.id.clone()));
            self.commit(found.collect()).await?;
        }
    }

    async fn commit(&self, events: Vec<Event>) -> Result<u64> {
        let changed = events.len() as u64;
        if changed > 0 && !self.dry_run {
            self.host.change_letters(self.id, &events, |events| self.change.of(self.id, events)).await?;
        }
        Ok(changed)
    }
}
