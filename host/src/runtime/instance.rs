//! An instance: a guest in its `wasmtime::Store`, as a [`Handler`].
//!
//! The path of an event is here and is short on purpose: no lock, no clock but the ticker's, no timer, and no
//! allocation of ours but for headers.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::{
    context::Ctx,
    engine::{Compiled, Engine, EntryIndices},
    imports::{
        exports::tendon::consumer::{batch_handler, handler},
        tendon::consumer::types,
    },
    meter::{Marks, Meter, TimeLimit, on_tick},
    ticker::Ticker,
    trap,
    watchdog::watch,
};
use crate::{
    deployment::StateScope,
    error::Error,
    event::Event,
    handler::{Failure, FailureKind, Handled, Handler},
    limits::Limits,
    view::View,
};

/// How long one consumer may keep its thread before the others get their turn.
const TURN: Duration = Duration::from_millis(5);

/// One long-lived instance.
pub(super) struct Instance {
    store: wasmtime::Store<Ctx>,
    entry: Entry,
    ticker: Arc<Ticker>,
    marks: Arc<Marks>,
    limits: Arc<Limits>,
    /// How many events of the slice that runs stand.
    done: usize,
    /// The first event of the call that runs, and how many it has.
    calling: (usize, usize),
}

enum Entry {
    Handler(handler::Guest),
    Batch(batch_handler::Guest),
}

/// Why a slice stopped before its end.
enum Stopped {
    /// The guest returned a failure for an event.
    Guest { index: usize, failure: types::Failure },
    /// The call failed.
    Call(wasmtime::Error),
}

impl Instance {
    /// Instantiates and initialises, within `limits.init`.
    pub(super) async fn new(
        engine: &Engine,
        compiled: &Compiled,
        view: View,
        config: Arc<BTreeMap<String, String>>,
        limits: Arc<Limits>,
    ) -> Result<Self, Failure> {
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
        let work = AssertUnwindSafe(start(&mut store, compiled)).catch_unwind();
        let started = watch(work, engine.ticker(), &marks, limits.init).await;
        drop(activity);
        let entry = match started {
            Some(Ok(Ok(entry))) => entry,
            Some(Ok(Err(Stopped::Guest { failure, .. }))) => {
                store.data_mut().flush_output();
                return Err(failed(0, FailureKind::Reject, format!("init: {}", failure.message)));
            }
            Some(Ok(Err(Stopped::Call(error)))) => {
                let words = store.data_mut().flush_output();
                let (kind, message) = trap::read(error, &words, &limits);
                return Err(failed(0, kind, format!("init: {message}")));
            }
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
        Ok(Self { store, entry, ticker: engine.ticker().clone(), marks, limits, done: 0, calling: (0, 0) })
    }

    /// Calls the guest until the events, or its turn, are at their end.
    async fn run(&mut self, events: &[Event]) -> Result<(), Stopped> {
        let ends_us = self.ticker.now_us() + u64::try_from(TURN.as_micros()).unwrap_or(u64::MAX);
        self.store.set_epoch_deadline(1);
        self.store.data_mut().meter.resume();
        while let Some(rest) = events.get(self.done..).filter(|rest| !rest.is_empty()) {
            let call = match &self.entry {
                Entry::Handler(_) => rest.get(..1),
                Entry::Batch(_) => rest.get(..self.batch_len(rest)),
            };
            let call = call.unwrap_or(rest);
            self.calling = (self.done, call.len());
            self.store.data_mut().begin(call);
            match (&self.entry, call) {
                (Entry::Handler(guest), [event]) => call_one(&mut self.store, guest, event, self.done).await?,
                (Entry::Handler(_), _) => {}
                (Entry::Batch(guest), _) => call_batch(&mut self.store, guest, call, self.done).await?,
            }
            self.store.data_mut().keep();
            self.done += call.len();
            if self.ticker.now_us() >= ends_us {
                break;
            }
        }
        Ok(())
    }

    /// How many events the next call of a batch handler gets: all, or where the state is a key's, those of one key.
    fn batch_len(&self, rest: &[Event]) -> usize {
        match (self.store.data().view.state_scope(), rest.first()) {
            (StateScope::Key, Some(first)) => {
                rest.iter().take_while(|event| event.foreign_id == first.foreign_id).count()
            }
            _ => rest.len(),
        }
    }

    /// The event that a failed call is blamed on. A batch does not say where it trapped: it is halved until the event
    /// runs alone.
    fn blamed(&self) -> usize {
        let (first, len) = self.calling;
        first + len / 2
    }

    fn failure(&mut self, stopped: Stopped) -> Failure {
        let words = self.store.data_mut().flush_output();
        match stopped {
            Stopped::Guest { index, failure } => guest_failure(index, failure),
            Stopped::Call(error) => {
                let (kind, message) = trap::read(error, &words, &self.limits);
                failed(self.blamed(), kind, message)
            }
        }
    }
}

#[async_trait]
impl Handler for Instance {
    async fn handle(&mut self, events: &[Event]) -> Handled {
        self.done = 0;
        let ticker = self.ticker.clone();
        let marks = self.marks.clone();
        let wall = self.limits.wall;
        let activity = ticker.activity();
        let work = AssertUnwindSafe(self.run(events)).catch_unwind();
        let ended = watch(work, &ticker, &marks, wall).await;
        drop(activity);
        let failure = match ended {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(stopped))) => Some(self.failure(stopped)),
            Some(Err(panic)) => Some(host_panic(self.blamed(), panic)),
            None => {
                self.store.data_mut().flush_output();
                let wall = self.store.data().meter.wall;
                let (kind, message) = wall.passed("of wall time").into_parts();
                Some(failed(self.blamed(), kind, message))
            }
        };
        Handled { changes: self.store.data_mut().view.take(), done: self.done, failure }
    }

    fn committed(&mut self) {
        self.store.data_mut().view.committed();
    }

    fn memory_bytes(&self) -> usize {
        self.store.data().memory.held_bytes()
    }
}

