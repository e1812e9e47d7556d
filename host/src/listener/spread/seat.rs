//! What workers know of each other: how busy each is, and where streams are left for it.

use super::Stream;
use crate::telemetry::metrics::handles::WorkerMetrics;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Streams that wait for a worker to take them. Any more stay where they are.
const MAX_WAITING: usize = 1024;

/// The place of a worker among all.
pub struct Seat {
    /// What it runs, as it counts itself.
    pub metrics: WorkerMetrics,
    /// Streams that were left and are not begun. They count at once: else all that come with one read would be left.
    coming: AtomicU64,
    /// The number of the worker's thread, once it has come.
    thread: AtomicI32,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    open: bool,
    streams: Vec<Stream>,
    worker: Option<Waker>,
}

impl Seat {
    pub fn new(metrics: WorkerMetrics) -> Arc<Self> {
        Arc::new(Self { metrics, coming: AtomicU64::new(0), thread: AtomicI32::new(0), waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges in progress, and those to come.
    pub fn busy(&self) -> u64 {
        self.metrics.in_progress() + self.coming.load(Ordering::Relaxed)
    }

    /// Leaves a stream for the worker. If that has ended, or has enough of them, it is given back.
    pub fn leave(&self, stream: Stream) {
        self.coming.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting();
        if !waiting.open || waiting.streams.len() >= MAX_WAITING {
            drop(waiting);
            return drop(stream);
        }
        waiting.streams.push(stream);
        // One that has been woken takes all there are.
        let worker = waiting.worker.take();
        drop(waiting);
        if let Some(worker) = worker {
            worker.wake();
        }
    }

    /// A stream that was left is begun, or given back.
    pub fn begun(&self) {
        self.coming.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of the worker's thread.
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Lets others leave streams from now on, for the worker on this thread.
    pub fn open(self: Arc<Self>) -> Open {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        self.waiting().open = true;
        Open(self)
    }
}

/// A seat whose worker takes what is left, until this is dropped.
pub struct Open(Arc<Seat>);

impl Open {
    /// All streams that were left, once there is one.
    pub async fn next(&self) -> Vec<Stream> {
        poll_fn(|context| {
            let mut waiting = self.0.waiting();
            if waiting.streams.is_empty() {
                waiting.worker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut waiting.streams))
        })
        .await
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.open = false;
        let left = std::mem::take(&mut waiting.streams);
        drop(waiting);
        // Each goes back to where it came from.
        drop(left);
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("busy", &self.busy()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn what_nobody_takes_is_not_kept() {
        let seat = Seat::new(Metrics::new().worker(0));
        let kept = || seat.waiting().streams.len();
        seat.leave(Stream::empty(&seat));
        assert_eq!(kept(), 0, "no worker has come");
        let open = seat.clone().open();
        seat.leave(Stream::empty(&seat));
        assert_eq!((open.next().await.len(), kept()), (1, 0));
        for _ in 0..=MAX_WAITING {
            seat.leave(Stream::empty(&seat));
        }
        assert_eq!(kept(), MAX_WAITING, "there are enough");
        drop(open);
        assert_eq!(kept(), 0);
        seat.leave(Stream::empty(&seat));
        assert_eq!(kept(), 0, "the worker has gone");
    }
}
