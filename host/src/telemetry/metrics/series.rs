//! The metric shapes that the host needs and prometheus-client does not have: a family whose series
//! can leave again, a histogram that takes no lock, and a counter of seconds.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Most series that one metric may have. A configuration far beyond this is still served; only its
/// surplus series are not exposed.
pub const MAX_SERIES: usize = 20_000;

/// One metric's series, by label set, in label order.
///
/// [`Series::get`] hands out a handle that is updated without any look-up, and is meant for the
/// time when a configuration is built; [`Series::retain`] drops what the configuration no longer
/// names. A handle that outlives its series still works, and is no longer exposed.
#[derive(Debug)]
pub struct Series<K, M> {
    by_labels: Arc<RwLock<BTreeMap<K, M>>>,
    surplus: Counter,
}

impl<K, M> Clone for Series<K, M> {
    fn clone(&self) -> Self {
        Self { by_labels: Arc::clone(&self.by_labels), surplus: self.surplus.clone() }
    }
}

impl<K: Ord + Clone, M: Clone + Default> Series<K, M> {
    /// An empty family; `surplus` counts the handles given out beyond [`MAX_SERIES`].
    pub fn new(surplus: &Counter) -> Self {
        Self { by_labels: Arc::default(), surplus: surplus.clone() }
    }

    /// The metric with these labels, made when it is new. Beyond [`MAX_SERIES`] the handle works
    /// and is not exposed.
    pub fn get(&self, labels: K) -> M {
        let known = self.by_labels.read().unwrap_or_else(PoisonError::into_inner).get(&labels).cloned();
        known.unwrap_or_else(|| self.add(labels))
    }

    fn add(&self, labels: K) -> M {
        let mut series = self.by_labels.write().unwrap_or_else(PoisonError::into_inner);
        if series.len() >= MAX_SERIES && !series.contains_key(&labels) {
            self.surplus.inc();
            return M::default();
        }
        series.entry(labels).or_default().clone()
    }

    /// Shows every series there is.
    pub fn each(&self, mut show: impl FnMut(&K, &M)) {
        let series = self.by_labels.read().unwrap_or_else(PoisonError::into_inner);
        series.iter().for_each(|(labels, metric)| show(labels, metric));
    }

    /// Drops every series whose labels `keep` refuses. Whoever looks one up meanwhile waits for the removal only, and not
    /// for all the questions.
    pub fn retain(&self, keep: impl Fn(&K) -> bool) {
        let series = self.by_labels.read().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<K> = series.keys().filter(|labels| !keep(labels)).cloned().collect();
        drop(series);
        if !gone.is_empty() {
            let mut series = self.by_labels.write().unwrap_or_else(PoisonError::into_inner);
            gone.iter().for_each(|labels| drop(series.remove(labels)));
        }
    }
}

impl<K: EncodeLabelSet, M: EncodeMetric + TypedMetric> EncodeMetric for Series<K, M> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let series = self.by_labels.read().unwrap_or_else(PoisonError::into_inner);
        series.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.by_labels.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Upper bounds of the duration buckets, in microseconds: 100 µs to 30 s. The last has none.
const BOUNDS_MICROS: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// A histogram of durations, exposed in seconds.
///
/// Two relaxed additions per observation and no lock, since all workers share it and none may wait
/// for another, nor for a scrape.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS_MICROS.len()],
    beyond: AtomicU64,
    sum_micros: AtomicU64,
}

impl Latency {
    /// Counts one duration, in the first bucket whose bound is not below it.
    pub fn observe(&self, duration: Duration) {
        // Rounded up, so that nothing lands in a bucket whose bound it exceeds.
        let micros = duration.as_nanos().div_ceil(1_000);
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        let count = self.0.counts.get(bucket).unwrap_or(&self.0.beyond);
        count.fetch_add(1, Ordering::Relaxed);
        self.0.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    #[expect(clippy::cast_precision_loss, reason = "exact below 285 years")]
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let bounds = BOUNDS_MICROS.iter().map(|bound| seconds(*bound));
        let counts = self.0.counts.iter().chain([&self.0.beyond]);
        let buckets: Vec<(f64, u64)> =
            bounds.chain([f64::INFINITY]).zip(counts.map(|count| count.load(Ordering::Relaxed))).collect();
        // Summed from the same reads, so that `_count` always equals the last bucket.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.0.sum_micros.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A counter to which one thread adds, and which any may read. That costs no more than a variable: the thread is the only
/// one to write, and nothing else is kept near it.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Alone>);

/// Two lines of cache, as processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone(AtomicU64);

impl Tally {
    /// Adds one. Two threads that do so at the same time may count as one.
    pub fn add_alone(&self) {
        let count = &self.0.0;
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
}

impl TypedMetric for Tally {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Tally {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// A counter of time spent, exposed in seconds and kept in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Seconds(Arc<AtomicU64>);

impl Seconds {
    /// Adds nanoseconds spent.
    pub fn add(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Seconds so far.
    pub fn get(&self) -> f64 {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl TypedMetric for Seconds {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Seconds {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, f64>(&self.get(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
