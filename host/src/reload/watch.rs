//! Tells when something may have changed, sooner than a look every two seconds would.

use super::inbox::{Bell, LOOK};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most symbolic links that are followed on the way to one path, and the most directories that are watched.
const MAX_LINKS: usize = 40;
const MAX_DIRECTORIES: usize = 256;

/// Watches directories, by what they are and not only by what they are called.
pub struct Watch {
    /// Device and inode of each directory: under the same path there may be another one tomorrow.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    watcher: Option<RecommendedWatcher>,
    bell: Bell,
}

impl Watch {
    /// Rings when something may have changed.
    pub fn new(bell: Bell) -> Self {
        Self { watched: BTreeMap::new(), watcher: None, bell }
    }

    /// Watches these directories from now on. Returns false if they are the ones that are watched already; otherwise
    /// something may have changed unseen.
    pub fn renew(&mut self, directories: BTreeSet<PathBuf>) -> bool {
        let identity = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let present = directories.into_iter().filter_map(|path| identity(&path).map(|identity| (path, identity)));
        let present: BTreeMap<_, _> = present.take(MAX_DIRECTORIES).collect();
        if present == self.watched {
            return false;
        }
        let bell = self.bell.clone();
        let on_event = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| matters(event.kind)) {
                bell.files();
            }
        };
        self.watcher = notify::recommended_watcher(on_event)
            .inspect_err(|error| tracing::warn!("changes are looked for every {LOOK:?} only: {error}"))
            .ok();
        if let Some(watcher) = &mut self.watcher {
            for directory in present.keys() {
                if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                    tracing::warn!("changes of {} are looked for every {LOOK:?} only: {error}", directory.display());
                }
            }
        }
        self.watched = present;
        true
    }
}

/// Whether an event can mean a change. Reading a file is an event too: our own look would wake us for the next one.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// The directories in which a change of a plugin in `directory` shows, links among its files included.
pub fn around_directory(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::from([nearest(directory)]);
    follow(directory, &mut found);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_DIRECTORIES) {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            follow(&entry.path(), &mut found);
        }
    }
    found
}

/// The directories in which a change of a file shows.
pub fn around_file(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::from([nearest(holder(file))]);
    follow(file, &mut found);
    found
}

/// Adds the directory of each symbolic link on the way to a path, because a link is swapped there and not where it leads.
fn follow(path: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut ways = vec![path.to_owned()];
    let mut links = BTreeSet::new();
    while let Some(way) = ways.pop() {
        for part in way.ancestors() {
            let Ok(target) = fs::read_link(part) else { continue };
            if links.len() >= MAX_LINKS || !links.insert(part.to_owned()) {
                continue;
            }
            let target = holder(part).join(target);
            found.insert(holder(part).to_owned());
            found.insert(holder(&target).to_owned());
            ways.push(target);
        }
    }
}

/// The directory itself, or the first above it that exists: there it will appear.
fn nearest(directory: &Path) -> PathBuf {
    directory.ancestors().map(named).find(|directory| directory.is_dir()).unwrap_or(Path::new(".")).to_owned()
}

fn holder(path: &Path) -> &Path {
    named(path.parent().unwrap_or(path))
}

/// The empty path is the current directory.
fn named(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_directory_of_every_link_on_the_way_is_watched() {
        let root = std::env::temp_dir().join(format!("weir-watch-{}", std::process::id()));
        fs::create_dir_all(root.join("mount/..one")).unwrap();
        fs::write(root.join("mount/..one/a.wasm"), "a").unwrap();
        symlink("..one", root.join("mount/..data")).unwrap();
        symlink("..data/a.wasm", root.join("mount/a.wasm")).unwrap();
        symlink("mount", root.join("plugins")).unwrap();

        let found = around_directory(&root.join("plugins"));
        for expected in [root.clone(), root.join("plugins"), root.join("plugins/..data")] {
            assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
        }
        assert_eq!(around_file(&root.join("config.toml")), BTreeSet::from([root.clone()]));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_is_missing_is_awaited_where_it_will_appear() {
        assert_eq!(around_directory(Path::new("/nowhere/at/all")), BTreeSet::from([PathBuf::from("/")]));
        assert_eq!(around_directory(Path::new("nowhere/at/all")), BTreeSet::from([PathBuf::from(".")]));
        assert_eq!(around_file(Path::new("config.toml")), BTreeSet::from([PathBuf::from(".")]));
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = std::env::temp_dir().join(format!("weir-watch-circle-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        symlink("b/x", root.join("a")).unwrap();
        symlink("a/../b", root.join("b")).unwrap();
        assert!(around_directory(&root.join("a/plugins")).contains(&root));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn reading_is_no_change() {
        use notify::event::{CreateKind, ModifyKind};
        assert!(!matters(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!matters(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(matters(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(
            matters(EventKind::Create(CreateKind::File))
                && matters(EventKind::Modify(ModifyKind::Any))
                && matters(EventKind::Other)
        );
    }
}
