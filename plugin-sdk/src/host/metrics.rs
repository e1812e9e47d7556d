//! A policy's own metrics, shown as `weir_policy_<name>`. At most 32 a policy.

use super::sys::metrics as sys;
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauge(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram(u32);

impl Counter {
    pub fn open(name: &str, help: &str) -> Result<Self> {
        sys::open(sys::Kind::Counter, name, help).map(Self).map_err(Error::new)
    }

    pub fn add(self, value: f64) {
        sys::update(self.0, value);
    }
}

impl Gauge {
    pub fn open(name: &str, help: &str) -> Result<Self> {
        sys::open(sys::Kind::Gauge, name, help).map(Self).map_err(Error::new)
    }

    pub fn set(self, value: f64) {
        sys::update(self.0, value);
    }
}

impl Histogram {
    pub fn open(name: &str, help: &str) -> Result<Self> {
        sys::open(sys::Kind::Histogram, name, help).map(Self).map_err(Error::new)
    }

    pub fn observe(self, value: f64) {
        sys::update(self.0, value);
    }
}
