//! What the data path holds to count with: metrics whose labels are settled already.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::series::{Latency, Seconds, Series, Tally};
use super::{AttemptLabels, CLASSES};

/// What the exchanges of one route count.
#[derive(Debug)]
pub struct RouteMetrics {
    pub(super) by_class: [Counter; CLASSES.len()],
    pub(super) duration: Latency,
    pub(super) in_flight: Gauge,
    pub(super) retries: Counter,
}

impl RouteMetrics {
    /// An exchange begins here.
    pub(in crate::telemetry) fn begin(&self) {
        self.in_flight.inc();
    }

    /// It ends, or goes on under another route.
    pub(in crate::telemetry) fn leave(&self) {
        self.in_flight.dec();
    }

    /// Counts a finished exchange.
    pub(in crate::telemetry) fn end(&self, status: Option<u16>, duration: Duration) {
        let class = usize::from(status.unwrap_or(0) / 100);
        if let Some(finished) = self.by_class.get(class).or(self.by_class.first()) {
            finished.inc();
        }
        self.duration.observe(duration);
    }

    /// Counts an attempt after the first.
    pub(in crate::telemetry) fn retry(&self) {
        self.retries.inc();
    }
}

/// What the attempts at one endpoint count.
#[derive(Debug)]
pub struct EndpointMetrics {
    pub(super) ok: Counter,
    pub(super) server_error: Counter,
    pub(super) duration: Latency,
    pub(super) failures: Series<AttemptLabels, Counter>,
    pub(super) labels: AttemptLabels,
}

impl EndpointMetrics {
    /// Counts an attempt: by its failure kind, else as `5xx` or `ok`.
    pub(in crate::telemetry) fn attempt(&self, status: Option<u16>, failure: Option<&'static str>, duration: Duration) {
        match (failure, status) {
            // Looked up: failures are rare, and their kinds are few.
            (Some(result), _) => {
                let labels = AttemptLabels { result, ..self.labels.clone() };
                self.failures.get(labels).inc()
            }
            (None, Some(500..)) => self.server_error.inc(),
            (None, _) => self.ok.inc(),
        };
        self.duration.observe(duration);
    }
}

/// The connections of a service's pools.
#[derive(Clone, Debug)]
pub struct ServiceMetrics {
    /// Connections that are open, idle ones included.
    pub open: Gauge,
    /// Connections that wait in a pool.
    pub idle: Gauge,
}

/// The connections of a listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Connections that are open now.
    pub open: Gauge,
    /// Connections accepted so far.
    pub accepted: Counter,
}

/// What one worker counts.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    pub(super) begun: Tally,
    pub(super) ended: Tally,
    pub(super) taken_over: Tally,
}

impl WorkerMetrics {
    /// An exchange begins. Only the worker itself may say so, as of the next two.
    pub fn begin(&self) {
        self.begun.add_alone();
    }

    /// An exchange ends.
    pub fn end(&self) {
        self.ended.add_alone();
    }

    /// The worker takes over a stream of another one's connection.
    pub fn take_over(&self) {
        self.taken_over.add_alone();
    }

    /// Exchanges that have begun and not ended.
    pub fn in_progress(&self) -> u64 {
        let ended = self.ended.get();
        self.begun.get().saturating_sub(ended)
    }
}

/// What can become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was to be published.
    Published,
    /// The broker has it.
    Confirmed,
    /// It was given to a consumer, each time anew.
    Delivered,
    /// The broker was told that it is done with.
    Acked,
    /// Another attempt is due.
    Retried,
    /// It was put where dead letters go.
    DeadLettered,
    /// It was given up, and there is no place for dead letters.
    Dropped,
    /// Its time had passed before anybody had it.
    Expired,
    /// It was acknowledged before, and so not delivered again.
    Duplicate,
}

impl Event {
    pub const ALL: [Self; 9] = [
        Self::Published,
        Self::Confirmed,
        Self::Delivered,
        Self::Acked,
        Self::Retried,
        Self::DeadLettered,
        Self::Dropped,
        Self::Expired,
        Self::Duplicate,
    ];

    /// The word for metrics and the admin page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Confirmed => "confirmed",
            Self::Delivered => "delivered",
            Self::Acked => "acked",
            Self::Retried => "retried",
            Self::DeadLettered => "dead-lettered",
            Self::Dropped => "dropped",
            Self::Expired => "expired",
            Self::Duplicate => "duplicate",
        }
    }
}

/// What becomes of the messages of one channel or subscription.
#[derive(Clone, Debug)]
pub struct MessageMetrics {
    pub(super) events: [Counter; Event::ALL.len()],
}

impl MessageMetrics {
    pub fn count(&self, event: Event) {
        if let Some(counter) = self.events.get(event as usize) {
            counter.inc();
        }
    }

    /// How often so far.
    pub fn so_far(&self, event: Event) -> u64 {
        self.events.get(event as usize).map_or(0, Counter::get)
    }
}

/// What waits for one subscription.
#[derive(Clone, Debug)]
pub struct BacklogMetrics {
    pub held: Gauge,
    pub waiting: Gauge,
    pub oldest: Gauge,
}

/// What the calls of one hook of a policy count.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    pub(super) calls: Counter,
    pub(super) time: Seconds,
    pub(super) errors: Counter,
}

impl HookMetrics {
    /// Counts one call and the nanoseconds that it took.
    pub fn called(&self, nanos: u64) {
        self.calls.inc();
        self.time.add(nanos);
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Seconds spent so far.
    pub fn seconds(&self) -> f64 {
        self.time.get()
    }

    /// Counts a call that failed.
    pub fn failed(&self) {
        self.errors.inc();
    }
}
