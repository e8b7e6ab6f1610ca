//! The routes of consumers.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;

use crate::{
    deployment::StateScope,
    error::{Error, Result},
    event::EventId,
    host::reset::{Done, Reset},
    store::Scope,
    tenant::{ConsumerId, TenantId},
};

use super::{
    Api,
    failure::Failure,
    fleet,
    views::{self, ConsumerDetail, ConsumerView, EntryView},
};

/// Entries that one answer holds at the most.
const ENTRIES_MAX: u32 = 1000;

/// Which tenant is meant.
#[derive(Deserialize)]
pub(super) struct Tenant {
    #[serde(default)]
    pub(super) tenant: TenantId,
}

/// Which tenant's are listed; all where none is named.
#[derive(Deserialize)]
pub(super) struct OneTenant {
    pub(super) tenant: Option<TenantId>,
}

/// A pause's reason.
#[derive(Deserialize, Default)]
pub(super) struct Why {
    reason: Option<String>,
}

/// The event that is meant.
#[derive(Deserialize)]
pub(super) struct Which {
    event: EventId,
}

/// Which entries of a state are asked for.
#[derive(Deserialize)]
pub(super) struct Entries {
    #[serde(default)]
    tenant: TenantId,
    /// One key.
    key: Option<String>,
    /// Or all below a prefix.
    #[serde(default)]
    prefix: String,
    /// After this key.
    after: Option<String>,
    limit: Option<u32>,
    /// The foreign id whose state it is, where the state is kept by key; or the shard.
    of: Option<String>,
}

/// A consumer, from a path and a query.
pub(super) fn id(tenant: TenantId, name: &str) -> Result<ConsumerId> {
    Ok(ConsumerId { tenant, name: name.parse()? })
}

pub(super) async fn list(State(api): State<Api>, Query(query): Query<OneTenant>) -> Json<Vec<ConsumerView>> {
    Json(fleet::consumers(&api, query.tenant.as_ref()).await)
}

pub(super) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
) -> Result<Json<ConsumerDetail>, Failure> {
    Ok(Json(fleet::consumer(&api, &id(query.tenant, &name)?).await?))
}

pub(super) async fn cursor(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
) -> Result<Json<ConsumerView>, Failure> {
    Ok(Json(fleet::consumer(&api, &id(query.tenant, &name)?).await?.summary))
}

pub(super) async fn pause(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(why): Json<Why>,
) -> Result<Json<ConsumerDetail>, Failure> {
    let id = id(query.tenant, &name)?;
    api.host()?.pause(&id, why.reason.unwrap_or_else(|| "by an operator".into())).await?;
    Ok(Json(fleet::consumer(&api, &id).await?))
}

pub(super) async fn resume(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
) -> Result<Json<ConsumerDetail>, Failure> {
    let id = id(query.tenant, &name)?;
    api.host()?.resume(&id).await?;
    Ok(Json(fleet::consumer(&api, &id).await?))
}

pub(super) async fn skip(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(Which { event }): Json<Which>,
) -> Result<Json<ConsumerDetail>, Failure> {
    let id = id(query.tenant, &name)?;
    api.host()?.skip(&id, &event).await?;
    Ok(Json(fleet::consumer(&api, &id).await?))
}

/// A reset, as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Where to, as the key `start` of a config has it.
    to: String,
    /// What becomes of its state.
    state: StateFate,
    /// What becomes of what it emits for events that it has handled before.
    emits: EmitsFate,
    /// Only to be counted.
    dry_run: bool,
}

/// What a reset does with a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StateFate {
    /// It stays as it is.
    Keep,
    /// It is emptied.
    Clear,
}

/// What a reset does with what is emitted for events that were handled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EmitsFate {
    /// It is not emitted again.
    Suppress,
    /// It is emitted once more.
    Again,
}

pub(super) async fn reset(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Done>, Failure> {
    let reset = Reset {
        to: wanted.to.parse()?,
        clears_state: wanted.state == StateFate::Clear,
        emits_again: wanted.emits == EmitsFate::Again,
        dry_run: wanted.dry_run,
    };
    let (host, id) = (api.host()?.clone(), id(query.tenant, &name)?);
    Ok(Json(to_the_end(async move { host.reset(&id, reset).await }).await?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Tenant>,
) -> Result<Json<serde_json::Value>, Failure> {
    let id = id(query.tenant, &name)?;
    let (host, gone) = (api.host()?.clone(), id.clone());
    to_the_end(async move { host.remove(&gone).await }).await?;
    Ok(Json(serde_json::json!({ "removed": id.name })))
}

/// Does something to its end, also when whoever asked for it has gone: half of it would leave a consumer stopped.
async fn to_the_end<T: Send + 'static>(done: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let panicked = |error| Error::unavailable("the host panicked: this is a bug of it").because(error);
    tokio::spawn(done).await.map_err(panicked)?
}

pub(super) async fn state(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Entries>,
) -> Result<Json<Vec<EntryView>>, Failure> {
    let id = id(query.tenant, &name)?;
    let catalog = api.catalog().await;
    let config = catalog.config.consumer(&id)?;
    let part = match (config.state(), query.of) {
        (StateScope::Consumer, _) => String::new(),
        (StateScope::Key, Some(foreign_id)) => foreign_id,
        (StateScope::Key, None) => {
            return Err(Failure(
                Error::invalid(format!("{id} keeps a state for each foreign id")).help("say which one with --of"),
            ));
        }
        (StateScope::Shard, index) if config.shards.count <= 1 || index.is_some() => {
            index.unwrap_or_else(|| "0".into())
        }
        (StateScope::Shard, _) => {
            return Err(Failure(
                Error::invalid(format!("{id} keeps a state for each of its shards"))
                    .help(format!("say which one with --of, counted from 0 up to {}", config.shards.count - 1)),
            ));
        }
    };
    let store = catalog.database(&config.store)?.store();
    let scope = Scope { consumer: id, part: part.into() };
    let found = match query.key {
        Some(key) => {
            let values = store.get(&scope, &[key.clone().into()]).await?;
            let value = values.into_iter().next().flatten();
            let missing = || Error::not_found(format!("{} has no key `{key}`", scope.consumer));
            vec![(key.clone().into(), value.ok_or_else(missing)?)]
        }
        None => {
            let limit = query.limit.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
            store.scan(&scope, &query.prefix, query.after.as_deref(), limit).await?
        }
    };
    let entry = |(key, value): (crate::store::Key, bytes::Bytes)| EntryView {
        key: key.to_string(),
        value_base64: views::base64(&value),
    };
    Ok(Json(found.into_iter().map(entry).collect()))
}
