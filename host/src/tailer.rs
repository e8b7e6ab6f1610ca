//! Reads a stream once for all its consumers, through a bounded ring of chunks.
//!
//! The ring follows the consumer that is furthest ahead and reads a little beyond it. Who falls off the ring, because
//! it is slow, blocked or new, reads alone from its own cursor until the ring covers it again. A ring that nobody reads from comes
//! back for who is behind, such as shards that take over from one that is: all of them read it then.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    error::{Error, Kind, Result},
    event::{Chunk, Cursor, Event},
    source::{Chunks, Source, Until},
    topology::ShardBy,
};

/// Chunks that a ring holds.
pub const RING_CHUNKS_MAX: usize = 64;
/// Bytes that a ring holds, one chunk of any size apart.
pub const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Chunks of a stream that are read alone at a time, by consumers that fell off the ring; further ones wait.
pub const LONE_READERS_MAX: usize = 8;
/// A consumer whose cursor is beyond the head (a stream that was cut) holds the ring there; the others look at the head
/// this often.
const AHEAD_OF_HEAD_POLL: Duration = Duration::from_millis(100);
/// Chunks that are read before anybody asks for them.
const AHEAD_CHUNKS: u64 = 2;

/// See the module. Reading ends when the tailer and all its subscriptions are dropped.
pub struct Tailer {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

struct Shared {
    source: Arc<dyn Source>,
    ring: Mutex<Ring>,
    /// Moves whenever the ring does.
    changed: watch::Sender<()>,
    /// Tells the reader that there is demand, or another place to read from.
    wanted: Notify,
    lone_readers: Semaphore,
}

/// Chunks numbered from `first`, which cover the places from `start` to `end`.
#[derive(Default)]
struct Ring {
    chunks: VecDeque<Arc<Held>>,
    first: u64,
    bytes: usize,
    start: Cursor,
    end: Cursor,
    /// Chunks below this number are wanted.
    demand: u64,
    /// Who reads from it.
    readers: usize,
    /// Moves when the ring begins anew elsewhere.
    jumps: u64,
    /// Whether anybody has said yet where to begin.
    placed: bool,
    /// Why the last reading ended.
    failure: Option<(Kind, String)>,
}

/// A chunk that many read.
struct Held {
    chunk: Chunk,
    /// The hashes of its events' keys: the first shard that asks works them out for all.
    hashes: Mutex<Vec<(ShardBy, Arc<[u32]>)>>,
}

impl Held {
    fn new(chunk: Chunk) -> Arc<Self> {
        Arc::new(Self { chunk, hashes: Mutex::default() })
    }

    fn hashes(&self, by: &ShardBy) -> Arc<[u32]> {
        // Whatever is in there is complete.
        let mut known = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hashes)) = known.iter().find(|(other, _)| other == by) {
            return hashes.clone();
        }
        let hashes: Arc<[u32]> = self.chunk.events.iter().map(|event| by.hash(event)).collect();
        known.push((by.clone(), hashes.clone()));
        hashes
    }
}

/// A part of a chunk: the events that a subscription had not seen.
pub struct Piece {
    held: Arc<Held>,
    from: usize,
}

impl Piece {
    /// Its events, in order.
    pub fn events(&self) -> &[Event] {
        self.held.chunk.events.get(self.from..).unwrap_or_default()
    }

    /// The hash of the key of the n-th of them.
    pub fn hashes(&self, by: &ShardBy) -> impl Fn(usize) -> u32 {
        let (hashes, from) = (self.held.hashes(by), self.from);
        move |n| hashes.get(from + n).copied().unwrap_or_default()
    }
}

/// One consumer's reading of a stream.
pub struct Subscription {
    tailer: Arc<Tailer>,
    changed: watch::Receiver<()>,
    cursor: Cursor,
    place: Place,
}

enum Place {
    /// To be looked up from the cursor.
    Unknown,
    /// The number of the next chunk of the ring.
    Ring { next: u64, jumps: u64, _seat: Seat },
    /// Reading alone up to the head.
    Alone(Chunks),
}

