//! The embedded broker: messages in a directory of the node itself, without a server.
//!
//! They are in an SQLite database. One thread writes (`writer.rs`): it takes all that was asked for since it last looked,
//! does it in one transaction, and answers when that has been synced to the disk. So a sync is shared by all who wait for
//! it, a torn end of the log is found by its checksums and was never confirmed, and a full disk is an error like any other,
//! from which the database comes back by itself. Messages that a consumer waits for go from the commit to it without being
//! read again; the others wait on disk, and are read some at a time (`queue.rs`).

mod job;
mod queue;
mod row;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use super::{Backlog, Broker, BrokerError, BrokerFailure, Consumption, Destination, Message, Source};
use async_trait::async_trait;
use job::{Ask, Job, Publish, Task};
use source::EmbeddedSource;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use store::Store;
use tokio::sync::{Semaphore, oneshot};
use writer::Writer;

/// Memory for messages that wait for the writer, in KiB: 64 MiB.
const ROOM: u32 = 64 << 10;
/// The largest body that the database takes, in bytes.
const LARGEST: usize = 512 << 20;

/// A broker whose messages are in a directory. Dropped, it leaves the directory to others.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, the sources and their receipts share.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    asked: Sender<Ask>,
    /// Publishes wait here while the writer has enough to do. All else is bounded by what sources hold.
    room: Arc<Semaphore>,
    closed: AtomicBool,
    trouble: Mutex<Option<String>>,
    commits: AtomicU64,
}

impl Embedded {
    /// Opens the broker in this directory, which is made if need be. Only one process at a time can have it.
    ///
    /// Blocks while the log of a crash is read.
    ///
    /// # Errors
    /// Name the file or directory and say what to do.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let store = Store::open(directory)?;
        let (asked, asks) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            asked,
            room: Arc::new(Semaphore::new(ROOM as usize)),
            closed: AtomicBool::new(false),
            trouble: Mutex::new(None),
            commits: AtomicU64::new(0),
        });
        let writer = Writer::new(store, asks, Arc::clone(&shared))
            .map_err(|error| format!("cannot read what is in \"{}\": {error}", directory.display()))?;
        let thread = std::thread::Builder::new().name("weir-messages".into()).spawn(move || writer.run());
        let thread = thread.map_err(|error| format!("cannot start the thread that writes messages: {error}"))?;
        Ok(Self { shared, writer: Mutex::new(Some(thread)) })
    }

    /// Ends all sources and gives the directory free. What was not acknowledged comes again when it is opened the next
    /// time. Blocks until what is being written is on disk.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let _ = self.shared.asked.send(Ask::Task(Task::Stop));
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }

    /// Transactions so far, each with a sync.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError> {
        let size = message.body.len();
        if size > LARGEST {
            let message = format!("a message of {size} bytes is larger than the embedded broker takes, {LARGEST}");
            return Err(BrokerError::new(BrokerFailure::TooLarge, message));
        }
        let headers = row::encode(&message.headers);
        let share = u32::try_from((size + headers.len()) / 1024 + 1).unwrap_or(ROOM).min(ROOM);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(share).await.map_err(|_| self.shared.closed())?;
        let (reply, answer) = oneshot::channel();
        let publish = Publish {
            address: to.address.clone(),
            options: to.options.clone(),
            message: Arc::new(message.clone()),
            headers,
            outcome: Ok(()),
            reply,
            _room: room,
        };
        self.shared.ask(Ask::Job(Job::Publish(publish)))?;
        answer.await.map_err(|_| self.shared.lost())?
    }

    async fn consume(&self, what: &Consumption) -> Result<Box<dyn Source>, BrokerError> {
        let (reply, answer) = oneshot::channel();
        self.shared.ask(Ask::Task(Task::Consume(what.clone(), reply)))?;
        let queue = answer.await.map_err(|_| self.shared.lost())??;
        Ok(Box::new(EmbeddedSource::new(queue, Arc::clone(&self.shared), what)))
    }

    async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        let (reply, answer) = oneshot::channel();
        self.shared.ask(Ask::Task(Task::Backlog(what.clone(), reply)))?;
        answer.await.map_err(|_| self.shared.lost())?
    }

    fn close(&self) {
        Self::close(self);
    }

    fn trouble(&self) -> Option<String> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Some(self.shared.closed().message);
        }
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn ask(&self, ask: Ask) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::Acquire) || self.asked.send(ask).is_err() {
            return Err(self.closed());
        }
        Ok(())
    }

    /// Nothing was written.
    fn closed(&self) -> BrokerError {
        let message = format!("the embedded broker in \"{}\" is closed", self.directory.display());
        BrokerError::new(BrokerFailure::Unreachable, message)
    }

    /// The writer has gone without an answer.
    fn lost(&self) -> BrokerError {
        BrokerError { kind: BrokerFailure::Lost, ..self.closed() }
    }
}
