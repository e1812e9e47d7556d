//! A connection that is made again whenever it breaks.

use super::super::{BrokerError, BrokerFailure};
use super::session::Session;
use futures_util::{Stream, StreamExt};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The waits between attempts to connect; each is jittered downwards by up to half.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// Of an attempt. The client cannot take one back that a server accepts and then never answers, and leaves a thread behind
/// until that server is gone: so this is not short.
const CONNECT: Duration = Duration::from_secs(60);
/// How often to look whether a connection still is one, should the client have said nothing.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Link {
    state: watch::Receiver<State>,
    keeper: AbortHandle,
}

#[derive(Debug, Clone)]
enum State {
    Up(Arc<Session>),
    Down(String),
}

impl Link {
    pub fn open(uri: AMQPUri, name: String, runtime: &Handle) -> Self {
        let (sender, state) = watch::channel(State::Down("not connected yet".into()));
        let keeper = runtime.spawn(keep(uri, name, sender)).abort_handle();
        Self { state, keeper }
    }

    pub fn session(&self) -> Result<Arc<Session>, BrokerError> {
        let reason = match &*self.state.borrow() {
            State::Up(session) if session.is_connected() => return Ok(session.clone()),
            State::Up(_) => "the connection broke".into(),
            State::Down(reason) => reason.clone(),
        };
        Err(BrokerError::new(BrokerFailure::Unreachable, reason))
    }

    pub fn trouble(&self) -> Option<String> {
        match self.session() {
            Ok(session) => session.blocked(),
            Err(error) => Some(error.message),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(uri: AMQPUri, name: String, state: watch::Sender<State>) {
    let (host, port) = (&uri.authority.host, uri.authority.port);
    let mut wait = FIRST_WAIT;
    loop {
        let reason = match connect(&uri, &name).await {
            Ok(connection) => {
                wait = FIRST_WAIT;
                let events = connection.events_listener();
                let session = Arc::new(Session::new(connection));
                state.send_replace(State::Up(session.clone()));
                let reason = end(&session, events).await;
                format!("the connection to {host}:{port} broke: {reason}")
            }
            Err(reason) => format!("no connection to {host}:{port}: {reason}"),
        };
        state.send_replace(State::Down(reason));
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn connect(uri: &AMQPUri, name: &str) -> Result<Connection, String> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    // Over the runtime that this task is on.
    let connection = Connection::connect_uri(uri.clone(), properties);
    match tokio::time::timeout(CONNECT, connection).await {
        Ok(connection) => connection.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT.as_secs())),
    }
}

/// Takes note of what the server says until the connection has ended; then says why.
async fn end(session: &Session, events: impl Stream<Item = Event>) -> String {
    let mut events = std::pin::pin!(events);
    let mut reason = None;
    while session.is_connected() {
        match tokio::time::timeout(LOOK, events.next()).await {
            Ok(Some(Event::ConnectionBlocked(why))) => session.set_blocked(Some(why)),
            Ok(Some(Event::ConnectionUnblocked)) => session.set_blocked(None),
            // Also of a single channel, which is no end.
            Ok(Some(Event::Error(error))) => reason = Some(error.to_string()),
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => break,
        }
    }
    reason.unwrap_or_else(|| "it was closed".into())
}
