//! HTTP/2 connections without a stream, which end after a while. HTTP/1 counts its calls the same way.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// The streams of one connection.
pub struct Streams {
    open: Cell<usize>,
    ended: Cell<u64>,
    idle_since: Cell<Instant>,
}

/// One of them, until dropped.
pub struct Stream(Rc<Streams>);

impl Streams {
    pub fn new() -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), ended: Cell::new(0), idle_since: Cell::new(Instant::now()) })
    }

    pub fn begin(self: &Rc<Self>) -> Stream {
        self.open.set(self.open.get() + 1);
        Stream(self.clone())
    }

    /// Streams in progress.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Streams that were in progress.
    pub fn ended(&self) -> u64 {
        self.ended.get()
    }

    /// When the connection will have been idle for `limit`, as far as can be told now.
    fn due(&self, limit: Duration) -> Instant {
        let since = if self.open.get() > 0 { Instant::now() } else { self.idle_since.get() };
        since + limit
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.set(self.0.ended.get() + 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// A body that keeps its stream open.
pub struct OnStream<B> {
    body: B,
    _stream: Stream,
}

impl<B> OnStream<B> {
    pub fn new(body: B, stream: Stream) -> Self {
        Self { body, _stream: stream }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for OnStream<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Drives a connection that goes away, first politely and then at once, when it has been idle for too long.
pub struct EndsWhenIdle<C, F> {
    connection: Pin<Box<C>>,
    shut_down: F,
    streams: Rc<Streams>,
    limit: Duration,
    /// For the peer to close the connection once it was told to.
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    told: bool,
}

impl<C, F: Fn(Pin<&mut C>)> EndsWhenIdle<C, F> {
    pub fn new(connection: C, shut_down: F, streams: Rc<Streams>, limit: Duration, patience: Duration) -> Self {
        let timer = Box::pin(sleep(limit));
        Self { connection: Box::pin(connection), shut_down, streams, limit, patience, timer, told: false }
    }

    /// Begins nothing more.
    pub fn shut_down(&mut self) {
        (self.shut_down)(self.connection.as_mut());
    }
}

impl<C: Future<Output = hyper::Result<()>>, F: Fn(Pin<&mut C>) + Unpin> Future for EndsWhenIdle<C, F> {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Poll::Ready(ended) = this.connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            if this.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let due = this.streams.due(if this.told { this.patience } else { this.limit });
            if due > Instant::now() {
                this.timer.as_mut().reset(due);
            } else if this.told {
                return Poll::Ready(Ok(()));
            } else {
                this.told = true;
                this.shut_down();
                this.timer.as_mut().reset(Instant::now() + this.patience);
            }
        }
    }
}
