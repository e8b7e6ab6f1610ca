//! The port to a database: positions, state, emitted events and deployments, under one transaction.

use std::{fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::{
    changes::Changes,
    dead_letter::{DeadLetter, Letters, Redrive},
    deployment::{Deployment, LegacyCursor},
    error::{Error, Result},
    event::{Cursor, EventHash, EventId, Timestamp},
    owner::Owner,
    parked::{Parked, ParkedId, ParkedKey},
    tenant::{ConsumerId, ShardId},
};

/// Counts the commits of a shard's position. The compare that correctness rests on is made with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// Drawn from a counter of the whole store at every claim and every operator's move: whoever holds an older one
/// cannot commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence(pub u64);

/// Counts the deployments of a store; a consumer's topology is that of its newest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// The SHA-256 of a component's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The first eight hexadecimal digits: enough to tell versions apart by eye.
    pub fn short(&self) -> String {
        hex::encode(self.0.get(..4).unwrap_or_default())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.strip_prefix("sha256:").and_then(|digits| hex::decode(digits).ok());
        match bytes.and_then(|bytes| bytes.try_into().ok()) {
            Some(digest) => Ok(Self(digest)),
            None => Err(Error::invalid(format!("`{text}` is not a digest: sha256: and 64 hexadecimal digits"))),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Whether a shard may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It may.
    #[default]
    Running,
    /// A poison event stands in its way.
    Blocked,
    /// An operator stopped it.
    Paused,
}

/// Why a shard stands still, or is trying again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One of the codes of [`FailureKind`](crate::handler::FailureKind), or `paused`, `full`, `suspect`, `suspect-again`.
    pub code: String,
    /// What happened, for the operator; a trap's has its backtrace.
    pub message: String,
    /// The event that it concerns.
    pub event: Option<EventId>,
    /// Since when.
    pub since: Timestamp,
    /// When it is tried again, if so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_at: Option<Timestamp>,
    /// The last lines that the guest logged and printed meanwhile.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub logs: String,
}

/// A shard's row: where it is, and everything that decides who may move it.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// Whose row it is.
    pub shard: ShardId,
    /// The place after the last event whose effects are committed.
    pub cursor: Cursor,
    /// Moves with every commit.
    pub revision: Revision,
    /// Moves with every claim.
    pub fence: Fence,
    /// Drawn from the store's counter when the row was made: a consumer that is removed and made again gets another.
    pub incarnation: u64,
    /// Moves when a reset wants its emitted events again.
    pub generation: u32,
    /// The deployment that the shard runs; never an older one again.
    pub epoch: Epoch,
    /// Whether it may run.
    pub status: Status,
    /// Why it may not, or why it is trying again.
    pub reason: Option<Reason>,
    /// How often the event after the cursor has failed.
    pub attempts: u32,
    /// The component whose effects the last commit carried.
    pub digest: Option<Digest>,
    /// The hash of the last event before the cursor.
    pub last_event: Option<EventHash>,
    /// The highest cursor that was ever committed.
    pub high_water: Cursor,
    /// The features that the row needs; a host that lacks one does not take the shard over.
    pub features: u64,
    /// How often the consumer was divided anew before it had this row: it belongs to a deployment of the same number.
    pub topology: u64,
    /// When the row was last written.
    pub updated_at: Timestamp,
    /// Who has claimed it and has not given it back: a process that was ended leaves its name here.
    pub owner: Owner,
}

impl Position {
    /// Before the first event, as a store makes the row at the first claim.
    pub fn start(shard: ShardId, fence: Fence) -> Self {
        Self {
            shard,
            cursor: Cursor::START,
            revision: Revision(0),
            fence,
            incarnation: fence.0,
            generation: 0,
            epoch: Epoch(0),
            status: Status::Running,
            reason: None,
            attempts: 0,
            digest: None,
            last_event: None,
            high_water: Cursor::START,
            features: 0,
            topology: 0,
            updated_at: Timestamp::default(),
            owner: Owner::default(),
        }
    }
}

/// One part of a consumer's state: all of it, one foreign id's, or one shard's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Whose state.
    pub consumer: ConsumerId,
    /// Which part; empty where the state is the whole consumer's.
    pub part: ByteString,
}

/// A key of a state, at most 1 KiB.
pub type Key = ByteString;

/// The move of one shard's position: it happens iff the row still has this fence, revision and epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The row as it was loaded.
    pub from: Position,
    /// The row as it is to be. Its revision becomes `from.revision + 1`, whatever stands here.
    pub to: Position,
    /// Whether it is an operator's move, which takes a new fence and so stops whoever runs the shard.
    pub takes_fence: bool,
}

