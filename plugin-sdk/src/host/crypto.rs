//! Cryptography by key handle. Key material never enters a policy.

use super::sys::crypto as sys;
use crate::{Error, Result};

/// A key of the node's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u32);

impl Key {
    /// Fails where no key has that name, or the policy is not granted it: it is where its configuration names the key, or
    /// `allow` says `crypto:<name>`.
    pub fn open(name: &str) -> Result<Self> {
        sys::open(name).map(Self).map_err(Error::new)
    }

    /// `RS256`, `ES256`, `EdDSA` or `HS256` (RFC 7518, RFC 8037). Empty for a set of keys.
    pub fn algorithm(self) -> String {
        sys::algorithm(self.0)
    }

    /// The `kid` to put in a token's header.
    pub fn id(self) -> Option<String> {
        sys::key_id(self.0)
    }

    /// Rises when the key's material changes. What was verified with an older one should be verified again.
    pub fn version(self) -> u64 {
        sys::version(self.0)
    }

    pub fn sign(self, data: &[u8]) -> Result<Vec<u8>> {
        sys::sign(self.0, data).map_err(Error::new)
    }

    /// `false`: the signature does not fit. An error: there is no such key, or it has another algorithm.
    pub fn verify(self, algorithm: &str, key_id: Option<&str>, data: &[u8], signature: &[u8]) -> Result<bool> {
        sys::verify(self.0, algorithm, key_id, data, signature).map_err(Error::new)
    }
}

pub fn sha256(data: &[u8]) -> Vec<u8> {
    sys::sha256(data)
}
