//! What a consumer that was reset has emitted before, and does not emit again.

use std::{collections::HashSet, sync::Arc};

use crate::{
    event::{Event, EventId},
    source::Source,
    topology::{Marks, Past},
};

/// See the module.
pub struct Emitted {
    marks: Vec<Marks>,
    /// Behind the marks, and never emitted.
    set_aside: HashSet<EventId>,
    source: Arc<dyn Source>,
}

impl Emitted {
    /// What a past says; none where that is nothing.
    pub fn new(past: &Past, source: &Arc<dyn Source>) -> Option<Arc<Self>> {
        let set_aside = past.set_aside.iter().map(|letter| letter.event.clone()).collect();
        let emitted = Self { marks: past.emitted.clone(), set_aside, source: source.clone() };
        (!past.emitted.is_empty()).then(|| Arc::new(emitted))
    }

    /// Whether what an event causes was emitted when it was handled before.
    pub(crate) fn has(&self, event: &Event) -> bool {
        let compare = |a: &_, b: &_| self.source.compare(a, b);
        self.marks.iter().any(|marks| marks.cover(event, &compare)) && !self.set_aside.contains(&event.id)
    }
}
