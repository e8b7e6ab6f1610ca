//! The config as an author writes it: every key optional, every duration and size a string with its unit.
//!
//! These types are the one list of keys. The published JSON Schema is made from them, the check for unknown keys and
//! wrong types reads that schema, and `config show` prints them back.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{deployment::StateScope, policy::OnExhausted};

/// Names of streams, consumers or stores, with what stands below them.
pub type Named<T> = BTreeMap<String, T>;

/// A `tendon.toml`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Root {
    /// The process.
    pub host: Host,
    /// Databases that hold positions, state and streams; `main` = sqlite://tendon.db where none is given.
    pub store: Named<Store>,
    /// Streams that consumers read or emit to.
    pub stream: Named<Stream>,
    /// What handles events.
    pub consumer: Named<Consumer>,
}

/// The process.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Host {
    /// Address of the API and the metrics; a loopback one. Default 127.0.0.1:7070.
    #[schemars(example = &"127.0.0.1:7070")]
    pub listen: Option<String>,
    /// Folder of the machine code that components were compiled to, which nobody else may write to. Default the user's cache
    /// folder.
    #[schemars(example = &"/var/cache/tendon")]
    pub code_cache: Option<PathBuf>,
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Once it is on the disk: it survives a power failure.
    #[default]
    Full,
    /// Once the operating system has it: it survives a crash of the host, the last ones are lost in a power failure.
    Relaxed,
}

/// What the order of a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The one in which nobody who appends waits for another.
    #[default]
    Native,
    /// That of ids, which rise by one from event to event.
    Id,
}

/// A database.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Store {
    /// Where: sqlite:// and a path, relative to this file, or postgres:// or mysql://user:password@host:port/database. Required.
    #[schemars(example = &"sqlite://tendon.db")]
    pub url: Option<String>,
    /// When a commit counts as done. Default full.
    #[schemars(example = &"full")]
    pub durability: Option<Durability>,
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Stream {
    /// Whose it is. Default default.
    #[schemars(example = &"default")]
    pub tenant: Option<String>,
    /// The store that holds it. Default the only store.
    #[schemars(example = &"main")]
    pub store: Option<String>,
    /// A file of events, relative to this file, that `tendon dev` imports once.
    #[schemars(example = &"events.jsonl")]
    pub sample: Option<String>,
    /// How long its events are kept, and longer where a consumer has yet to handle them. Default for ever.
    #[schemars(example = &"30d")]
    pub retain: Option<String>,
    /// Its order: native, or id where clients of reflex need ids that rise, and appending may wait for others. Only PostgreSQL
    /// has another one than that of ids. Fixed when the stream is made. Default native.
    #[schemars(example = &"native")]
    pub order: Option<Order>,
    /// A table that is there already, and that others insert into; on MySQL, MariaDB and PostgreSQL. Default a table of
    /// tendon's own.
    pub table: Option<Table>,
}

/// A table of events that is there already. Its columns have the names of reflex's unless it is said here what they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Table {
    /// Its name. Required.
    #[schemars(example = &"order_events")]
    pub name: Option<String>,
    /// The schema (PostgreSQL) or database (MySQL) that it is in. Default the connection's own.
    #[schemars(example = &"shop")]
    pub schema: Option<String>,
    /// The column of the id, which the server draws: AUTO_INCREMENT, serial or identity. Default id.
    #[schemars(example = &"id")]
    pub id: Option<String>,
    /// The column of the foreign id, a text or a number. Default foreign_id.
    #[schemars(example = &"foreign_id")]
    pub foreign_id: Option<String>,
    /// The column of the time, in UTC. Default timestamp.
    #[schemars(example = &"timestamp")]
    pub timestamp: Option<String>,
    /// The column of the type, a number. Default type.
    #[schemars(example = &"type")]
    pub r#type: Option<String>,
    /// The column of the payload. Default metadata, where there is such a column.
    #[schemars(example = &"metadata")]
    pub metadata: Option<String>,
    /// The column of reflex's trace. Default trace, where there is such a column.
    #[schemars(example = &"trace")]
    pub trace: Option<String>,
    /// PostgreSQL: the sequence that ids are drawn from, where the server does not know that it is the id's.
    #[schemars(example = &"order_events_id_seq")]
    pub sequence: Option<String>,
    /// Whether rows of type 0 and foreign id 0, with which reflex fills holes, are events. Default false.
    #[schemars(example = false)]
    pub noops: Option<bool>,
}

