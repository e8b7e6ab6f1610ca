//! What the bench guest does, as native closures.

use std::sync::Arc;

use serde::Deserialize;
use tendon::{
    event::Event,
    handler::{Failure, FailureKind, HandlerFactory},
    view::View,
};

use crate::native::{Logic, Native, failure};

/// The payload, as the guest parses it.
#[derive(Deserialize)]
struct Quake<'a> {
    quake: &'a str,
    mag: f64,
    place: &'a str,
    depth_km: f64,
}

struct Empty;

impl Logic for Empty {
    async fn handle(&self, _event: &Event, _view: &mut View) -> Result<(), Failure> {
        Ok(())
    }
}

struct Parse;

impl Logic for Parse {
    async fn handle(&self, event: &Event, _view: &mut View) -> Result<(), Failure> {
        let quake: Quake<'_> = serde_json::from_slice(&event.metadata)
            .map_err(|error| failure(FailureKind::Reject, &error.to_string()))?;
        if quake.mag + quake.depth_km < 0.0 || quake.quake.is_empty() || quake.place.is_empty() {
            return Err(failure(FailureKind::Reject, "not a quake"));
        }
        Ok(())
    }
}

/// Does nothing.
pub(super) fn empty() -> Arc<dyn HandlerFactory> {
    Native::new("empty", Empty)
}

/// Parses the payload.
pub(super) fn parse() -> Arc<dyn HandlerFactory> {
    Native::new("parse", Parse)
}
