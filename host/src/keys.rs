//! Keys by name. Policies and the rest of the host sign and verify through handles; the material itself, once read
//! from its file, is reachable from this module alone.
//!
//! Files are read anew by [`Keys::refresh`], so that keys can be rotated without a restart. A file that cannot be used
//! leaves the last good material in place.

mod jwks;
mod material;
mod pem_file;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Display},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;

use material::Material;

/// The most a key file may hold, in bytes: a mistaken path must not fill the memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A JWS signature algorithm (RFC 7518, section 3.1; RFC 8037, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA of 2048 to 8192 bits, PKCS#1 v1.5, SHA-256.
    Rs256,
    /// P-256, SHA-256; the signature is r and s, 32 bytes each.
    Es256,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256 and a secret of at least 32 bytes.
    Hs256,
}

impl Algorithm {
    /// As in a token's `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }
}

impl Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm {0:?}; use RS256, ES256, EdDSA or HS256")]
pub struct UnknownAlgorithm(String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Rs256, Self::Es256, Self::EdDsa, Self::Hs256]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
            .ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// A key as configured.
#[derive(Clone, Debug)]
pub struct KeySpec {
    pub name: String,
    /// Absent: what the key is made for. Of a set only the keys for this algorithm are used.
    pub algorithm: Option<Algorithm>,
    /// The `kid` of tokens signed with the key. A token to be verified may lack it but not bear another. Not for sets,
    /// which name their keys themselves.
    pub kid: Option<String>,
    pub source: KeySource,
}

/// Where a key is, and of which kind.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// PEM with a private key in PKCS#8, PKCS#1 or SEC1 form; signs and verifies.
    Private(PathBuf),
    /// PEM with a public key in SubjectPublicKeyInfo or PKCS#1 form.
    Public(PathBuf),
    /// The bytes of a shared secret. If they are printable text, one line end after it does not count.
    Secret(PathBuf),
    /// A set of public keys or secrets (RFC 7517); verifies.
    Jwks(PathBuf),
}

impl KeySource {
    pub fn path(&self) -> &Path {
        match self {
            Self::Private(path) | Self::Public(path) | Self::Secret(path) | Self::Jwks(path) => path,
        }
    }
}

/// Why a key cannot be loaded, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key:?}: {}: {message}", file.display())]
pub struct KeyProblem {
    pub key: String,
    pub file: PathBuf,
    pub message: String,
}

/// Why a key cannot be used for what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("key {key:?} can only verify; signing needs a private key or a secret")]
    CannotSign { key: String },
    #[error("key {key:?} is not for {algorithm}")]
    WrongAlgorithm { key: String, algorithm: Algorithm },
    #[error("key {key:?} has no key id {kid:?}")]
    UnknownKid { key: String, kid: String },
    #[error("key {key:?} has {count} keys for {algorithm}, and the token does not say which")]
    NoKid { key: String, algorithm: Algorithm, count: usize },
    #[error("signing with key {key:?} failed")]
    Failed { key: String },
}

/// All keys of the node.
#[derive(Debug, Default)]
pub struct Keys {
    by_name: BTreeMap<String, Arc<Key>>,
}

/// What [`Keys::refresh`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Names of the keys that have new material.
    pub changed: Vec<String>,
    /// Files that can no longer be used, each told once.
    pub problems: Vec<KeyProblem>,
}

impl Keys {
    /// Reads all key files.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load(specs: Vec<KeySpec>) -> Result<Self, Vec<KeyProblem>> {
        let mut by_name = BTreeMap::new();
        let mut problems = Vec::new();
        for spec in specs {
            let name = spec.name.clone();
            if by_name.contains_key(&name) {
                problems.push(spec.problem("a key of that name exists already; rename one"));
                continue;
            }
            match Key::load(spec) {
                Ok(key) => drop(by_name.insert(name, Arc::new(key))),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Self { by_name }) } else { Err(problems) }
    }

    pub fn get(&self, name: &str) -> Option<Arc<Key>> {
        self.by_name.get(name).cloned()
    }

    /// Reads the key files again and takes up those whose content changed. Costs one small read a file, on the calling
    /// thread.
    pub fn refresh(&self) -> Refreshed {
        let mut refreshed = Refreshed::default();
        for (name, key) in &self.by_name {
            match key.refresh() {
                Ok(true) => refreshed.changed.push(name.clone()),
                Ok(false) => {}
                Err(problem) => refreshed.problems.push(problem),
            }
        }
        refreshed
    }
}

/// A key, or a set of keys to choose from by `kid`.
pub struct Key {
    spec: KeySpec,
    current: ArcSwap<Current>,
    tried: Mutex<Tried>,
}

