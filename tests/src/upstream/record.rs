//! What arrived at an upstream, kept for assertions.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::Version;

use super::behaviour::Behaviour;
use super::server::Count;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// When the head was complete.
    pub at: Instant,
    /// Number of the connection it came on, from 0: equal numbers mean a reused connection.
    pub connection: u64,
    pub version: Version,
    pub method: String,
    /// The request target as sent (HTTP/1.1), or `:path`.
    pub target: String,
    /// `:authority`, or the first `host` field.
    pub authority: Option<String>,
    /// Fields in the order and the case in which they came; HTTP/2 pseudo-fields are left out.
    pub headers: Vec<(String, Bytes)>,
    /// Empty while a behaviour judges [before the body](Behaviour::before_body), and when the peer
    /// left before it was complete.
    pub body: Bytes,
    pub trailers: Vec<(String, Bytes)>,
}

impl Received {
    /// How many requests an upstream keeps; older ones are let go, so that a long run stays small.
    pub const KEPT: usize = 2_000;

    /// The first value of a field that is text; names match in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).into_iter().next()
    }

    /// All values of a field that are text, in order.
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.filter_map(|(_, value)| std::str::from_utf8(value).ok()).collect()
    }

    /// The path of the target, without the query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }
}

/// What the connections of one upstream share.
#[derive(Debug)]
pub(super) struct Shared {
    behaviour: Mutex<Behaviour>,
    kept: Mutex<VecDeque<(u64, Received)>>,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: Count,
    pub(super) abandoned: Count,
    pub(super) malformed: Count,
}

impl Shared {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self { behaviour: Mutex::new(behaviour), kept: Mutex::default(), counts: Counts::default() }
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        lock(&self.behaviour).clone()
    }

    pub(super) fn set(&self, behaviour: Behaviour) {
        *lock(&self.behaviour) = behaviour;
    }

    /// Keeps a request whose head is complete; the number finds it again when its body is.
    pub(super) fn keep(&self, received: Received) -> u64 {
        let mut kept = lock(&self.kept);
        let number = self.counts.requests.add();
        if kept.len() >= Received::KEPT {
            kept.pop_front();
        }
        kept.push_back((number, received));
        number
    }

    /// Adds what came after the head to the request kept under `number`.
    pub(super) fn complete(&self, number: u64, received: &Received) {
        let mut kept = lock(&self.kept);
        if let Some((_, entry)) = kept.iter_mut().rev().find(|(key, _)| *key == number) {
            entry.body = received.body.clone();
            entry.trailers = received.trailers.clone();
        }
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        lock(&self.kept).iter().map(|(_, received)| received.clone()).collect()
    }

    pub(super) fn forget(&self) {
        let mut kept = lock(&self.kept);
        kept.clear();
        self.counts.requests.clear();
        self.counts.abandoned.clear();
        self.counts.malformed.clear();
    }
}

/// A test that failed elsewhere must not hide behind a poisoned lock here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
