//! What the API shows, as JSON. Fields are only ever added; units are in their names; times are RFC 3339.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    backend::foreign::Finding,
    clock::Clock,
    config::resolved::{Consumer, Stream},
    dead_letter::Letters,
    deployment::{Deployment, Spec},
    error::{Error, Result},
    event::{Cursor, Event, Timestamp},
    handler::FailureKind,
    host::Catalog,
    metrics::ConsumerLabels,
    source::{HeldUp, Lag},
    store::{Position, Reason, Status, Store, Swap},
    supervisor::Standing,
    telemetry::{Reading, StreamLabels, StreamReading},
    tenant::{ConsumerId, Name, StreamId, TenantId},
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
    /// Events between there and the head; counted up to 1,000,000. None where the stream or the store cannot be read.
    pub lag_events: Option<u64>,
    /// The age of the oldest of them; likewise.
    pub lag_seconds: Option<f64>,
    /// What keeps its next events from being read, where it has read all that can be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held_up: Option<HeldUp>,
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

impl From<Swap> for SwapView {
    fn from(swap: Swap) -> Self {
        let Swap { revision, digest, epoch, at } = swap;
        Self { revision: revision.0, digest: digest.to_string(), epoch: epoch.0, at }
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

/// The consumers of the config, of one tenant or of all, in the order of their names. What cannot be read of one is
/// unknown, and hides nothing of the others.
pub async fn consumers(api: &Api, tenant: Option<&TenantId>) -> Vec<ConsumerView> {
    let catalog = api.catalog().await;
    let standings = match api {
        Api::Live(host) => host.standings().await,
        Api::ReadOnly(_) => BTreeMap::new(),
    };
    let rows = Rows::read(&catalog).await;
    let mut views = Vec::new();
    let wanted = |config: &&Consumer| tenant.is_none_or(|tenant| config.id.tenant == *tenant);
    for config in catalog.config.consumers.values().filter(wanted) {
        views.push(rows.view(&catalog, config, standings.get(&config.id)).await);
    }
    views
}

/// One consumer of the config, with its deployment.
pub(super) async fn consumer(api: &Api, id: &ConsumerId) -> Result<ConsumerDetail> {
    let catalog = api.catalog().await;
    let config = catalog.config.consumer(id)?;
    let summary = consumers(api, Some(&id.tenant)).await.into_iter().find(|view| view.name == id.name.as_str());
    let summary = summary.ok_or_else(|| Error::not_found(format!("consumer `{}` is gone", id.name)))?;
    if summary.problem.is_some() {
        // It says so itself, and what else there is to say may hang on the same thing.
        return Ok(ConsumerDetail { summary, spec: None, has_dead_letters: false, history: Vec::new() });
    }
    let store = catalog.database(&config.store)?.store();
    let deployment = store.deployments().await?.into_iter().find(|deployment| deployment.consumer == *id);
    let shard = crate::tenant::ShardId { consumer: id.clone(), index: 0 };
    let history = store.history(&shard).await?.into_iter().map(SwapView::from).collect();
    let letters = store.dead_letters(id, &Letters { limit: 1, ..Letters::default() }).await?;
    let spec = deployment.map(|deployment| deployment.spec);
    Ok(ConsumerDetail { summary, spec, has_dead_letters: !letters.is_empty(), history })
}

/// What all stores say, read once per store and stream; an error where one cannot be read.
struct Rows {
    stores: BTreeMap<Name, Result<StoreRows>>,
    heads: BTreeMap<StreamId, Result<Head>>,
}

struct StoreRows {
    positions: BTreeMap<ConsumerId, Position>,
    deployments: BTreeMap<ConsumerId, Deployment>,
}

impl StoreRows {
    async fn read(store: &dyn Store) -> Result<Self> {
        let positions = store.positions().await?.into_iter().map(|row| (row.shard.consumer.clone(), row));
        let deployments = store.deployments().await?.into_iter().map(|row| (row.consumer.clone(), row));
        Ok(Self { positions: positions.collect(), deployments: deployments.collect() })
    }
}

impl Rows {
    async fn read(catalog: &Catalog) -> Self {
        let mut rows = Self { stores: BTreeMap::new(), heads: BTreeMap::new() };
        for (name, database) in &catalog.databases {
            rows.stores.insert(name.clone(), StoreRows::read(&*database.store()).await);
        }
        for stream in catalog.config.streams.values() {
            rows.heads.insert(stream.id.clone(), head(catalog, &stream.id).await);
        }
        rows
    }

    /// A consumer's rows, from the store that its config names.
    fn of(&self, config: &Consumer) -> Result<(Option<&Position>, Option<&Deployment>), String> {
        let rows = self.stores.get(&config.store).ok_or_else(|| format!("store `{}` is not open", config.store))?;
        let rows = rows.as_ref().map_err(|error| format!("store `{}`: {}", config.store, error.chain()))?;
        Ok((rows.positions.get(&config.id), rows.deployments.get(&config.id)))
    }

    async fn view(&self, catalog: &Catalog, config: &Consumer, standing: Option<&Standing>) -> ConsumerView {
        let (position, deployment, lag) = match self.of(config) {
            Ok((position, deployment)) => (position, deployment, self.lag(catalog, config, position).await),
            Err(problem) => (None, None, Err(problem)),
        };
        let head = self.heads.get(&config.stream).and_then(|head| head.as_ref().ok());
        let is_there = position.zip(head).is_some_and(|(position, head)| position.cursor == head.cursor);
        let held_up = head.filter(|_| is_there).and_then(|head| head.held_up.clone());
        ConsumerView { held_up, ..view(config, position, deployment, standing, lag) }
    }

    async fn lag(&self, catalog: &Catalog, config: &Consumer, position: Option<&Position>) -> Result<Lag, String> {
        let failed = |error: &Error| format!("stream `{}`: {}", config.stream.name, error.chain());
        let head = self.heads.get(&config.stream).map(Result::as_ref).transpose().map_err(failed)?;
        let cursor = position.map_or(Cursor::START, |position| position.cursor.clone());
        if position.is_some() && head.is_some_and(|head| head.cursor == cursor && head.held_up.is_none()) {
            return Ok(Lag::default());
        }
        let lag = async {
            let source = catalog.source(&config.stream).await?;
            source.lag(&cursor, LAG_EVENTS_MAX).await
        };
        lag.await.map_err(|error| failed(&error))
    }
}

/// The newest place of a stream, and what is beyond it.
struct Head {
    cursor: Cursor,
    held_up: Option<HeldUp>,
}

async fn head(catalog: &Catalog, stream: &StreamId) -> Result<Head> {
    let source = catalog.source(stream).await?;
    let cursor = source.head().await?;
    let held_up = source.held_up(&cursor).await?;
    Ok(Head { cursor, held_up })
}

fn view(
    config: &Consumer,
    position: Option<&Position>,
    deployment: Option<&Deployment>,
    standing: Option<&Standing>,
    lag: Result<Lag, String>,
) -> ConsumerView {
    let (id, stream) = (&config.id, &config.stream);
    let (status, reason) = status(position, standing);
    let (lag, problem) = match lag {
        Ok(lag) => (Some(lag), None),
        Err(problem) => (None, Some(problem)),
    };
    let age = |lag: &Lag| lag.oldest.map_or(Duration::ZERO, |oldest| Clock::System.now().since(oldest)).as_secs_f64();
    ConsumerView {
        tenant: id.tenant.to_string(),
        name: id.name.to_string(),
        stream: stream.name.to_string(),
        next_step: next_step(status, reason.as_ref(), &id.name.to_string()),
        status: status.to_owned(),
        reason,
        attempts: position.map_or(0, |position| position.attempts),
        cursor: position.map_or(Cursor::START, |position| position.cursor.clone()).to_string(),
        lag_seconds: lag.as_ref().map(age),
        lag_events: lag.map(|lag| lag.events),
        held_up: None,
        problem,
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
            let reason = Reason {
                code: "stalled".into(),
                message: message.clone(),
                event: None,
                since: *since,
                retry_at: None,
                logs: String::new(),
            };
            ("stalled", Some(reason))
        }
        (_, Some(Standing::Starting)) => ("starting", reason),
        (_, Some(Standing::Stopped) | None) => ("stopped", reason),
        (_, Some(_)) => ("running", reason),
    }
}

fn next_step(status: &str, reason: Option<&Reason>, name: &str) -> Option<String> {
    match status {
        "blocked" => {
            let of_the_filter = reason.is_some_and(|reason| reason.code == FailureKind::Filter.code());
            let mend = match of_the_filter {
                true => "change the consumer's filter so that it has an answer for the event",
                false => "deploy a component that can handle the event",
            };
            let event = reason.and_then(|reason| reason.event.as_ref());
            let skip = event.map(|event| format!(", or `tendon consumer skip {name} {event}`")).unwrap_or_default();
            Some(format!("{mend}, or `tendon consumer resume {name}`{skip}"))
        }
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
