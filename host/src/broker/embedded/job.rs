//! What the writer is asked to do.

use super::queue::Queue;
use crate::broker::{Backlog, BrokerError, ChannelOptions, Consumption, Message};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub type Reply<T> = oneshot::Sender<Result<T, BrokerError>>;

/// Something to write. It is answered when it is on disk.
pub enum Job {
    Publish(Publish),
    Ack(Ack),
    Note(Note),
}

/// Something that has a transaction of its own, or none.
pub enum Task {
    Consume(Consumption, Reply<Arc<Queue>>),
    Backlog(Consumption, Reply<Backlog>),
    /// Read more messages into memory.
    Read(Arc<Queue>),
    Stop,
    #[cfg(test)]
    Test(Box<dyn FnOnce(&super::store::Store) + Send>),
}

/// Jobs and tasks come the same way.
pub enum Ask {
    Job(Job),
    Task(Task),
}

pub struct Publish {
    pub address: String,
    pub options: ChannelOptions,
    pub message: Arc<Message>,
    /// The message's, as they are on disk.
    pub headers: Vec<u8>,
    /// What the answer will be.
    pub outcome: Result<(), BrokerError>,
    pub reply: Reply<()>,
    /// Its share of the memory that waiting messages may take.
    pub _room: OwnedSemaphorePermit,
}

/// A message is done with.
pub struct Ack {
    pub queue: Arc<Queue>,
    pub seq: i64,
    pub message: Arc<Message>,
    /// `None`: it was never handed out, because its id is known.
    pub reply: Option<Reply<()>>,
}

/// A delivery has failed, or nobody waits for the next one any more (`due` is 0).
pub struct Note {
    pub queue: Arc<Queue>,
    pub seq: i64,
    pub attempts: u32,
    pub due: i64,
    pub reply: Option<Reply<()>>,
}

impl Job {
    /// Bytes, about.
    pub fn size(&self) -> usize {
        match self {
            Self::Publish(publish) => publish.message.body.len() + publish.headers.len() + 512,
            Self::Ack(_) | Self::Note(_) => 64,
        }
    }
}
