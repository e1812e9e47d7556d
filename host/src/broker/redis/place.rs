//! One consumer of one group, and what it says to the server about its messages.

use super::link::Link;
use super::scripts;
use super::wire::{self, Entry};
use crate::broker::{BrokerError, BrokerFailure};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script, ScriptInvocation, Value};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Consumers of ours are called this and something of their own.
pub const CONSUMER: &str = "weir-";
/// A message whose consumer has said nothing for this long is somebody else's.
const DEAD_AFTER: Duration = Duration::from_secs(60);
/// As idle as this is what everybody may have at once.
const FREE: Duration = Duration::from_secs(24 * 60 * 60);
#[derive(Debug)]
pub struct Place {
    pub stream: String,
    /// A sorted set: when the next attempt at a message of the group is due that has failed.
    waits: String,
    pub group: String,
    pub consumer: String,
}

impl Place {
    pub fn new(stream: &str, group: &str) -> Self {
        let consumer = format!("{CONSUMER}{}-{:016x}", std::process::id(), rand::random::<u64>());
        Self { stream: stream.to_owned(), waits: format!("{stream}:waits:{group}"), group: group.to_owned(), consumer }
    }

    fn script<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut script = script.key(&self.stream);
        script.key(&self.waits).arg(&self.group).arg(&self.consumer);
        script
    }

    /// The group, which begins with what the stream holds. It may be there already.
    pub async fn create(&self, connection: &mut MultiplexedConnection, make_stream: bool) -> RedisResult<()> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.group).arg("0").arg(make_stream.then_some("MKSTREAM"));
        match create.query_async(connection).await {
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            created => return created,
        }
        let mut sweep = scripts::SWEEP.key(&self.stream);
        sweep.arg(&self.group).arg(CONSUMER).arg(millis(DEAD_AFTER)).invoke_async(connection).await
    }

    /// New messages, waited for.
    pub async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        count: usize,
        wait: Duration,
    ) -> RedisResult<Vec<Entry>> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(&self.consumer).arg("COUNT").arg(count);
        // 0 would be for ever.
        read.arg("BLOCK").arg(wait.as_millis().max(1).to_string()).arg("STREAMS").arg(&self.stream).arg(">");
        wire::fresh(read.query_async::<Value>(connection).await?)
    }

    /// What was given back, or is held by the dead. Returns where to go on; "0-0": all was looked at.
    pub async fn take_over(
        &self,
        connection: &mut MultiplexedConnection,
        cursor: &str,
        count: usize,
    ) -> RedisResult<(String, Vec<Entry>)> {
        let mut script = self.script(&scripts::TAKE);
        script.arg(millis(DEAD_AFTER)).arg(millis(FREE)).arg(cursor).arg(count);
        wire::older(script.invoke_async(connection).await?)
    }

    /// Whether this consumer still had it.
    pub async fn ack(&self, connection: &mut MultiplexedConnection, id: &str) -> RedisResult<bool> {
        self.script(&scripts::ACK).arg(id).invoke_async(connection).await
    }

    pub async fn keep(&self, connection: &mut MultiplexedConnection, id: &str) -> RedisResult<()> {
        self.script(&scripts::HOLD).arg(id).arg("keep").invoke_async(connection).await
    }

    /// For everybody, at their next look.
    pub async fn release(&self, connection: &mut MultiplexedConnection, id: &str) -> RedisResult<()> {
        self.script(&scripts::HOLD).arg(id).arg("release").arg(millis(FREE)).invoke_async(connection).await
    }

    pub async fn failed(
        &self,
        connection: &mut MultiplexedConnection,
        id: &str,
        attempts: u32,
        due: SystemTime,
    ) -> RedisResult<()> {
        let mut script = self.script(&scripts::HOLD);
        // The server's count begins with 1, for a delivery that has not failed yet.
        script.arg(id).arg("failed").arg(u64::from(attempts) + 1).arg(crate::broker::message::millis(due));
        script.invoke_async(connection).await
    }

    /// As `release`, but a wait that was noted goes on.
    pub async fn forget(&self, connection: &mut MultiplexedConnection, id: &str) -> RedisResult<()> {
        self.script(&scripts::LEAVE).arg(millis(DEAD_AFTER)).arg(millis(FREE)).arg(id).invoke_async(connection).await
    }

    /// Forgets everything, so that nobody has to wait until this consumer is taken for dead.
    pub async fn leave(&self, link: &Link) -> Result<(), BrokerError> {
        let mut script = self.script(&scripts::LEAVE);
        script.arg(millis(DEAD_AFTER)).arg(millis(FREE));
        let left: RedisResult<()> = script.invoke_async(&mut link.connection()?).await;
        left.map_err(|error| link.error(&error))
    }
}

fn millis(time: Duration) -> impl redis::ToRedisArgs + Display {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Consumers of this process that have ended, and may still have messages as far as the server knows.
#[derive(Default)]
pub struct Left(Mutex<Vec<(Arc<Place>, Instant)>>);

impl Left {
    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<Place>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, place: Arc<Place>) {
        let mut left = self.lock();
        // What they had is free by itself by then, so that this list is no longer than what ends in that time.
        left.retain(|(_, since)| since.elapsed() < DEAD_AFTER);
        left.push((place, Instant::now()));
    }

    /// Gives back what they have, before anybody reads on.
    pub async fn leave(&self, link: &Link) -> Result<(), BrokerError> {
        loop {
            let Some((place, since)) = self.lock().pop() else { return Ok(()) };
            match place.leave(link).await {
                // A group that is gone has no messages.
                Err(error) if error.kind != BrokerFailure::Refused => {
                    self.lock().push((place, since));
                    return Err(error);
                }
                _ => {}
            }
        }
    }
}
