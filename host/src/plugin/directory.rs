//! The plugin directory: which versions of which plugins there are, and what became of the latest.

use super::Plugin;
use super::compiler::{self, NoResult};
use super::engine::{LoadError, MAX_FILE, PluginEngine, digest};
use super::history::{History, Why};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// What serves is to keep serving, whatever file comes.
    pub pinned: bool,
    rolled_back: Option<RolledBack>,
    pub history: History,
    generation: u64,
}

/// A version that was rolled back. The same bytes are not taken again until another version of the file has served.
#[derive(Debug, Clone)]
struct RolledBack {
    digest: String,
    told: String,
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

/// What became of one file.
type Loaded = (String, Result<Option<Arc<Plugin>>, LoadError>);

/// How much of the machine a look may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Before anything is served: all cores, and every file is waited for.
    Start,
    /// Beside exchanges: one core, and a file that takes long is left to a later look.
    Live,
}

impl Pace {
    fn threads(self) -> usize {
        match self {
            Self::Start => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Live => 1,
        }
    }

    /// How long a look waits for one file to be compiled.
    fn patience(self) -> Duration {
        match self {
            Self::Start => compiler::LIMIT,
            Self::Live => Duration::from_secs(5),
        }
    }
}

/// What one look has found.
#[derive(Debug, Default)]
pub struct Looked {
    /// New candidates.
    pub loaded: Vec<Arc<Plugin>>,
    /// Why others cannot be used, by name.
    pub errors: Vec<(String, String)>,
}

impl Directory {
    pub fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter()
    }

    pub fn file(&self, name: &str) -> Option<&File> {
        self.files.get(name)
    }

    /// The plugins that serve, and for the others why they do not.
    pub fn plugins(&self) -> super::Plugins {
        let state = |file: &File| {
            file.serving.clone().ok_or_else(|| file.last_error.clone().unwrap_or_else(|| "it was not loaded".into()))
        };
        self.files.iter().map(|(name, file)| (name.clone(), state(file))).collect()
    }

    /// The versions that have loaded and are to serve.
    pub fn waiting(&self) -> Vec<Candidate> {
        self.loaded(false)
    }

    /// The versions that have loaded and are kept from serving by a pin.
    pub fn held(&self) -> Vec<Candidate> {
        self.loaded(true)
    }

    fn loaded(&self, pinned: bool) -> Vec<Candidate> {
        let candidate =
            |(name, file): (&String, &File)| Some(Candidate { name: name.clone(), plugin: file.waiting.clone()? });
        self.files.iter().filter(|(_, file)| file.pinned == pinned).filter_map(candidate).collect()
    }

    /// Looks for files that changed since the last look and loads them, which takes tens of milliseconds each that has to be
    /// compiled. Errors are kept with their file, and returned if they are new.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn scan(&mut self, engine: &PluginEngine, directory: &Path, pace: Pace) -> io::Result<Looked> {
        let mut looked = Looked::default();
        let mut present = BTreeMap::new();
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
            self.files.entry(name.to_owned()).or_default();
            present.insert(name.to_owned(), path);
        }
        for (name, result) in self.load(engine, &present, pace) {
            match (result, self.files.get_mut(&name)) {
                (Ok(new), _) => looked.loaded.extend(new),
                (Err(error), Some(file)) => looked.errors.extend(file.failed(&name, error.to_string())),
                (Err(_), None) => {}
            }
        }
        for (name, file) in self.files.iter_mut().filter(|(name, _)| !present.contains_key(*name)) {
            (file.seen, file.read, file.waiting) = (None, None, None);
            looked.errors.extend(file.failed(name, "the file is gone".to_owned()));
        }
        self.files.retain(|name, file| present.contains_key(name) || file.serving.is_some());
        Ok(looked)
    }

    /// Loads what changed, on so many threads as the pace allows.
    fn load(&mut self, engine: &PluginEngine, present: &BTreeMap<String, PathBuf>, pace: Pace) -> Vec<Loaded> {
        let jobs = self.files.iter_mut().filter_map(|(name, file)| Some((name, file, present.get(name)?)));
        let (jobs, results) = (Mutex::new(jobs), Mutex::new(Vec::new()));
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some((name, file, path)) = next() {
                let result = file.load(engine, name, path, pace.patience());
                results.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..pace.threads().min(present.len()) {
                // If there is no thread to be had, this one does all of it.
                let _ = std::thread::Builder::new().name("weir-load".into()).spawn_scoped(scope, work);
            }
            work();
        });
        results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A candidate serves from now on, and from this generation of the node.
    pub fn accept(&mut self, candidate: &Candidate, why: Why, generation: u64) {
        if let Some(file) = self.files.get_mut(&candidate.name) {
            file.accept(&candidate.plugin, why, generation);
        }
    }

    /// A version is none to go back to.
    pub fn forget(&mut self, name: &str, digest: &str) {
        if let Some(file) = self.files.get_mut(name) {
            file.history.forget(digest);
        }
    }

    /// Keeps what serves. Returns false if nothing does.
    pub fn pin(&mut self, name: &str) -> bool {
        self.files.get_mut(name).filter(|file| file.serving.is_some()).map(|file| file.pinned = true).is_some()
    }

    /// Follows the file again.
    pub fn unpin(&mut self, name: &str) {
        if let Some(file) = self.files.get_mut(name) {
            file.pinned = false;
        }
    }

    /// Takes a version that was rolled back for a new one, if the file still holds it. Returns false if there is none whose
    /// digest begins so.
    pub fn forgive(&mut self, name: &str, digest: &str) -> bool {
        let Some(file) = self.files.get_mut(name) else { return false };
        let known = file.rolled_back.take_if(|rolled_back| rolled_back.digest.starts_with(digest)).is_some();
        if known {
            (file.seen, file.read, file.last_error) = (None, None, None);
        }
        known
    }

    /// A candidate that was refused fits now; it is kept from serving all the same.
    pub fn acquit(&mut self, name: &str) {
        if let Some(file) = self.files.get_mut(name) {
            file.last_error = None;
        }
    }

    /// A candidate was refused: what served before keeps serving. Returns false if that was known.
    pub fn refuse(&mut self, name: &str, why: String) -> bool {
        self.files.get_mut(name).is_some_and(|file| file.failed(name, why).is_some())
    }
}