impl Tailer {
    /// Begins to serve a stream; nothing is read before somebody asks.
    pub fn start(source: Arc<dyn Source>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            source,
            ring: Mutex::default(),
            changed: watch::Sender::new(()),
            wanted: Notify::new(),
            lone_readers: Semaphore::new(LONE_READERS_MAX),
        });
        let reader = tokio::spawn(read(shared.clone()));
        Arc::new(Self { shared, reader })
    }

    /// The stream's source.
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.shared.source
    }

    /// The events strictly after a cursor.
    pub fn subscribe(self: &Arc<Self>, after: Cursor) -> Subscription {
        let changed = self.shared.changed.subscribe();
        Subscription { tailer: self.clone(), changed, cursor: after, place: Place::Unknown }
    }
}

impl Drop for Tailer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Subscription {
    /// The next events; waits at the head. May be given up and called again.
    pub async fn next(&mut self) -> Result<Piece> {
        loop {
            match &mut self.place {
                Place::Unknown => self.place = find(&self.tailer.shared, &self.cursor).await?,
                Place::Ring { next, jumps, .. } => {
                    self.changed.mark_unchanged();
                    let found = self.tailer.shared.ring().take(*next, *jumps);
                    match found {
                        Found::Chunk(chunk) => {
                            *next += 1;
                            self.tailer.shared.wanted.notify_one();
                            if let Some(piece) = self.piece(chunk) {
                                return Ok(piece);
                            }
                        }
                        Found::NotYet => {
                            self.tailer.shared.wanted.notify_one();
                            if self.changed.changed().await.is_err() {
                                return Err(Error::unavailable("the stream's reader has ended"));
                            }
                        }
                        Found::Gone => self.place = Place::Unknown,
                        Found::Failed(kind, why) => return Err(Error::new(kind, why)),
                    }
                }
                Place::Alone(chunks) => match read_alone(&self.tailer.shared, chunks).await {
                    Some(chunk) => {
                        if let Some(piece) = self.piece(Held::new(chunk?)) {
                            if self.is_covered() {
                                self.place = Place::Unknown;
                            }
                            return Ok(piece);
                        }
                    }
                    None => {
                        self.place = Place::Unknown;
                        if !self.is_covered() {
                            sleep(AHEAD_OF_HEAD_POLL).await;
                        }
                    }
                },
            }
        }
    }

    /// Leaves the ring, for somebody who does not ask for more for a while.
    pub fn leave(&mut self) {
        if let Place::Ring { .. } = self.place {
            self.place = Place::Unknown;
        }
    }

    /// What of a chunk is after the cursor, which moves to its end.
    fn piece(&mut self, held: Arc<Held>) -> Option<Piece> {
        let chunk = &held.chunk;
        let source = &self.tailer.shared.source;
        let seen = |event: &Event| source.compare(&event.cursor, &self.cursor) != Ordering::Greater;
        let from = match chunk.events.first() {
            Some(first) if seen(first) => chunk.events.partition_point(seen),
            _ => 0,
        };
        if from == chunk.events.len() {
            return None;
        }
        self.cursor = chunk.end().clone();
        Some(Piece { held, from })
    }

    fn is_covered(&self) -> bool {
        self.tailer.shared.ring().number_of(&*self.tailer.shared.source, &self.cursor).is_some()
    }
}

/// Somebody reads from the ring, until this is dropped.
struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ring = self.0.ring();
        ring.readers = ring.readers.saturating_sub(1);
    }
}

/// Where a cursor is: in the ring, ahead of it (then the ring comes there), or behind it.
async fn find(shared: &Arc<Shared>, cursor: &Cursor) -> Result<Place> {
    match shared.place(cursor) {
        Some(place) => Ok(place),
        None => Ok(Place::Alone(shared.source.stream(cursor.clone(), Until::Head).await?)),
    }
}

/// The next chunk of somebody who reads alone. The turn is over with the read: whoever is slow with a chunk keeps
/// nobody else from reading.
async fn read_alone(shared: &Shared, chunks: &mut Chunks) -> Option<Result<Chunk>> {
    // The semaphore is never closed.
    let _turn = shared.lone_readers.acquire().await.ok()?;
    chunks.next().await
}

