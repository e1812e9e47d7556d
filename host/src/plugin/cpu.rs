//! The CPU time of the current thread.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// CPU time, not wall time: on a busy machine a hook that was preempted has not overrun its limit.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