/// A consumer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Consumer {
    /// Whose it is. Default default.
    #[schemars(example = &"default")]
    pub tenant: Option<String>,
    /// The component's file, relative to this file. Required.
    #[schemars(example = &"billing.wasm")]
    pub component: Option<String>,
    /// The stream that it reads. Required.
    #[schemars(example = &"orders")]
    pub stream: Option<String>,
    /// The store of its position, its state and what it emits. Default the stream's.
    #[schemars(example = &"main")]
    pub store: Option<String>,
    /// Where it begins when it is deployed for the first time: earliest, latest, @TIME or @-10m, +N events after the
    /// earliest, -N before the head, id:EVENT after that event. Default earliest.
    #[schemars(example = &"earliest")]
    pub start: Option<String>,
    /// Where it begins when it is deployed for the first time, if reflex has a cursor for it: after that. MySQL and MariaDB.
    pub legacy_cursor: Option<LegacyCursor>,
    /// Which events it is called with; the others move its cursor.
    pub filter: Filter,
    /// How old an event must be before it is handled. Default 0s.
    #[schemars(example = &"30s")]
    pub lag: Option<String>,
    /// Which state an event's handler sees: that of the whole consumer, of the event's key, which is its foreign id, or of its
    /// shard. Default consumer; where there is more than one shard, key if they are divided by foreign id, else shard; where keys are
    /// parked, key.
    #[schemars(example = &"consumer")]
    pub state: Option<StateScope>,
    /// How it is divided.
    pub shards: Shards,
    /// When a commit is due: whichever comes first, or when no event is ready.
    pub batch: Batch,
    /// What happens when an event fails.
    pub retry: Retry,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach. Nothing by default.
    pub grants: Grants,
    /// What `tendon:consumer/config` answers.
    pub config: BTreeMap<String, String>,
    /// Version of the state's layout; an automatic rollback stays within one. Default 1.
    #[schemars(example = 1)]
    pub state_version: Option<i64>,
}

/// A row in a cursors table of reflex, in the consumer's store.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct LegacyCursor {
    /// The table. Required.
    #[schemars(example = &"cursors")]
    pub table: Option<String>,
    /// The database that it is in. Default the connection's own.
    #[schemars(example = &"shop")]
    pub schema: Option<String>,
    /// The name that the consumer has there. Default its name here.
    #[schemars(example = &"billing")]
    pub name: Option<String>,
    /// The column of the consumer's name. Default id.
    #[schemars(example = &"id")]
    pub id: Option<String>,
    /// The column of the cursor. Default last_event_id.
    #[schemars(example = &"last_event_id")]
    pub cursor: Option<String>,
    /// The column of the time of the last change. Default updated_at.
    #[schemars(example = &"updated_at")]
    pub updated_at: Option<String>,
    /// Whether that row moves with every commit, so that the consumer can go back to reflex. Default false.
    #[schemars(example = true)]
    pub mirror: Option<bool>,
}

/// Which events a consumer is called with.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Filter {
    /// Only these types. Default all.
    #[schemars(example = [1, 2])]
    pub types: Option<Vec<i64>>,
    /// Only these foreign ids. Default all.
    #[schemars(example = ["us1", "us2"])]
    pub foreign_ids: Option<Vec<String>>,
    /// Only events for which this expression in CEL is true: it compares id, type, foreign_id, headers and metadata, the
    /// payload as JSON. Default all.
    #[schemars(example = &"has(metadata.mag) && metadata.mag >= 4.5")]
    pub r#where: Option<String>,
}

/// How a consumer is divided.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Shards {
    /// What decides to which shard an event belongs, so that all with one key are handled in their order: foreign-id, type, id,
    /// or metadata: with a JSON pointer into the payload. Default foreign-id.
    #[schemars(example = &"metadata:/customer/id")]
    pub by: Option<String>,
    /// How many shards, each with a position of its own; they are handled side by side. Default 1.
    #[schemars(example = 8)]
    pub count: Option<i64>,
}

