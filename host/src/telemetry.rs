//! What the host shows of itself: logs, and metrics in the format of Prometheus.

use std::sync::Mutex;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    error::{Error, Result},
    metrics::{CompileMetrics, ConsumerLabels, KindLabels, Metrics},
    store::Reason,
};

/// A host's registry, and what is brought up to date when somebody looks: lag moves on a clock, not on events.
pub struct Telemetry {
    registry: Mutex<Registry>,
    metrics: Metrics,
    lag_events: Family<ConsumerLabels, Gauge>,
    lag_seconds: Family<ConsumerLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    standing: Family<KindLabels, Gauge>,
    refused: Family<ConsumerLabels, Gauge>,
    attempts: Family<ConsumerLabels, Gauge>,
    next_retry: Family<ConsumerLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    reason: Family<KindLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    held_up: Family<StreamLabels, Gauge>,
    held_up_seconds: Family<StreamLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

/// What a scrape wants to know of a consumer.
pub struct Reading {
    /// Whose.
    pub labels: ConsumerLabels,
    /// Events to the head, where that is known.
    pub lag_events: Option<u64>,
    /// Age of the oldest unread event, in seconds, where that is known.
    pub lag_seconds: Option<f64>,
    /// `running`, `blocked`, `paused`, `stalled` or `stopped`.
    pub standing: &'static str,
    /// Whether it is not what its files propose.
    pub is_refused: bool,
    /// How often the next event has failed.
    pub attempts: u32,
    /// Why it stands still or tries again, if it does: the last error, or what somebody said who paused it.
    pub reason: Option<Reason>,
}

/// The labels of a stream's metrics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabels {
    /// The tenant.
    pub tenant: String,
    /// The stream.
    pub stream: String,
}

/// How a stream stands when it is asked.
pub struct StreamReading {
    /// Which.
    pub labels: StreamLabels,
    /// Whether an open transaction keeps events from being read.
    pub is_held_up: bool,
    /// Since when it is open, where that is known.
    pub held_up_seconds: Option<f64>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tendon");
        let metrics = Metrics::register(&mut registry);
        let (lag_events, lag_seconds, standing) = (Family::default(), Family::default(), Family::default());
        registry.register("consumer_lag_events", "Events between cursor and head", Clone::clone(&lag_events));
        registry.register_with_unit(
            "consumer_lag",
            "Age of the oldest event between cursor and head",
            Unit::Seconds,
            Clone::clone(&lag_seconds),
        );
        registry.register(
            "consumer_standing",
            "1 for the state that it is in, 0 for the others",
            Clone::clone(&standing),
        );
        let refused = Family::default();
        registry.register("consumer_refused", "1 while it is not what its files propose", Clone::clone(&refused));
        let (attempts, next_retry, reason) = (Family::default(), Family::default(), Family::default());
        registry.register("consumer_attempts", "How often its next event has failed", Clone::clone(&attempts));
        registry.register_with_unit(
            "consumer_next_retry_timestamp",
            "When that is tried again, as seconds since 1970; absent where it is not by itself",
            Unit::Seconds,
            Clone::clone(&next_retry),
        );
        registry.register_with_unit(
            "consumer_reason_timestamp",
            "Since when it stands still or tries again, as seconds since 1970, by the kind of its reason; absent where it does neither",
            Unit::Seconds,
            Clone::clone(&reason),
        );
        let (held_up, held_up_seconds) = (Family::default(), Family::default());
        registry.register(
            "stream_held_up",
            "1 while an open transaction keeps events from being read",
            Clone::clone(&held_up),
        );
        registry.register_with_unit(
            "stream_held_up",
            "How long that transaction is open, where the server tells",
            Unit::Seconds,
            Clone::clone(&held_up_seconds),
        );
        let registry = Mutex::new(registry);
        Self {
            registry,
            metrics,
            lag_events,
            lag_seconds,
            standing,
            refused,
            attempts,
            next_retry,
            reason,
            held_up,
            held_up_seconds,
        }
    }
}

impl Telemetry {
    /// Shows what an engine counts, too.
    pub fn with_engine(self, metrics: &CompileMetrics) -> Self {
        metrics.register(&mut self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self
    }

    /// The families that consumers count in.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The text that Prometheus scrapes, with these readings.
    pub fn scrape(&self, readings: &[Reading], streams: &[StreamReading]) -> Result<String> {
        // One scrape at a time: another one would see what this one has taken away and not put back yet.
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.forget();
        streams.iter().for_each(|stream| self.read_stream(stream));
        readings.iter().for_each(|reading| self.read(reading));
        let mut text = String::new();
        encode(&mut text, &registry).map_err(|error| Error::corrupt("metrics cannot be written").because(error))?;
        Ok(text)
    }

    /// An old number would look like a new one, and a consumer that is gone like one that stands.
    fn forget(&self) {
        [&self.lag_seconds, &self.next_retry].iter().for_each(|family| family.clear());
        [&self.lag_events, &self.refused, &self.attempts].iter().for_each(|family| family.clear());
        self.standing.clear();
        self.reason.clear();
        self.held_up.clear();
        self.held_up_seconds.clear();
    }

    fn read_stream(&self, StreamReading { labels, is_held_up, held_up_seconds }: &StreamReading) {
        self.held_up.get_or_create(labels).set(i64::from(*is_held_up));
        if let Some(seconds) = held_up_seconds {
            self.held_up_seconds.get_or_create(labels).set(*seconds);
        }
    }

    fn read(&self, reading: &Reading) {
        if let Some(lag) = reading.lag_events {
            self.lag_events.get_or_create(&reading.labels).set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
        if let Some(lag) = reading.lag_seconds {
            self.lag_seconds.get_or_create(&reading.labels).set(lag);
        }
        for kind in ["running", "blocked", "paused", "stalled", "stopped"] {
            let ConsumerLabels { tenant, consumer } = reading.labels.clone();
            let labels = KindLabels { tenant, consumer, kind: kind.to_owned() };
            self.standing.get_or_create(&labels).set(i64::from(kind == reading.standing));
        }
        self.refused.get_or_create(&reading.labels).set(i64::from(reading.is_refused));
        self.attempts.get_or_create(&reading.labels).set(i64::from(reading.attempts));
        let Some(reason) = &reading.reason else { return };
        let ConsumerLabels { tenant, consumer } = reading.labels.clone();
        let labels = KindLabels { tenant, consumer, kind: reason.code.clone() };
        self.reason.get_or_create(&labels).set(reason.since.seconds());
        if let Some(at) = reason.retry_at {
            self.next_retry.get_or_create(&reading.labels).set(at.seconds());
        }
    }
}
