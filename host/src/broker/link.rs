//! A connection that is made again whenever it breaks.

use super::{BrokerError, BrokerFailure};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The waits between attempts to connect; each is jittered downwards by up to half.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// What is done over one connection, for as long as there is that connection and no longer: whatever it still had to say is
/// never said over the next.
pub trait Session: Sized + Send + Sync + 'static {
    /// What it takes to connect.
    type Server: Send + Sync + 'static;

    /// # Errors
    /// Why there is no connection, the address included.
    fn connect(server: &Self::Server) -> impl Future<Output = Result<Self, String>> + Send;

    fn is_connected(&self) -> bool;

    /// Waits until the connection has ended; then says why.
    fn ended(&self) -> impl Future<Output = String> + Send;
}

/// Keeps a session, and makes another when it has ended. Dropped, it makes no more.
#[derive(Debug)]
pub struct Link<S> {
    state: watch::Receiver<State<S>>,
    keeper: AbortHandle,
}

#[derive(Debug)]
enum State<S> {
    Up(Arc<S>),
    Down(String),
}

impl<S: Session> Link<S> {
    pub fn open(server: S::Server, runtime: &Handle) -> Self {
        let (sender, state) = watch::channel(State::Down("not connected yet".into()));
        let keeper = runtime.spawn(keep(server, sender)).abort_handle();
        Self { state, keeper }
    }

    /// # Errors
    /// There is none at present: unreachable, and why.
    pub fn session(&self) -> Result<Arc<S>, BrokerError> {
        let reason = match &*self.state.borrow() {
            State::Up(session) if session.is_connected() => return Ok(session.clone()),
            State::Up(_) => "the connection broke".into(),
            State::Down(reason) => reason.clone(),
        };
        Err(BrokerError::new(BrokerFailure::Unreachable, reason))
    }
}

impl<S> Drop for Link<S> {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep<S: Session>(server: S::Server, state: watch::Sender<State<S>>) {
    let mut wait = FIRST_WAIT;
    loop {
        let reason = match S::connect(&server).await {
            Ok(session) => {
                wait = FIRST_WAIT;
                let session = Arc::new(session);
                state.send_replace(State::Up(session.clone()));
                format!("the connection broke: {}", session.ended().await)
            }
            Err(reason) => reason,
        };
        state.send_replace(State::Down(reason));
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
