//! What is done over one connection.

use super::super::{BrokerError, BrokerFailure, Destination, Message, link};
use super::place::Place;
use super::{convert, failure};
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Event};
use std::collections::HashSet;
use std::fmt::{Debug, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Publishes at once; others wait their turn. Servers allow 2047 AMQP channels on a connection.
const PUBLISHES: usize = 256;
/// Destinations of which it is known that they were declared. Configurations come and go.
const DECLARED: usize = 10_000;

/// Of an attempt to connect. The client cannot take one back that a server accepts and then never answers, and leaves a
/// thread behind until that server is gone: so this is not short.
const CONNECT: Duration = Duration::from_secs(60);
/// How often to look whether a connection still is one, should the client have said nothing.
const LOOK: Duration = Duration::from_millis(500);

/// Where to connect to, and as who.
pub struct Server {
    pub uri: AMQPUri,
    pub name: String,
}

pub struct Session {
    connection: Connection,
    declared: Mutex<HashSet<Destination>>,
    /// Each publish has an AMQP channel to itself until it is confirmed. A message that comes back names no publish, and the
    /// client gives it to whichever is confirmed next: with two on a channel, one that was not taken would be confirmed.
    /// And an error ends the AMQP channel, which would take others with it.
    idle: Mutex<Vec<Channel>>,
    room: Semaphore,
    /// Why the server last took nothing.
    blocked: Mutex<String>,
}

impl link::Session for Session {
    type Server = Server;

    async fn connect(server: &Server) -> Result<Self, String> {
        let (host, port) = (&server.uri.authority.host, server.uri.authority.port);
        let properties = ConnectionProperties::default().with_connection_name(server.name.as_str().into());
        // Over the runtime that this task is on.
        let connection = Connection::connect_uri(server.uri.clone(), properties);
        let connection = match tokio::time::timeout(CONNECT, connection).await {
            Ok(connection) => connection.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", CONNECT.as_secs())),
        };
        Ok(Self {
            connection: connection.map_err(|reason| format!("no connection to {host}:{port}: {reason}"))?,
            declared: Mutex::default(),
            idle: Mutex::default(),
            room: Semaphore::new(PUBLISHES),
            blocked: Mutex::default(),
        })
    }

    fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    async fn ended(&self) -> String {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut reason = None;
        while self.is_connected() {
            match tokio::time::timeout(LOOK, events.next()).await {
                Ok(Some(Event::ConnectionBlocked(why))) => *lock(&self.blocked) = why,
                // Also of a single channel, which is no end.
                Ok(Some(Event::Error(error))) => reason = Some(error.to_string()),
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => break,
            }
        }
        while let Some(Some(event)) = events.next().now_or_never() {
            if let Event::Error(error) = event {
                reason = Some(error.to_string());
            }
        }
        reason.unwrap_or_else(|| "it was closed".into())
    }
}

impl Session {
    /// Why the server takes nothing at present, if that is so.
    pub fn blocked(&self) -> Option<String> {
        let blocked = self.connection.status().blocked();
        blocked.then(|| format!("the broker takes nothing at present: {}", lock(&self.blocked)))
    }

    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        self.connection.create_channel().await.map_err(|error| failure(&error, "a new AMQP channel"))
    }

    pub async fn publish(&self, to: &Destination, place: &Place, message: &Message) -> Result<(), BrokerError> {
        if let Some(reason) = self.blocked() {
            return Err(BrokerError::new(BrokerFailure::Full, reason));
        }
        let frame = self.connection.configuration().frame_max();
        let properties = convert::properties(message, &to.options, frame)?;
        self.declare(to, place).await?;
        let sent = self.send(to, place, message, properties).await;
        if sent.is_err() {
            // What was there may have been deleted since.
            lock(&self.declared).remove(to);
        }
        sent
    }

    async fn send(
        &self,
        to: &Destination,
        place: &Place,
        message: &Message,
        properties: BasicProperties,
    ) -> Result<(), BrokerError> {
        let _room = self.room.acquire().await;
        let channel = self.confirming_channel().await?;
        let about = || format!("publish to {:?}", to.address);
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (place.exchange.clone(), place.key.clone());
        let sent = channel.basic_publish(exchange, key, options, &message.body, properties).await;
        let confirm = sent.map_err(|error| failure(&error, &about()))?;
        let confirmation = confirm.await.map_err(|error| failure(&error, &about()))?;
        // Not reached where an error has ended it, or where this future was dropped and the confirm is still to come.
        lock(&self.idle).push(channel);
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(BrokerError::new(
                BrokerFailure::Refused,
                format!("no queue is bound to {:?}: nobody has subscribed to it yet", to.address),
            )),
            // Also where one of several queues is full. The others have the message then, and again with the next attempt.
            Confirmation::Nack(None) => {
                Err(BrokerError::new(BrokerFailure::Full, format!("a queue of {:?} is full", to.address)))
            }
            Confirmation::NotRequested => {
                Err(BrokerError::new(BrokerFailure::Lost, format!("{}: no confirm", about())))
            }
        }
    }

    /// Messages that wait in a queue and that nobody works on.
    pub async fn waiting(&self, queue: ShortString) -> Result<u64, BrokerError> {
        let about = format!("queue {:?}", queue.as_str());
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let channel = self.channel().await?;
        let queue = channel.queue_declare(queue, options, FieldTable::default()).await;
        queue.map(|queue| queue.message_count().into()).map_err(|error| failure(&error, &about))
    }

    /// Once for each connection: whatever the server has lost while there was none is made again.
    async fn declare(&self, to: &Destination, place: &Place) -> Result<(), BrokerError> {
        if !to.options.declare || lock(&self.declared).contains(to) {
            return Ok(());
        }
        place.declare(&self.channel().await?, &to.options).await?;
        let mut declared = lock(&self.declared);
        if declared.len() >= DECLARED {
            declared.clear();
        }
        declared.insert(to.clone());
        Ok(())
    }

    async fn confirming_channel(&self) -> Result<Channel, BrokerError> {
        let idle = || lock(&self.idle).pop();
        while let Some(channel) = idle() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.channel().await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map(|()| channel).map_err(|error| failure(&error, "a new AMQP channel"))
    }
}

impl Debug for Session {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("status", self.connection.status()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
