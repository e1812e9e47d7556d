//! What one source holds, and what is owed for each message of it.

use super::link::Link;
use super::place::Place;
use crate::broker::{BrokerError, BrokerFailure, Receipt};
use async_trait::async_trait;
use redis::RedisResult;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::Notify;

/// The messages that a source has from the server. Never more than its prefetch.
#[derive(Default)]
pub struct Held {
    messages: Mutex<Messages>,
    /// There is room again, or something was forgotten.
    pub changed: Notify,
}

#[derive(Default)]
struct Messages {
    all: HashSet<String>,
    /// Those whose receipt was dropped without a word, until the source says so.
    forgotten: Vec<String>,
    /// The source has ended: the server hands all of them out again.
    is_over: bool,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// False if it is held already.
    pub fn insert(&self, id: &str) -> bool {
        self.lock().all.insert(id.to_owned())
    }

    fn remove(&self, id: &str) {
        self.lock().all.remove(id);
        self.changed.notify_one();
    }

    fn forget(&self, id: String) {
        self.lock().forgotten.push(id);
        self.changed.notify_one();
    }

    pub fn end(&self) {
        self.lock().is_over = true;
    }

    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Those that were forgotten, which are not held any more.
    pub fn take_forgotten(&self) -> Vec<String> {
        let mut messages = self.lock();
        let forgotten = std::mem::take(&mut messages.forgotten);
        for id in &forgotten {
            messages.all.remove(id);
        }
        forgotten
    }
}

pub struct RedisReceipt {
    pub link: Arc<Link>,
    pub place: Arc<Place>,
    pub held: Arc<Held>,
    pub id: String,
    pub settled: bool,
}

#[async_trait]
impl Receipt for RedisReceipt {
    async fn ack(mut self: Box<Self>) -> Result<(), BrokerError> {
        let mut connection = self.link.connection()?;
        match self.place.ack(&mut connection, &self.id).await {
            Ok(true) => {
                self.settled = true;
                self.held.remove(&self.id);
                Ok(())
            }
            Ok(false) => {
                let message = format!("message {} was held for too long, and is somebody else's", self.id);
                Err(BrokerError::new(BrokerFailure::Lost, message))
            }
            Err(error) => Err(self.link.error(&error)),
        }
    }

    async fn release(mut self: Box<Self>) {
        let Ok(mut connection) = self.link.connection() else { return };
        self.settled = true;
        // Not held any more before it is free, or this source could take it over and believe that somebody works on it.
        // Should the server not hear the rest, it will take the message for dead.
        self.held.remove(&self.id);
        let released = self.place.release(&mut connection, &self.id).await;
        self.noticed(released);
    }

    async fn keep(&self) {
        if let Ok(mut connection) = self.link.connection() {
            let kept = self.place.keep(&mut connection, &self.id).await;
            self.noticed(kept);
        }
    }

    async fn failed(&self, attempts: u32, due: SystemTime) {
        if let Ok(mut connection) = self.link.connection() {
            let noted = self.place.failed(&mut connection, &self.id, attempts, due).await;
            self.noticed(noted);
        }
    }
}

impl RedisReceipt {
    /// Nobody waits for these to succeed, but a connection that breaks is to be noticed.
    fn noticed(&self, result: RedisResult<()>) {
        if let Err(error) = result {
            let error = self.link.error(&error);
            tracing::debug!(stream = self.place.stream, id = self.id, %error, "redis message not taken note of");
        }
    }
}

impl Drop for RedisReceipt {
    fn drop(&mut self) {
        if !self.settled {
            self.held.forget(std::mem::take(&mut self.id));
        }
    }
}
