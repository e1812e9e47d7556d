//! The CPU time of the current thread.

use nix::time::ClockId;
use std::time::Duration;

/// CPU time, not wall time: on a busy machine a hook that was preempted has not overrun its limit.
pub fn thread_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}