/// Puts other positions in the place of all that a consumer has.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// Whose.
    pub consumer: ConsumerId,
    /// All of its rows as they were loaded: where one has moved, or there is another one, the commit is `Fenced`.
    pub from: Vec<Position>,
    /// The rows as they are to be, all of those that are there among them. All get one new fence, and the epoch of the commit's
    /// deployment where it has one; an incarnation of 0 becomes that fence, too. Where there are none at all the consumer is gone, with everything that it has.
    pub to: Vec<Position>,
    /// Whether its state is emptied.
    pub clears_state: bool,
}

/// What becomes of an event whose key is in the store already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// The commit fails: a key that a consumer's event was given twice is a bug.
    #[default]
    Refuse,
    /// The event is left out: a producer repeats itself.
    Skip,
}

/// One atomic write. It may lack a move (a producer's append, a deployment) or have nothing but one (an operator).
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The position that must stand where it was loaded.
    pub r#move: Option<Move>,
    /// State and events.
    pub changes: Changes,
    /// What becomes of events whose key is there already.
    pub duplicates: Duplicates,
    /// A deployment to activate, with the component's bytes. Its epoch is given by the store.
    pub deployment: Option<(Deployment, Bytes)>,
    /// The deployment that must be the consumer's newest for this one to be activated, else the commit is `Fenced`: the one that it
    /// was made from, or 0 where there was none. Without it any may be.
    pub follows: Option<Epoch>,
    /// Other positions of a consumer, which then comes alone: it has no move.
    pub rewrite: Option<Rewrite>,
    /// Events that are set aside; one that is there already takes the other's place.
    pub dead_letters: Vec<DeadLetter>,
    /// Events that are set aside no longer.
    pub purged: Vec<(ConsumerId, EventId)>,
    /// Events that were set aside and are to be handled again, or are not.
    pub redrives: Vec<Redrive>,
    /// Events that wait, or wait for another reason than before.
    pub parked: Vec<Parked>,
    /// Events that wait no longer.
    pub unparked: Vec<ParkedId>,
    /// A row of reflex's that gets the move's cursor, too: only where the store has one.
    pub mirror: Option<Arc<LegacyCursor>>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// The row as it is now, where there was a move.
    pub position: Option<Position>,
    /// How many events were appended.
    pub appended: u64,
    /// The epoch of the deployment that was activated.
    pub epoch: Option<Epoch>,
}

/// A line in a shard's history: from this revision on its commits were made by this component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// The first revision that the component made.
    pub revision: Revision,
    /// The component.
    pub digest: Digest,
    /// The deployment.
    pub epoch: Epoch,
    /// When.
    pub at: Timestamp,
}

/// A database, as the host uses it.
///
/// `commit` takes the commits of many shards at once. Each decides for itself: one whose compare fails is `Fenced`
/// and changes nothing, the others stand. At most one commit per shard may be in a call.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes a shard over: raises its fence, so that nobody else can commit it. Makes the row where there is none.
    async fn claim(&self, shard: &ShardId, owner: &Owner) -> Result<Position>;

    /// A shard's row; a shard that nobody ever claimed is `NotFound`.
    async fn load(&self, shard: &ShardId) -> Result<Position>;

    /// The values of keys, in their order.
    async fn get(&self, scope: &Scope, keys: &[Key]) -> Result<Vec<Option<Bytes>>>;

    /// At most `limit` entries whose keys begin with `prefix` and come after `after`, in the order of the keys' bytes.
    async fn scan(&self, scope: &Scope, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<(Key, Bytes)>>;

    /// Whether a consumer has any state, whatever part it is in.
    async fn has_state(&self, consumer: &ConsumerId) -> Result<bool>;

    /// Writes commits, in one transaction where that is possible. The answers are in the order of the commits.
    async fn commit(&self, commits: &[Commit]) -> Vec<Result<Committed>>;

    /// All positions, in the order of their shards.
    async fn positions(&self) -> Result<Vec<Position>>;

    /// The active deployment of each consumer, in the order of the consumers.
    async fn deployments(&self) -> Result<Vec<Deployment>>;

    /// The bytes of a component that was deployed.
    async fn component(&self, digest: &Digest) -> Result<Bytes>;

    /// What a consumer has set aside, in the order of time, then of event ids; no more behind 4 MiB of payloads. Where none
    /// are read there are none.
    async fn dead_letters(&self, consumer: &ConsumerId, which: &Letters) -> Result<Vec<DeadLetter>>;

    /// The keys that are parked, in the order of their bytes, or of what stands for those where they are too long for a column.
    async fn parked_keys(&self, consumer: &ConsumerId) -> Result<Vec<ParkedKey>>;

    /// At most `limit` of the events of a key that wait, in the order of their places, from this one on; no more behind 4 MiB of
    /// payloads.
    async fn parked(&self, consumer: &ConsumerId, key: &str, from: u64, limit: u32) -> Result<Vec<Parked>>;

    /// One event that was set aside.
    async fn dead_letter(&self, consumer: &ConsumerId, event: &EventId) -> Result<DeadLetter>;

    /// Which components made a shard's commits, oldest first.
    async fn history(&self, shard: &ShardId) -> Result<Vec<Swap>>;
}
