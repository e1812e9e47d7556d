//! Compiled plugins on disk, by the digest of the component and the engine that compiled it.
//!
//! A compiled plugin is machine code, and whoever can change it runs code in this process. So the directory is ours alone
//! ([`PrivateDirectory`]), and each entry is authenticated with a key that is in there too: a file that was copied in from
//! elsewhere, torn or damaged is never run. Nodes may share a directory; each entry is complete or not there.
//!
//! An entry is a line that says what it is, the code, and the HMAC-SHA256 of both.

mod private;
#[cfg(test)]
mod tests;

use aws_lc_rs::hmac;
use private::PrivateDirectory;
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What the entries of a directory may take, in bytes. Beyond it those go that were not used for the longest time.
const LIMIT: u64 = 256 * 1024 * 1024;
/// The file of the key.
const KEY: &str = "key";
/// Bytes of the key, and of what it makes (HMAC-SHA256).
const MAC: usize = 32;

#[derive(Debug)]
pub struct Cache {
    /// What tells an engine whose code we can run from others, in hexadecimal.
    engine: String,
    limit: u64,
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    /// `None`: nothing is kept.
    directory: Option<PathBuf>,
    /// What was last said of it, which is said once.
    told: Option<String>,
}

/// The bytes that made the authentication code, and no others.
struct Authentic<'a>(&'a [u8]);

impl Cache {
    /// A cache without a place, which keeps nothing.
    pub fn new(engine: &Engine) -> Self {
        let mut hasher = Sha256Hasher::default();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { engine: hex(&hasher.0.finalize()), limit: LIMIT, place: Mutex::default() }
    }

    /// Where compiled plugins are kept from now on.
    pub fn move_to(&self, directory: Option<&Path>) {
        let mut place = self.place();
        if place.directory.as_deref() != directory {
            *place = Place { directory: directory.map(Into::into), told: None };
        }
    }

    /// The component of this digest, if it was kept. An entry that cannot be trusted is removed.
    pub fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let directory = self.place().directory.clone()?;
        let (directory, key) = self.told(open(&directory))?;
        let name = self.name(digest);
        let found = match directory.read(&name, self.limit) {
            Ok(None) => return None,
            Ok(Some(entry)) => self.authenticate(&key, digest, &entry).and_then(|code| revive(engine, &code)),
            Err(error) => Err(error.to_string()),
        };
        found
            .inspect_err(|why| {
                tracing::warn!(file = name, "a compiled plugin in the cache is not used, and is made anew: {why}");
                directory.remove(&name);
            })
            .ok()
    }

    /// Keeps a component, if that can be.
    pub fn keep(&self, digest: &str, component: &Component) {
        let Some(directory) = self.place().directory.clone() else { return };
        let kept = open(&directory).and_then(|(directory, key)| {
            let code = component.serialize().map_err(|error| io::Error::other(format!("{error:#}")))?;
            let head = self.head(digest);
            let mut mac = hmac::Context::with_key(&key);
            mac.update(head.as_bytes());
            mac.update(&code);
            let mac = mac.sign();
            if (head.len() + code.len() + MAC) as u64 <= self.limit {
                directory.write(&self.name(digest), &[head.as_bytes(), &code, mac.as_ref()])?;
            }
            self.bound(&directory)
        });
        self.told(kept);
    }

    fn authenticate<'a>(&self, key: &hmac::Key, digest: &str, entry: &'a [u8]) -> Result<Authentic<'a>, String> {
        let (content, mac) = entry.split_last_chunk::<MAC>().ok_or("it is too short")?;
        hmac::verify(key, content, mac).map_err(|_| "it is damaged, or was not made here")?;
        let code = content.strip_prefix(self.head(digest).as_bytes());
        code.map(Authentic).ok_or_else(|| "it is of another plugin or engine".to_owned())
    }

    /// Removes what was not used for the longest time until the rest is within the limit.
    fn bound(&self, directory: &PrivateDirectory) -> io::Result<()> {
        let mut entries: Vec<_> = directory.list()?.into_iter().filter(|file| is_entry(&file.name)).collect();
        entries.sort_by_key(|file| file.modified);
        let mut total: u64 = entries.iter().map(|file| file.length).sum();
        for file in entries {
            if total <= self.limit {
                break;
            }
            directory.remove(&file.name);
            total -= file.length;
        }
        Ok(())
    }

    /// The first line of an entry.
    fn head(&self, digest: &str) -> String {
        format!("weir compiled plugin 1, engine {}, component {digest}\n", self.engine)
    }

    /// Versions of Weir that share a directory have entries of their own.
    fn name(&self, digest: &str) -> String {
        format!("{digest}-{}.compiled", self.engine.get(..16).unwrap_or_default())
    }

    /// Says once why there is no cache.
    fn told<T>(&self, result: io::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                let mut place = self.place();
                let Some(directory) = &place.directory else { return };
                let why = format!("compiled plugins are not kept in {}: {error}", directory.display());
                if place.told.as_ref() != Some(&why) {
                    tracing::warn!("{why}; [plugins] cache names another directory, or is \"off\"");
                    place.told = Some(why);
                }
            })
            .ok()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the directory and reads its key; makes what is missing.
fn open(directory: &Path) -> io::Result<(PrivateDirectory, hmac::Key)> {
    let directory = PrivateDirectory::open(directory)?;
    let of_key = |error: io::Error| io::Error::new(error.kind(), format!("its file {KEY:?}: {error}"));
    let read = || directory.read_secret::<MAC>(KEY).map_err(of_key);
    let key = match read()? {
        Some(key) => key,
        None => {
            directory.write_new(KEY, &rand::random::<[u8; MAC]>()).map_err(of_key)?;
            read()?.ok_or_else(|| of_key(io::ErrorKind::NotFound.into()))?
        }
    };
    Ok((directory, hmac::Key::new(hmac::HMAC_SHA256, &key)))
}

#[expect(unsafe_code, reason = "machine code is run as it is: there is no checking it")]
fn revive(engine: &Engine, code: &Authentic<'_>) -> Result<Component, String> {
    // SAFETY: these bytes have to be what `Component::serialize` returned. They are: the code over them was made with a
    // key that only this user can read, and `keep` is all that makes one. `Authentic` holds the very bytes that were
    // authenticated, in memory that nobody else can write. An engine of another version or configuration, whose code
    // would be sound but not for us, has another head; and wasmtime compares its own record of that once more.
    unsafe { Component::deserialize(engine, code.0) }.map_err(|error| format!("{error:#}"))
}

/// Whether a file is one that we have made: the directory may hold others by mistake.
fn is_entry(name: &str) -> bool {
    let (digest, rest) = name.split_at_checked(64).unwrap_or_default();
    digest.bytes().all(|byte| byte.is_ascii_hexdigit()) && rest.starts_with('-') && rest.contains(".compiled")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash of 256 bits of what can only be fed to a [`Hasher`].
#[derive(Default)]
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.clone().finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}
