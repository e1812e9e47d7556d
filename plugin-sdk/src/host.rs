//! What a policy can ask of the host. Under `cargo test` the fake host of [`testing`](crate::testing) answers.

pub mod cells;
pub mod crypto;
pub mod endpoints;
pub mod metrics;
pub mod outbound;
#[cfg(any(test, target_family = "wasm"))]
mod sequence;
pub mod trace;

#[cfg(target_family = "wasm")]
use crate::bindings::imports::weir::policy as sys;
#[cfg(not(target_family = "wasm"))]
use crate::testing::fake as sys;

/// The log of the node.
pub mod log {
    use super::sys::log::{Level, write};

    pub fn error(message: impl AsRef<str>) {
        write(Level::Error, message.as_ref());
    }

    pub fn warn(message: impl AsRef<str>) {
        write(Level::Warn, message.as_ref());
    }

    pub fn info(message: impl AsRef<str>) {
        write(Level::Info, message.as_ref());
    }

    pub fn debug(message: impl AsRef<str>) {
        write(Level::Debug, message.as_ref());
    }
}

/// Two clocks. Prefer these to `std::time`: tests can set them, and replays repeat them.
pub mod clock {
    use std::time::Duration;

    /// A monotonic clock, in nanoseconds from an arbitrary point that is the same for all policies of the process.
    pub fn now() -> u64 {
        super::sys::clock::now()
    }

    /// Time since 1970-01-01T00:00:00Z.
    pub fn unix() -> Duration {
        Duration::from_nanos(super::sys::clock::unix())
    }
}

/// Random numbers.
pub mod random {
    /// Not for secrets. The host begins the sequence of each instance, which then goes on by itself.
    pub fn next() -> u64 {
        #[cfg(target_family = "wasm")]
        return super::sequence::next();
        #[cfg(not(target_family = "wasm"))]
        super::sys::random::next()
    }

    /// Evenly from `0..bound`; 0 for a bound of 0. Not for secrets.
    pub fn below(bound: u64) -> u64 {
        ((u128::from(next()) * u128::from(bound)) >> 64) as u64
    }

    /// Evenly from `0.0..1.0`. Not for secrets.
    pub fn unit() -> f64 {
        (next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Unpredictable bytes, at most 1024.
    pub fn secure(length: usize) -> Vec<u8> {
        super::sys::random::secure(length.min(1024) as u32)
    }
}

pub(crate) mod names {
    use crate::exchange::{RouteId, ServiceId};

    pub fn service(id: ServiceId) -> String {
        super::sys::names::service(id.0)
    }

    pub fn route(id: RouteId) -> String {
        super::sys::names::route(id.0)
    }
}
