//! The immutable row that says what a consumer is. A config file only proposes one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::{
    batch::BatchPolicy,
    event::{Cursor, Timestamp},
    filter::Filter,
    limits::Limits,
    policy::RetryPolicy,
    store::{Digest, Epoch},
    tenant::{ConsumerId, Identifier, Name, StreamId},
    topology::{Past, Shards},
};

/// Which part of a consumer's state an event's handler sees. Fixed when the consumer is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StateScope {
    /// One state for the whole consumer.
    #[default]
    Consumer,
    /// One state per foreign id.
    Key,
    /// One state per shard.
    Shard,
}

impl StateScope {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Key => "key",
            Self::Shard => "shard",
        }
    }

    /// The part of a state that is a shard's, whatever the event; empty where there is none of its own.
    pub fn part(self, index: u32) -> ByteString {
        match self {
            Self::Consumer | Self::Key => ByteString::new(),
            Self::Shard => index.to_string().into(),
        }
    }
}

/// A consumer's row in a cursors table of reflex, in the database of its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyCursor {
    /// The database, where that is not the connection's own.
    pub schema: Option<Identifier>,
    /// The table.
    pub table: Identifier,
    /// The column of the consumer's name.
    pub id: Identifier,
    /// The column of the cursor: a number or a text.
    pub cursor: Identifier,
    /// The column of the time of the last change.
    pub updated_at: Identifier,
    /// The consumer's name there.
    pub name: String,
    /// Whether it moves with every commit.
    pub mirror: bool,
}

/// Everything about a consumer that decides what its commits contain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The stream that it reads.
    pub stream: StreamId,
    /// The store's name that holds its state and position.
    pub store: Name,
    /// Where it begins, resolved: the cursor of `earliest` or `latest` when it was deployed, as hex.
    #[serde(with = "cursor_as_hex")]
    pub start: Cursor,
    /// Which events it is called with.
    pub filter: Filter,
    /// How old an event must be before it is handled.
    #[serde(default)]
    pub lag: Duration,
    /// Which state its handler sees.
    pub state: StateScope,
    /// How it is divided.
    pub shards: Shards,
    /// What its positions do not say of the shards that were before these.
    #[serde(skip_serializing_if = "is_empty", default)]
    pub past: Past,
    /// When a commit is due.
    pub batch: BatchPolicy,
    /// What happens when an event fails.
    pub retry: RetryPolicy,
    /// What a guest may use.
    pub limits: Limits,
    /// Streams of the tenant that it may emit to.
    pub grants_emit: Vec<Name>,
    /// What `tendon:consumer/config` answers.
    pub config: BTreeMap<String, String>,
    /// The version of the state's layout; an automatic rollback stays within one.
    pub state_version: u32,
    /// The row of reflex's that it began at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub legacy_cursor: Option<Arc<LegacyCursor>>,
}

impl LegacyCursor {
    /// The row of one shard: reflex has one for each.
    pub fn of(&self, shards: &Shards, index: u32) -> Self {
        Self { name: shards.name(&self.name, index), ..self.clone() }
    }
}

/// A consumer's spec and component, as they were activated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Whose.
    pub consumer: ConsumerId,
    /// Its number in the store, given when it is activated.
    pub epoch: Epoch,
    /// The component.
    pub digest: Digest,
    /// Everything else.
    pub spec: Spec,
    /// When it was activated.
    pub at: Timestamp,
}

fn is_empty(past: &Past) -> bool {
    *past == Past::default()
}

pub(crate) mod cursor_as_hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::event::Cursor;

    pub(crate) fn serialize<S: Serializer>(cursor: &Cursor, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&cursor.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        let digits = String::deserialize(deserializer)?;
        hex::decode(digits).map(|bytes| Cursor(bytes.into())).map_err(D::Error::custom)
    }
}
