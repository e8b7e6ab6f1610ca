//! The consumers of a host, as the API shows them: what their rows say, and what the host does.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Clock,
    config::resolved::Consumer,
    dead_letter::Letters,
    deployment::Deployment,
    error::{Error, Result},
    event::Cursor,
    handler::FailureKind,
    host::Catalog,
    metrics::ConsumerLabels,
    notice::Refused,
    policy::FULL,
    source::Lag,
    store::{Position, Reason, Status, Store},
    supervisor::Standing,
    telemetry::Reading,
    tenant::{ConsumerId, Name, ShardId, StreamId, TenantId},
};

use super::{
    Api,
    views::{ConsumerDetail, ConsumerView, Head, LAG_EVENTS_MAX, Parked, ParkedView, ShardView, SwapView, head},
};

/// Keys that are shown of those that are parked.
const PARKED_MAX: usize = 100;

/// The consumers of the config, of one tenant or of all, in the order of their names. What cannot be read of one is
/// unknown, and hides nothing of the others.
pub async fn consumers(api: &Api, tenant: Option<&TenantId>) -> Vec<ConsumerView> {
    let catalog = api.catalog().await;
    let live = Live::of(api).await;
    let rows = Rows::read(&catalog).await;
    let mut views = Vec::new();
    let wanted = |config: &&Consumer| tenant.is_none_or(|tenant| config.id.tenant == *tenant);
    for config in catalog.config.consumers.values().filter(wanted) {
        views.extend(worst(&rows.shards(&catalog, config, &live).await).map(|view| live.say_refused(view, &config.id)));
    }
    views
}

/// One consumer of the config, with its deployment.
pub(super) async fn consumer(api: &Api, id: &ConsumerId) -> Result<ConsumerDetail> {
    let catalog = api.catalog().await;
    let config = catalog.config.consumer(id)?;
    let live = Live::of(api).await;
    let rows = Rows::read(&catalog).await;
    let shards = rows.shards(&catalog, config, &live).await;
    let summary = worst(&shards).ok_or_else(|| Error::corrupt(format!("{id} has no shards")))?;
    let summary = live.say_refused(summary, id);
    if summary.problem.is_some() {
        // It says so itself, and what else there is to say may hang on the same thing.
        let (shards, history) = (Vec::new(), Vec::new());
        return Ok(ConsumerDetail { summary, spec: None, has_dead_letters: false, parked: None, shards, history });
    }
    let store = catalog.database(&config.store)?.store();
    let deployment = store.deployments().await?.into_iter().find(|deployment| deployment.consumer == *id);
    let mut history = Vec::new();
    for index in 0..summary.shards {
        let swaps = store.history(&ShardId { consumer: id.clone(), index }).await?;
        history.extend(swaps.into_iter().map(|swap| SwapView::of(index, swap)));
    }
    let letters = store.dead_letters(id, &Letters { limit: 1, ..Letters::default() }).await?;
    let spec = deployment.map(|deployment| deployment.spec);
    let shards = if shards.len() > 1 { (0..).zip(shards).map(shard_view).collect() } else { Vec::new() };
    let keys = store.parked_keys(id).await?;
    let parked = Some(Parked {
        keys: keys.len() as u64,
        events: keys.iter().map(|key| key.events).sum(),
        first: keys.into_iter().take(PARKED_MAX).map(ParkedView::from).collect(),
    });
    let parked = parked.filter(|parked| parked.keys > 0);
    let mut summary = summary;
    let waits = |parked: &Parked| parked.first.iter().any(|key| key.reason.retry_at.is_none());
    if summary.next_step.is_none() && parked.as_ref().is_some_and(waits) {
        let name = &id.name;
        summary.next_step = Some(format!(
            "deploy a component that can handle what is parked, or `tendon consumer resume {name}` to try it anew, or `tendon \
             consumer skip {name} EVENT` to set an event aside that keeps its key parked"
        ));
    }
    Ok(ConsumerDetail { summary, spec, has_dead_letters: !letters.is_empty(), parked, shards, history })
}

/// What only a host that runs knows.
#[derive(Default)]
struct Live {
    standings: BTreeMap<ConsumerId, Vec<Standing>>,
    refused: BTreeMap<ConsumerId, Refused>,
}

impl Live {
    async fn of(api: &Api) -> Self {
        match api {
            Api::Live(host) => Self { standings: host.standings().await, refused: host.refused().await },
            Api::ReadOnly(_) => Self::default(),
        }
    }

    /// Says of a consumer that is not what its files propose why not; where nothing runs, nothing else matters.
    fn say_refused(&self, mut view: ConsumerView, id: &ConsumerId) -> ConsumerView {
        view.refused = self.refused.get(id).cloned();
        if let (Some(refused), "stopped") = (&view.refused, &*view.status) {
            view.next_step =
                refused.help.clone().or_else(|| Some("mend what was refused: the host looks again".into()));
        }
        view
    }
}

/// What all stores say, read once per store and stream; an error where one cannot be read.
struct Rows {
    stores: BTreeMap<Name, Result<StoreRows>>,
    heads: BTreeMap<StreamId, Result<Head>>,
}

struct StoreRows {
    positions: BTreeMap<ShardId, Position>,
    deployments: BTreeMap<ConsumerId, Deployment>,
}

