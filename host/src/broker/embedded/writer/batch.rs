//! One transaction: everything in it, or nothing.

use super::index::Channel;
use super::timed::Due;
use super::{AGAIN, After, Writer};
use crate::broker::embedded::job::{Ack, Job, Note, Publish};
use crate::broker::embedded::queue::Item;
use crate::broker::embedded::queue::Queue;
use crate::broker::embedded::row::{length, stamp, time};
use crate::broker::message::now;
use crate::broker::{BrokerError, BrokerFailure, Message};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long messages are kept that nobody has subscribed to, if the channel does not say.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

impl Writer {
    /// Writes what has gathered and what has become due.
    pub(super) fn write(&mut self) {
        let mut jobs = std::mem::take(&mut self.owed);
        jobs.append(&mut self.jobs);
        let due = self.due();
        let mut written = self.commit(&mut jobs, &due);
        if written.is_err() && self.store.empty_log().is_ok() {
            // A full disk, as a rule, and the log may have been what has filled it.
            written = self.commit(&mut jobs, &due);
        }
        let Err(error) = written else {
            self.again = None;
            self.follow(due);
            jobs.drain(..).for_each(answer);
            self.jobs = jobs;
            return;
        };
        // What would make it fuller is refused; the rest may still find a place.
        let refusal = self.trouble(&error);
        for job in jobs.extract_if(.., |job| matches!(job, Job::Publish(_))) {
            if let Job::Publish(publish) = job {
                let _ = publish.reply.send(Err(refusal.clone()));
            }
        }
        let written = self.commit(&mut jobs, &due);
        self.follow(due);
        if let Err(error) = written {
            self.trouble(&error);
            self.again = Some(Instant::now() + AGAIN);
            // Only who acknowledges has to know that it is on disk.
            for job in &mut jobs {
                if let Job::Note(note) = job {
                    note.reply = None;
                }
            }
            // Before what has just been found to be known.
            self.owed.splice(..0, jobs);
        } else {
            self.again = None;
            jobs.into_iter().for_each(answer);
        }
    }

