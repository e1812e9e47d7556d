//! How many connections to one endpoint may be open, and who waits for one.
//!
//! The counters are atomic only because a [`Slot`] travels with its socket, which hyper wants to be `Send`: all of it
//! happens on one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Slots {
    open: AtomicUsize,
    waiting: AtomicUsize,
    /// Wakes who has waited longest. A wake-up that its receiver cannot use any more goes on to the next.
    freed: Notify,
}

/// The right to have one connection open, from before it is dialled until its socket is closed.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

/// A place in the queue, left when dropped.
#[derive(Debug)]
pub(super) struct Waiting<'slots>(&'slots Slots);

impl Slots {
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn take(self: &Arc<Self>, limit: usize) -> Option<Slot> {
        let one_more = |open| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Slot(self.clone()))
    }

    /// Says that there is a slot or an idle connection to take.
    pub fn offer(&self) {
        if self.waiting() > 0 {
            self.freed.notify_one();
        }
    }

    /// Joins the queue, unless `limit` wait already.
    pub fn queue(&self, limit: usize) -> Option<Waiting<'_>> {
        if self.waiting() >= limit {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Some(Waiting(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.offer();
    }
}

impl Waiting<'_> {
    /// Waits for an offer, first come, first served.
    pub async fn turn(&self) {
        self.0.freed.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
