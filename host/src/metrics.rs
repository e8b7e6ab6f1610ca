//! What the loop counts. The handles are resolved once per consumer; the loop touches them once per chunk or commit.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::tenant::ConsumerId;

/// The labels of a consumer's metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConsumerLabels {
    /// The tenant.
    pub tenant: String,
    /// The consumer.
    pub consumer: String,
}

/// A consumer, and one kind of failure or stop.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// The tenant.
    pub tenant: String,
    /// The consumer.
    pub consumer: String,
    /// `retry`, `reject`, `trap`, `timeout`, `limit`, `denied`, `filter`, `crash`, `infrastructure`; of a stop `blocked`, `paused`, `stalled`.
    pub kind: String,
}

/// The families of all consumers, registered once per host.
#[derive(Clone)]
pub struct Metrics {
    events: Family<ConsumerLabels, Counter>,
    skipped: Family<ConsumerLabels, Counter>,
    emitted: Family<ConsumerLabels, Counter>,
    retries: Family<ConsumerLabels, Counter>,
    failures: Family<KindLabels, Counter>,
    undone: Family<KindLabels, Counter>,
    stops: Family<KindLabels, Counter>,
    dead_letters: Family<ConsumerLabels, Counter>,
    parked: Family<ConsumerLabels, Counter>,
    unparked: Family<ConsumerLabels, Counter>,
    parked_keys: Family<ConsumerLabels, Gauge>,
    parked_events: Family<ConsumerLabels, Gauge>,
    reloads: Family<ConsumerLabels, Counter>,
    call_seconds: Family<ConsumerLabels, Histogram, fn() -> Histogram>,
    commit_seconds: Family<ConsumerLabels, Histogram, fn() -> Histogram>,
    batch_events: Family<ConsumerLabels, Histogram, fn() -> Histogram>,
    memory_bytes: Family<ConsumerLabels, Gauge>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-6, 4.0, 13))
}

fn events() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 8))
}

impl Metrics {
    /// Registers the families.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            events: Family::default(),
            skipped: Family::default(),
            emitted: Family::default(),
            retries: Family::default(),
            failures: Family::default(),
            undone: Family::default(),
            stops: Family::default(),
            dead_letters: Family::default(),
            parked: Family::default(),
            unparked: Family::default(),
            parked_keys: Family::default(),
            parked_events: Family::default(),
            reloads: Family::default(),
            call_seconds: Family::new_with_constructor(seconds),
            commit_seconds: Family::new_with_constructor(seconds),
            batch_events: Family::new_with_constructor(events),
            memory_bytes: Family::default(),
        };
        let m = metrics.clone();
        registry.register("consumer_events", "Events that were handled", m.events);
        registry.register("consumer_skipped", "Events that the filter left out", m.skipped);
        registry.register("consumer_emitted", "Events that it emitted", m.emitted);
        registry.register("consumer_retries", "Attempts after the first", m.retries);
        registry.register("consumer_failures", "Failed attempts, by kind", m.failures);
        registry.register("consumer_undone_calls", "Calls with many events that are made again with fewer", m.undone);
        registry.register("consumer_stops", "Times it came to stand still, by kind", m.stops);
        registry.register("consumer_dead_letters", "Events that it set aside", m.dead_letters);
        registry.register("consumer_parked", "Events that it parked", m.parked);
        registry.register("consumer_unparked", "Parked events that wait no longer", m.unparked);
        registry.register("consumer_parked_keys", "Keys that are parked now", m.parked_keys);
        registry.register("consumer_parked_events", "Events that are parked now", m.parked_events);
        registry.register("consumer_reloads", "Components that were swapped in", m.reloads);
        registry.register_with_unit("consumer_call", "A guest call's turn of events", Unit::Seconds, m.call_seconds);
        registry.register_with_unit("consumer_commit", "Submit to answer", Unit::Seconds, m.commit_seconds);
        registry.register("consumer_batch_events", "Events that shared a commit", m.batch_events);
        registry.register_with_unit("consumer_memory", "The guest's memory", Unit::Bytes, m.memory_bytes);
        metrics
    }

    /// The handles of one consumer.
    pub fn of(&self, consumer: &ConsumerId) -> Arc<ConsumerMetrics> {
        let labels = ConsumerLabels { tenant: consumer.tenant.to_string(), consumer: consumer.name.to_string() };
        Arc::new(ConsumerMetrics {
            events: self.events.get_or_create_owned(&labels),
            skipped: self.skipped.get_or_create_owned(&labels),
            emitted: self.emitted.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            dead_letters: self.dead_letters.get_or_create_owned(&labels),
            parked: self.parked.get_or_create_owned(&labels),
            unparked: self.unparked.get_or_create_owned(&labels),
            parked_keys: self.parked_keys.get_or_create_owned(&labels),
            parked_events: self.parked_events.get_or_create_owned(&labels),
            reloads: self.reloads.get_or_create_owned(&labels),
            call_seconds: self.call_seconds.get_or_create_owned(&labels),
            commit_seconds: self.commit_seconds.get_or_create_owned(&labels),
            batch_events: self.batch_events.get_or_create_owned(&labels),
            memory_bytes: self.memory_bytes.get_or_create_owned(&labels),
            failures: self.failures.clone(),
            undone: self.undone.clone(),
            stops: self.stops.clone(),
            labels,
        })
    }
}

