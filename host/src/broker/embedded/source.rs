//! Handing messages out, and what comes back.

use super::Shared;
use super::job::{Ack, Ask, Job, Note, Task};
use super::queue::{Ended, Queue};
use super::row;
use crate::broker::{BrokerError, BrokerFailure, Consumption, Message, Receipt, Source, Taken};
use async_trait::async_trait;
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::oneshot;

/// A source; the queue is the subscription's, shared by all its sources.
pub struct EmbeddedSource {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    /// Its number at the queue.
    source: u64,
}

impl EmbeddedSource {
    pub fn new(queue: Arc<Queue>, shared: Arc<Shared>, what: &Consumption) -> Self {
        let source = queue.join(what.prefetch, what.dedup);
        Self { queue, shared, source }
    }
}

impl Drop for EmbeddedSource {
    fn drop(&mut self) {
        self.queue.leave(self.source);
    }
}

#[async_trait]
impl Source for EmbeddedSource {
    async fn next(&mut self) -> Result<Taken, BrokerError> {
        loop {
            let mut woken = pin!(self.queue.woken());
            // From here on nothing is missed.
            woken.as_mut().enable();
            let (taken, ask) = self.queue.take(self.source).map_err(|Ended| self.shared.lost())?;
            let Some((item, lease)) = taken else {
                if ask {
                    self.shared.ask(Ask::Task(Task::Read(Arc::clone(&self.queue))))?;
                }
                woken.await;
                continue;
            };
            // From here on it is given back if anything goes wrong.
            let receipt = Lease {
                queue: Arc::clone(&self.queue),
                shared: Arc::clone(&self.shared),
                seq: item.key.1,
                lease,
                message: item.message,
                open: true,
            };
            if ask {
                self.shared.ask(Ask::Task(Task::Read(Arc::clone(&self.queue))))?;
            }
            let message = Message::clone(&receipt.message);
            return Ok(Taken { message, attempts: item.attempts, receipt: Box::new(receipt) });
        }
    }
}

/// The right to settle one message. Void when its source has gone.
struct Lease {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    seq: i64,
    lease: u64,
    message: Arc<Message>,
    /// Whether anything is owed to the broker.
    open: bool,
}

impl Lease {
    /// Tells the disk of a failed delivery, or that the wait after it is over.
    fn note(&self, attempts: u32, due: i64) -> Option<oneshot::Receiver<Result<(), BrokerError>>> {
        let (reply, answer) = oneshot::channel();
        let note = Note { queue: Arc::clone(&self.queue), seq: self.seq, attempts, due, reply: Some(reply) };
        self.shared.ask(Ask::Job(Job::Note(note))).ok().map(|()| answer)
    }
}

#[async_trait]
impl Receipt for Lease {
    async fn ack(mut self: Box<Self>) -> Result<(), BrokerError> {
        self.open = false;
        if !self.queue.settle(self.seq, self.lease) {
            let message = format!(
                "message \"{}\" was acknowledged after its source had gone: subscription \"{}\" gets it again",
                self.message.id, self.queue.name
            );
            return Err(BrokerError::new(BrokerFailure::Lost, message));
        }
        let (reply, answer) = oneshot::channel();
        let (queue, message) = (Arc::clone(&self.queue), Arc::clone(&self.message));
        self.shared.ask(Ask::Job(Job::Ack(Ack { queue, seq: self.seq, message, reply: Some(reply) })))?;
        answer.await.map_err(|_| self.shared.lost())?
    }

    async fn release(mut self: Box<Self>) {
        self.open = false;
        if let Some(attempts) = self.queue.give_back(self.seq, self.lease, false) {
            // Nobody has to wait for the disk: in memory it is due already.
            self.note(attempts, 0);
        }
    }

    async fn failed(&self, attempts: u32, due: SystemTime) {
        let due = row::stamp(due);
        if self.queue.failed(self.seq, self.lease, attempts, due)
            && let Some(written) = self.note(attempts, due)
        {
            let _ = written.await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.open {
            self.queue.give_back(self.seq, self.lease, true);
        }
    }
}
