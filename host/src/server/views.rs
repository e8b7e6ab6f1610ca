//! What the API shows, as JSON. Fields are only ever added; units are in their names; times are RFC 3339.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    backend::foreign::Finding,
    clock::Clock,
    config::resolved::Stream,
    deployment::Spec,
    error::{Error, Result},
    event::{Cursor, Event, Timestamp},
    host::Catalog,
    notice::Refused,
    parked::ParkedKey,
    source::HeldUp,
    store::{Reason, Swap},
    telemetry::{StreamLabels, StreamReading},
    tenant::{StreamId, TenantId},
};

/// Lag is counted no further.
pub(super) const LAG_EVENTS_MAX: u64 = 1_000_000;

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
    /// Events between there and the head; counted up to 1,000,000. None where the stream or the store cannot be read.
    pub lag_events: Option<u64>,
    /// The age of the oldest of them; likewise.
    pub lag_seconds: Option<f64>,
    /// What keeps its next events from being read, where it has read all that can be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_up: Option<HeldUp>,
    /// Why it is not what its files propose.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<Refused>,
    /// Why something of this is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
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
    /// How many shards it has. Where there are several, all of this is said of the one that is worst off, and of the one that is
    /// furthest behind, and commits are those of all.
    #[serde(default)]
    pub shards: u32,
}

/// One of a consumer's shards, where it has several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardView {
    /// Which one, counted from 0.
    pub index: u32,
    /// As of a consumer.
    pub status: String,
    /// Why it stands still, or is trying again.
    pub reason: Option<Reason>,
    /// How often its next event has failed.
    pub attempts: u32,
    /// Its place in the stream.
    pub cursor: String,
    /// Events between there and the head, those of other shards included.
    pub lag_events: Option<u64>,
    /// The age of the oldest of them.
    pub lag_seconds: Option<f64>,
    /// Commits of its position.
    pub revision: u64,
}

/// A consumer with everything that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConsumerDetail {
    /// What the list shows.
    pub summary: ConsumerView,
    /// The active deployment's spec.
    pub spec: Option<Spec>,
    /// Whether it has set something aside.
    #[serde(default)]
    pub has_dead_letters: bool,
    /// What it has parked, if anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parked: Option<Parked>,
    /// Its shards, where it has several.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub shards: Vec<ShardView>,
    /// Which components made its commits, shard by shard, oldest first.
    pub history: Vec<SwapView>,
}

/// What a consumer has parked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Parked {
    /// How many keys.
    pub keys: u64,
    /// How many events of them.
    pub events: u64,
    /// The first of the keys.
    pub first: Vec<ParkedView>,
}

/// A key that is parked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ParkedView {
    /// The key.
    pub key: String,
    /// How many events wait.
    pub events: u64,
    /// Why the first of them does, and when it is tried again; not by itself where that is not said.
    pub reason: Reason,
    /// How often that one was tried.
    pub attempts: u32,
}

impl From<ParkedKey> for ParkedView {
    fn from(parked: ParkedKey) -> Self {
        let ParkedKey { head, events, .. } = parked;
        let reason = Reason { retry_at: head.redrive_at, ..head.reason };
        Self { key: head.event.foreign_id.to_string(), events, reason, attempts: head.attempts }
    }
}

/// A line of a shard's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwapView {
    /// Whose.
    #[serde(default)]
    pub shard: u32,
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
    /// Its newest place; none where it cannot be read.
    pub head: Option<String>,
    /// How many events it holds; counted up to 1,000,000. None where it cannot be read.
    pub events: Option<u64>,
    /// What keeps events from being read that are after its head.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_up: Option<HeldUp>,
    /// Why something of this is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// What was found out about a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckView {
    /// The stream, as the list shows it.
    pub stream: StreamView,
    /// What is as it must be, and what is not.
    pub findings: Vec<Finding>,
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
    /// Its payload as text, where it is not JSON but UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_text: Option<String>,
    /// Its payload in base64, where it is neither.
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

