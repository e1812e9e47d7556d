//! Which versions an exchange may have, when versions come one after the other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

/// The versions of one thing in the order in which they came.
#[derive(Debug)]
pub struct Timeline {
    versions: RwLock<Vec<String>>,
    /// The version that was seen to be live last: no exchange that begins now may have an older one.
    settled: AtomicUsize,
}

impl Timeline {
    pub fn new(first: &str) -> Self {
        Self { versions: RwLock::new(vec![first.to_owned()]), settled: AtomicUsize::new(0) }
    }

    /// Another version may go live from now on.
    pub fn announce(&self, version: &str) {
        self.versions.write().unwrap_or_else(PoisonError::into_inner).push(version.to_owned());
    }

    pub fn latest(&self) -> String {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).last().cloned().unwrap_or_default()
    }

    /// The version announced last is live.
    pub fn settle(&self) {
        let last = self.versions.read().unwrap_or_else(PoisonError::into_inner).len() - 1;
        self.settled.store(last, Ordering::SeqCst);
    }

    /// To be asked when an exchange begins.
    pub fn begin(&self) -> usize {
        self.settled.load(Ordering::SeqCst)
    }

    /// The versions that an exchange can have that began then and has just ended: names may come more than once.
    pub fn allowed(&self, begun: usize) -> Vec<String> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).iter().skip(begun).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_has_a_version_between_its_begin_and_its_end() {
        let timeline = Timeline::new("one");
        let early = timeline.begin();
        assert_eq!(timeline.allowed(early), ["one"]);
        timeline.announce("two");
        assert_eq!(timeline.allowed(timeline.begin()), ["one", "two"]);
        timeline.settle();
        assert_eq!(timeline.allowed(timeline.begin()), ["two"]);
        assert_eq!(timeline.allowed(early), ["one", "two"]);
    }
}
