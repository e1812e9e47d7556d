//! The task behind a source: reads for its group, on a connection of its own because reads block it. Ends with the connection.

use super::link::{Link, jittered};
use super::place::{Left, Place};
use super::receipt::{Held, RedisReceipt};
use super::wire::Entry;
use crate::broker::{BrokerError, Taken};
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// How often a source looks for messages that were given back or whose consumer is dead; also, how long a read blocks at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Much longer than a read blocks.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Messages of one read: their bodies are in memory at once.
const AT_ONCE: usize = 64;
/// Looks at that many pages of what is pending, ten times `AT_ONCE` each, before it reads on.
const PAGES: usize = 16;
/// How long a source that was dropped tries to give back what it has.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

pub struct Reader {
    pub link: Arc<Link>,
    pub place: Arc<Place>,
    pub left: Arc<Left>,
    pub held: Arc<Held>,
    pub prefetch: usize,
    pub messages: mpsc::Sender<Result<Taken, BrokerError>>,
}

impl Reader {
    /// `stop` ends when the source is dropped. `client` is what the server calls the connection.
    pub async fn run(self, connection: MultiplexedConnection, client: i64, mut stop: oneshot::Receiver<()>) {
        let ended = self.read(connection, client, &mut stop).await;
        match ended {
            Ok(()) => {
                if !matches!(timeout(LEAVE_WITHIN, self.place.leave(&self.link)).await, Ok(Ok(()))) {
                    self.left.push(Arc::clone(&self.place));
                }
            }
            Err(error) => {
                // Before anybody hears of it: whoever consumes next wants these messages first.
                self.left.push(Arc::clone(&self.place));
                self.held.end();
                let _ = self.messages.try_send(Err(self.link.error(&error)));
            }
        }
    }

    /// Until the source is dropped (`Ok`), or there is no reading any more.
    async fn read(
        &self,
        mut connection: MultiplexedConnection,
        client: i64,
        stop: &mut oneshot::Receiver<()>,
    ) -> RedisResult<()> {
        let mut look = Instant::now();
        let mut cursor = "0-0".to_owned();
        loop {
            for id in self.held.take_forgotten() {
                self.place.forget(&mut connection, &id).await?;
            }
            if look <= Instant::now() {
                self.take_over(&mut connection, &mut cursor).await?;
                look = Instant::now() + jittered(LOOK_EVERY);
            }
            let room = self.room();
            if room == 0 {
                tokio::select! {
                    _ = &mut *stop => return Ok(()),
                    _ = timeout_at(look, self.held.changed.notified()) => continue,
                }
            }
            // A read that begins now could not be ended any more.
            if stop.try_recv() != Err(TryRecvError::Empty) {
                return Ok(());
            }
            let mut read = pin!(self.place.read(&mut connection, room, look.saturating_duration_since(Instant::now())));
            let entries = tokio::select! {
                biased;
                entries = &mut read => entries?,
                _ = &mut *stop => {
                    // The read is awaited all the same: what it brings is to be given back with the rest.
                    self.unblock(client).await;
                    let _ = read.await;
                    return Ok(());
                }
            };
            self.deliver(entries);
        }
    }

    fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.held.len()).min(AT_ONCE)
    }

    async fn unblock(&self, client: i64) {
        if let Ok(mut connection) = self.link.connection() {
            let mut unblock = redis::cmd("CLIENT");
            let _: RedisResult<()> = unblock.arg("UNBLOCK").arg(client).query_async(&mut connection).await;
        }
    }

    async fn take_over(&self, connection: &mut MultiplexedConnection, cursor: &mut String) -> RedisResult<()> {
        for _ in 0..PAGES {
            let room = self.room();
            if room == 0 {
                break;
            }
            let (next, entries) = self.place.take_over(connection, cursor, room).await?;
            self.deliver(entries);
            *cursor = next;
            if cursor == "0-0" {
                break;
            }
        }
        Ok(())
    }

    fn deliver(&self, entries: Vec<Entry>) {
        for Entry { id, deliveries, message } in entries {
            // What nobody has kept for long is taken over from this consumer itself.
            if !self.held.insert(&id) {
                continue;
            }
            let (link, place, held) = (Arc::clone(&self.link), Arc::clone(&self.place), Arc::clone(&self.held));
            let receipt = Box::new(RedisReceipt { link, place, held, id, settled: false });
            let attempts = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(0);
            // There is room for as many as may be held. Where the source is gone, the receipt gives it back.
            let _ = self.messages.try_send(Ok(Taken { message, attempts, receipt }));
        }
    }
}
