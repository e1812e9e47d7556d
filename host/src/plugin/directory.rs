//! The plugin directory: which versions of which plugins there are, and what became of the latest.

use super::Plugin;
use super::engine::{LoadError, MAX_FILE, PluginEngine, digest};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Times of files are not finer than this everywhere: two changes within it can look like one.
const GRAIN: Duration = Duration::from_secs(2);

/// The plugins of a directory, as last looked at.
#[derive(Debug, Default, Clone)]
pub struct Directory {
    files: BTreeMap<String, File>,
}

/// A plugin's file.
#[derive(Debug, Default, Clone)]
pub struct File {
    seen: Option<Stamp>,
    /// The digest of what was last read.
    read: Option<String>,
    /// The version that serves.
    pub serving: Option<Arc<Plugin>>,
    /// A newer version, which has loaded but does not serve: not yet, or because the configuration does not fit it.
    waiting: Option<Arc<Plugin>>,
    /// Why the latest version of the file does not serve.
    pub last_error: Option<String>,
    generation: u64,
}

/// What tells one state of a file from another without reading it. The time is that of the last change of any kind,
/// which nobody can set: copies often keep the time of the original.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    seconds: i64,
    nanoseconds: i64,
    length: u64,
    device: u64,
    inode: u64,
}

/// A new version of a plugin that compiled, linked and described itself.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: String,
    pub plugin: Arc<Plugin>,
}

/// What one look has found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Whether there are new candidates.
    pub changed: bool,
    /// Why others cannot be used, by name.
    pub errors: Vec<(String, String)>,
}

impl Directory {
    pub fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter()
    }

    /// The plugins that serve, and for the others why they do not.
    pub fn plugins(&self) -> super::Plugins {
        let state = |file: &File| {
            file.serving.clone().ok_or_else(|| file.last_error.clone().unwrap_or_else(|| "it was not loaded".into()))
        };
        self.files.iter().map(|(name, file)| (name.clone(), state(file))).collect()
    }

    /// The versions that have loaded and do not serve.
    pub fn waiting(&self) -> Vec<Candidate> {
        let candidate =
            |(name, file): (&String, &File)| Some(Candidate { name: name.clone(), plugin: file.waiting.clone()? });
        self.files.iter().filter_map(candidate).collect()
    }

    /// Looks for files that changed since the last look and loads them, which takes tens of milliseconds each. Errors are
    /// kept with their file, and returned if they are new.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn scan(&mut self, engine: &PluginEngine, directory: &Path) -> io::Result<Looked> {
        let mut looked = Looked::default();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            // Names with a dot in front belong to whoever is just writing the file.
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).filter(|name| !name.starts_with('.'))
            else {
                continue;
            };
            present.insert(name.to_owned());
            let file = self.files.entry(name.to_owned()).or_default();
            match file.load(engine, name, &path) {
                Ok(new) => looked.changed |= new,
                Err(error) => looked.errors.extend(file.failed(name, error.to_string())),
            }
        }
        for (name, file) in self.files.iter_mut().filter(|(name, _)| !present.contains(*name)) {
            (file.seen, file.read, file.waiting) = (None, None, None);
            looked.errors.extend(file.failed(name, "the file is gone".to_owned()));
        }
        self.files.retain(|name, file| present.contains(name) || file.serving.is_some());
        Ok(looked)
    }

    /// A candidate serves from now on.
    pub fn accept(&mut self, candidate: &Candidate) {
        if let Some(file) = self.files.get_mut(&candidate.name) {
            file.serving = Some(candidate.plugin.clone());
            (file.waiting, file.last_error) = (None, None);
        }
    }

    /// A candidate was refused: what served before keeps serving. Returns false if that was known.
    pub fn refuse(&mut self, name: &str, why: String) -> bool {
        self.files.get_mut(name).is_some_and(|file| file.failed(name, why).is_some())
    }
}

impl File {
    /// Whether there is a new version, which then is waiting.
    fn load(&mut self, engine: &PluginEngine, name: &str, path: &Path) -> Result<bool, LoadError> {
        let read_error = |source: io::Error| LoadError::Read { file: path.display().to_string(), source };
        let metadata = fs::metadata(path).map_err(read_error)?;
        let stamp = Stamp::of(&metadata);
        if self.seen.as_ref() == Some(&stamp) {
            return Ok(false);
        }
        // Taken before reading: a write that comes in between shows as another stamp at the next look. And trusted only
        // once it is old enough that no later write can have the same.
        self.seen = stamp.is_older_than(GRAIN).then_some(stamp);
        let bytes = read(path, &metadata)?;
        let digest = digest(&bytes);
        if self.read.as_ref() == Some(&digest) {
            return Ok(false);
        }
        self.read = Some(digest.clone());
        (self.waiting, self.last_error) = (None, None);
        if self.serving.as_ref().is_some_and(|serving| serving.digest == digest) {
            return Ok(false);
        }
        // Whatever the file holds, the thread that reloads must live.
        let loaded = catch_unwind(AssertUnwindSafe(|| engine.load(name, &bytes, self.generation + 1)));
        let plugin = loaded.unwrap_or_else(|_| Err(LoadError::Invalid("the compiler panicked".into())))?;
        self.generation += 1;
        self.waiting = Some(Arc::new(plugin));
        Ok(true)
    }

    /// Keeps why the latest version does not serve; returns it with the name if it is new.
    fn failed(&mut self, name: &str, why: String) -> Option<(String, String)> {
        if self.last_error.as_ref() == Some(&why) {
            return None;
        }
        self.last_error = Some(why.clone());
        Some((name.to_owned(), why))
    }
}

/// Reads a file of bounded length, and nothing that is no file: a pipe would never end.
fn read(path: &Path, metadata: &fs::Metadata) -> Result<Vec<u8>, LoadError> {
    let error = |source: io::Error| LoadError::Read { file: path.display().to_string(), source };
    if !metadata.is_file() {
        return Err(error(io::Error::other("it is no regular file")));
    }
    // What was a file a moment ago may be a pipe now.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(error)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() > MAX_FILE {
        return Err(LoadError::TooLarge { size: usize::try_from(metadata.len()).unwrap_or(usize::MAX) });
    }
    Ok(bytes)
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            seconds: metadata.ctime(),
            nanoseconds: metadata.ctime_nsec(),
            length: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    fn is_older_than(&self, age: Duration) -> bool {
        let at = Duration::new(u64::try_from(self.seconds).unwrap_or(0), u32::try_from(self.nanoseconds).unwrap_or(0));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // A time in the future, after the clock was set, says nothing; trust it rather than read the file for ever.
        now.checked_sub(at).is_none_or(|passed| passed > age)
    }
}
