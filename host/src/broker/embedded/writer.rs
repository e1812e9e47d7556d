//! The thread that writes: all that has gathered in one transaction, then one sync, then the answers.

mod batch;
mod index;
mod tasks;
mod timed;

use super::Shared;
use super::job::{Ask, Job, Task};
use super::queue::{Item, Queue};
use super::row::stamp;
use super::store::Store;
use crate::broker::message::now;
use crate::broker::{BrokerError, BrokerFailure, Message};
use index::Index;
use rusqlite::ErrorCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Jobs in one transaction, and bytes of them.
const JOBS: usize = 1024;
const BYTES: usize = 16 << 20;
/// How often ids that need not be remembered any more are forgotten, and the file is made smaller.
const TIDY: Duration = Duration::from_secs(1);
/// When to try again what the disk did not take.
const AGAIN: Duration = Duration::from_millis(250);

pub struct Writer {
    store: Store,
    asks: Receiver<Ask>,
    shared: Arc<Shared>,
    index: Index,
    /// The next message's sequence number. Never used twice while the process runs, so that no receipt means another
    /// message.
    next: i64,
    jobs: Vec<Job>,
    tasks: Vec<Task>,
    /// What is to be written, and nobody can be told that it is not: a full disk, or messages whose ids are known.
    owed: Vec<Job>,
    /// The disk did not take what was owed; not before this it is tried again without need.
    again: Option<Instant>,
    /// Subscriptions of which more could not be read.
    unread: Vec<Arc<Queue>>,
    tidied: Instant,
    /// What to do as soon as the transaction is on disk.
    after: Vec<After>,
}

/// What follows from a transaction.
enum After {
    /// A message for a subscription, ready now.
    Offer(Arc<Queue>, Item),
    Settled(Arc<Queue>, i64, Arc<Message>),
}

impl Writer {
    pub fn new(store: Store, asks: Receiver<Ask>, shared: Arc<Shared>) -> rusqlite::Result<Self> {
        let index = Index::load(&store)?;
        let next = store.last()? + 1;
        Ok(Self {
            store,
            asks,
            shared,
            index,
            next,
            jobs: Vec::with_capacity(JOBS),
            tasks: Vec::new(),
            owed: Vec::new(),
            again: None,
            unread: Vec::new(),
            tidied: Instant::now(),
            after: Vec::new(),
        })
    }

    /// Until it is told to stop, or nobody is there any more.
    pub fn run(mut self) {
        while self.gather() {
            self.write();
            if !self.tasks() {
                break;
            }
            self.tidy();
        }
    }

    /// Waits until there is something to do. `false`: nobody will ask for anything any more.
    fn gather(&mut self) -> bool {
        let mut bytes = 0;
        let mut ask = match self.asks.recv_timeout(self.idle()) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        while let Some(some) = ask {
            match some {
                Ask::Job(job) => {
                    bytes += job.size();
                    self.jobs.push(job);
                }
                Ask::Task(task) => self.tasks.push(task),
            }
            let full = self.jobs.len() >= JOBS || self.tasks.len() >= JOBS || bytes >= BYTES;
            ask = if full { None } else { self.asks.try_recv().ok() };
        }
        true
    }

    /// How long there is nothing to do unless somebody asks for it.
    fn idle(&self) -> Duration {
        let mut idle = TIDY.saturating_sub(self.tidied.elapsed());
        if let Some(due) = self.index.next_due() {
            let wait = u64::try_from(due.saturating_sub(stamp(now()))).unwrap_or(0);
            idle = idle.min(Duration::from_millis(wait));
        }
        match self.again {
            // What is due cannot be written either.
            Some(again) => again.saturating_duration_since(Instant::now()),
            None if !self.owed.is_empty() => Duration::ZERO,
            None => idle,
        }
    }

    fn tidy(&mut self) {
        if self.tidied.elapsed() < TIDY {
            return;
        }
        self.tidied = Instant::now();
        self.reread();
        let tidied = self.store.forget(stamp(now())).and_then(|()| self.store.shrink());
        if let Err(error) = tidied {
            self.trouble(&error);
        }
    }

    /// What to tell those who wanted it. Damage is remembered until something can be written again.
    fn trouble(&self, error: &rusqlite::Error) -> BrokerError {
        let directory = self.shared.directory.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                let message = format!("the disk of \"{directory}\" is full ({error}): free some of it");
                BrokerError::new(BrokerFailure::Full, message)
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                BrokerError::new(BrokerFailure::Full, format!("cannot write to \"{directory}\": {error}"))
            }
            _ => {
                let message = format!("the messages in \"{directory}\" are damaged: {error}");
                *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
                BrokerError::new(BrokerFailure::Unreachable, message)
            }
        }
    }
}

/// However it ends, nobody waits for it any more. What was asked and not done is answered by being dropped.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.room.close();
        self.index.queues().for_each(|queue| queue.end());
    }
}
