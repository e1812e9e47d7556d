//! Plugins that misbehave, versions of one plugin, and files that are no plugins.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::weir::{Setup, guests_directory, plugins_directory};

/// What the built file of the chameleon holds in place of a word: see `tests/guests/chameleon`.
const WORD: &[u8] = b"chameleon-word:v0...............";

/// The guest that breaks the contract as its configuration says.
pub fn rogue() -> PathBuf {
    guests_directory().join("rogue.wasm")
}

/// The file of a guest.
///
/// # Panics
/// It was not built.
pub fn built(name: &str) -> Vec<u8> {
    let file = guests_directory().join(name).with_extension("wasm");
    std::fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask test` builds the guests", file.display()))
}

/// The files of all reference plugins and guests, in order.
///
/// # Panics
/// They were not built.
pub fn all_built() -> Vec<PathBuf> {
    let directories = [plugins_directory(), guests_directory()];
    let mut paths: Vec<_> = directories
        .iter()
        .flat_map(|directory| std::fs::read_dir(directory).expect("`cargo xtask test` builds the plugins"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    paths.sort();
    paths
}

/// A guest with another word in the place that it keeps for one: from the colon on, filled up with dots.
pub fn with_word(guest: &[u8], place: &[u8], word: &str) -> Vec<u8> {
    let at = guest.windows(place.len()).position(|window| window == place).expect("the file holds its word");
    let prefix = place.iter().position(|byte| *byte == b':').expect("a colon") + 1;
    let mut bytes = guest.to_vec();
    let room = &mut bytes[at + prefix..at + place.len()];
    room.fill(b'.');
    room[..word.len()].copy_from_slice(word.as_bytes());
    bytes
}

/// Versions of the guest that marks exchanges with a word: the word is the version.
pub struct Chameleon {
    files: TempDir,
    original: Vec<u8>,
}

impl Default for Chameleon {
    fn default() -> Self {
        Self { files: tempfile::tempdir().expect("a temporary directory"), original: built("chameleon") }
    }
}

impl Chameleon {
    /// The bytes of a version.
    pub fn bytes(&self, word: &str) -> Vec<u8> {
        with_word(&self.original, WORD, word)
    }

    /// A file of a version.
    pub fn version(&self, word: &str) -> PathBuf {
        self.file(word, &self.bytes(word))
    }

    /// A file with these bytes, outside of any plugin directory.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, bytes).expect("the file is written");
        path
    }

    /// A node in which `service` runs through the policies `a` and `b`, both of this version.
    pub fn setup(&self, word: &str, service: std::net::SocketAddr) -> Setup {
        self.setup_with(word, service, "")
    }

    /// The same with more keys of both policies.
    pub fn setup_with(&self, word: &str, service: std::net::SocketAddr, keys: &str) -> Setup {
        let policy = |name: &str| {
            format!("[policy.{name}]\nplugin = \"chameleon\"\n{keys}\nconfig = {{ name = \"{name}:\" }}\n")
        };
        Setup::new()
            .with_plugin_file(&self.version(word), "chameleon")
            .toml(&format!("{}{}[chain]\nboth = [\"a\", \"b\"]", policy("a"), policy("b")))
            .service_with("service", &[service], "http1", "chain = \"both\"")
    }

    /// The same component built against another version of the contract.
    pub fn of_contract(&self, version: &str) -> Vec<u8> {
        let mut bytes = self.bytes("v9");
        let (own, other) = (b"@0.1.0".as_slice(), format!("@{version}"));
        assert_eq!(own.len(), other.len(), "names in a component have a length");
        let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"weir:policy/")).collect();
        assert!(!places.is_empty());
        for place in places {
            let end = (place + 64).min(bytes.len());
            if let Some(at) = bytes[place..end].windows(own.len()).position(|window| window == own) {
                bytes[place + at..place + at + own.len()].copy_from_slice(other.as_bytes());
            }
        }
        bytes
    }
}

/// The same component with a section that means nothing: another digest, the same behaviour.
pub fn with_section(component: &[u8], text: &str) -> Vec<u8> {
    // A custom section (Component Model, binary format): 0, the length of the rest, the length of its name, its name.
    let name = b"note";
    let length = 1 + name.len() + text.len();
    assert!(length < 128, "a length in one byte");
    [component, &[0, length as u8, name.len() as u8], name, text.as_bytes()].concat()
}

/// Writes over a file in place, as `cp` does.
pub fn write_in_place(place: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(place).expect("the file opens");
    for piece in bytes.chunks(16 * 1024) {
        file.write_all(piece).expect("the file is written");
    }
}