impl StoreRows {
    async fn read(store: &dyn Store) -> Result<Self> {
        let positions = store.positions().await?.into_iter().map(|row| (row.shard.clone(), row));
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

    /// The rows of the store that a consumer's config names.
    fn of(&self, config: &Consumer) -> Result<&StoreRows, String> {
        let rows = self.stores.get(&config.store).ok_or_else(|| format!("store `{}` is not open", config.store))?;
        rows.as_ref().map_err(|error| format!("store `{}`: {}", config.store, error.chain()))
    }

    /// A consumer's shards, each as if it were a consumer of its own.
    async fn shards(&self, catalog: &Catalog, config: &Consumer, live: &Live) -> Vec<ConsumerView> {
        let standings = live.standings.get(&config.id);
        let rows = match self.of(config) {
            Ok(rows) => rows,
            Err(problem) => return vec![view(config, None, None, standings.and_then(|all| all.first()), Err(problem))],
        };
        let deployment = rows.deployments.get(&config.id);
        let count = deployment.map_or(config.shards.count, |deployment| deployment.spec.shards.count);
        let head = self.heads.get(&config.stream).and_then(|head| head.as_ref().ok());
        let mut lags: Vec<(Option<Cursor>, Result<Lag, String>)> = Vec::new();
        let mut views = Vec::new();
        for index in 0..count {
            let position = rows.positions.get(&ShardId { consumer: config.id.clone(), index });
            let cursor = position.map(|position| position.cursor.clone());
            let known = lags.iter().find(|(other, _)| *other == cursor).map(|(_, lag)| lag.clone());
            let lag = match known {
                Some(lag) => lag,
                None => self.lag(catalog, config, position).await,
            };
            let is_there = cursor.as_ref().zip(head).is_some_and(|(cursor, head)| *cursor == head.cursor);
            let held_up = head.filter(|_| is_there).and_then(|head| head.held_up.clone());
            lags.push((cursor, lag.clone()));
            let standing = usize::try_from(index).ok().and_then(|index| standings?.get(index));
            views.push(ConsumerView { held_up, shards: count, ..view(config, position, deployment, standing, lag) });
        }
        views
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

/// A consumer as the worst off of its shards has it: what stands still comes before what runs, then what is furthest behind.
fn worst(shards: &[ConsumerView]) -> Option<ConsumerView> {
    const WORST_FIRST: [&str; 6] = ["blocked", "stalled", "paused", "stopped", "starting", "running"];
    let rank = |view: &ConsumerView| {
        let status = WORST_FIRST.iter().position(|status| *status == view.status).unwrap_or_default();
        (status, view.reason.is_none(), u64::MAX - view.lag_events.unwrap_or(u64::MAX))
    };
    let worst = shards.iter().min_by_key(|view| rank(view))?.clone();
    let last = shards.iter().max_by_key(|view| view.lag_events)?;
    Some(ConsumerView {
        cursor: last.cursor.clone(),
        lag_events: last.lag_events,
        lag_seconds: shards.iter().filter_map(|view| view.lag_seconds).reduce(f64::max),
        revision: shards.iter().map(|view| view.revision).sum(),
        fence: shards.iter().map(|view| view.fence).max().unwrap_or_default(),
        updated_at: shards.iter().filter_map(|view| view.updated_at).max(),
        held_up: shards.iter().find_map(|view| view.held_up.clone()),
        ..worst
    })
}

fn shard_view((index, view): (u32, ConsumerView)) -> ShardView {
    let ConsumerView { status, reason, attempts, cursor, lag_events, lag_seconds, revision, .. } = view;
    ShardView { index, status, reason, attempts, cursor, lag_events, lag_seconds, revision }
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
        refused: None,
        problem,
        revision: position.map_or(0, |position| position.revision.0),
        fence: position.map_or(0, |position| position.fence.0),
        epoch: deployment.map_or(0, |deployment| deployment.epoch.0),
        digest: position.and_then(|position| position.digest).map(|digest| digest.to_string()),
        updated_at: position.map(|position| position.updated_at),
        shards: 1,
    }
}

/// The row says whether it is blocked or paused, the host whether it is stalled or runs.
fn status(position: Option<&Position>, standing: Option<&Standing>) -> (&'static str, Option<Reason>) {
    let reason = position.and_then(|position| position.reason.clone());
    match (position.map(|position| position.status), standing) {
        (Some(Status::Blocked), _) => ("blocked", reason),
        (Some(Status::Paused), _) => ("paused", reason),
        (Some(Status::Running), Some(Standing::Running | Standing::Blocked(_)))
            if reason.as_ref().is_some_and(is_full) =>
        {
            ("blocked", reason)
        }
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

fn is_full(reason: &Reason) -> bool {
    reason.code == FULL
}

fn next_step(status: &str, reason: Option<&Reason>, name: &str) -> Option<String> {
    match status {
        "blocked" if reason.is_some_and(is_full) => Some(format!(
            "deploy a component that can handle what is parked, `tendon consumer resume {name}` to try all of it anew, `tendon \
             consumer skip {name} EVENT` for an event that keeps a key parked, or raise `parked-keys` and `parked-events`"
        )),
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
            attempts: self.attempts,
            reason: self.reason.clone(),
            is_refused: self.refused.is_some(),
        }
    }
}
