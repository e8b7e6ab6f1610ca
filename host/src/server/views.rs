//! What the API shows, as JSON. Fields are only ever added; units are in their names; times are RFC 3339.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    deployment::{Deployment, Spec},
    error::{Error, Result},
    event::{Cursor, Event, Timestamp},
    host::Catalog,
    metrics::ConsumerLabels,
    source::{Lag, Source},
    store::{Position, Reason, Status, Swap},
    supervisor::Standing,
    telemetry::Reading,
    tenant::{ConsumerId, StreamId},
};

use super::Api;

/// Lag is counted no further.
const LAG_EVENTS_MAX: u64 = 1_000_000;

/// A consumer, and why it stands still if it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsumerView {
    /// Whose.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// The stream that it reads.
    pub stream: String,
    /// `running`, `blocked`, `paused`, `stalled`, or `stopped` where no host runs it.
    pub status: String,
    /// Why it stands still, or is trying again.
    pub reason: Option<Reason>,
    /// What to do about it.
    pub next_step: Option<String>,
    /// How often the next event has failed.
    pub attempts: u32,
    /// Its place in the stream.
    pub cursor: String,
    /// Events between there and the head; counted up to 1,000,000.
    pub lag_events: u64,
    /// The age of the oldest of them.
    pub lag_seconds: f64,
    /// Commits of its position.
    pub revision: u64,
    /// Claims and moves of the whole store up to its own last one.
    pub fence: u64,
    /// Its active deployment.
    pub epoch: u64,
    /// The component that made its last commit.
    pub digest: Option<String>,
    /// When its position was last written.
    pub updated_at: Option<Timestamp>,
}

/// A consumer with everything that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsumerDetail {
    /// What the list shows.
    pub summary: ConsumerView,
    /// The active deployment's spec.
    pub spec: Option<Spec>,
    /// Which components made its commits, oldest first.
    pub history: Vec<SwapView>,
}

/// A line of a shard's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapView {
    /// The first commit of the component.
    pub revision: u64,
    /// The component.
    pub digest: String,
    /// The deployment.
    pub epoch: u64,
    /// When.
    pub at: Timestamp,
}

/// A stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamView {
    /// Whose.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// The store that holds it.
    pub store: String,
    /// Its newest place.
    pub head: String,
    /// How many events it holds; counted up to 1,000,000.
    pub events: u64,
}

/// An event, in the form in which it can be imported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub r#type: i32,
    /// What it is about.
    pub foreign_id: String,
    /// When it was appended.
    pub timestamp: Timestamp,
    /// Its payload, where that is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// Its payload in base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_base64: Option<String>,
    /// Names and values beside the payload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub headers: BTreeMap<String, String>,
}

/// What an append did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Appended {
    /// Events that were new.
    pub appended: u64,
    /// Events that were there already.
    pub skipped: u64,
}

/// An entry of a consumer's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryView {
    /// The key.
    pub key: String,
    /// The value in base64.
    pub value_base64: String,
}

impl From<Swap> for SwapView {
    fn from(swap: Swap) -> Self {
        let Swap { revision, digest, epoch, at } = swap;
        Self { revision: revision.0, digest: digest.to_string(), epoch: epoch.0, at }
    }
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let json = serde_json::from_slice(&event.metadata).ok();
        let base64 = (json.is_none() && !event.metadata.is_empty()).then(|| base64(&event.metadata));
        Self {
            id: event.id.to_string(),
            r#type: event.r#type,
            foreign_id: event.foreign_id.to_string(),
            timestamp: event.timestamp,
            metadata: json,
            metadata_base64: base64,
            headers: event.headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        }
    }
}

/// Bytes as base64.
pub fn base64(bytes: &Bytes) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// All consumers of the config, in the order of their ids.
pub async fn consumers(api: &Api) -> Result<Vec<ConsumerView>> {
    let catalog = api.catalog().await;
    let standings = match api {
        Api::Live(host) => host.standings().await,
        Api::ReadOnly(_) => BTreeMap::new(),
    };
    let rows = Rows::read(&catalog).await?;
    let mut views = Vec::new();
    for config in catalog.config.consumers.values() {
        let id = &config.id;
        let position = rows.positions.get(id);
        let lag = match (position, rows.heads.get(&config.stream)) {
            (Some(position), Some(head)) if position.cursor == *head => Lag::default(),
            _ => {
                let cursor = position.map_or(Cursor::START, |position| position.cursor.clone());
                let source = catalog.database_of(&config.stream)?.source(&config.stream).await?;
                source.lag(&cursor, LAG_EVENTS_MAX).await?
            }
        };
        views.push(view(id, &config.stream, position, rows.deployments.get(id), standings.get(id), lag));
    }
    Ok(views)
}

