//! The connection that everything but blocking reads shares: made again whenever it breaks.

use crate::broker::BrokerError;
use crate::broker::BrokerFailure::{Full, Lost, Refused, Unreachable};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// Waits between attempts to connect: the first, and the longest. Each is jittered.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How often a connection is asked whether it lives, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_WITHIN: Duration = Duration::from_secs(5);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
enum State {
    Down(String),
    Up(MultiplexedConnection),
}

pub struct Link {
    name: String,
    client: Client,
    state: watch::Receiver<State>,
    suspect: Arc<Notify>,
    supervisor: AbortHandle,
}

impl Link {
    pub fn open(name: &str, client: Client, runtime: &Handle) -> Self {
        let (sender, state) = watch::channel(State::Down("not connected yet".to_owned()));
        let suspect = Arc::new(Notify::new());
        let supervisor = runtime.spawn(supervise(client.clone(), sender, Arc::clone(&suspect))).abort_handle();
        Self { name: name.to_owned(), client, state, suspect, supervisor }
    }

    pub fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Down(why) => Some(why.clone()),
            State::Up(_) => None,
        }
    }

    /// The connection, if there is one now.
    pub fn connection(&self) -> Result<MultiplexedConnection, BrokerError> {
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Down(why) => Err(BrokerError::new(Unreachable, format!("broker {:?}: {why}", self.name))),
        }
    }

    /// A connection of the caller's own.
    pub async fn own(&self, answer_within: Duration) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&config(Some(answer_within))).await
    }

    /// What an error says about what was asked.
    pub fn error(&self, error: &RedisError) -> BrokerError {
        let text = error.to_string();
        let kind = match (error.kind(), error.code()) {
            (ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown), _)
            | (ErrorKind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain), _)
            | (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Unreachable,
            (_, Some("OOM" | "MISCONF")) => Full,
            // Servers before 7.0 wrap what a command in a script says.
            (_, Some(_)) if text.contains("OOM command not allowed") || text.contains("MISCONF") => Full,
            (_, Some(_)) => Refused,
            _ => {
                self.suspect.notify_one();
                Lost
            }
        };
        BrokerError::new(kind, format!("broker {:?}: {text}", self.name))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).field("trouble", &self.trouble()).finish_non_exhaustive()
    }
}

fn config(answer_within: Option<Duration>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_WITHIN)).set_response_timeout(answer_within)
}

/// Between half of it and all of it.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

async fn supervise(client: Client, state: watch::Sender<State>, suspect: Arc<Notify>) {
    let mut wait = FIRST_WAIT;
    loop {
        // Answers have no time limit: publishes and acknowledgements end with the connection, which pings watch over.
        let connected = client.get_multiplexed_async_connection_with_config(&config(None)).await;
        let why = match connected {
            Err(error) => error.to_string(),
            Ok(connection) => loop {
                if let Err(why) = ping(connection.clone()).await {
                    break why;
                }
                if matches!(*state.borrow(), State::Down(_)) {
                    state.send_replace(State::Up(connection.clone()));
                    wait = FIRST_WAIT;
                }
                // Whoever sees an error makes it sooner.
                let _ = timeout(PING_EVERY, suspect.notified()).await;
            },
        };
        state.send_replace(State::Down(why));
        sleep(jittered(wait)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Whether the server can be asked anything. One whose disk is full answers even this with an error, and lives.
async fn ping(mut connection: MultiplexedConnection) -> Result<(), String> {
    let ping = redis::cmd("PING");
    match timeout(PING_WITHIN, ping.query_async::<()>(&mut connection)).await {
        Err(_) => Err(format!("no answer within {} seconds", PING_WITHIN.as_secs())),
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if matches!(error.code(), Some("MISCONF" | "NOPERM")) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
    }
}
