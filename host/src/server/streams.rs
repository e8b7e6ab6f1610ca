//! The routes of streams.

use std::convert::Infallible;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::header,
    response::IntoResponse,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use crate::{
    changes::Changes,
    error::Result,
    event::{Cursor, Event, EventId, EventKey, Timestamp},
    event_file,
    host::{
        Catalog,
        prune::{Prune, Pruned},
    },
    source::{Chunks, Until},
    store::{Commit, Duplicates},
    tenant::{StreamId, TenantId},
};

use super::{
    Api,
    consumers::{OneTenant, Tenant},
    failure::Failure,
    views::{self, Appended, CheckView, EventView, StreamView},
};

/// Events that one answer holds when nobody asks for another number.
const EVENTS_DEFAULT: usize = 100;

/// Which events are asked for.
#[derive(Clone, Deserialize)]
pub(super) struct Events {
    #[serde(default)]
    tenant: TenantId,
    /// Of this type only.
    r#type: Option<i32>,
    /// About this only.
    fid: Option<String>,
    /// From this time on.
    since: Option<Timestamp>,
    /// This one only.
    id: Option<EventId>,
    limit: Option<usize>,
}

impl Events {
    fn wants(&self, event: &Event) -> bool {
        self.r#type.is_none_or(|r#type| event.r#type == r#type)
            && self.fid.as_ref().is_none_or(|fid| &*event.foreign_id == fid.as_str())
            && self.since.is_none_or(|since| event.timestamp >= since)
            && self.id.as_ref().is_none_or(|id| event.id == *id)
    }
}

/// What nobody has drawn before.
fn random() -> [u8; 16] {
    fastrand::u128(..).to_le_bytes()
}

fn id(tenant: TenantId, name: &str) -> Result<StreamId> {
    Ok(StreamId { tenant, name: name.parse()? })
}

async fn open(catalog: &Catalog, stream: &StreamId, after: Cursor, until: Until) -> Result<Chunks> {
    catalog.source(stream).await?.stream(after, until).await
}

pub(super) async fn list(State(api): State<Api>, Query(query): Query<OneTenant>) -> Json<Vec<StreamView>> {
    Json(views::streams(&api.catalog().await, query.tenant.as_ref()).await)
}

/// How a stream can be read, and what holds it up.
pub(super) async fn check(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
) -> Result<Json<CheckView>, Failure> {
    Ok(Json(views::check(&api.catalog().await, &id(query.tenant, &name)?).await?))
}

/// Which events are to go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// All before this place, in the form of a consumer's `start`.
    before: String,
    force: bool,
    dry_run: bool,
}

pub(super) async fn prune(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(Wanted { before, force, dry_run }): Json<Wanted>,
) -> Result<Json<Pruned>, Failure> {
    let prune = Prune { before: before.parse()?, force, dry_run };
    Ok(Json(api.host()?.prune(&id(query.tenant, &name)?, prune).await?))
}

pub(super) async fn events(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Events>,
) -> Result<Json<Vec<EventView>>, Failure> {
    let catalog = api.catalog().await;
    let stream = id(query.tenant.clone(), &name)?;
    let mut chunks = open(&catalog, &stream, Cursor::START, Until::Head).await?;
    let limit = query.limit.unwrap_or(EVENTS_DEFAULT);
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(chunk) = chunks.next().await
    {
        found.extend(chunk?.events.into_iter().filter(|event| query.wants(event)).map(EventView::from));
    }
    found.truncate(limit);
    Ok(Json(found))
}

/// New events as they are appended, one JSON object a line, until the caller has enough.
pub(super) async fn tail(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Events>,
) -> Result<impl IntoResponse, Failure> {
    let catalog = api.catalog().await;
    let stream = id(query.tenant.clone(), &name)?;
    let after = match query.since {
        Some(_) => Cursor::START,
        None => catalog.source(&stream).await?.head().await?,
    };
    let chunks = open(&catalog, &stream, after, Until::Forever).await?;
    let body = Body::from_stream(lines(chunks, query));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body))
}

fn lines(chunks: Chunks, query: Events) -> impl Stream<Item = Result<Bytes, Infallible>> {
    // An error of the source ends the answer; the caller asks again from where it is.
    let chunks = chunks.take_while(|chunk| std::future::ready(chunk.is_ok())).filter_map(|chunk| async { chunk.ok() });
    let events = chunks.flat_map(|chunk| stream::iter(chunk.events));
    events.filter(move |event| std::future::ready(query.wants(event))).map(|event| {
        let mut line = serde_json::to_vec(&EventView::from(event)).unwrap_or_default();
        line.push(b'\n');
        Ok(line.into())
    })
}

/// How events are appended.
#[derive(Deserialize)]
pub(super) struct Append {
    #[serde(default)]
    tenant: TenantId,
    /// Whether lines that were appended before, in the same number, are left out.
    #[serde(default)]
    once: bool,
}

/// Appends the lines of a body as one transaction.
pub(super) async fn append(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Append>,
    body: Bytes,
) -> Result<Json<Appended>, Failure> {
    let host = api.host()?;
    let stream = id(query.tenant, &name)?;
    let catalog = api.catalog().await;
    let store = &catalog.config.stream(&stream)?.store;
    let mut emits = event_file::read("the request", &body[..], &stream)?;
    if !query.once {
        emits.iter_mut().for_each(|emit| emit.key = EventKey::new(emit.event.timestamp, &[&random()]));
    }
    let lines = emits.len() as u64;
    let changes = Changes { emits, ..Changes::default() };
    let commit = Commit { changes, duplicates: Duplicates::Skip, ..Commit::default() };
    let appended = host.commit(store, commit).await?.appended;
    Ok(Json(Appended { appended, skipped: lines - appended }))
}
