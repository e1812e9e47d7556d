//! `[key.…]`: handles by which policies sign and verify. The file names key files and holds no key.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::positions::Positions;
use super::problem::Position;
use super::reader::{Fields, Value};
use super::values::{choice, path, string};

/// A key, or a set of them, that a policy uses by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Key {
    #[serde(skip)]
    pub name: String,
    /// What the key may be used for. A secret is always HS256; a set names an algorithm for each of
    /// its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    #[serde(flatten)]
    pub source: KeySource,
    /// The key id that tokens carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    #[serde(skip)]
    positions: Positions,
}

impl Key {
    /// Where the file is named, for the problem that it cannot be read or holds no such key.
    pub fn file_position(&self) -> Position {
        self.positions.nearest("/file")
    }
}

/// JWS algorithms (RFC 7518, 3.1, and RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Algorithm {
    RS256,
    ES256,
    EdDSA,
    HS256,
}

/// The one file that a key comes from. A relative path starts at the working directory of the
/// process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// PEM, signs and verifies.
    Private(KeyFile),
    /// PEM, verifies.
    Public(KeyFile),
    /// The bytes shared for HS256.
    Secret(KeyFile),
    /// A JSON Web Key Set (RFC 7517), chosen from by key id and reread when the file changes.
    Jwks(KeyFile),
}

/// `{ file = "…" }`
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyFile {
    pub file: PathBuf,
}

impl KeySource {
    /// The file to read.
    pub fn file(&self) -> &Path {
        match self {
            Self::Private(key) | Self::Public(key) | Self::Secret(key) | Self::Jwks(key) => &key.file,
        }
    }
}

pub(super) fn key(name: &str, value: &Value<'_>) -> Option<Key> {
    value.fields(|fields| {
        let algorithm = choice(&[
            ("RS256", Algorithm::RS256),
            ("ES256", Algorithm::ES256),
            ("EdDSA", Algorithm::EdDSA),
            ("HS256", Algorithm::HS256),
        ]);
        let algorithm = fields.optional("algorithm", algorithm);
        let kid = fields.optional("kid", string);
        let (source, at) = source(fields)?;
        let suits = match (&source, algorithm) {
            (KeySource::Private(_) | KeySource::Public(_), Some(Algorithm::HS256)) => {
                Err(("HS256 has no private and public key", "write secret = { file = \"…\" }"))
            }
            (KeySource::Secret(_), None) => Ok(Some(Algorithm::HS256)),
            (KeySource::Secret(_), Some(other)) if other != Algorithm::HS256 => {
                Err(("a secret is for HS256 only", "write private = { file = \"…\" }"))
            }
            (_, algorithm) => Ok(algorithm),
        };
        let algorithm = match suits {
            Ok(algorithm) => algorithm,
            Err((message, hint)) => {
                fields.reader.report(fields.at_key("algorithm"), message, hint);
                return None;
            }
        };
        let mut positions = Positions::default();
        positions.note("/file", at);
        Some(Key { name: name.to_owned(), algorithm, source, kid, positions })
    })
}

/// Reads the one source and where its file is named; none or several are a problem.
fn source(fields: &mut Fields<'_>) -> Option<(KeySource, Position)> {
    type Wrap = fn(KeyFile) -> KeySource;
    const SOURCES: [(&str, Wrap); 4] = [
        ("private", KeySource::Private),
        ("public", KeySource::Public),
        ("secret", KeySource::Secret),
        ("jwks", KeySource::Jwks),
    ];
    let mut given: Vec<(&str, Position)> = Vec::new();
    let mut source = None;
    for (key, wrap) in SOURCES {
        if let Some(value) = fields.value(key) {
            given.push((key, value.at()));
            source = value.fields(|fields| {
                let file = fields.required("file", key_path)?;
                Some((wrap(KeyFile { file }), fields.at_key("file")))
            });
        }
    }
    match given.as_slice() {
        [] => fields.fail("the key has no source", "write one of private, public, secret, jwks = { file = \"…\" }"),
        [_] => source,
        [(first, _), others @ ..] => {
            for (other, at) in others {
                let message = format!("the key has both {first} and {other}");
                fields.reader.report(*at, message, "keep one; another source is another [key.…]");
            }
            None
        }
    }
}

/// Does not repeat the value: it may be the key itself, in the wrong place.
fn key_path(value: &Value<'_>) -> Option<PathBuf> {
    let file = path(value)?;
    if file.to_string_lossy().contains(['\n', '\r']) {
        return value.fail("not the name of a file", "put the key in a file of its own and name that file here");
    }
    Some(file)
}