/// What was last found in the file, good or not: only something else is worth a look.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    Content([u8; 32]),
    Unreadable(String),
}

struct Current {
    version: u64,
    material: Material,
}

impl Current {
    fn new(material: Material) -> Arc<Self> {
        // One count for the process: a key that is loaded anew with the configuration must not repeat a version.
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { version: VERSIONS.fetch_add(1, Ordering::Relaxed), material })
    }
}

impl Key {
    fn load(spec: KeySpec) -> Result<Self, KeyProblem> {
        let content = read(spec.source.path()).map_err(|message| spec.problem(message))?;
        let material = Material::parse(&spec, &content).map_err(|message| spec.problem(message))?;
        Ok(Self {
            spec,
            current: ArcSwap::new(Current::new(material)),
            tried: Mutex::new(Tried::Content(sha256(&content))),
        })
    }

    /// True if the material changed.
    fn refresh(&self) -> Result<bool, KeyProblem> {
        // Held throughout, so that of two refreshes the one that reads later also stores later.
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read(self.spec.source.path());
        let now = match &read {
            Ok(content) => Tried::Content(sha256(content)),
            Err(message) => Tried::Unreadable(message.clone()),
        };
        if *tried == now {
            return Ok(false);
        }
        *tried = now;
        let material = read.and_then(|content| Material::parse(&self.spec, &content));
        let material =
            material.map_err(|message| self.spec.problem(format!("{message}. What was loaded before stays in use")))?;
        self.current.store(Current::new(material));
        Ok(true)
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What the key signs with, and verifies. None for a set.
    pub fn algorithm(&self) -> Option<Algorithm> {
        match self.spec.source {
            KeySource::Jwks(_) => None,
            _ => self.current.load().material.members.first().map(|member| member.algorithm),
        }
    }

    /// The `kid` to put in a token's header.
    pub fn kid(&self) -> Option<String> {
        self.spec.kid.clone()
    }

    /// Rises whenever the material changes. What was verified with an older one should be verified again. No two keys
    /// of the process ever have the same version.
    pub fn version(&self) -> u64 {
        self.current.load().version
    }

    /// Signs the data, and returns the signature in JWS form.
    ///
    /// # Errors
    /// [`KeyError::CannotSign`] for public keys and sets.
    pub fn sign(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        let key = || self.spec.name.clone();
        let current = self.current.load();
        match current.material.members.first().and_then(|member| member.signer.as_ref()) {
            Some(signer) => signer.sign(data).map_err(|_| KeyError::Failed { key: key() }),
            None => Err(KeyError::CannotSign { key: key() }),
        }
    }

    /// Whether the signature, in JWS form, fits the data. The algorithm is what the token claims, and has to be the
    /// key's own: a public key never serves as a secret. From a set the key is chosen by `kid`; without one only where
    /// a single key is for that algorithm.
    ///
    /// # Errors
    /// There is no such key, or it has another algorithm.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        data: &[u8],
        signature: &[u8],
    ) -> Result<bool, KeyError> {
        let key = || self.spec.name.clone();
        let current = self.current.load();
        let members = &current.material.members;
        // A key of its own that was given no id answers to any.
        let any_kid = !matches!(self.spec.source, KeySource::Jwks(_)) && self.spec.kid.is_none();
        let named = |member: &&material::Member| match kid {
            Some(kid) => any_kid || member.kid.as_deref() == Some(kid),
            None => true,
        };
        let mut fitting = members.iter().filter(named).filter(|member| member.algorithm == algorithm);
        match (fitting.clone().count(), kid) {
            (0, Some(kid)) if !members.iter().any(|member| named(&member)) => {
                Err(KeyError::UnknownKid { key: key(), kid: kid.to_owned() })
            }
            (0, _) => Err(KeyError::WrongAlgorithm { key: key(), algorithm }),
            (count @ 2.., None) => Err(KeyError::NoKid { key: key(), algorithm, count }),
            _ => Ok(fitting.any(|member| member.verifier.verify(data, signature))),
        }
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("spec", &self.spec).field("version", &self.version()).finish_non_exhaustive()
    }
}

impl KeySpec {
    fn problem(&self, message: impl Into<String>) -> KeyProblem {
        KeyProblem { key: self.name.clone(), file: self.source.path().to_owned(), message: message.into() }
    }
}

/// The SHA-256 digest of the data.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    // Both have the length of SHA-256.
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        // A pipe would keep us waiting for ever.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let mut content = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::other("larger than 1 MiB, which no key file is"));
        }
        Ok(content)
    };
    read().map_err(|error| format!("cannot be read ({error}); check the path and the permissions"))
}
