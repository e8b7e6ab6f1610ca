//! One call of a guest with its events, and what a failed one means.

use std::time::Duration;

use super::{
    context::Ctx,
    imports::{
        exports::tendon::consumer::{batch_handler, handler},
        tendon::consumer::types,
    },
};
use crate::{
    error::Error,
    event::Event,
    handler::{Failure, FailureKind},
};

/// Why a slice of events stopped before its end.
pub(super) enum Stopped {
    /// The guest returned a failure for an event, by its index in the call.
    Guest(usize, types::Failure),
    /// The call failed.
    Call(wasmtime::Error),
}

/// Calls with one event.
pub(super) async fn call_one(
    store: &mut wasmtime::Store<Ctx>,
    guest: &handler::Guest,
    event: &Event,
) -> Result<(), Stopped> {
    let headers = headers(event);
    match guest.call_handle(store, wire(event, &headers)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(Stopped::Guest(0, failure)),
        Err(error) => Err(Stopped::Call(error)),
    }
}

/// Calls with many.
pub(super) async fn call_batch(
    store: &mut wasmtime::Store<Ctx>,
    guest: &batch_handler::Guest,
    events: &[Event],
) -> Result<(), Stopped> {
    let headers: Vec<_> = events.iter().map(headers).collect();
    let wires: Vec<_> = events.iter().zip(&headers).map(|(event, headers)| wire(event, headers)).collect();
    match guest.call_handle_batch(store, &wires).await {
        Ok(Ok(())) => Ok(()),
        // An index beyond the batch can only mean its last event.
        Ok(Err(batch)) => {
            let last = events.len().saturating_sub(1);
            Err(Stopped::Guest((batch.index as usize).min(last), batch.failure))
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

/// A failure that a guest returned, its details below its sentence.
pub(super) fn returned(index: usize, failure: types::Failure) -> Failure {
    let kind = match failure.action {
        types::Action::Retry => FailureKind::Retry,
        types::Action::Reject => FailureKind::Reject,
    };
    let mut message = failure.message;
    for (name, value) in &failure.details {
        message.push_str(&format!("\n  {name}: {value}"));
    }
    let after = failure.after_ms.map(|ms| Duration::from_millis(ms.into()));
    Failure { after, ..failed(index, kind, message) }
}

/// A failure that the host noticed.
pub(super) fn failed(index: usize, kind: FailureKind, message: String) -> Failure {
    Failure { kind, index, among: 1, message, after: None, logs: String::new(), is_of_start: false }
}

/// A bug of the host ends one call, not the host.
pub(super) fn host_panic(index: usize, panic: Box<dyn std::any::Any + Send>) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let message = format!("the host panicked while it served the guest: {text}");
    failed(index, FailureKind::Infrastructure(Error::corrupt(message.clone())), message)
}
