//! What of a subscription is in memory: some messages that are ready, and those that are out at sources.
//!
//! All that counts is on disk; this is forgotten when the process ends, and then all messages come again that were not
//! acknowledged. Only the writer's thread puts messages in, and it is the only one to look at the tables. So what it has
//! read is true as long as it says so.

use crate::broker::Message;
use crate::broker::message::now;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// A message's place: the higher priority first (its negative), then the order of publishing.
pub type Key = (i64, i64);

/// Before all others.
pub const START: Key = (i64::MIN, 0);

/// Ready messages in memory, and bytes of them. The rest waits on disk.
const READY: usize = 512;
const READY_BYTES: usize = 16 << 20;
/// With fewer than these, and less than half of the bytes, more are read.
const LOW: usize = 128;

/// A message as one subscription has it.
#[derive(Clone, Debug)]
pub struct Item {
    pub key: Key,
    pub message: Arc<Message>,
    pub attempts: u32,
    /// When the next delivery is due, if one has failed; milliseconds since 1970.
    pub due: i64,
}

impl Item {
    /// Bytes, about.
    pub fn size(&self) -> usize {
        self.message.body.len() + 512
    }
}

#[derive(Debug)]
pub struct Queue {
    /// Of the subscription, in the tables.
    pub id: i64,
    pub name: String,
    state: Mutex<State>,
    /// Told when a message may be taken that could not before.
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: BTreeMap<Key, Item>,
    bytes: usize,
    loaded: Loaded,
    /// Whether the writer was asked to read more.
    asked: bool,
    /// By sequence number.
    out: HashMap<i64, Out>,
    sources: HashMap<u64, Room>,
    /// The last number that a source or a lease got.
    last: u64,
    dedup: Option<Duration>,
    ended: bool,
}

/// How much of what is ready on disk is in memory, or out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loaded {
    #[default]
    Nothing,
    /// All up to there.
    UpTo(Key),
    All,
}

impl Loaded {
    fn covers(self, key: Key) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(last) => key <= last,
            Self::All => true,
        }
    }
}

/// A message that a source has.
#[derive(Debug)]
struct Out {
    source: u64,
    lease: u64,
    item: Item,
    /// Its acknowledgement is on its way to the disk: nobody else may have it any more.
    settling: bool,
}

#[derive(Debug)]
struct Room {
    prefetch: u32,
    held: u32,
}

/// The source has ended.
#[derive(Debug)]
pub struct Ended;

