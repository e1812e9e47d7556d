//! What is done between transactions.

use super::Writer;
use crate::broker::embedded::job::Task;
use crate::broker::embedded::queue::{Loaded, Queue, START};
use crate::broker::embedded::row::stamp;
use crate::broker::message::now;
use crate::broker::{Backlog, BrokerError, Consumption};
use std::sync::Arc;
use std::time::Duration;

impl Writer {
    /// `false`: the writer is to stop.
    pub(super) fn tasks(&mut self) -> bool {
        for task in std::mem::take(&mut self.tasks) {
            // Nobody may wait for an answer any more.
            match task {
                Task::Consume(what, reply) => {
                    let queue = self.consume(&what).map_err(|error| self.trouble(&error));
                    let _ = reply.send(queue);
                }
                Task::Backlog(what, reply) => _ = reply.send(self.backlog(&what)),
                Task::Read(queue) => self.read(&queue),
                Task::Stop => return false,
                #[cfg(test)]
                Task::Test(test) => test(&self.store),
            }
        }
        true
    }

    fn consume(&mut self, what: &Consumption) -> rusqlite::Result<Arc<Queue>> {
        let address = &what.from.address;
        if let Some(queue) = self.index.named(address, &what.name) {
            return Ok(Arc::clone(queue));
        }
        self.store.begin()?;
        let made = self.subscribe(what);
        match self.store.end(made) {
            Ok((queue, entries, next)) => {
                self.index.add_queue(address, Arc::clone(&queue), entries);
                self.index.committed();
                if let Some(next) = next {
                    self.index.look_at(queue.id, next);
                }
                Ok(queue)
            }
            Err(error) => {
                self.index.rolled_back();
                Err(error)
            }
        }
    }

    /// A subscription that is new gets what anybody else has not had yet, and what is retained. With it, the number of
    /// those messages and when the first that is delayed is due.
    fn subscribe(&mut self, what: &Consumption) -> rusqlite::Result<(Arc<Queue>, u64, Option<i64>)> {
        let channel = self.channel(&what.from.address)?;
        let id = self.store.insert_subscription(channel.id, &what.name)?;
        let now = stamp(now());
        let retained = -channel.id;
        for from in channel.queues.iter().map(|queue| queue.id).chain([retained]) {
            self.store.copy_entries(from, id, now)?;
        }
        if channel.queues.is_empty() && what.from.options.retention.is_none() {
            // They were kept for want of a subscription.
            self.store.delete_entries_of(retained)?;
            self.index.add(retained, -i64::try_from(self.index.count(retained)).unwrap_or(i64::MAX));
        }
        let queue = Arc::new(Queue::new(id, what.name.clone()));
        Ok((queue, self.store.count(id)?, self.store.next_due(id)?))
    }

    fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        let Some(queue) = self.index.named(&what.from.address, &what.name) else {
            return Ok(Backlog { messages: Some(0), oldest: None });
        };
        let oldest = self.store.oldest(queue.id).map_err(|error| self.trouble(&error))?;
        let oldest = oldest.map(|stored| {
            let age = stamp(now()).saturating_sub(stored);
            Duration::from_millis(u64::try_from(age).unwrap_or(0))
        });
        Ok(Backlog { messages: Some(self.index.count(queue.id)), oldest })
    }

    /// Reads more messages into memory.
    fn read(&mut self, queue: &Arc<Queue>) {
        let Some(from) = queue.loaded() else { return };
        let behind = match from {
            Loaded::All => return,
            Loaded::UpTo(key) => key,
            Loaded::Nothing => START,
        };
        let (mut items, all) = match self.store.waiting(queue.id, behind) {
            Ok(read) => read,
            Err(error) => {
                self.trouble(&error);
                return self.unread.push(Arc::clone(queue));
            }
        };
        let to = items.last().filter(|_| !all).map_or(Loaded::All, |last| Loaded::UpTo(last.key));
        if queue.dedup().is_some() {
            for known in items.extract_if(.., |item| self.is_known(queue, item)).collect::<Vec<_>>() {
                self.drop_known(queue, known.key.1, known.message);
            }
        }
        queue.extend(from, items, to);
    }

    /// Tries again what could not be read.
    pub(super) fn reread(&mut self) {
        for queue in std::mem::take(&mut self.unread) {
            self.read(&queue);
        }
    }
}
