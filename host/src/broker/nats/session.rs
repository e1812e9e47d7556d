//! What is done over one connection.

use super::super::{Backlog, BrokerError, BrokerFailure, Consumption, Destination, Message, link};
use super::{convert, lost, refused, stream};
use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, Context};
use async_nats::{Auth, AuthError, Client, ConnectOptions, Event, Request, ServerAddr};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Of an attempt to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// After which the server is asked whether it is there; after two without an answer the connection is given up.
const PING: Duration = Duration::from_secs(5);
/// Destinations of which it is known that a stream keeps what is published. Configurations come and go.
const KEPT: usize = 10_000;

/// Where to connect to, and as who.
pub struct Server {
    addresses: Vec<ServerAddr>,
    name: String,
    credentials: Option<(String, String)>,
}

impl Server {
    pub fn new(name: &str, url: &str, credentials: Option<(String, String)>) -> Result<Self, String> {
        let addresses = url.split(',').map(|url| url.trim().parse::<ServerAddr>());
        let addresses = addresses.collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(|error| format!("{url:?} is no NATS URL: {error}"))?;
        Ok(Self { addresses, name: format!("weir {name}"), credentials })
    }

    /// Who connects, the first time and no other: then the client gives up instead of connecting again by itself. What it had
    /// still to send, acknowledgements above all, would be sent then, long after its caller was told that it was not.
    fn options(&self) -> ConnectOptions {
        let credentials = self.credentials.clone();
        let used = AtomicBool::new(false);
        let options = ConnectOptions::with_auth_callback(move |_| {
            let mut auth = Auth::new();
            if let Some((username, password)) = credentials.clone() {
                (auth.username, auth.password) = (Some(username), Some(password));
            }
            let first = !used.swap(true, Ordering::Relaxed);
            async move { if first { Ok(auth) } else { Err(AuthError::new("a client has one connection")) } }
        });
        options
            .name(&self.name)
            .ignore_discovered_servers()
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .max_reconnects(self.addresses.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
    }
}

#[derive(Debug)]
pub struct Session {
    client: Client,
    context: Context,
    kept: Mutex<HashSet<Destination>>,
    /// Why the connection has ended, if it has.
    end: watch::Receiver<Option<String>>,
}

impl link::Session for Session {
    type Server = Server;

    async fn connect(server: &Server) -> Result<Self, String> {
        let (sender, end) = watch::channel(None);
        let sender = Arc::new(sender);
        let options = server.options().event_callback(move |event| {
            let sender = sender.clone();
            async move {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    sender.send_if_modified(|end| end.is_none() && end.replace("the server ended it".into()).is_none());
                }
            }
        });
        let client = options.connect(server.addresses.as_slice()).await.map_err(|error| {
            let addresses: Vec<_> = server.addresses.iter().map(|at| format!("{}:{}", at.host(), at.port())).collect();
            format!("no connection to {}: {error}", addresses.join(", "))
        })?;
        let context = jetstream::new(client.clone());
        Ok(Self { client, context, kept: Mutex::default(), end })
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    async fn ended(&self) -> String {
        let mut end = self.end.clone();
        let reason = end.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the client ended it".into())
    }
}

impl Session {
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError> {
        let headers = convert::headers(message, &to.options)?;
        self.keep(to).await?;
        let about = format!("publish to {:?}", to.address);
        let request = Request::new().headers(headers).payload(message.body.clone()).timeout(None);
        let answer = self.client.send_request(to.address.clone(), request).await;
        let confirmed = match answer {
            Ok(answer) => match serde_json::from_slice(&answer.payload) {
                Ok(Response::<PublishAck>::Ok(_)) => Ok(()),
                Ok(Response::Err { error }) => Err(refused(&error, &about)),
                Err(error) => Err(lost(format!("something else than a stream answers: {error}"), &about)),
            },
            Err(error) => Err(match error.kind() {
                RequestErrorKind::MaxPayloadExceeded => {
                    BrokerError::new(BrokerFailure::TooLarge, format!("{about}: {error}"))
                }
                RequestErrorKind::NoResponders => {
                    BrokerError::new(BrokerFailure::Refused, format!("no stream keeps {:?}", to.address))
                }
                RequestErrorKind::InvalidSubject => {
                    BrokerError::new(BrokerFailure::Refused, format!("{about}: {error}"))
                }
                _ => lost(error, &about),
            }),
        };
        if confirmed.is_err() {
            // What was there may have been deleted since.
            lock(&self.kept).remove(to);
        }
        confirmed
    }

    /// What waits for a subscription, or is being worked on.
    pub async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        let (stream, consumer) = stream::consumer(&self.context, what).await?;
        let messages = consumer.num_pending + consumer.num_ack_pending as u64;
        let oldest = if messages > 0 {
            // All up to there are done with. Another may be acknowledged meanwhile: then it is not known.
            let stream = self.context.get_stream_no_info(&stream).await.ok();
            let first = consumer.ack_floor.stream_sequence + 1;
            match stream {
                Some(stream) => {
                    let oldest = stream.raw_message_builder().sequence(first).next_by_subject(&what.from.address);
                    oldest.send().await.ok().and_then(|message| {
                        let millis = u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).ok()?;
                        SystemTime::now().duration_since(super::super::message::at(millis)?).ok()
                    })
                }
                None => None,
            }
        } else {
            None
        };
        Ok(Backlog { messages: Some(messages), oldest })
    }

    /// Sees to it that somebody keeps what is published.
    async fn keep(&self, to: &Destination) -> Result<(), BrokerError> {
        if !to.options.declare || lock(&self.kept).contains(to) {
            return Ok(());
        }
        if !stream::find(&self.context, to).await?.keeps {
            // It would be confirmed and thrown away.
            let message = format!("nobody has subscribed to {:?} yet, and it has no retention", to.address);
            return Err(BrokerError::new(BrokerFailure::Refused, message));
        }
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(to.clone());
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