/// What an engine counts.
#[derive(Clone)]
pub struct CompileMetrics {
    /// Components that were compiled.
    pub compiled: Counter,
    /// Those whose machine code was there.
    pub kept: Counter,
    /// Those that could not be.
    pub refused: Counter,
    /// How long each compilation took.
    pub seconds: Histogram,
}

impl Default for CompileMetrics {
    fn default() -> Self {
        let seconds = Histogram::new(exponential_buckets(1e-3, 4.0, 9));
        Self { compiled: Counter::default(), kept: Counter::default(), refused: Counter::default(), seconds }
    }
}

impl CompileMetrics {
    /// Shows them.
    pub fn register(&self, registry: &mut Registry) {
        let Self { compiled, kept, refused, seconds } = self.clone();
        registry.register("components_compiled", "Components that were compiled", compiled);
        registry.register("components_kept", "Components whose machine code was in the cache", kept);
        registry.register("components_refused", "Components that could not be compiled", refused);
        registry.register_with_unit("component_compile", "A compilation", Unit::Seconds, seconds);
    }
}

/// One consumer's handles.
pub struct ConsumerMetrics {
    /// Events that were handled.
    pub events: Counter,
    /// Events that the filter left out.
    pub skipped: Counter,
    /// Events that it emitted.
    pub emitted: Counter,
    /// Attempts after the first.
    pub retries: Counter,
    /// Events that were set aside.
    pub dead_letters: Counter,
    /// Events that it parked.
    pub parked: Counter,
    /// Parked events that wait no longer.
    pub unparked: Counter,
    /// Keys that are parked now, by all shards.
    pub parked_keys: Gauge,
    /// Events that are parked now.
    pub parked_events: Gauge,
    /// Components that were swapped in.
    pub reloads: Counter,
    /// The duration of one turn of events.
    pub call_seconds: Histogram,
    /// From a commit's submission to its answer.
    pub commit_seconds: Histogram,
    /// Events that shared a commit.
    pub batch_events: Histogram,
    /// The guest's memory.
    pub memory_bytes: Gauge,
    failures: Family<KindLabels, Counter>,
    undone: Family<KindLabels, Counter>,
    stops: Family<KindLabels, Counter>,
    labels: ConsumerLabels,
}

impl ConsumerMetrics {
    /// Handles that nobody scrapes.
    pub fn unregistered(consumer: &ConsumerId) -> Arc<Self> {
        Metrics::register(&mut Registry::default()).of(consumer)
    }

    /// Counts a failed attempt.
    pub fn failed(&self, kind: &str) {
        self.failures.get_or_create(&self.kind(kind)).inc();
    }

    /// Counts a call that was undone.
    pub fn undone(&self, kind: &str) {
        self.undone.get_or_create(&self.kind(kind)).inc();
    }

    /// Counts coming to a stand.
    pub fn stopped(&self, kind: &str) {
        self.stops.get_or_create(&self.kind(kind)).inc();
    }

    fn kind(&self, kind: &str) -> KindLabels {
        let ConsumerLabels { tenant, consumer } = self.labels.clone();
        KindLabels { tenant, consumer, kind: kind.to_owned() }
    }
}
