//! Who is there, how much each of them needs, and when something has to be looked at. All of it can be read from the
//! tables, and is when they are opened.

use crate::broker::embedded::queue::Queue;
use crate::broker::embedded::store::Store;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Default)]
pub struct Index {
    channels: HashMap<String, Arc<Channel>>,
    queues: HashMap<i64, Arc<Queue>>,
    /// Entries of each subscription, and of each channel by minus its id.
    counts: HashMap<i64, u64>,
    /// When the first entry of each of those has to be looked at, in both directions.
    next: HashMap<i64, i64>,
    dues: BTreeSet<(i64, i64)>,
    /// What was changed since the last commit, to be undone if there is none.
    changed: Vec<(i64, i64)>,
    made: Vec<String>,
}

#[derive(Clone)]
pub struct Channel {
    pub id: i64,
    pub queues: Vec<Arc<Queue>>,
}

impl Index {
    pub fn load(store: &Store) -> rusqlite::Result<Self> {
        let mut index = Self::default();
        let mut subscriptions = store.subscriptions()?;
        for (id, address) in store.channels()? {
            let of_channel = subscriptions.extract_if(.., |(_, channel, _)| *channel == id);
            let queues = of_channel.map(|(id, _, name)| Arc::new(Queue::new(id, name))).collect::<Vec<_>>();
            index.queues.extend(queues.iter().map(|queue| (queue.id, Arc::clone(queue))));
            index.channels.insert(address, Arc::new(Channel { id, queues }));
        }
        for count in store.counts()? {
            index.counts.insert(count.subscription, count.entries);
            if let Some(at) = count.next {
                index.look_at(count.subscription, at);
            }
        }
        Ok(index)
    }

    pub fn channel(&self, address: &str) -> Option<&Arc<Channel>> {
        self.channels.get(address)
    }

    pub fn queue(&self, subscription: i64) -> Option<&Arc<Queue>> {
        self.queues.get(&subscription)
    }

    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    pub fn named(&self, address: &str, name: &str) -> Option<&Arc<Queue>> {
        self.channel(address)?.queues.iter().find(|queue| queue.name == name)
    }

    /// A channel that was made in this transaction.
    pub fn add_channel(&mut self, address: &str, id: i64) -> Arc<Channel> {
        let channel = Arc::new(Channel { id, queues: Vec::new() });
        self.channels.insert(address.to_owned(), Arc::clone(&channel));
        self.made.push(address.to_owned());
        channel
    }

    /// A subscription that is on disk.
    pub fn add_queue(&mut self, address: &str, queue: Arc<Queue>, entries: u64) {
        self.counts.insert(queue.id, entries);
        if let Some(channel) = self.channels.get_mut(address) {
            Arc::make_mut(channel).queues.push(Arc::clone(&queue));
        }
        self.queues.insert(queue.id, queue);
    }

    pub fn count(&self, subscription: i64) -> u64 {
        self.counts.get(&subscription).copied().unwrap_or(0)
    }

    /// One entry more, or less.
    pub fn add(&mut self, subscription: i64, change: i64) {
        let count = self.counts.entry(subscription).or_default();
        *count = count.saturating_add_signed(change);
        self.changed.push((subscription, change));
    }

    pub fn committed(&mut self) {
        self.changed.clear();
        self.made.clear();
    }

    pub fn rolled_back(&mut self) {
        for (subscription, change) in self.changed.drain(..).rev() {
            let count = self.counts.entry(subscription).or_default();
            *count = count.saturating_sub_signed(change);
        }
        for address in self.made.drain(..) {
            self.channels.remove(&address);
        }
    }

    /// Something has to be looked at then, or earlier. To do it for nothing does no harm.
    pub fn look_at(&mut self, subscription: i64, at: i64) {
        // What only leaves is looked at once a second: nobody waits for it.
        let at = if subscription > 0 { at } else { (at / 1000 + 1).saturating_mul(1000) };
        match self.next.get(&subscription) {
            Some(next) if *next <= at => return,
            Some(next) => _ = self.dues.remove(&(*next, subscription)),
            None => {}
        }
        self.next.insert(subscription, at);
        self.dues.insert((at, subscription));
    }

    pub fn next_due(&self) -> Option<i64> {
        self.dues.first().map(|(at, _)| *at)
    }

    /// One whose time has come.
    pub fn pop_due(&mut self, now: i64) -> Option<i64> {
        let (at, subscription) = self.dues.first().copied().filter(|(at, _)| *at <= now)?;
        self.dues.remove(&(at, subscription));
        self.next.remove(&subscription);
        Some(subscription)
    }
}
