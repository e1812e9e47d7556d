//! HTTP/1 connections between two requests, which keep nothing but their socket after a while.
//!
//! hyper has two buffers of 8 KiB for each connection, for as long as it lasts, and most connections of most callers wait
//! for their next request most of the time. When one has waited for some time, all that serves it is dropped, but for the
//! socket; with the next byte it is served as if it had just been accepted.

use super::idle::Streams;
use crate::strict::Switch;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// How far the two moments are apart at which a connection is found doing nothing, before it rests.
pub const REST: Duration = Duration::from_secs(1);

/// Drives a connection until it ends or rests.
pub struct UntilRest<C> {
    connection: Pin<Box<C>>,
    /// The calls in progress, answers that are being written included.
    calls: Rc<Streams>,
    switch: Switch,
    every: Duration,
    timer: Pin<Box<Sleep>>,
    /// The calls that had ended when it was last found doing nothing.
    ended: Option<u64>,
    rests: Rc<Cell<bool>>,
}

impl<C> UntilRest<C> {
    /// Looks every so often.
    pub fn new(connection: C, calls: Rc<Streams>, switch: Switch, every: Duration) -> Self {
        let (connection, timer) = (Box::pin(connection), Box::pin(sleep(every)));
        Self { connection, calls, switch, every, timer, ended: None, rests: Rc::default() }
    }

    /// Becomes true when it ends to rest.
    pub fn rests(&self) -> Rc<Cell<bool>> {
        self.rests.clone()
    }

    pub fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// How many calls have ended, if none is in progress and nothing is on its way in either direction.
    fn at_rest(&self) -> Option<u64> {
        (self.calls.open() == 0 && self.switch.is_at_rest()).then(|| self.calls.ended())
    }
}

impl<C: Future<Output = hyper::Result<()>>> Future for UntilRest<C> {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(ended) = this.connection.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        while this.timer.as_mut().poll(context).is_ready() {
            let ended = this.at_rest();
            if ended.is_some() && ended == this.ended {
                this.rests.set(true);
                return Poll::Ready(Ok(()));
            }
            this.ended = ended;
            this.timer.as_mut().reset(Instant::now() + this.every);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strict::{Limits, Strict};
    use bytes::Bytes;
    use std::future::pending;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    const EVERY: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(30);

    /// Whether a connection rests, before many looks have passed where it should not.
    async fn rests(calls: &Rc<Streams>, strict: &Strict<DuplexStream>, expected: bool) -> bool {
        let until = UntilRest::new(pending::<hyper::Result<()>>(), calls.clone(), strict.switch(), EVERY);
        let rests = until.rests();
        timeout(if expected { LONG } else { EVERY * 10 }, until).await.is_ok() && rests.get()
    }

    #[tokio::test]
    async fn a_connection_rests_between_requests_and_only_there() {
        let (mut caller, node) = duplex(64);
        let mut strict = Strict::new(node, Bytes::new(), Limits::default());
        let calls = Streams::new();
        let mut buffer = [0; 64];
        for (sent, expected) in [("", true), ("GET / HT", false), ("TP/1.1\r\nhost: a\r\n\r\n", true), ("GET ", false)]
        {
            caller.write_all(sent.as_bytes()).await.unwrap();
            if !sent.is_empty() {
                assert!(strict.read(&mut buffer).await.unwrap() > 0);
            }
            assert_eq!(rests(&calls, &strict, expected).await, expected, "after {sent:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_with_a_call_or_with_something_to_write_does_not_rest() {
        let (_caller, node) = duplex(4);
        let mut strict = Strict::new(node, Bytes::new(), Limits::default());
        let calls = Streams::new();
        let call = calls.begin();
        assert!(!rests(&calls, &strict, false).await);
        drop(call);
        assert!(rests(&calls, &strict, true).await);
        assert!(timeout(EVERY, strict.write_all(b"more than the caller takes")).await.is_err());
        assert!(!rests(&calls, &strict, false).await);
    }

    #[tokio::test]
    async fn a_connection_that_is_used_now_and_then_does_not_rest() {
        let (_caller, node) = duplex(4);
        let strict = Strict::new(node, Bytes::new(), Limits::default());
        let calls = Streams::new();
        // It is polled before each look.
        let used = std::future::poll_fn(|_| {
            drop(calls.begin());
            Poll::<hyper::Result<()>>::Pending
        });
        let until = UntilRest::new(used, calls.clone(), strict.switch(), EVERY);
        assert!(timeout(EVERY * 10, until).await.is_err());
    }
}