impl Queue {
    pub fn new(id: i64, name: String) -> Self {
        Self { id, name, state: Mutex::default(), woken: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.woken.notified()
    }

    /// A new source, by its number.
    pub fn join(&self, prefetch: u32, dedup: Option<Duration>) -> u64 {
        let mut state = self.state();
        state.last += 1;
        state.dedup = dedup;
        let source = state.last;
        state.sources.insert(source, Room { prefetch, held: 0 });
        source
    }

    /// A source is gone, and with it all leases it had.
    pub fn leave(&self, source: u64) {
        let mut state = self.state();
        let left = |_: &i64, out: &mut Out| out.source == source && !out.settling;
        let left: Vec<_> = state.out.extract_if(left).map(|(_, out)| out.item).collect();
        state.sources.remove(&source);
        if state.sources.is_empty() {
            // Nobody waits: it may as well be on disk alone.
            state.ready.clear();
            (state.bytes, state.loaded) = (0, Loaded::Nothing);
        }
        for item in left {
            state.put_back(item);
        }
        drop(state);
        self.woken.notify_waiters();
    }

    /// The next message and its lease, and whether to ask the writer for more.
    pub fn take(&self, source: u64) -> Result<(Option<(Item, u64)>, bool), Ended> {
        let mut state = self.state();
        if state.ended {
            return Err(Ended);
        }
        let room = state.sources.get(&source).is_some_and(|room| room.held < room.prefetch);
        let taken = if room { state.pop() } else { None };
        let taken = taken.map(|item| {
            state.last += 1;
            let lease = state.last;
            state.out.insert(item.key.1, Out { source, lease, item: item.clone(), settling: false });
            if let Some(room) = state.sources.get_mut(&source) {
                room.held += 1;
            }
            (item, lease)
        });
        let low = state.ready.len() < LOW && state.bytes < READY_BYTES / 2;
        let ask = room && low && !state.asked && state.loaded != Loaded::All;
        state.asked |= ask;
        Ok((taken, ask))
    }

    /// Begins to settle a message. `false`: the lease is void.
    pub fn settle(&self, seq: i64, lease: u64) -> bool {
        let mut state = self.state();
        let out = state.out.get_mut(&seq).filter(|out| out.lease == lease);
        out.map(|out| out.settling = true).is_some()
    }

    /// A message is settled, on disk. Others with its id that need not be delivered any more, by their sequence numbers.
    pub fn settled(&self, seq: i64, id: &str) -> Vec<i64> {
        let mut state = self.state();
        if let Some(out) = state.out.remove(&seq) {
            state.has_room(out.source);
        }
        let mut same = Vec::new();
        if state.dedup.is_some() {
            let State { ready, bytes, .. } = &mut *state;
            let others = ready.extract_if(.., |_, item| item.message.id == id);
            same.extend(others.map(|(key, item)| {
                *bytes -= item.size();
                key.1
            }));
        }
        drop(state);
        self.woken.notify_waiters();
        same
    }

    /// A message is not worked on any more. With `heed`, it comes again when it is due, and otherwise at once. Its
    /// attempts, if the disk may think that it is due later.
    pub fn give_back(&self, seq: i64, lease: u64, heed: bool) -> Option<u32> {
        let mut state = self.state();
        let Out { source, mut item, .. } = match state.out.entry(seq) {
            Entry::Occupied(out) if out.get().lease == lease && !out.get().settling => out.remove(),
            _ => return None,
        };
        let later = (item.due > 0).then_some(item.attempts);
        if !heed {
            item.due = 0;
        }
        state.has_room(source);
        state.put_back(item);
        drop(state);
        self.woken.notify_waiters();
        later
    }

    /// A delivery has failed. `false`: the lease is void.
    pub fn failed(&self, seq: i64, lease: u64, attempts: u32, due: i64) -> bool {
        let mut state = self.state();
        let out = state.out.get_mut(&seq).filter(|out| out.lease == lease && !out.settling);
        out.map(|out| (out.item.attempts, out.item.due) = (attempts, due)).is_some()
    }

    /// How long acknowledged ids are remembered.
    pub fn dedup(&self) -> Option<Duration> {
        self.state().dedup
    }

    /// Nothing more is handed out.
    pub fn end(&self) {
        self.state().ended = true;
        self.woken.notify_waiters();
    }

    /// What is in memory, if anybody wants more.
    pub fn loaded(&self) -> Option<Loaded> {
        let mut state = self.state();
        state.asked = false;
        (!state.sources.is_empty()).then_some(state.loaded)
    }

    /// Whether a message that has become ready on disk has to be in memory as well.
    pub fn wants(&self, key: Key) -> bool {
        let mut state = self.state();
        if let Some(out) = state.out.get_mut(&key.1) {
            if out.item.due <= super::row::stamp(now()) {
                out.item.due = 0;
            }
            return false;
        }
        state.loaded.covers(key)
    }

    /// A message has become ready on disk.
    pub fn offer(&self, item: Item) {
        let mut state = self.state();
        if state.loaded.covers(item.key) && !state.out.contains_key(&item.key.1) {
            state.insert(item);
            drop(state);
            self.woken.notify_waiters();
        }
    }

    /// What was read behind `from`, and how far that goes.
    pub fn extend(&self, from: Loaded, items: Vec<Item>, to: Loaded) {
        let mut state = self.state();
        // The last source has gone, and maybe another has come: that one asks for itself.
        if state.loaded != from {
            return;
        }
        state.loaded = to;
        for item in items {
            if !state.out.contains_key(&item.key.1) {
                state.insert(item);
            }
        }
        drop(state);
        self.woken.notify_waiters();
    }
}

impl State {
    fn has_room(&mut self, source: u64) {
        if let Some(room) = self.sources.get_mut(&source) {
            room.held = room.held.saturating_sub(1);
        }
    }

    /// The first that has not expired. The others are taken off the disk in their own time.
    fn pop(&mut self) -> Option<Item> {
        while let Some((_, item)) = self.ready.pop_first() {
            self.bytes -= item.size();
            if !item.message.is_expired(SystemTime::now()) {
                return Some(item);
            }
        }
        None
    }

    /// A message that was out. One that is due later, or behind what is loaded, is found on disk again.
    fn put_back(&mut self, item: Item) {
        if self.loaded.covers(item.key) && item.due <= super::row::stamp(now()) {
            self.insert(item);
        }
    }

    fn insert(&mut self, item: Item) {
        self.bytes += item.size();
        if let Some(same) = self.ready.insert(item.key, item) {
            self.bytes -= same.size();
        }
        while self.ready.len() > READY || (self.bytes > READY_BYTES && self.ready.len() > 1) {
            let Some((_, item)) = self.ready.pop_last() else { break };
            self.bytes -= item.size();
            let last = self.ready.last_key_value().map(|(key, _)| *key);
            self.loaded = last.map_or(Loaded::Nothing, Loaded::UpTo);
        }
    }
}
