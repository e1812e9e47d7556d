//! Metrics that policies declare themselves, exposed as `weir_policy_<name>{policy="…"}`.
//!
//! Names and numbers come from plugins, so both are checked: a plugin can neither break the
//! exposition nor fill the memory with series.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Most metrics that one policy may declare.
pub const MAX_PER_POLICY: usize = 32;
/// Most series over all policies.
pub const MAX_IN_ALL: usize = 4_096;
/// Longest name that a plugin may give, without the prefix, in bytes.
pub const MAX_NAME: usize = 64;

/// Bucket bounds of a policy's histogram; the unit is the policy's own.
const BOUNDS: [f64; 14] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 10_000.0];

/// Endings that the exposition format adds by itself (OpenMetrics 1.0, "Suffixes").
const RESERVED_ENDINGS: [&str; 6] = ["_total", "_created", "_count", "_sum", "_bucket", "_info"];

/// What a policy's metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMetricKind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// A handle to one policy's metric. Cheap to clone; updates need no look-up.
#[derive(Clone, Debug)]
pub enum PolicyMetric {
    /// A sum that only grows.
    Counter(Counter<f64, AtomicU64>),
    /// A value that goes up and down.
    Gauge(Gauge<f64, AtomicU64>),
    /// A distribution of values.
    Histogram(Histogram),
}

impl PolicyMetric {
    fn new(kind: PolicyMetricKind) -> Self {
        match kind {
            PolicyMetricKind::Counter => Self::Counter(Counter::default()),
            PolicyMetricKind::Gauge => Self::Gauge(Gauge::default()),
            PolicyMetricKind::Histogram => Self::Histogram(Histogram::new(BOUNDS)),
        }
    }

    /// Adds to a counter, sets a gauge, observes in a histogram.
    ///
    /// The value is a guest's: what is not finite is ignored, and so is a negative addition to a
    /// counter.
    pub fn record(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        match self {
            Self::Counter(counter) if value >= 0.0 => {
                counter.inc_by(value);
            }
            Self::Counter(_) => {}
            Self::Gauge(gauge) => {
                gauge.set(value);
            }
            Self::Histogram(histogram) => histogram.observe(value),
        }
    }

    fn encode(&self, encoder: MetricEncoder) -> fmt::Result {
        match self {
            Self::Counter(counter) => counter.encode(encoder),
            Self::Gauge(gauge) => gauge.encode(encoder),
            Self::Histogram(histogram) => histogram.encode(encoder),
        }
    }
}

/// Why a metric was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyMetricError {
    /// The name breaks the rules.
    Name(String),
    /// Another policy, or an earlier generation of this one, has the name with another kind.
    Kind(String),
    /// [`MAX_PER_POLICY`] or [`MAX_IN_ALL`] is reached.
    TooMany(String),
}

impl fmt::Display for PolicyMetricError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "metric {name:?}: use 1 to {MAX_NAME} of a-z, 0-9 and _, begin with a letter, and leave \
                 endings such as _total to the host"
            ),
            Self::Kind(name) => write!(f, "metric {name:?} exists already as another kind; use another name"),
            Self::TooMany(name) => write!(
                f,
                "metric {name:?}: a policy may declare {MAX_PER_POLICY} metrics, all policies \
                 together {MAX_IN_ALL}"
            ),
        }
    }
}

impl std::error::Error for PolicyMetricError {}

/// All metrics of policies, by name and then policy.
#[derive(Clone, Debug, Default)]
pub struct PolicyMetrics(Arc<RwLock<BTreeMap<String, Family>>>);

/// One name: its kind, and a metric for each policy.
#[derive(Debug)]
struct Family {
    kind: PolicyMetricKind,
    by_policy: BTreeMap<Arc<str>, PolicyMetric>,
}

impl PolicyMetrics {
    /// The policy's metric of this name, made when it is new; declaring it again, as every instance
    /// and every generation does, gives the same one.
    pub fn declare(
        &self,
        policy: &Arc<str>,
        name: &str,
        kind: PolicyMetricKind,
    ) -> Result<PolicyMetric, PolicyMetricError> {
        if !valid_name(name) {
            // A hostile name may be megabytes long.
            return Err(PolicyMetricError::Name(name.chars().take(MAX_NAME).collect()));
        }
        let mut families = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = families.get(name) {
            if family.kind != kind {
                return Err(PolicyMetricError::Kind(name.to_owned()));
            }
            if let Some(metric) = family.by_policy.get(policy) {
                return Ok(metric.clone());
            }
        }
        let in_all: usize = families.values().map(|family| family.by_policy.len()).sum();
        let of_policy = families.values().filter(|family| family.by_policy.contains_key(policy)).count();
        if of_policy >= MAX_PER_POLICY || in_all >= MAX_IN_ALL {
            return Err(PolicyMetricError::TooMany(name.to_owned()));
        }
        let family = families.entry(name.to_owned()).or_insert_with(|| Family { kind, by_policy: BTreeMap::new() });
        let metric = PolicyMetric::new(kind);
        family.by_policy.insert(Arc::clone(policy), metric.clone());
        Ok(metric)
    }

    /// Drops the metrics of every policy that `keep` refuses.
    pub fn retain(&self, mut keep: impl FnMut(&str) -> bool) {
        let mut families = self.0.write().unwrap_or_else(PoisonError::into_inner);
        families.retain(|_, family| {
            family.by_policy.retain(|policy, _| keep(policy));
            !family.by_policy.is_empty()
        });
    }
}

impl Collector for PolicyMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let families = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in families.iter() {
            let name = format!("policy_{name}");
            let kind = match family.kind {
                PolicyMetricKind::Counter => MetricType::Counter,
                PolicyMetricKind::Gauge => MetricType::Gauge,
                PolicyMetricKind::Histogram => MetricType::Histogram,
            };
            let mut metrics = encoder.encode_descriptor(&name, "Declared by a policy.", None, kind)?;
            for (policy, metric) in &family.by_policy {
                metric.encode(metrics.encode_family(&[("policy", policy.as_ref())])?)?;
            }
        }
        Ok(())
    }
}

fn valid_name(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let ending = RESERVED_ENDINGS.iter().any(|ending| name.ends_with(ending));
    begins && plain && !ending && name.len() <= MAX_NAME
}
