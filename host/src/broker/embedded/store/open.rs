//! Opening the file, and saying what is wrong with it.

use super::Store;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

const FILE: &str = "messages.db";
/// "Weir", so that `file` and others can tell.
const APPLICATION: i32 = 0x5765_6972;
const VERSION: i32 = 1;

const SCHEMA: &str = "
CREATE TABLE channel (id INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE);
CREATE TABLE subscription (
    id INTEGER PRIMARY KEY, channel INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (channel, name));
CREATE TABLE message (
    seq INTEGER PRIMARY KEY, channel INTEGER NOT NULL, stored INTEGER NOT NULL,
    id TEXT NOT NULL, key TEXT, headers BLOB NOT NULL, priority INTEGER NOT NULL,
    published INTEGER NOT NULL, expires INTEGER, due INTEGER, body BLOB NOT NULL);
CREATE TABLE entry (
    seq INTEGER NOT NULL, subscription INTEGER NOT NULL, due INTEGER NOT NULL, rank INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (seq, subscription)) WITHOUT ROWID;
CREATE INDEX entry_order ON entry (subscription, due, rank, seq);
CREATE TABLE known (
    subscription INTEGER NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (subscription, id)) WITHOUT ROWID;
CREATE INDEX known_until ON known (until);
";

impl Store {
    /// Opens the file in this directory, or makes it.
    ///
    /// # Errors
    /// Say what to do.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        let made = std::path::absolute(directory).and_then(|absolute| {
            DirBuilder::new().recursive(true).mode(0o700).create(&absolute)?;
            Ok(absolute)
        });
        let directory = made.map_err(|error| {
            format!("cannot make the directory \"{shown}\": {error}: make it, and let Weir's user write to it")
        })?;
        let file = format!("{shown}/{FILE}");
        let db = connect(&directory.join(FILE)).map_err(|error| explain(&error, &file))?;
        let store = Self { db };
        if let Some(other) = store.prepare().map_err(|error| explain(&error, &file))? {
            return Err(format!("\"{file}\" cannot be used: {other}: give this broker another directory"));
        }
        // The file's name has to be as durable as what is in it.
        for directory in [Some(&*directory), directory.parent()].into_iter().flatten() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| format!("cannot sync the directory \"{}\": {error}", directory.display()))?;
        }
        Ok(store)
    }

    /// Makes the tables, or says why they are not to be used.
    fn prepare(&self) -> rusqlite::Result<Option<String>> {
        let number = |name| self.db.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let empty = self.first::<i64>("SELECT 1 FROM sqlite_schema LIMIT 1", [])?.is_none();
        Ok(match (number("application_id")?, number("user_version")?) {
            (0, 0) if empty => {
                let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}");
                self.db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} {marks}; COMMIT"))?;
                None
            }
            (APPLICATION, VERSION) => None,
            (APPLICATION, version) => {
                Some(format!("it has format {version}, and this version of Weir knows {VERSION}"))
            }
            _ => Some("it is the database of another program".into()),
        })
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    // Only the writer's thread uses it: no mutex.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    // Who has it keeps it.
    db.busy_timeout(Duration::ZERO)?;
    db.set_prepared_statement_cache_capacity(64);
    // What a crash leaves behind has to be read at the next opening anyhow, so that is the only way there is.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // One process at a time, which is told by the lock; and no shared memory is needed then.
    db.pragma_update(None, "locking_mode", "exclusive")?;
    // Has to come before anything is written.
    db.pragma_update(None, "auto_vacuum", "incremental")?;
    db.pragma_update(None, "journal_mode", "wal")?;
    // The log is synced at each commit, before it is confirmed.
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "temp_store", "memory")?;
    // 16 MiB of pages in memory, and 8 MiB of log before it is moved to the file.
    db.pragma_update(None, "cache_size", -16 * 1024)?;
    db.pragma_update(None, "wal_autocheckpoint", 2048)?;
    db.pragma_update(None, "journal_size_limit", 16 << 20)?;
    Ok(db)
}

/// What is wrong with the file, and what to do.
fn explain(error: &rusqlite::Error, file: &str) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("\"{file}\" is in use by another process: stop that, or give this broker a directory of its own")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => format!(
            "\"{file}\" is damaged ({error}): move it away to begin without messages, or rescue what is in it with \
             \"sqlite3 {file} .recover\""
        ),
        Some(ErrorCode::DiskFull) => format!("\"{file}\" cannot be opened, its disk is full: free some of it"),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            format!("\"{file}\" cannot be opened ({error}): let Weir's user read and write it")
        }
        _ => format!("\"{file}\" cannot be opened: {error}"),
    }
}
