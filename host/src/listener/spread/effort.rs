//! Whether a worker has all it can do.

use nix::time::ClockId;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long is looked at.
const WINDOW: Duration = Duration::from_millis(4);
/// Who was not looked at for so long may have done anything.
const STALE: Duration = Duration::from_millis(100);

/// The share of its time in which a thread was computing, measured only while somebody asks.
pub struct Effort {
    since: Cell<Instant>,
    computed: Cell<Duration>,
    is_full: Cell<bool>,
}

impl Effort {
    pub fn new() -> Self {
        Self { since: Cell::new(Instant::now()), computed: Cell::default(), is_full: Cell::new(false) }
    }

    /// Whether the thread with this number, 0 being the one that asks, computed for three quarters of the last few
    /// milliseconds.
    pub fn is_full(&self, thread: i32) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.since.get());
        if passed >= WINDOW {
            let computed = computed(thread);
            let share = computed.saturating_sub(self.computed.replace(computed));
            self.is_full.set(passed < STALE && share * 4 >= passed * 3);
            self.since.set(now);
        }
        self.is_full.get()
    }
}

/// CPU time of a thread of this process. Linux makes the clock's number of the thread's (`pthread_getcpuclockid(3)`).
fn computed(thread: i32) -> Duration {
    const OF_THREAD: i32 = 0b110;
    ClockId::from_raw(!thread << 3 | OF_THREAD).now().map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn who_waits_is_not_full() {
        let effort = Effort::new();
        for _ in 0..5 {
            thread::sleep(WINDOW);
            assert!(!effort.is_full(0));
        }
    }

    #[test]
    fn who_computes_all_the_time_is_full() {
        let (effort, begun) = (Effort::new(), Instant::now());
        // Others may take the processor away for a while.
        while !effort.is_full(0) {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
    }

    #[test]
    fn one_thread_can_tell_of_another() {
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        let other = thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            while ended.try_recv().is_err() {}
        });
        let (effort, number, begun) = (Effort::new(), told.recv().unwrap(), Instant::now());
        while !effort.is_full(number) {
            thread::sleep(Duration::from_millis(1));
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        end.send(()).unwrap();
        other.join().unwrap();
    }
}
