//! The node's monotonic clock, as policies see it.

use nix::time::ClockId;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The process's first look at the clock, in both forms.
static START: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), monotonic()));

/// Nanoseconds from the process's first look at the clock; never 0. Cheaper than an [`Instant`] to have, to keep and to
/// subtract, which counts where it is asked for around each hook.
pub fn now() -> u64 {
    monotonic().saturating_sub(START.1) + 1
}

/// An instant of `std`, in nanoseconds of [`now`].
pub fn at(instant: Instant) -> u64 {
    nanos(instant.saturating_duration_since(START.0)) + 1
}

/// How long ago the kernel looked at the clock, at most.
pub const TICK: Duration = Duration::from_millis(10);

/// When the kernel last looked at the clock: up to a [`TICK`] ago, for an eighth of what it costs to look. Good enough to
/// tell how long something has been idle.
pub fn recent() -> Instant {
    START.0 + Duration::from_nanos(read(ClockId::CLOCK_MONOTONIC_COARSE).saturating_sub(START.1))
}

/// The clock that an [`Instant`] is read from.
fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> u64 {
    clock.now().map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
    })
}

/// Nanoseconds since 1970.
pub fn unix() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in nanoseconds: 584 years at most.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