/// When a commit is due.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Batch {
    /// The most events that share a commit; of a `batch-handler` the most that share a call, too, up to 1,024; with
    /// `state = "key"` only events of one foreign id that follow each other do. Default 16,384.
    #[schemars(example = 16384)]
    pub max: Option<i64>,
    /// Bytes of changes after which a commit takes no more events, and the most bytes of events that a `batch-handler` gets in one
    /// call, a single event apart. Default 4MiB.
    #[schemars(example = &"4MiB")]
    pub bytes: Option<String>,
    /// The time from a batch's first event to its commit; as long as the commit before it is being written, the batch
    /// goes on growing. Events of a `batch-handler` wait so long for others to fill their call. Default 5ms.
    #[schemars(example = &"5ms")]
    pub linger: Option<String>,
}

/// What happens when an event fails: exponential backoff.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Retry {
    /// How often an event is tried, the first time included. Default 8.
    #[schemars(example = 8)]
    pub attempts: Option<i64>,
    /// The wait after the first failure. Default 100ms.
    #[schemars(example = &"100ms")]
    pub base: Option<String>,
    /// What each further wait is multiplied by; at least 1. Default 2.
    #[schemars(example = 2)]
    pub factor: Option<f64>,
    /// The longest wait. Default 1m.
    #[schemars(example = &"1m")]
    pub cap: Option<String>,
    /// Whether waits are shortened by a random part. Default true.
    #[schemars(example = true)]
    pub jitter: Option<bool>,
    /// What becomes of an event whose attempts have run out: block, dead-letter or skip; or, from its first failure on, park-key:
    /// it waits, with all later events of its foreign id, and other keys go on. Default block.
    #[schemars(example = &"block")]
    pub on_exhausted: Option<OnExhausted>,
    /// Keys that a shard parks at the most; then it stands. Default 1,000.
    #[schemars(example = 1000)]
    pub parked_keys: Option<i64>,
    /// Events that a shard parks at the most; then it stands. Default 10,000.
    #[schemars(example = 10000)]
    pub parked_events: Option<i64>,
}

/// What a consumer may use. What passes a limit ends the call with a message that names it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Memory and tables, summed over all of an instance's. Default 64MiB.
    #[schemars(example = &"64MiB")]
    pub memory: Option<String>,
    /// CPU time per call. Default 200ms.
    #[schemars(example = &"200ms")]
    pub cpu: Option<String>,
    /// Wall time per call, host calls included. Default 30s.
    #[schemars(example = &"30s")]
    pub wall: Option<String>,
    /// CPU and wall time to instantiate and `init`. Default 1s.
    #[schemars(example = &"1s")]
    pub init: Option<String>,
    /// Size of the component. Default 20MiB.
    #[schemars(example = &"20MiB")]
    pub component: Option<String>,
    /// CPU time to compile it, in whole seconds. Default 1m.
    #[schemars(example = &"1m")]
    pub compile_cpu: Option<String>,
    /// Memory to compile it. Default 2GiB.
    #[schemars(example = &"2GiB")]
    pub compile_memory: Option<String>,
    /// Bytes that a call may hand to the host. Default 32MiB.
    #[schemars(example = &"32MiB")]
    pub hostcall: Option<String>,
    /// Host calls per event. Default 10000.
    #[schemars(example = 10000)]
    pub host_calls: Option<i64>,
    /// Events emitted per event. Default 1000.
    #[schemars(example = 1000)]
    pub emits: Option<i64>,
    /// Bytes of state written per event. Default 16MiB.
    #[schemars(example = &"16MiB")]
    pub state: Option<String>,
    /// Keys of state written per event. Default 1000.
    #[schemars(example = 1000)]
    pub state_keys: Option<i64>,
    /// Bytes of log lines per event; what exceeds it is cut. Default 1MiB.
    #[schemars(example = &"1MiB")]
    pub log: Option<String>,
}

/// What a consumer may reach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Grants {
    /// Streams of its tenant, in its store, that it may emit to. Default none.
    #[schemars(example = ["invoices"])]
    pub emit: Option<Vec<String>>,
}
