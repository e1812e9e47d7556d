//! A directory that nobody else can read or write, by handle: what was checked is what is used.

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, linkat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Debug)]
pub struct PrivateDirectory {
    handle: OwnedFd,
}

/// A file as it is listed.
#[derive(Debug)]
pub struct Listed {
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
}

impl PrivateDirectory {
    /// Opens it, and makes it if it is missing.
    ///
    /// # Errors
    /// It cannot be had, is a symbolic link, or is not ours alone.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Without a slash at the end, which would lead through a symbolic link.
        let path: PathBuf = path.components().collect();
        let open = || openat(CWD, &path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let handle = match open() {
            Err(Errno::NOENT) => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                open()?
            }
            Err(Errno::LOOP | Errno::NOTDIR) => return refused("it is a symbolic link, or no directory"),
            opened => opened?,
        };
        require_ours(&handle)?;
        // Who can move a directory away can put another one in its place.
        for parent in fs::canonicalize(&path)?.ancestors().skip(1) {
            let mode = fs::metadata(parent)?.mode();
            if mode & 0o002 != 0 && mode & 0o1000 == 0 {
                return refused(&format!("everybody may write {}", parent.display()));
            }
        }
        Ok(Self { handle })
    }

    /// The content of a file, which counts as used now; `None` if there is none of that name.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or is longer than `most` bytes.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > most {
            return refused("it is no regular file, or too long");
        }
        // The use of a file is its time of modification. Where that cannot be set the oldest goes first.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
        file.take(most).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// The content of a file that must be ours alone as the directory is, and of exactly so many bytes.
    ///
    /// # Errors
    /// It is not.
    pub fn read_secret<const N: usize>(&self, name: &str) -> io::Result<Option<[u8; N]>> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() != N as u64 {
            return refused(&format!("it is no file of {N} bytes; remove it, and a new one is made"));
        }
        let file: OwnedFd = file.into();
        require_ours(&file)?;
        let mut secret = [0; N];
        File::from(file).read_exact(&mut secret)?;
        Ok(Some(secret))
    }

    /// Writes a file beside its place and renames it, so that it is there whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let beside = self.write_beside(name, parts, false)?;
        renameat(&self.handle, &beside, &self.handle, name).map_err(|error| {
            self.remove(&beside);
            error.into()
        })
    }

    /// Writes a file if there is none of that name: of several who do, one wins, and all find a whole file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_new(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let beside = self.write_beside(name, &[content], true)?;
        let linked = linkat(&self.handle, &beside, &self.handle, name, AtFlags::empty());
        self.remove(&beside);
        match linked {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) {
        if let Err(error) = unlinkat(&self.handle, name, AtFlags::empty())
            && error != Errno::NOENT
        {
            tracing::debug!("cannot remove {name}: {error}");
        }
    }

    /// The regular files in it.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            // Gone since, or of no interest.
            let Some(listed) = self.listed(entry.file_name()) else { continue };
            files.push(listed);
        }
        Ok(files)
    }

    fn listed(&self, name: &CStr) -> Option<Listed> {
        let status = statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(status.st_mode).is_file();
        is_file.then_some(())?;
        Some(Listed {
            name: name.to_str().ok()?.to_owned(),
            length: u64::try_from(status.st_size).ok()?,
            modified: (status.st_mtime as i64, status.st_mtime_nsec as i64),
        })
    }

    fn file(&self, name: &str) -> io::Result<Option<File>> {
        // A pipe in its place must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file under a name that nobody else has, and returns the name.
    fn write_beside(&self, name: &str, parts: &[&[u8]], lasting: bool) -> io::Result<String> {
        let beside = format!("{name}.{:016x}.new", rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.handle, &beside, flags, Mode::RUSR | Mode::WUSR)?);
        let written = parts.iter().try_for_each(|part| file.write_all(part));
        match written.and_then(|()| if lasting { file.sync_all() } else { Ok(()) }) {
            Ok(()) => Ok(beside),
            Err(error) => {
                self.remove(&beside);
                Err(error)
            }
        }
    }
}

fn require_ours(handle: &OwnedFd) -> io::Result<()> {
    let status = fstat(handle)?;
    let (owner, we) = (status.st_uid, rustix::process::geteuid().as_raw());
    if owner != we {
        return refused(&format!("it belongs to user {owner}, and this process runs as user {we}"));
    }
    match status.st_mode & 0o777 {
        mode if mode & 0o077 != 0 => refused(&format!("others may use it (mode {mode:o}): take their rights away")),
        _ => Ok(()),
    }
}

fn refused<T>(why: &str) -> io::Result<T> {
    Err(io::Error::other(why.to_owned()))
}
