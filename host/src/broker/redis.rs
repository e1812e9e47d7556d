//! Redis Streams: a stream for each destination, a consumer group for each subscription.
//!
//! Nothing is trimmed that a group has not read and acknowledged. What a dead node held is taken over after a minute, what
//! was given back at once. Delayed messages wait in a sorted set beside the stream, `<stream>:due`, from where any node moves
//! them. What Redis has said yes to is as durable as its `appendfsync` makes it.

mod link;
mod place;
mod reader;
mod receipt;
mod scripts;
mod upkeep;
mod wire;

use super::{Backlog, Broker, BrokerError, BrokerFailure, Consumption, Destination, Message, Source, Taken};
use async_trait::async_trait;
use link::Link;
use place::{Left, Place};
use reader::{ANSWER_WITHIN, Reader};
use receipt::Held;
use redis::{Client, IntoConnectionInfo, RedisError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use upkeep::{Streams, Used};

/// Redis takes no value larger than this, unless it is told to (`proto-max-bulk-len`).
const LARGEST: usize = 512 * 1024 * 1024;

/// The most messages that one source holds, whatever it is asked for.
const MOST_HELD: usize = 1_000_000;

/// A Redis server.
pub struct Redis {
    name: String,
    link: Arc<Link>,
    streams: Arc<Streams>,
    left: Arc<Left>,
    runtime: Handle,
    upkeep: AbortHandle,
}

impl Redis {
    /// Connects in the background, and again whenever the connection breaks. `url`: "redis://127.0.0.1:6379/0".
    ///
    /// # Errors
    /// The URL is none.
    pub fn open(
        name: &str,
        url: &str,
        credentials: Option<(String, String)>,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let wrong = |error: RedisError| format!("broker {name:?}: {error}; write url as in \"redis://127.0.0.1:6379\"");
        let mut info = url.into_connection_info().map_err(wrong)?;
        if let Some((user, password)) = credentials {
            let settings = info.redis_settings().clone().set_username(user).set_password(password);
            info = info.set_redis_settings(settings);
        }
        let link = Arc::new(Link::open(name, Client::open(info).map_err(wrong)?, runtime));
        let streams = Arc::new(Streams::default());
        let left = Arc::new(Left::default());
        let upkeep = upkeep::run(Arc::clone(&link), Arc::clone(&streams), Arc::clone(&left));
        let upkeep = runtime.spawn(upkeep).abort_handle();
        Ok(Self { name: name.to_owned(), link, streams, left, runtime: runtime.clone(), upkeep })
    }

    fn refused(&self, message: impl fmt::Display) -> BrokerError {
        BrokerError::new(BrokerFailure::Refused, format!("broker {:?}: {message}", self.name))
    }
}

#[async_trait]
impl Broker for Redis {
    async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError> {
        let mut connection = self.link.connection()?;
        let fields = wire::fields(message);
        if message.body.len() > LARGEST || fields.len() > wire::MOST_FIELDS {
            let message = format!("broker {:?}: Redis takes no more than 512 MiB and 3000 headers", self.name);
            return Err(BrokerError::new(BrokerFailure::TooLarge, message));
        }
        self.streams.uses(to);
        let delayed = !message.delay(super::message::now()).is_zero();
        let answer = if delayed || to.options.max_length.is_some() {
            let due = message.due.filter(|_| delayed).map_or(0, super::message::millis);
            let mut script = scripts::PUBLISH.key(&to.address);
            script.key(due_key(&to.address)).arg(i32::from(to.options.declare)).arg(to.options.max_length.unwrap_or(0));
            script.arg(due).arg(rand::random::<u128>().to_string()).arg(fields);
            script.invoke_async::<Option<String>>(&mut connection).await
        } else {
            let mut command = redis::cmd("XADD");
            command.arg(&to.address).arg((!to.options.declare).then_some("NOMKSTREAM")).arg("*").arg(fields);
            command.query_async::<Option<String>>(&mut connection).await
        };
        match answer.map_err(|error| self.link.error(&error))?.as_deref() {
            None | Some("missing") => Err(self.refused(format!("there is no stream {:?}", to.address))),
            Some("full") => {
                let most = to.options.max_length.unwrap_or(0);
                let message = format!("broker {:?}: stream {:?} holds {most} messages", self.name, to.address);
                Err(BrokerError::new(BrokerFailure::Full, message))
            }
            Some(_) => {
                if delayed {
                    self.streams.delayed.notify_one();
                }
                Ok(())
            }
        }
    }

    async fn consume(&self, what: &Consumption) -> Result<Box<dyn Source>, BrokerError> {
        let mut shared = self.link.connection()?;
        let failed = |error: RedisError| self.link.error(&error);
        let place = Arc::new(Place::new(&what.from.address, &what.name));
        place.create(&mut shared, what.from.options.declare).await.map_err(failed)?;
        // What sources before this one have left comes first.
        self.left.leave(&self.link).await?;
        let mut connection = self.link.own(ANSWER_WITHIN).await.map_err(failed)?;
        let client = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await.map_err(failed)?;

        let prefetch = usize::try_from(what.prefetch).unwrap_or(MOST_HELD).clamp(1, MOST_HELD);
        // As many as may be held, and one error.
        let (sender, messages) = mpsc::channel(prefetch + 1);
        let (stop, stopped) = oneshot::channel();
        let held = Arc::new(Held::default());
        let reader = Reader {
            link: Arc::clone(&self.link),
            place: Arc::clone(&place),
            left: Arc::clone(&self.left),
            held: Arc::clone(&held),
            prefetch,
            messages: sender,
        };
        // Ends soon after the source is dropped: it still has to give back what it holds.
        self.runtime.spawn(reader.run(connection, client, stopped));
        let left = Arc::clone(&self.left);
        Ok(Box::new(RedisSource { messages, held, place, left, _used: self.streams.uses(&what.from), _stop: stop }))
    }

    async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        let mut connection = self.link.connection()?;
        let mut script = scripts::BACKLOG.key(&what.from.address);
        script.key(due_key(&what.from.address)).arg(&what.name);
        let answer = script.invoke_async::<(i64, i64)>(&mut connection).await;
        let (messages, oldest) = answer.map_err(|error| self.link.error(&error))?;
        Ok(Backlog {
            messages: u64::try_from(messages).ok(),
            oldest: u64::try_from(oldest).ok().map(Duration::from_millis),
        })
    }

    fn trouble(&self) -> Option<String> {
        self.link.trouble()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("link", &self.link).finish_non_exhaustive()
    }
}

struct RedisSource {
    messages: mpsc::Receiver<Result<Taken, BrokerError>>,
    held: Arc<Held>,
    place: Arc<Place>,
    left: Arc<Left>,
    _used: Arc<Used>,
    _stop: oneshot::Sender<()>,
}

#[async_trait]
impl Source for RedisSource {
    async fn next(&mut self) -> Result<Taken, BrokerError> {
        loop {
            match self.messages.recv().await {
                None => return Err(BrokerError::new(BrokerFailure::Lost, "the source has ended")),
                // It comes again, from the source after this one.
                Some(Ok(_)) if self.held.is_over() => {}
                Some(next) => return next,
            }
        }
    }
}

impl Drop for RedisSource {
    fn drop(&mut self) {
        // The reader gives everything back too, but only when its last read has ended: a source that follows this one
        // would be at newer messages by then.
        self.left.push(Arc::clone(&self.place));
    }
}

/// Messages of a stream that are not due yet.
fn due_key(stream: &str) -> String {
    format!("{stream}:due")
}
