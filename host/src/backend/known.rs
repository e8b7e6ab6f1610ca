//! The streams that a database's handle has been asked for, each with what it knows of its table.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::row;
use crate::{error::Result, tenant::StreamId};

/// See the module.
pub(super) struct Known<T>(Mutex<HashMap<StreamId, T>>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Known<T> {
    pub(super) fn get(&self, stream: &StreamId) -> Option<T> {
        self.all().get(stream).cloned()
    }

    /// Remembers a table; whoever came first has made the one that all use.
    pub(super) fn add(&self, stream: &StreamId, table: T) -> T {
        self.all().entry(stream.clone()).or_insert(table).clone()
    }

    /// All of them.
    pub(super) fn all(&self) -> MutexGuard<'_, HashMap<StreamId, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Streams, as the rows of a table name them.
pub(super) fn streams(rows: Vec<(String, String)>) -> Result<Vec<StreamId>> {
    let stream = |(tenant, name): (String, String)| Ok(StreamId { tenant: row::tenant(tenant)?, name: name.parse()? });
    rows.into_iter().map(stream).collect()
}
