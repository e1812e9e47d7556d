//! What happens when its time has come: messages become ready, expire, or were retained long enough.

use super::Writer;
use crate::broker::embedded::queue::Key;
use crate::broker::embedded::row::stamp;
use crate::broker::message::now;

/// What has become due.
#[derive(Default)]
pub struct Due {
    /// Whose it is; to be looked at again when it is dealt with.
    subscriptions: Vec<i64>,
    entries: Vec<(i64, Key)>,
}

impl Writer {
    pub(super) fn due(&mut self) -> Due {
        let (now, mut due) = (stamp(now()), Due::default());
        // The first of each; the others are due in the next round.
        while due.entries.len() < super::JOBS
            && let Some(subscription) = self.index.pop_due(now)
        {
            match self.store.due(subscription, now) {
                Ok(keys) => {
                    due.subscriptions.push(subscription);
                    due.entries.extend(keys.into_iter().map(|key| (subscription, key)));
                }
                Err(error) => self.look_later(subscription, &error),
            }
        }
        due
    }

    /// On disk, in the transaction.
    pub(super) fn are_due(&mut self, due: &Due) -> rusqlite::Result<()> {
        for (subscription, (_, seq)) in due.entries.iter().copied() {
            match subscription {
                1.. => self.store.is_due(seq, subscription)?,
                // It was retained long enough.
                ..0 => self.settle(subscription, seq)?,
                0 => {
                    for needed_by in self.store.needed_by(seq)? {
                        self.index.add(needed_by, -1);
                    }
                    self.store.delete_message(seq)?;
                }
            }
        }
        Ok(())
    }

    /// In memory, after it. A disk that is full keeps nobody from getting what is due.
    pub(super) fn offer_due(&mut self, due: Due) {
        for (subscription, key) in due.entries {
            let Some(queue) = self.index.queue(subscription).filter(|queue| queue.wants(key)).cloned() else {
                continue;
            };
            match self.store.item(subscription, key.1) {
                Ok(Some(item)) => self.offer(&queue, item),
                // It was acknowledged in this transaction.
                Ok(None) => {}
                Err(error) => _ = self.trouble(&error),
            }
        }
        for subscription in due.subscriptions {
            match self.store.next_due(subscription) {
                Ok(Some(at)) => self.index.look_at(subscription, at),
                Ok(None) => {}
                Err(error) => self.look_later(subscription, &error),
            }
        }
    }

    /// What is damaged is looked at again, but not all the time.
    fn look_later(&mut self, subscription: i64, error: &rusqlite::Error) {
        self.trouble(error);
        self.index.look_at(subscription, stamp(now()) + 1000);
    }
}