impl SwapView {
    /// A line of this shard's.
    pub(super) fn of(shard: u32, swap: Swap) -> Self {
        let Swap { revision, digest, epoch, at } = swap;
        Self { shard, revision: revision.0, digest: digest.to_string(), epoch: epoch.0, at }
    }
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let json: Option<serde_json::Value> = serde_json::from_slice(&event.metadata).ok();
        let rest = Some(&event.metadata).filter(|metadata| json.is_none() && !metadata.is_empty());
        let text = rest.and_then(|metadata| String::from_utf8(metadata.to_vec()).ok());
        let base64 = rest.filter(|_| text.is_none()).map(base64);
        Self {
            id: event.id.to_string(),
            r#type: event.r#type,
            foreign_id: event.foreign_id.to_string(),
            timestamp: event.timestamp,
            metadata: json,
            metadata_text: text,
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

/// A number as tables show it.
pub fn known(number: Option<u64>) -> String {
    number.map_or("?".to_owned(), |number| number.to_string())
}

/// The newest place of a stream, and what is beyond it.
pub(super) struct Head {
    pub(super) cursor: Cursor,
    pub(super) held_up: Option<HeldUp>,
}

pub(super) async fn head(catalog: &Catalog, stream: &StreamId) -> Result<Head> {
    let source = catalog.source(stream).await?;
    let cursor = source.head().await?;
    let held_up = source.held_up(&cursor).await?;
    Ok(Head { cursor, held_up })
}

/// The streams of the config, of one tenant or of all, in the order of their names. One that cannot be read says so.
pub async fn streams(catalog: &Catalog, tenant: Option<&TenantId>) -> Vec<StreamView> {
    let mut views = Vec::new();
    let wanted = |stream: &&Stream| tenant.is_none_or(|tenant| stream.id.tenant == *tenant);
    for stream in catalog.config.streams.values().filter(wanted) {
        let read = async {
            let source = catalog.source(&stream.id).await?;
            let cursor = source.head().await?;
            let held_up = source.held_up(&cursor).await?;
            Ok::<_, Error>((Head { cursor, held_up }, source.lag(&Cursor::START, LAG_EVENTS_MAX).await?))
        };
        let (read, problem) = match read.await {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error.chain())),
        };
        views.push(StreamView {
            tenant: stream.id.tenant.to_string(),
            name: stream.id.name.to_string(),
            store: stream.store.to_string(),
            head: read.as_ref().map(|(head, _)| head.cursor.to_string()),
            events: read.as_ref().map(|(_, lag)| lag.events),
            held_up: read.and_then(|(head, _)| head.held_up),
            problem,
        });
    }
    views
}

/// What there is to find out about a stream: how it can be read, and what holds it up.
pub(super) async fn check(catalog: &Catalog, id: &StreamId) -> Result<CheckView> {
    let config = catalog.config.stream(id)?;
    let mut findings = Vec::new();
    if let Some(table) = &config.table {
        findings.extend(catalog.database(&config.store)?.inspect(table).await?);
    }
    let stream = streams(catalog, Some(&id.tenant)).await.into_iter().find(|view| view.name == id.name.as_str());
    let stream = stream.ok_or_else(|| Error::not_found(format!("stream `{}` is gone", id.name)))?;
    if findings.iter().all(|finding: &Finding| finding.is_ok) {
        findings.push(match &stream.problem {
            None => Finding { is_ok: true, what: "it can be read".into(), help: None },
            Some(problem) => {
                let help = Some(format!("`tendon stream create {}` makes what is missing", id.name));
                Finding { is_ok: false, what: problem.clone(), help }
            }
        });
    }
    Ok(CheckView { stream, findings })
}

impl StreamView {
    /// What a scrape wants to know.
    pub(super) fn reading(&self) -> StreamReading {
        let since = self.held_up.as_ref().and_then(|held_up| held_up.since);
        StreamReading {
            labels: StreamLabels { tenant: self.tenant.clone(), stream: self.name.clone() },
            is_held_up: self.held_up.is_some(),
            held_up_seconds: since.map(|since| Clock::System.now().since(since).as_secs_f64()),
        }
    }
}
