//! The start of an instance: instantiate, find its exports, call `init`; all of it within `limits.init`.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;

use super::{
    call::{failed, host_panic},
    context::Ctx,
    engine::{Compiled, Engine, EntryIndices},
    imports::exports::tendon::consumer::{batch_handler, handler},
    meter::{Meter, TimeLimit, on_tick},
    trap,
    watchdog::watch,
};
use crate::{
    handler::{Failure, FailureKind},
    limits::Limits,
    view::View,
};

/// Where an instance's events go in.
pub(super) enum Entry {
    /// One a call.
    Handler(handler::Guest),
    /// Many a call.
    Batch(batch_handler::Guest),
}

/// Why an instance did not start.
enum Unfit {
    /// Its `init` says so.
    Init(String),
    /// It trapped, or passed a limit.
    Call(wasmtime::Error),
    /// An export is not of the contract's shape.
    Shape(wasmtime::Error),
}

/// An instance that is ready for its first event, under the limits of events.
pub(super) async fn start(
    engine: &Engine,
    compiled: &Compiled,
    view: View,
    config: Arc<BTreeMap<String, String>>,
    limits: &Arc<Limits>,
) -> Result<(wasmtime::Store<Ctx>, Entry), Failure> {
    let init = TimeLimit { name: "limits.init", value: limits.init };
    let meter = Meter::new(engine.ticker().clone(), init, init);
    let marks = meter.marks();
    let ctx = Ctx::new(view, meter, limits.clone(), config, compiled.digest().short());
    let mut store = wasmtime::Store::new(engine.inner(), ctx);
    store.limiter(|ctx| &mut ctx.memory);
    store.set_hostcall_fuel(usize::try_from(limits.hostcall_bytes).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(on_tick);

    let activity = engine.ticker().activity();
    store.data_mut().begin(&[]);
    let work = AssertUnwindSafe(instantiate(&mut store, compiled)).catch_unwind();
    let started = watch(work, engine.ticker(), &marks, limits.init).await;
    drop(activity);
    let entry = match started {
        Some(Ok(Ok(entry))) => entry,
        Some(Ok(Err(unfit))) => return Err(read(unfit, &mut store, limits)),
        Some(Err(panic)) => return Err(host_panic(0, panic)),
        None => {
            let (kind, message) = init.passed("of wall time").into_parts();
            return Err(failed(0, kind, format!("init: {message}")));
        }
    };
    let ctx = store.data_mut();
    ctx.meter.cpu = TimeLimit { name: "limits.cpu", value: limits.cpu };
    ctx.meter.wall = TimeLimit { name: "limits.wall", value: limits.wall };
    ctx.keep();
    Ok((store, entry))
}

async fn instantiate(store: &mut wasmtime::Store<Ctx>, compiled: &Compiled) -> Result<Entry, Unfit> {
    let instance = compiled.pre().instantiate_async(&mut *store).await.map_err(Unfit::Call)?;
    let entry = match compiled.entry() {
        EntryIndices::Handler(indices) => indices.load(&mut *store, &instance).map(Entry::Handler),
        EntryIndices::Batch(indices) => indices.load(&mut *store, &instance).map(Entry::Batch),
    };
    let entry = entry.map_err(Unfit::Shape)?;
    if let Some(indices) = compiled.lifecycle() {
        let guest = indices.load(&mut *store, &instance).map_err(Unfit::Shape)?;
        guest.call_init(store).await.map_err(Unfit::Call)?.map_err(Unfit::Init)?;
    }
    Ok(entry)
}

fn read(unfit: Unfit, store: &mut wasmtime::Store<Ctx>, limits: &Limits) -> Failure {
    let words = store.data_mut().flush_output();
    match unfit {
        Unfit::Init(message) => failed(0, FailureKind::Reject, format!("init: {message}")),
        Unfit::Call(error) => {
            let (kind, message) = trap::read(error, &words, limits);
            failed(0, kind, format!("init: {message}"))
        }
        Unfit::Shape(error) => {
            let message = format!("it does not fit tendon:consumer 0.1: {}", trap::chain(&error));
            failed(0, FailureKind::Reject, message)
        }
    }
}