enum Found {
    Chunk(Arc<Held>),
    NotYet,
    Gone,
    Failed(Kind, String),
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Every change of a ring is complete before anything can panic, so a poisoned lock is still a true ring.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the ring for this cursor; none when it is behind.
    fn place(self: &Arc<Self>, cursor: &Cursor) -> Option<Place> {
        let mut ring = self.ring();
        let is_left = ring.readers == 0 && self.source.compare(cursor, &ring.start) == Ordering::Less;
        if !ring.placed || is_left || self.source.compare(cursor, &ring.end) == Ordering::Greater {
            ring.jump(cursor.clone());
            self.wanted.notify_one();
            self.changed.send_replace(());
        }
        let next = ring.number_of(&*self.source, cursor)?;
        ring.readers += 1;
        Some(Place::Ring { next, jumps: ring.jumps, _seat: Seat(self.clone()) })
    }
}

impl Ring {
    /// Begins anew at a cursor: whoever was in the ring is behind it now.
    fn jump(&mut self, to: Cursor) {
        let next = self.first + self.chunks.len() as u64;
        let jumps = self.jumps + 1;
        let readers = self.readers;
        *self = Self {
            first: next,
            demand: next,
            start: to.clone(),
            end: to,
            jumps,
            readers,
            placed: true,
            ..Self::default()
        };
    }

    /// The number of the chunk that holds the first event after a cursor.
    fn number_of(&self, source: &dyn Source, cursor: &Cursor) -> Option<u64> {
        let is_before = |place: &Cursor| source.compare(cursor, place) == Ordering::Less;
        if !self.placed || is_before(&self.start) || source.compare(cursor, &self.end) == Ordering::Greater {
            return None;
        }
        Some(self.first + self.chunks.partition_point(|held| !is_before(held.chunk.end())) as u64)
    }

    fn take(&mut self, number: u64, jumps: u64) -> Found {
        if number < self.first || jumps != self.jumps {
            return Found::Gone;
        }
        let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        match (self.chunks.get(index), self.failure.take()) {
            (Some(chunk), failure) => {
                self.failure = failure;
                self.demand = self.demand.max(number + 1 + AHEAD_CHUNKS);
                Found::Chunk(chunk.clone())
            }
            (None, Some((kind, why))) => Found::Failed(kind, why),
            (None, None) => {
                self.demand = self.demand.max(number + 1);
                Found::NotYet
            }
        }
    }

    fn push(&mut self, chunk: Chunk) {
        self.end = chunk.end().clone();
        self.bytes += chunk.bytes();
        self.chunks.push_back(Held::new(chunk));
        while self.chunks.len() > RING_CHUNKS_MAX || (self.bytes > RING_BYTES_MAX && self.chunks.len() > 1) {
            let Some(oldest) = self.chunks.pop_front() else { break };
            self.first += 1;
            self.bytes -= oldest.chunk.bytes();
            self.start = oldest.chunk.end().clone();
        }
    }

    fn wants_more(&self) -> bool {
        self.placed && self.failure.is_none() && self.first + (self.chunks.len() as u64) < self.demand
    }
}

/// The one reader of a stream: fills the ring as far as it is wanted.
async fn read(shared: Arc<Shared>) {
    let mut open: Option<(u64, Chunks)> = None;
    loop {
        let (wants_more, jumps, end) = {
            let ring = shared.ring();
            (ring.wants_more(), ring.jumps, ring.end.clone())
        };
        if open.as_ref().is_some_and(|(at, _)| *at != jumps) {
            open = None;
        }
        if !wants_more {
            shared.wanted.notified().await;
            continue;
        }
        let chunk = tokio::select! {
            biased;
            chunk = next_chunk(&shared, &mut open, jumps, end) => chunk,
            // Nothing is lost when this is only more demand: the next turn asks the same stream again.
            () = shared.wanted.notified() => continue,
        };
        let mut ring = shared.ring();
        if ring.jumps != jumps {
            continue;
        }
        match chunk {
            Ok(chunk) => ring.push(chunk),
            Err(error) => {
                ring.failure = Some((error.kind(), error.chain()));
                open = None;
            }
        }
        drop(ring);
        shared.changed.send_replace(());
    }
}

async fn next_chunk(shared: &Shared, open: &mut Option<(u64, Chunks)>, jumps: u64, end: Cursor) -> Result<Chunk> {
    let chunks = match open {
        Some((_, chunks)) => chunks,
        None => &mut open.insert((jumps, shared.source.stream(end, Until::Forever).await?)).1,
    };
    match chunks.next().await {
        Some(chunk) => chunk,
        None => {
            *open = None;
            Err(Error::unavailable("the source ended a stream that has no end"))
        }
    }
}
