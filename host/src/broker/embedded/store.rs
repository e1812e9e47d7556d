//! The tables, and all that is asked of them.
//!
//! A message lies in `message` once, and in `entry` once for everyone who still needs it:
//! a subscription (its id, 1 and up), the channel itself (minus its id) for as long as messages are retained, and 0, which
//! is nobody, for messages that expire. A message that only 0 needs is gone. `entry.due` is when to look at it: 0 is at
//! once; for the channel it is the end of the retention, for 0 when the message expires.

mod open;

use super::queue::{Item, Key};
use super::row;
use crate::broker::Message;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use std::sync::Arc;

/// Rows that one look at the tables takes at most, so that nobody waits long for it.
pub const MANY: usize = 256;
/// Bytes of messages that one look reads at most, and the largest message more.
const MUCH: usize = 8 << 20;
/// Pages of 4 KiB that may lie there unused.
const UNUSED: i64 = 4096;

pub struct Store {
    db: Connection,
}

/// What lies in `entry` for one of those who need messages.
pub struct Count {
    pub subscription: i64,
    pub entries: u64,
    /// The earliest due, but for those that are due at once.
    pub next: Option<i64>,
}

/// What [`item`] reads.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT e.rank, e.seq, e.attempts, m.id, m.key, m.headers, m.priority, m.published, m.expires, m.due, m.body
            FROM entry e CROSS JOIN message m ON m.seq = e.seq ",
            $rest
        )
    };
}

fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    let message = Arc::new(row::message(row, 3)?);
    Ok(Item { key: (row.get(0)?, row.get(1)?), attempts: row.get(2)?, due: 0, message })
}

impl Store {
    pub fn begin(&self) -> rusqlite::Result<()> {
        self.run("BEGIN IMMEDIATE", []).map(|_| ())
    }

    /// Commits what was done since the beginning.
    ///
    /// # Errors
    /// Nothing of it was done.
    pub fn end<T>(&self, done: rusqlite::Result<T>) -> rusqlite::Result<T> {
        let done = done.and_then(|value| self.run("COMMIT", []).map(|_| value));
        // Some errors have rolled back already.
        if done.is_err() && !self.db.is_autocommit() {
            self.run("ROLLBACK", [])?;
        }
        done
    }

    /// Moves what is in the log to the file, and leaves no log.
    pub fn empty_log(&self) -> rusqlite::Result<()> {
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Rows written so far. Nothing was if the number stays the same.
    pub fn changes(&self) -> u64 {
        self.db.total_changes()
    }

    fn run(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.db.prepare_cached(sql)?.execute(params)
    }

    fn first<T: FromSql>(&self, sql: &str, params: impl Params) -> rusqlite::Result<Option<T>> {
        self.db.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()
    }

    pub fn channels(&self) -> rusqlite::Result<Vec<(i64, String)>> {
        let mut statement = self.db.prepare_cached("SELECT id, address FROM channel")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// Id, channel and name of each.
    pub fn subscriptions(&self) -> rusqlite::Result<Vec<(i64, i64, String)>> {
        let mut statement = self.db.prepare_cached("SELECT id, channel, name FROM subscription ORDER BY id")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    }

    pub fn counts(&self) -> rusqlite::Result<Vec<Count>> {
        let sql = "SELECT subscription, count(*), min(nullif(due, 0)) FROM entry GROUP BY subscription";
        let mut statement = self.db.prepare_cached(sql)?;
        let count = |row: &Row<'_>| {
            let entries = row.get::<_, i64>(1)?.unsigned_abs();
            Ok(Count { subscription: row.get(0)?, entries, next: row.get(2)? })
        };
        statement.query_map([], count)?.collect()
    }

    /// The largest sequence number there is, or 0.
    pub fn last(&self) -> rusqlite::Result<i64> {
        let sql = "SELECT max(coalesce((SELECT max(seq) FROM message), 0), coalesce((SELECT max(seq) FROM entry), 0))";
        Ok(self.first(sql, [])?.unwrap_or(0))
    }

    pub fn insert_channel(&self, address: &str) -> rusqlite::Result<i64> {
        self.run("INSERT INTO channel (address) VALUES (?)", [address])?;
        Ok(self.db.last_insert_rowid())
    }

    pub fn insert_subscription(&self, channel: i64, name: &str) -> rusqlite::Result<i64> {
        self.run("INSERT INTO subscription (channel, name) VALUES (?, ?)", params![channel, name])?;
        Ok(self.db.last_insert_rowid())
    }

    /// Gives one what another one needs and is not expired.
    pub fn copy_entries(&self, from: i64, to: i64, now: i64) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO entry (seq, subscription, due, rank)
            SELECT e.seq, ?2, iif(m.due > ?3, m.due, 0), e.rank FROM entry e JOIN message m ON m.seq = e.seq
            WHERE e.subscription = ?1 AND (m.expires IS NULL OR m.expires > ?3)";
        self.run(sql, [from, to, now])?;
        Ok(())
    }

