//! A store that only answers questions about state, well or badly: what the runtime's tests need of one.

use async_trait::async_trait;
use bytes::Bytes;
use tendon::{
    dead_letter::{DeadLetter, Letters},
    deployment::Deployment,
    error::{Error, Result},
    event::EventId,
    owner::Owner,
    parked::{Parked, ParkedKey},
    store::{Commit, Committed, Digest, Key, Position, Scope, Store, Swap},
    tenant::{ConsumerId, ShardId},
};

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub enum Shelf {
    /// Nothing is in it.
    Empty,
    /// Every key has the same value.
    Full(&'static str),
    /// It says that it cannot be had.
    Broken,
    /// It never answers.
    Silent,
    /// It panics.
    Mad,
}

impl Shelf {
    async fn value(self) -> Result<Option<Bytes>> {
        match self {
            Self::Empty => Ok(None),
            Self::Full(value) => Ok(Some(Bytes::from_static(value.as_bytes()))),
            Self::Broken => Err(broken()),
            Self::Silent => std::future::pending().await,
            Self::Mad => std::panic::panic_any("the store has a bug"),
        }
    }
}

fn broken() -> Error {
    Error::unavailable("the shelf is broken")
}

#[async_trait]
impl Store for Shelf {
    async fn claim(&self, _: &ShardId, _: &Owner) -> Result<Position> {
        Err(broken())
    }

    async fn load(&self, _: &ShardId) -> Result<Position> {
        Err(broken())
    }

    async fn get(&self, _: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        let value = self.value().await?;
        Ok(keys.iter().map(|_| value.clone()).collect())
    }

    async fn scan(&self, _: &Scope, _: &str, _: Option<&str>, _: u32) -> Result<Vec<(Key, Bytes)>> {
        self.value().await.map(|_| Vec::new())
    }

    async fn has_state(&self, _: &ConsumerId) -> Result<bool> {
        Err(broken())
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>> {
        commits.iter().map(|_| Err(broken())).collect()
    }

    async fn positions(&self) -> Result<Vec<Position>> {
        Err(broken())
    }

    async fn deployments(&self) -> Result<Vec<Deployment>> {
        Err(broken())
    }

    async fn component(&self, _: &Digest) -> Result<Bytes> {
        Err(broken())
    }

    async fn dead_letters(&self, _: &ConsumerId, _: &Letters) -> Result<Vec<DeadLetter>> {
        Err(broken())
    }

    async fn dead_letter(&self, _: &ConsumerId, _: &EventId) -> Result<DeadLetter> {
        Err(broken())
    }

    async fn parked_keys(&self, _: &ConsumerId) -> Result<Vec<ParkedKey>> {
        Err(broken())
    }

    async fn parked(&self, _: &ConsumerId, _: &str, _: u64, _: u32) -> Result<Vec<Parked>> {
        Err(broken())
    }

    async fn history(&self, _: &ShardId) -> Result<Vec<Swap>> {
        Err(broken())
    }
}
