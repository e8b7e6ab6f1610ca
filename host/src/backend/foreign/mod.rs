//! Tables that were there before tendon, such as those of reflex: others insert into them, and their ids are drawn by the
//! server before the inserting transaction commits. Reading them without losing a row is written once, here; each
//! database says in its own SQL which transactions hold a lock on such a table.

mod barrier;
mod shape;
mod source;
mod trace;

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    error::{Error, Result},
    event::{Event, NewEvent},
    source::{HeldUp, Lag},
    tenant::{Identifier, StreamId},
};

pub use self::shape::Finding;
pub(super) use self::{
    barrier::Holder,
    shape::{Findings, Kind, Shape},
    source::ForeignSource,
    trace::{to_header, to_trace},
};

/// Microseconds of the years 1000 to 9999: what a date and time of MySQL can be.
const TIMES: RangeInclusive<i64> = -30_610_224_000_000_000..=253_402_300_799_999_999;

/// Where such a table is, and what its columns are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignTable {
    /// The schema (PostgreSQL) or database (MySQL), where that is not the connection's own.
    pub schema: Option<Identifier>,
    /// The table.
    pub name: Identifier,
    /// The id, drawn by the server: identity, serial or AUTO_INCREMENT.
    pub id: Identifier,
    /// What an event is about: a text or a number.
    pub foreign_id: Identifier,
    /// When it was inserted, in UTC.
    pub timestamp: Identifier,
    /// Its kind, a number.
    pub r#type: Identifier,
    /// Its payload. Where none is named, the column of this name if there is one.
    pub metadata: Option<Identifier>,
    /// Its trace, as reflex has it. Where none is named, the column of this name if there is one.
    pub trace: Option<Identifier>,
    /// The sequence that ids are drawn from, where the server does not know it as the id's own (PostgreSQL).
    pub sequence: Option<Identifier>,
    /// Whether rows of type 0 and foreign id 0, with which reflex fills holes, are events.
    pub noops: bool,
}

impl ForeignTable {
    /// A table with the columns of reflex's reference schema.
    pub fn named(name: Identifier) -> Self {
        Self {
            schema: None,
            name,
            id: Identifier::plain("id"),
            foreign_id: Identifier::plain("foreign_id"),
            timestamp: Identifier::plain("timestamp"),
            r#type: Identifier::plain("type"),
            metadata: None,
            trace: None,
            sequence: None,
            noops: false,
        }
    }

    /// Whether a row only fills a hole.
    pub(super) fn hides(&self, r#type: i32, foreign_id: &str) -> bool {
        !self.noops && r#type == 0 && foreign_id == "0"
    }
}

impl fmt::Display for ForeignTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// What is known of such a table while it is open.
pub(super) struct Tracked {
    /// Its stream.
    pub(super) stream: StreamId,
    /// Where it is.
    pub(super) table: ForeignTable,
    /// What its columns hold.
    pub(super) shape: Shape,
    /// Moves when this process has appended: wakes those that wait at the head.
    pub(super) appended: watch::Sender<()>,
    /// Up to this id nothing can appear any more: every transaction that could has ended. It only rises.
    final_id: AtomicI64,
}

impl Tracked {
    pub(super) fn new(stream: StreamId, table: ForeignTable, shape: Shape) -> Self {
        Self { stream, table, shape, appended: watch::Sender::new(()), final_id: AtomicI64::new(0) }
    }

    fn final_id(&self) -> i64 {
        self.final_id.load(SeqCst)
    }

    fn is_final_up_to(&self, id: i64) {
        self.final_id.fetch_max(id, SeqCst);
    }

    /// Refuses what a row of this table cannot hold.
    pub(super) fn check(&self, event: &NewEvent) -> Result<()> {
        let refuse = |what: &str| {
            Err(Error::invalid(format!("append to stream {}: table {} holds no {what}", self.stream, self.table)))
        };
        if event.r#type == 0 && event.foreign_id == "0" {
            return refuse("event of type 0 and foreign id 0: readers take that for the filling of a hole");
        }
        if !TIMES.contains(&event.timestamp.0) {
            return refuse(&format!("time {}", event.timestamp));
        }
        if self.shape.foreign_id.kind == Kind::Number && event.foreign_id.parse::<i64>().is_err() {
            return refuse(&format!("foreign id {:?}: its column is a number", event.foreign_id));
        }
        if self.shape.metadata.is_none() && !event.metadata.is_empty() {
            return refuse("metadata: it has no column for it");
        }
        if event.headers.iter().any(|(name, _)| name != trace::HEADER) {
            return refuse("headers but `traceparent`");
        }
        Ok(())
    }
}

/// Refuses to let a stream be in two places.
pub(super) fn another_table(stream: &StreamId, table: &ForeignTable) -> Error {
    Error::invalid(format!("stream {stream} is in another table here and cannot be table {table}"))
        .help("give the stream of that table another name")
}

/// Where a stream's events are: in a table of its own, or in one that was there before.
pub(super) enum Log<O, F> {
    Own(Arc<O>),
    Foreign(Arc<F>),
}

impl<O, F> Clone for Log<O, F> {
    fn clone(&self) -> Self {
        match self {
            Self::Own(table) => Self::Own(table.clone()),
            Self::Foreign(log) => Self::Foreign(log.clone()),
        }
    }
}

/// What a database is asked about such a table. Every call is a statement of its own, which sees what was committed when it
/// began.
#[async_trait]
pub(super) trait Foreign: Send + Sync + 'static {
    /// What is known of the table.
    fn tracked(&self) -> &Tracked;

    /// The lowest id after one.
    async fn next_id(&self, after: i64) -> Result<Option<i64>>;

    /// The highest id; 0 where there is none.
    async fn last_id(&self) -> Result<i64>;

    /// A chunk of rows after an id, in the order of ids, with those that only fill holes; and their ids.
    async fn read(&self, after: i64) -> Result<(Vec<Event>, Vec<i64>)>;

    /// The row of an id.
    async fn row(&self, id: i64) -> Result<Option<Event>>;

    /// The transactions that may have drawn an id, and are open.
    async fn holders(&self) -> Result<Vec<Holder>>;

    /// Who of them an operator should look at.
    async fn held_up_by(&self, holders: &[Holder]) -> Result<HeldUp>;

    /// The end of the run of ids without a hole that begins after an id; that id itself where there is none.
    async fn end_of_run(&self, after: i64) -> Result<i64>;

    /// How many events are after an id, and when the first of them was inserted.
    async fn lag(&self, after: i64, cap: u64) -> Result<Lag>;

    /// An id that the server has not drawn yet, where it tells.
    async fn undrawn_id(&self) -> Result<Option<i64>>;
}
