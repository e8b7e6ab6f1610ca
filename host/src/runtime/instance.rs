//! An instance: a guest in its `wasmtime::Store`, as a [`Handler`].
//!
//! The path of an event is here and is short on purpose: no lock, no clock but the ticker's, no timer, and no
//! allocation of ours but for headers.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::{
    call::{Stopped, call_batch, call_one, failed, host_panic, returned},
    context::Ctx,
    engine::{Compiled, Engine},
    meter::Marks,
    start::{Entry, start},
    ticker::Ticker,
    trap,
    watchdog::watch,
};
use crate::{
    deployment::StateScope,
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
    /// How many events the call that runs has.
    calling: usize,
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
        let (store, entry) = start(engine, compiled, view, config, &limits).await?;
        let (ticker, marks) = (engine.ticker().clone(), store.data().meter.marks());
        Ok(Self { store, entry, ticker, marks, limits, done: 0, calling: 0 })
    }

    /// Calls the guest until the events, or its turn, are at their end.
    async fn run(&mut self, events: &[Event]) -> Result<(), Stopped> {
        let turn_us = u64::try_from(TURN.as_micros()).unwrap_or(u64::MAX);
        let ends_us = self.ticker.now_us().saturating_add(turn_us);
        self.store.set_epoch_deadline(1);
        self.store.data_mut().meter.resume();
        while let Some(rest @ [first, ..]) = events.get(self.done..) {
            let store = &mut self.store;
            match &self.entry {
                Entry::Handler(guest) => {
                    self.calling = 1;
                    store.data_mut().begin(std::slice::from_ref(first));
                    call_one(store, guest, first).await?;
                }
                Entry::Batch(guest) => {
                    let call = one_scope(store.data().view.state_scope(), rest);
                    self.calling = call.len();
                    store.data_mut().begin(call);
                    call_batch(store, guest, call).await?;
                }
            }
            self.store.data_mut().keep();
            self.done += self.calling;
            if self.ticker.now_us() >= ends_us {
                break;
            }
        }
        Ok(())
    }

    /// A failure of the call that runs. A batch does not say which of its events it was.
    fn failed(&self, kind: FailureKind, message: String) -> Failure {
        Failure { among: self.calling.max(1), ..failed(self.done, kind, message) }
    }

    fn failure(&mut self, stopped: Stopped) -> Failure {
        let words = self.store.data_mut().flush_output();
        match stopped {
            Stopped::Guest(index, failure) => returned(self.done + index, failure),
            Stopped::Call(error) => {
                let (kind, message) = trap::read(error, &words, &self.limits);
                self.failed(kind, message)
            }
        }
    }

    fn waited_too_long(&mut self) -> Failure {
        let ctx = self.store.data_mut();
        ctx.flush_output();
        let (kind, message) = ctx.meter.wall.passed("of wall time").into_parts();
        self.failed(kind, message)
    }
}

#[async_trait]
impl Handler for Instance {
    async fn handle(&mut self, events: &[Event]) -> Handled {
        self.done = 0;
        let (ticker, marks, wall) = (self.ticker.clone(), self.marks.clone(), self.limits.wall);
        let activity = ticker.activity();
        let work = AssertUnwindSafe(self.run(events)).catch_unwind();
        let ended = watch(work, &ticker, &marks, wall).await;
        drop(activity);
        let failure = match ended {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(stopped))) => Some(self.failure(stopped)),
            Some(Err(panic)) => Some(host_panic(self.done, panic)),
            None => Some(self.waited_too_long()),
        };
        let failure = failure.map(|failure| Failure { logs: self.store.data_mut().take_logs(), ..failure });
        Handled { changes: self.store.data_mut().view.take(), done: self.done, failure }
    }

    fn committed(&mut self) {
        self.store.data_mut().view.committed();
    }

    fn into_view(self: Box<Self>) -> View {
        self.store.into_data().view
    }

    fn memory_bytes(&self) -> usize {
        self.store.data().memory.held_bytes()
    }
}

/// What one call of a batch handler gets: all events, or where the state is a key's, those of one key.
fn one_scope(scope: StateScope, events: &[Event]) -> &[Event] {
    let (StateScope::Key, Some(first)) = (scope, events.first()) else { return events };
    let same = events.iter().take_while(|event| event.foreign_id == first.foreign_id).count();
    events.get(..same).unwrap_or(events)
}