    fn commit(&mut self, jobs: &mut [Job], due: &Due) -> rusqlite::Result<()> {
        let before = self.store.changes();
        self.store.begin()?;
        let done = self.all(jobs, due);
        let done = self.store.end(done);
        match done {
            Ok(()) => {
                self.index.committed();
                if self.store.changes() > before {
                    self.shared.commits.fetch_add(1, Ordering::Relaxed);
                    *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
            }
            Err(_) => {
                self.index.rolled_back();
                self.after.clear();
            }
        }
        done
    }

    fn all(&mut self, jobs: &mut [Job], due: &Due) -> rusqlite::Result<()> {
        let now = stamp(now());
        self.are_due(due)?;
        for job in jobs {
            match job {
                Job::Publish(publish) => self.publish(publish, now)?,
                Job::Ack(ack) => self.ack(ack, now)?,
                Job::Note(Note { queue, seq, attempts, due, .. }) => self.note(queue.id, *seq, *attempts, *due)?,
            }
        }
        Ok(())
    }

    fn publish(&mut self, publish: &mut Publish, now: i64) -> rusqlite::Result<()> {
        let Publish { address, options, message, headers, .. } = publish;
        publish.outcome = Ok(());
        let channel = self.channel(address)?;
        let retained = -channel.id;
        // Whoever has most to do; without anybody, what waits for the first.
        let waiting = channel.queues.iter().map(|queue| self.index.count(queue.id)).max();
        let waiting = waiting.unwrap_or_else(|| self.index.count(retained));
        if let Some(most) = options.max_length.filter(|most| waiting >= *most) {
            let message = format!("channel \"{address}\" is full: {waiting} messages wait, and it may have {most}");
            publish.outcome = Err(BrokerError::new(BrokerFailure::Full, message));
            return Ok(());
        }
        if let (None, Some(ttl)) = (message.expires, options.ttl) {
            Arc::make_mut(message).expires = time(now.saturating_add(length(ttl)));
        }
        let expires = message.expires.map(stamp);
        let key = (-i64::from(message.priority.min(options.max_priority)), self.next);
        self.next += 1;
        let due = message.due.map(stamp).filter(|due| *due > now);
        self.store.insert_message(key.1, channel.id, now, message, headers)?;
        for queue in &channel.queues {
            self.store.insert_entry(key, queue.id, due.unwrap_or(0))?;
            self.index.add(queue.id, 1);
            match due {
                Some(due) => self.index.look_at(queue.id, due),
                None => {
                    let item = Item { key, message: Arc::clone(message), attempts: 0, due: 0 };
                    self.after.push(After::Offer(Arc::clone(queue), item));
                }
            }
        }
        let retention = options.retention.or_else(|| channel.queues.is_empty().then_some(RETENTION));
        if let Some(retention) = retention {
            let until = now.saturating_add(length(retention));
            self.store.insert_entry(key, retained, until)?;
            self.index.add(retained, 1);
            self.index.look_at(retained, until);
        }
        if let Some(expires) = expires {
            self.store.insert_entry(key, 0, expires)?;
            self.index.look_at(0, expires);
        }
        Ok(())
    }

    /// The channel of that address, which is made if need be.
    pub(super) fn channel(&mut self, address: &str) -> rusqlite::Result<Arc<Channel>> {
        if let Some(channel) = self.index.channel(address) {
            return Ok(Arc::clone(channel));
        }
        let id = self.store.insert_channel(address)?;
        Ok(self.index.add_channel(address, id))
    }

    fn ack(&mut self, ack: &Ack, now: i64) -> rusqlite::Result<()> {
        let subscription = ack.queue.id;
        self.settle(subscription, ack.seq)?;
        if ack.reply.is_some() {
            if let Some(dedup) = ack.queue.dedup() {
                self.store.remember(subscription, &ack.message.id, now.saturating_add(length(dedup)))?;
            }
            self.after.push(After::Settled(Arc::clone(&ack.queue), ack.seq, Arc::clone(&ack.message)));
        }
        Ok(())
    }

    /// One who needed a message does so no more.
    pub(super) fn settle(&mut self, subscription: i64, seq: i64) -> rusqlite::Result<()> {
        if self.store.delete_entry(seq, subscription)? {
            self.index.add(subscription, -1);
            if !self.store.is_needed(seq)? {
                self.store.delete_message(seq)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, subscription: i64, seq: i64, attempts: u32, due: i64) -> rusqlite::Result<()> {
        self.store.note(seq, subscription, attempts, due)?;
        if due > 0 {
            self.index.look_at(subscription, due);
        }
        Ok(())
    }

    /// What follows now that it is on disk.
    fn follow(&mut self, due: Due) {
        for after in std::mem::take(&mut self.after) {
            match after {
                After::Offer(queue, item) => self.offer(&queue, item),
                After::Settled(queue, seq, message) => {
                    for seq in queue.settled(seq, &message.id) {
                        self.drop_known(&queue, seq, Arc::clone(&message));
                    }
                }
            }
        }
        self.offer_due(due);
    }

    /// Hands a message to a subscription, unless it has had one with that id.
    pub(super) fn offer(&mut self, queue: &Arc<Queue>, item: Item) {
        match self.is_known(queue, &item) {
            true => self.drop_known(queue, item.key.1, item.message),
            false => queue.offer(item),
        }
    }

    pub(super) fn is_known(&self, queue: &Queue, item: &Item) -> bool {
        // If that cannot be read, the message comes twice: at least once is what is promised.
        queue.dedup().is_some()
            && self.store.is_known(queue.id, &item.message.id, stamp(now())).unwrap_or_else(|error| {
                self.trouble(&error);
                false
            })
    }

    /// A message that is not to be delivered: its id is known.
    pub(super) fn drop_known(&mut self, queue: &Arc<Queue>, seq: i64, message: Arc<Message>) {
        self.owed.push(Job::Ack(Ack { queue: Arc::clone(queue), seq, message, reply: None }));
    }
}

fn answer(job: Job) {
    // Nobody may wait for it any more.
    let _ = match job {
        Job::Publish(publish) => publish.reply.send(publish.outcome),
        Job::Ack(Ack { reply: Some(reply), .. }) | Job::Note(Note { reply: Some(reply), .. }) => reply.send(Ok(())),
        Job::Ack(_) | Job::Note(_) => return,
    };
}