/// One consumer of the config, with its deployment.
pub(super) async fn consumer(api: &Api, id: &ConsumerId) -> Result<ConsumerDetail> {
    let all = consumers(api).await?;
    let is_it = |view: &ConsumerView| view.name == id.name.as_str() && view.tenant == id.tenant.0.as_str();
    let catalog = api.catalog().await;
    let config = catalog.config.consumer(id)?;
    let summary = all.into_iter().find(is_it);
    let summary = summary.ok_or_else(|| Error::not_found(format!("consumer `{}` is gone", id.name)))?;
    let store = catalog.database(&config.store)?.store();
    let deployment = store.deployments().await?.into_iter().find(|deployment| deployment.consumer == *id);
    let shard = crate::tenant::ShardId { consumer: id.clone(), index: 0 };
    let history = store.history(&shard).await?.into_iter().map(SwapView::from).collect();
    Ok(ConsumerDetail { summary, spec: deployment.map(|deployment| deployment.spec), history })
}

/// What all stores say, read once per store and stream.
struct Rows {
    positions: BTreeMap<ConsumerId, Position>,
    deployments: BTreeMap<ConsumerId, Deployment>,
    heads: BTreeMap<StreamId, Cursor>,
}

impl Rows {
    async fn read(catalog: &Catalog) -> Result<Self> {
        let mut rows = Self { positions: BTreeMap::new(), deployments: BTreeMap::new(), heads: BTreeMap::new() };
        for database in catalog.databases.values() {
            let positions = database.store().positions().await?;
            rows.positions.extend(positions.into_iter().map(|row| (row.shard.consumer.clone(), row)));
            let deployments = database.store().deployments().await?;
            rows.deployments.extend(deployments.into_iter().map(|row| (row.consumer.clone(), row)));
        }
        for stream in catalog.config.streams.values() {
            let head = catalog.database(&stream.store)?.source(&stream.id).await?.head().await?;
            rows.heads.insert(stream.id.clone(), head);
        }
        Ok(rows)
    }
}

fn view(
    id: &ConsumerId,
    stream: &StreamId,
    position: Option<&Position>,
    deployment: Option<&Deployment>,
    standing: Option<&Standing>,
    lag: Lag,
) -> ConsumerView {
    let (status, reason) = status(position, standing);
    let age = lag.oldest.map_or(Duration::ZERO, |oldest| Clock::System.now().since(oldest));
    ConsumerView {
        tenant: id.tenant.to_string(),
        name: id.name.to_string(),
        stream: stream.name.to_string(),
        next_step: next_step(status, &id.name.to_string()),
        status: status.to_owned(),
        reason,
        attempts: position.map_or(0, |position| position.attempts),
        cursor: position.map_or(Cursor::START, |position| position.cursor.clone()).to_string(),
        lag_events: lag.events,
        lag_seconds: age.as_secs_f64(),
        revision: position.map_or(0, |position| position.revision.0),
        fence: position.map_or(0, |position| position.fence.0),
        epoch: deployment.map_or(0, |deployment| deployment.epoch.0),
        digest: position.and_then(|position| position.digest).map(|digest| digest.to_string()),
        updated_at: position.map(|position| position.updated_at),
    }
}

/// The row says whether it is blocked or paused, the host whether it is stalled or runs.
fn status(position: Option<&Position>, standing: Option<&Standing>) -> (&'static str, Option<Reason>) {
    let reason = position.and_then(|position| position.reason.clone());
    match (position.map(|position| position.status), standing) {
        (Some(Status::Blocked), _) => ("blocked", reason),
        (Some(Status::Paused), _) => ("paused", reason),
        (_, Some(Standing::Stalled { message, since })) => {
            let reason = Reason { code: "stalled".into(), message: message.clone(), event: None, since: *since };
            ("stalled", Some(reason))
        }
        (_, Some(Standing::Starting)) => ("starting", reason),
        (_, Some(Standing::Stopped) | None) => ("stopped", reason),
        (_, Some(_)) => ("running", reason),
    }
}

fn next_step(status: &str, name: &str) -> Option<String> {
    match status {
        "blocked" => Some(format!("deploy a component that can handle the event, or `tendon consumer resume {name}`")),
        "paused" => Some(format!("`tendon consumer resume {name}`")),
        "stalled" => Some("see what the reason names; it goes on by itself once that works again".into()),
        "stopped" => Some("start a host with `tendon run`".into()),
        _ => None,
    }
}

impl ConsumerView {
    /// What a scrape wants to know.
    pub(super) fn reading(&self) -> Reading {
        let standing = ["running", "blocked", "paused", "stalled"].into_iter().find(|word| *word == self.status);
        Reading {
            labels: ConsumerLabels { tenant: self.tenant.clone(), consumer: self.name.clone() },
            lag_events: self.lag_events,
            lag_seconds: self.lag_seconds,
            standing: standing.unwrap_or("stopped"),
        }
    }
}

/// A stream's line.
pub async fn stream(id: &StreamId, store: &str, source: &dyn Source) -> Result<StreamView> {
    Ok(StreamView {
        tenant: id.tenant.to_string(),
        name: id.name.to_string(),
        store: store.to_owned(),
        head: source.head().await?.to_string(),
        events: source.lag(&Cursor::START, LAG_EVENTS_MAX).await?.events,
    })
}
