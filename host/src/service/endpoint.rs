//! One address of a service, and what the host knows of it.

use crate::config;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What a circuit breaker last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerState {
    pub policy: Arc<str>,
    pub state: &'static str,
    pub reason: String,
}

#[derive(Debug)]
pub struct Endpoint {
    pub id: u32,
    pub address: Arc<str>,
    pub weight: u32,
    pub metadata: BTreeMap<String, String>,
    /// Shared by all the forms an endpoint takes while its address stays.
    pub load: Arc<Load>,
    /// Nanoseconds of the node's clock; 0: not ejected.
    pub ejected_until: AtomicU64,
    pub breaker: Arc<Mutex<Option<BreakerState>>>,
}

/// How busy an endpoint is and how fast it answers.
#[derive(Debug, Default)]
pub struct Load {
    pub in_flight: AtomicU32,
    /// Nanoseconds; 0: nothing known.
    latency: AtomicU64,
    /// When `latency` was last updated.
    updated: AtomicU64,
}

/// After this long without an answer a latency counts for about a third of what it was.
const DECAY: f64 = 10e9;

impl Load {
    /// Counts an answer's latency: a higher one at once, a lower one only slowly (peak-sensitive average). Two workers
    /// at a time may lose one of the updates, which a moving average forgives.
    pub fn observe(&self, latency: u64, now: u64) {
        let before = self.latency.load(Ordering::Relaxed);
        let elapsed = now.saturating_sub(self.updated.swap(now, Ordering::Relaxed));
        let next = if latency >= before {
            latency
        } else {
            let keep = (-(elapsed as f64) / DECAY).exp();
            (before as f64 * keep + latency as f64 * (1.0 - keep)) as u64
        };
        self.latency.store(next.max(1), Ordering::Relaxed);
    }

    /// The average, decayed to `now`; 0: nothing known.
    pub fn latency(&self, now: u64) -> u64 {
        let latency = self.latency.load(Ordering::Relaxed);
        let elapsed = now.saturating_sub(self.updated.load(Ordering::Relaxed));
        // Within a tenth of a second nothing visible is gone, and `exp` is not free.
        if elapsed < 100_000_000 { latency } else { (latency as f64 * (-(elapsed as f64) / DECAY).exp()) as u64 }
    }
}

impl Endpoint {
    pub fn new(id: u32, spec: &config::Endpoint) -> Self {
        Self {
            id,
            address: spec.address.as_str().into(),
            weight: spec.weight,
            metadata: spec.metadata.clone(),
            load: Arc::default(),
            ejected_until: AtomicU64::new(0),
            breaker: Arc::default(),
        }
    }

    /// The same endpoint with another weight or other metadata.
    pub fn respecified(&self, spec: &config::Endpoint) -> Self {
        Self {
            load: self.load.clone(),
            breaker: self.breaker.clone(),
            ejected_until: AtomicU64::new(self.ejected_until.load(Ordering::Acquire)),
            ..Self::new(self.id, spec)
        }
    }

    pub fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Acquire) > now
    }

    pub fn in_flight(&self) -> u32 {
        self.load.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_rises_at_once_and_falls_slowly() {
        let load = Load::default();
        load.observe(1_000_000, 0);
        load.observe(9_000_000, 1_000);
        assert_eq!(load.latency(2_000), 9_000_000);
        load.observe(1_000_000, 1_000_000_000);
        let after_a_second = load.latency(1_000_000_000);
        assert!((7_000_000..9_000_000).contains(&after_a_second), "{after_a_second}");
        assert!(load.latency(60_000_000_000) < 50_000);
    }
}
