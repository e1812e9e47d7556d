//! The plugin directory: which versions of which plugins there are, and what became of the latest.

use super::Plugin;
use super::engine::{LoadError, PluginEngine};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The plugins of a directory, as last looked at.
#[derive(Debug, Default)]
pub struct Directory {
    files: BTreeMap<String, File>,
}

/// A plugin's file.
#[derive(Debug, Default)]
pub struct File {
    seen: Option<Stamp>,
    /// The version that serves.
    pub serving: Option<Arc<Plugin>>,
    /// Why the latest version of the file does not serve.
    pub last_error: Option<String>,
    generation: u64,
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// A new version of a plugin that compiled, linked and described itself.
#[derive(Debug)]
pub struct Candidate {
    pub name: String,
    pub plugin: Arc<Plugin>,
}

impl Directory {
    pub fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter()
    }

    /// The plugins that serve, and for the others why they do not.
    pub fn plugins(&self) -> super::Plugins {
        let state = |file: &File| file.serving.clone().ok_or_else(|| file.last_error.clone().unwrap_or_else(|| "it was not loaded".into()));
        self.files.iter().map(|(name, file)| (name.clone(), state(file))).collect()
    }

    /// Looks for files that changed since the last look and loads them. Errors are kept with their file, and returned by
    /// name if they are new.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn scan(&mut self, engine: &PluginEngine, directory: &Path) -> io::Result<(Vec<Candidate>, Vec<(String, String)>)> {
        let (mut candidates, mut errors) = (Vec::new(), Vec::new());
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "wasm") {
                continue;
            }
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else { continue };
            present.insert(name.clone());
            let file = self.files.entry(name.clone()).or_default();
            match file.load(engine, &name, &path) {
                Ok(Some(plugin)) => candidates.push(Candidate { name, plugin }),
                Ok(None) => {}
                Err(error) => {
                    let error = error.to_string();
                    file.last_error = Some(error.clone());
                    errors.push((name, error));
                }
            }
        }
        for (name, file) in &mut self.files {
            if !present.contains(name) && file.seen.take().is_some() {
                let error = "the file is gone; the last good version keeps serving".to_owned();
                file.last_error = Some(error.clone());
                errors.push((name.clone(), error));
            }
        }
        self.files.retain(|name, file| present.contains(name) || file.serving.is_some());
        Ok((candidates, errors))
    }

    /// A candidate serves from now on.
    pub fn accept(&mut self, candidate: &Candidate) {
        if let Some(file) = self.files.get_mut(&candidate.name) {
            file.serving = Some(candidate.plugin.clone());
            file.last_error = None;
        }
    }

    /// A candidate was refused: what served before keeps serving.
    pub fn refuse(&mut self, name: &str, why: String) {
        if let Some(file) = self.files.get_mut(name) {
            file.last_error = Some(why);
        }
    }
}

impl File {
    /// `None`: nothing new.
    fn load(&mut self, engine: &PluginEngine, name: &str, path: &Path) -> Result<Option<Arc<Plugin>>, LoadError> {
        let read_error = |source: io::Error| LoadError::Read { file: path.display().to_string(), source };
        let stamp = Stamp::of(path).map_err(read_error)?;
        if self.seen.as_ref() == Some(&stamp) {
            return Ok(None);
        }
        // Taken before reading: a write that comes in between shows as another stamp at the next look.
        self.seen = Some(stamp);
        let bytes = fs::read(path).map_err(read_error)?;
        if self.serving.as_ref().is_some_and(|serving| serving.digest == super::engine::digest(&bytes)) {
            self.last_error = None;
            return Ok(None);
        }
        let plugin = engine.load(name, &bytes, self.generation + 1)?;
        self.generation += 1;
        Ok(Some(Arc::new(plugin)))
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path)?;
        Ok(Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
    }
}

