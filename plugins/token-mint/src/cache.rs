//! The tokens of one instance that can be sent again.

use std::collections::BTreeMap;
use std::time::Duration;
use weir_sdk::{RouteId, ServiceId};

/// More tokens than this are not kept: a worker rarely calls so many services within the life of a token.
const MOST_TOKENS: usize = 4096;
/// Nor more bytes than this of them.
const MOST_BYTES: usize = 4 << 20;

/// What tokens go to: a service, or a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target(u64);

impl Target {
    pub fn service(service: ServiceId) -> Self {
        Self(service.0.into())
    }

    pub fn channel(route: RouteId) -> Self {
        Self(1 << 32 | u64::from(route.0))
    }
}

/// Tokens by target and caller. When it is full it starts over: what is in use is soon in it again.
#[derive(Debug, Default)]
pub struct Cache {
    targets: BTreeMap<Target, BTreeMap<String, Minted>>,
    tokens: usize,
    bytes: usize,
}

/// Times since 1970.
#[derive(Debug)]
pub struct Minted {
    /// The value of the field.
    pub value: Vec<u8>,
    /// The version of the key that signed it.
    pub version: u64,
    pub issued: Duration,
    /// From then on a new one is minted.
    pub renew: Duration,
}

impl Minted {
    /// Not if the clock was set back either: to the service it would be a token of the future.
    pub fn is_good(&self, now: Duration, version: u64) -> bool {
        self.version == version && self.issued <= now && now < self.renew
    }
}

impl Cache {
    pub fn get(&self, target: Target, subject: &str) -> Option<&Minted> {
        self.targets.get(&target)?.get(subject)
    }

    pub fn insert(&mut self, target: Target, subject: &str, minted: Minted) {
        if self.tokens >= MOST_TOKENS || self.bytes.saturating_add(minted.value.len()) > MOST_BYTES {
            *self = Self::default();
        }
        self.bytes += minted.value.len();
        match self.targets.entry(target).or_default().insert(subject.to_owned(), minted) {
            Some(old) => self.bytes = self.bytes.saturating_sub(old.value.len()),
            None => self.tokens += 1,
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.targets.values().map(BTreeMap::len).sum()
    }
}