    pub fn count(&self, subscription: i64) -> rusqlite::Result<u64> {
        let count: Option<i64> = self.first("SELECT count(*) FROM entry WHERE subscription = ?", [subscription])?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    pub fn insert_message(
        &self,
        seq: i64,
        channel: i64,
        stored: i64,
        message: &Message,
        headers: &[u8],
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let Message { id, key, priority, body, .. } = message;
        let published = row::stamp(message.published);
        let (expires, due) = (message.expires.map(row::stamp), message.due.map(row::stamp));
        let body = &body[..];
        self.run(sql, params![seq, channel, stored, id, key, headers, priority, published, expires, due, body])?;
        Ok(())
    }

    pub fn insert_entry(&self, (rank, seq): Key, subscription: i64, due: i64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO entry (seq, subscription, due, rank) VALUES (?, ?, ?, ?)";
        self.run(sql, [seq, subscription, due, rank])?;
        Ok(())
    }

    /// Whether it was there.
    pub fn delete_entry(&self, seq: i64, subscription: i64) -> rusqlite::Result<bool> {
        Ok(self.run("DELETE FROM entry WHERE seq = ? AND subscription = ?", [seq, subscription])? > 0)
    }

    pub fn delete_entries_of(&self, subscription: i64) -> rusqlite::Result<()> {
        self.run("DELETE FROM entry WHERE subscription = ?", [subscription])?;
        Ok(())
    }

    pub fn is_needed(&self, seq: i64) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM entry WHERE seq = ? AND subscription <> 0 LIMIT 1";
        Ok(self.first::<i64>(sql, [seq])?.is_some())
    }

    /// Those who need the message.
    pub fn needed_by(&self, seq: i64) -> rusqlite::Result<Vec<i64>> {
        let sql = "SELECT subscription FROM entry WHERE seq = ? AND subscription <> 0";
        self.db.prepare_cached(sql)?.query_map([seq], |row| row.get(0))?.collect()
    }

    pub fn delete_message(&self, seq: i64) -> rusqlite::Result<()> {
        self.run("DELETE FROM entry WHERE seq = ?", [seq])?;
        self.run("DELETE FROM message WHERE seq = ?", [seq])?;
        Ok(())
    }

    pub fn note(&self, seq: i64, subscription: i64, attempts: u32, due: i64) -> rusqlite::Result<()> {
        let sql = "UPDATE entry SET attempts = ?3, due = ?4 WHERE seq = ?1 AND subscription = ?2";
        self.run(sql, params![seq, subscription, attempts, due])?;
        Ok(())
    }