/// Instantiates, and calls `init`.
async fn start(store: &mut wasmtime::Store<Ctx>, compiled: &Compiled) -> Result<Entry, Stopped> {
    let instance = compiled.pre().instantiate_async(&mut *store).await.map_err(Stopped::Call)?;
    if let Some(indices) = compiled.lifecycle() {
        let guest = indices.load(&mut *store, &instance).map_err(Stopped::Call)?;
        if let Err(message) = guest.call_init(&mut *store).await.map_err(Stopped::Call)? {
            let failure = types::Failure { action: types::Action::Reject, message, after_ms: None, details: vec![] };
            return Err(Stopped::Guest { index: 0, failure });
        }
    }
    Ok(match compiled.entry() {
        EntryIndices::Handler(indices) => Entry::Handler(indices.load(store, &instance).map_err(Stopped::Call)?),
        EntryIndices::Batch(indices) => Entry::Batch(indices.load(store, &instance).map_err(Stopped::Call)?),
    })
}

async fn call_one(
    store: &mut wasmtime::Store<Ctx>,
    guest: &handler::Guest,
    event: &Event,
    index: usize,
) -> Result<(), Stopped> {
    let headers = headers(event);
    match guest.call_handle(store, wire(event, &headers)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(Stopped::Guest { index, failure }),
        Err(error) => Err(Stopped::Call(error)),
    }
}

async fn call_batch(
    store: &mut wasmtime::Store<Ctx>,
    guest: &batch_handler::Guest,
    events: &[Event],
    first: usize,
) -> Result<(), Stopped> {
    let headers: Vec<_> = events.iter().map(headers).collect();
    let wires: Vec<_> = events.iter().zip(&headers).map(|(event, headers)| wire(event, headers)).collect();
    match guest.call_handle_batch(store, &wires).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(batch)) => {
            let index = first + (batch.index as usize).min(events.len().saturating_sub(1));
            Err(Stopped::Guest { index, failure: batch.failure })
        }
        Err(error) => Err(Stopped::Call(error)),
    }
}

fn headers(event: &Event) -> Vec<(&str, &str)> {
    event.headers.iter().map(|(name, value)| (&**name, &**value)).collect()
}

fn wire<'a>(event: &'a Event, headers: &'a [(&'a str, &'a str)]) -> handler::Event<'a> {
    let (seconds, nanoseconds) = event.timestamp.split();
    handler::Event {
        id: &event.id.0,
        type_: event.r#type,
        foreign_id: &event.foreign_id,
        timestamp: types::Timestamp { seconds, nanoseconds },
        metadata: &event.metadata,
        headers,
    }
}

fn guest_failure(index: usize, failure: types::Failure) -> Failure {
    let kind = match failure.action {
        types::Action::Retry => FailureKind::Retry,
        types::Action::Reject => FailureKind::Reject,
    };
    let mut message = failure.message;
    for (name, value) in &failure.details {
        message.push_str(&format!("\n  {name}: {value}"));
    }
    let after = failure.after_ms.map(|ms| Duration::from_millis(ms.into()));
    Failure { kind, index, message, after }
}

fn failed(index: usize, kind: FailureKind, message: String) -> Failure {
    Failure { kind, index, message, after: None }
}

/// A bug of the host ends one call, not the host.
fn host_panic(index: usize, panic: Box<dyn std::any::Any + Send>) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let message = format!("the host panicked while it served the guest: {text}");
    failed(index, FailureKind::Infrastructure(Error::corrupt(message.clone())), message)
}
