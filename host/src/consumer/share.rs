//! What of a stream is a shard's to handle.

use std::sync::Arc;

use crate::{
    deployment::{LegacyCursor, Spec},
    event::{Cursor, Event},
    filter::{Matcher, Selected},
    source::Source,
    tailer::Piece,
    topology::{Compare, Past, Shards},
};

/// See the module.
pub(super) struct Share {
    shards: Shards,
    index: u32,
    past: Past,
    matcher: Matcher,
    mirror: Option<Arc<LegacyCursor>>,
}

impl Share {
    pub(super) fn new(spec: &Spec, index: u32) -> Self {
        let mirror = spec.legacy_cursor.as_deref().filter(|legacy| legacy.mirror);
        Self {
            shards: spec.shards.clone(),
            index,
            past: spec.past.clone(),
            matcher: Matcher::new(&spec.filter),
            mirror: mirror.map(|legacy| Arc::new(legacy.of(&spec.shards, index))),
        }
    }

    /// The events of a piece that are this shard's, that no older one has handled, and that match the filter.
    pub(super) fn select<'p>(&mut self, piece: &'p Piece, source: &dyn Source) -> Selected<'p> {
        let events = piece.events();
        let compare = |a: &_, b: &_| source.compare(a, b);
        if let Some(first) = events.first() {
            let may_cover = |event: &Event| self.past.handled.iter().any(|marks| marks.reach(event, &compare));
            if !self.past.handled.is_empty() && !may_cover(first) {
                // It is behind us for good.
                self.past.handled.clear();
            }
        }
        match (self.shards.count, self.past.handled.is_empty()) {
            (0 | 1, true) => self.matcher.select(events),
            (0 | 1, false) => self.matcher.select_of(events, |_, event| !self.past.has_handled(event, &compare)),
            (_, is_new) => {
                let hashes = piece.hashes(&self.shards.by);
                self.matcher.select_of(events, |n, event| {
                    self.shards.of_hash(hashes(n)) == self.index && (is_new || !self.past.has_handled(event, &compare))
                })
            }
        }
    }

    /// Whether an event is this shard's.
    pub(super) fn owns(&self, event: &Event) -> bool {
        self.shards.of(event) == self.index
    }

    /// What the filter says of events that are.
    pub(super) fn filter<'e>(&self, events: &'e [Event]) -> Selected<'e> {
        self.matcher.select(events)
    }

    /// The row of reflex's that moves with the shard's own; none as long as reflex itself was further.
    pub(super) fn mirror(&self, cursor: &Cursor, compare: Compare<'_>) -> Option<Arc<LegacyCursor>> {
        let same = self.past.handled.iter().filter(|marks| marks.shards == self.shards);
        let index = usize::try_from(self.index).unwrap_or(usize::MAX);
        let mut marks = same.filter_map(|marks| marks.cursors.get(index));
        self.mirror.clone().filter(|_| marks.all(|mark| compare(cursor, mark).is_ge()))
    }

    /// Whether it may emit what it has emitted: what was set aside is not told from what was handled since.
    pub(super) fn may_repeat(&self) -> bool {
        !self.past.set_aside.is_empty()
    }
}
