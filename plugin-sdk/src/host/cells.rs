//! State that all instances of one policy share, on all workers. It is atomic, bounded, and survives a reload of the
//! plugin, of its configuration and of the node's.

use super::sys::cells as sys;
use crate::{Error, Result};
use std::time::Duration;
pub use sys::Tally;

/// One 64-bit number, 0 at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(u32);

impl Word {
    /// Opens the word of that name, which is made if it is new. At most 200 bytes of name, and 100 000 cells a policy.
    pub fn open(name: &str) -> Result<Self> {
        sys::open(name, sys::Kind::Word).map(Self).map_err(Error::new)
    }

    pub fn load(self) -> u64 {
        sys::load(self.0)
    }

    /// Adds, wrapping, and returns the value before.
    pub fn fetch_add(self, delta: u64) -> u64 {
        sys::fetch_add(self.0, delta)
    }

    /// Stores `new` if the word holds `current`; otherwise says what it holds.
    pub fn compare_exchange(self, current: u64, new: u64) -> Result<(), u64> {
        sys::compare_exchange(self.0, current, new)
    }

    /// Changes the word by a function of its value, until no other worker interferes. `None` leaves it as it is. Returns
    /// the value before, and whether it was changed.
    pub fn update(self, mut change: impl FnMut(u64) -> Option<u64>) -> (u64, bool) {
        let mut current = self.load();
        loop {
            match change(current) {
                None => return (current, false),
                Some(new) => match self.compare_exchange(current, new) {
                    Ok(()) => return (current, true),
                    Err(actual) => current = actual,
                },
            }
        }
    }
}

/// The last results: how many, and how many of them failed or were slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window(u32);

impl Window {
    /// The last `size` results; at most 65 536.
    pub fn of_count(name: &str, size: u32) -> Result<Self> {
        sys::open(name, sys::Kind::CountWindow(size)).map(Self).map_err(Error::new)
    }

    /// The results of the last `span`, kept in ten steps.
    pub fn of_time(name: &str, span: Duration) -> Result<Self> {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        sys::open(name, sys::Kind::TimeWindow(span)).map(Self).map_err(Error::new)
    }

    /// Counts one result and returns what the window then holds.
    pub fn record(self, failed: bool, slow: bool) -> Tally {
        sys::record_result(self.0, failed, slow)
    }

    pub fn clear(self) {
        sys::clear(self.0);
    }
}

/// Tokens that refill evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket(u32);

impl Bucket {
    /// `rate` is tokens a second; `burst` the most it holds, and what it holds at first.
    pub fn open(name: &str, rate: f64, burst: f64) -> Result<Self> {
        sys::open(name, sys::Kind::Bucket(sys::Bucket { rate, burst })).map(Self).map_err(Error::new)
    }

    /// Takes so many tokens, or none.
    pub fn take(self, tokens: f64) -> bool {
        sys::take(self.0, tokens)
    }
}

/// A small value by key, as stored by [`put`] and not yet expired.
pub fn get(key: &str) -> Option<Vec<u8>> {
    sys::get(key)
}

/// Stores a small value: at most 64 KiB each, and 10 000 a policy; when full the one that expires first makes room.
pub fn put(key: &str, value: &[u8], ttl: Duration) -> Result<()> {
    sys::put(key, value, u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX)).map_err(Error::new)
}