    /// What has become due, the first of it.
    pub fn due(&self, subscription: i64, now: i64) -> rusqlite::Result<Vec<Key>> {
        let sql = "SELECT rank, seq FROM entry WHERE subscription = ?1 AND due > 0 AND due <= ?2 ORDER BY due LIMIT ?3";
        let many = i64::try_from(MANY).unwrap_or(i64::MAX);
        self.db
            .prepare_cached(sql)?
            .query_map([subscription, now, many], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    /// When something becomes due next.
    pub fn next_due(&self, subscription: i64) -> rusqlite::Result<Option<i64>> {
        self.first("SELECT due FROM entry WHERE subscription = ? AND due > 0 ORDER BY due LIMIT 1", [subscription])
    }

    pub fn is_due(&self, seq: i64, subscription: i64) -> rusqlite::Result<()> {
        self.run("UPDATE entry SET due = 0 WHERE seq = ? AND subscription = ?", [seq, subscription])?;
        Ok(())
    }

    /// What waits behind a place in a subscription, in its order, and whether that is all.
    pub fn waiting(&self, subscription: i64, (rank, seq): Key) -> rusqlite::Result<(Vec<Item>, bool)> {
        let sql = select!(
            "WHERE e.subscription = ?1 AND e.due = 0 AND (e.rank, e.seq) > (?2, ?3) ORDER BY e.rank, e.seq LIMIT ?4"
        );
        let mut statement = self.db.prepare_cached(sql)?;
        let many = i64::try_from(MANY).unwrap_or(i64::MAX);
        let mut rows = statement.query([subscription, rank, seq, many])?;
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let item = item(row)?;
            bytes += item.size();
            items.push(item);
            if bytes >= MUCH {
                return Ok((items, false));
            }
        }
        let all = items.len() < MANY;
        Ok((items, all))
    }

    pub fn item(&self, subscription: i64, seq: i64) -> rusqlite::Result<Option<Item>> {
        let sql = select!("WHERE e.subscription = ? AND e.seq = ?");
        self.db.prepare_cached(sql)?.query_row([subscription, seq], item).optional()
    }

    /// When the oldest message came that a subscription has not settled. Of those that are not due yet only the first
    /// are looked at.
    pub fn oldest(&self, subscription: i64) -> rusqlite::Result<Option<i64>> {
        let later = "SELECT min(seq) FROM
            (SELECT seq FROM entry WHERE subscription = ? AND due > 0 ORDER BY due LIMIT 1000)";
        let mut oldest = self.first::<Option<i64>>(later, [subscription])?.flatten();
        for rank in -9..=0 {
            let sql = "SELECT seq FROM entry WHERE subscription = ? AND due = 0 AND rank = ? ORDER BY seq LIMIT 1";
            oldest = oldest.into_iter().chain(self.first(sql, [subscription, rank])?).min();
        }
        self.first("SELECT stored FROM message WHERE seq = ?", [oldest])
    }

    pub fn remember(&self, subscription: i64, id: &str, until: i64) -> rusqlite::Result<()> {
        self.run("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", params![subscription, id, until])?;
        Ok(())
    }

    pub fn is_known(&self, subscription: i64, id: &str, now: i64) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM known WHERE subscription = ? AND id = ? AND until > ?";
        Ok(self.first::<i64>(sql, params![subscription, id, now])?.is_some())
    }

    /// Forgets ids whose time is over, not too many at once.
    pub fn forget(&self, now: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM known WHERE (subscription, id) IN
            (SELECT subscription, id FROM known WHERE until <= ? ORDER BY until LIMIT 4096)";
        self.run(sql, [now])?;
        Ok(())
    }

    /// Gives some of the file back to the disk when much of it is not used.
    pub fn shrink(&self) -> rusqlite::Result<()> {
        if self.db.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0))? > UNUSED {
            self.db.execute_batch("PRAGMA incremental_vacuum(1024)")?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn tell(&self, sql: &str) {
        self.db.execute_batch(sql).unwrap();
    }

    #[cfg(test)]
    pub fn number(&self, sql: &str) -> i64 {
        self.db.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}
