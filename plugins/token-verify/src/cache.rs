//! The tokens that this instance has verified.

use std::collections::BTreeMap;
use weir_sdk::{Edit, Verdict};

/// Room for some 4096 tokens of usual size.
const MOST_BYTES: usize = 4 << 20;

/// What a token says, once it is known to be true. Times are seconds since 1970.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The version of the key that fitted.
    pub version: u64,
    /// From `nbf` and `iat`, and until `exp`, the leeway counted in.
    pub from: f64,
    pub until: f64,
    /// For each rule, whether the token satisfies it.
    pub callers: Box<[bool]>,
    pub roles: Box<[bool]>,
    /// For an exchange that may pass.
    pub verdict: Verdict,
}

impl Verified {
    pub fn is_good(&self, now: f64, version: u64) -> bool {
        self.version == version && self.from <= now && now < self.until
    }

    /// Bytes, about.
    fn size(&self) -> usize {
        let Verdict::Amend(amendment) = &self.verdict else {
            return 0;
        };
        let edits = amendment.edits.iter().map(|edit| match edit {
            Edit::Set(name, value) | Edit::Append(name, value) => name.len() + value.len(),
            Edit::Remove(name) => name.len(),
        });
        let attributes = amendment.attributes.iter().map(|(name, value)| name.len() + value.len());
        edits.chain(attributes).map(|bytes| bytes + 64).sum()
    }
}

#[derive(Debug)]
struct Entry {
    token: Box<[u8]>,
    verified: Verified,
}

impl Entry {
    fn size(&self) -> usize {
        self.token.len() + self.verified.size() + 256
    }
}

/// Verified tokens, found by the end of their signature, which is as good as random, and then compared in full.
#[derive(Debug, Default)]
pub struct Cache {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
}

impl Cache {
    pub fn get(&self, token: &[u8]) -> Option<&Verified> {
        let entry = self.entries.get(&tail(token))?;
        same(&entry.token, token).then_some(&entry.verified)
    }

    /// Keeps a token. When there is no room, the neighbours of its random place go.
    pub fn insert(&mut self, token: &[u8], verified: Verified) -> &Verified {
        let (key, entry) = (tail(token), Entry { token: token.into(), verified });
        self.remove(key);
        while self.bytes.saturating_add(entry.size()) > MOST_BYTES {
            let next = self.entries.range(key..).next().or_else(|| self.entries.first_key_value());
            let Some(neighbour) = next.map(|(neighbour, _)| *neighbour) else {
                break;
            };
            self.remove(neighbour);
        }
        self.bytes += entry.size();
        &self.entries.entry(key).insert_entry(entry).into_mut().verified
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes = self.bytes.saturating_sub(entry.size());
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.entries.values().map(Entry::size).sum()
    }
}

/// `==` is a call of libc's `memcmp`, which in WebAssembly goes byte by byte, and each step of a loop looks whether the time
/// is up. This goes by 64 bytes, the last of which may overlap.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    let (Some(a_end), Some(b_end)) = (a.last_chunk(), b.last_chunk()) else {
        return a == b;
    };
    let pairs = a.as_chunks().0.iter().zip(b.as_chunks().0);
    a.len() == b.len() && pairs.fold(differences([0; 8], a_end, b_end), |all, (a, b)| differences(all, a, b)) == [0; 8]
}

#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
fn differences(mut all: [u64; 8], a: &[u8; 64], b: &[u8; 64]) -> [u64; 8] {
    let words = a.as_chunks().0.iter().zip(b.as_chunks().0);
    for (all, (a, b)) in all.iter_mut().zip(words) {
        *all |= u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
    }
    all
}

fn tail(token: &[u8]) -> u64 {
    token.last_chunk().map_or(0, |tail| u64::from_le_bytes(*tail))
}