impl File {
    /// A newer version, which has loaded but does not serve.
    pub fn waiting(&self) -> Option<&Arc<Plugin>> {
        self.waiting.as_ref()
    }

    fn accept(&mut self, plugin: &Arc<Plugin>, why: Why, generation: u64) {
        let before = self.serving.replace(plugin.clone());
        self.last_error = None;
        match &why {
            Why::Start | Why::File => (self.waiting, self.rolled_back) = (None, None),
            Why::RolledBack(told) => {
                let told = format!("rolled back: {told}");
                self.last_error = Some(told.clone());
                self.rolled_back = before.as_ref().map(|bad| RolledBack { digest: bad.digest.clone(), told });
            }
            Why::Reverted => {
                self.pinned = true;
                // What the file holds is to be had as before.
                let is_in_file = |plugin: &Arc<Plugin>| self.read.as_ref() == Some(&plugin.digest);
                if is_in_file(plugin) {
                    self.waiting = None;
                } else if let Some(before) = before.as_ref().filter(|before| is_in_file(before)) {
                    self.waiting = Some(before.clone());
                }
            }
        }
        self.history.swap(before, plugin, generation, why);
    }

    /// The new version, if there is one, which then is waiting.
    fn load(
        &mut self,
        engine: &PluginEngine,
        name: &str,
        path: &Path,
        patience: Duration,
    ) -> Result<Option<Arc<Plugin>>, LoadError> {
        let read_error = |source: io::Error| LoadError::Read { file: path.display().to_string(), source };
        let metadata = fs::metadata(path).map_err(read_error)?;
        let stamp = Stamp::of(&metadata);
        if self.seen.as_ref() == Some(&stamp) {
            return Ok(None);
        }
        // Taken before reading: a write that comes in between shows as another stamp at the next look. And trusted only
        // once it is old enough that no later write can have the same.
        self.seen = stamp.is_older_than(GRAIN).then_some(stamp);
        let bytes = read(path, &metadata)?;
        let digest = digest(&bytes);
        if self.read.as_ref() == Some(&digest) {
            return Ok(None);
        }
        self.read = Some(digest.clone());
        let told = self.last_error.take();
        self.waiting = None;
        if self.serving.as_ref().is_some_and(|serving| serving.digest == digest) {
            return Ok(None);
        }
        if let Some(rolled_back) = self.rolled_back.as_ref().filter(|rolled_back| rolled_back.digest == digest) {
            self.last_error = Some(rolled_back.told.clone());
            return Ok(None);
        }
        // Whatever the file holds, the thread that reloads must live.
        let loaded = catch_unwind(AssertUnwindSafe(|| engine.load(name, &bytes, self.generation + 1, patience)));
        let plugin = match loaded.unwrap_or_else(|_| Err(LoadError::Invalid("the host panicked".into()))) {
            Err(LoadError::NotCompiled(why @ (NoResult::NotYet | NoResult::Busy))) => {
                // The next look asks again.
                (self.seen, self.read, self.last_error) = (None, None, told);
                return if why == NoResult::Busy { Err(why.into()) } else { Ok(None) };
            }
            loaded => Arc::new(loaded?),
        };
        self.generation += 1;
        self.waiting = Some(plugin.clone());
        Ok(Some(plugin))
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
