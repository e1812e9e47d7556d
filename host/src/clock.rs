//! The node's monotonic clock, as policies see it.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds from the process's first look at the clock; never 0.
pub fn now() -> u64 {
    at(Instant::now())
}

/// An instant of `std`, in nanoseconds of [`now`].
pub fn at(instant: Instant) -> u64 {
    let start = *START.get_or_init(Instant::now);
    nanos(instant.saturating_duration_since(start)) + 1
}

/// Nanoseconds since 1970.
pub fn unix() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in nanoseconds: 584 years at most.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
