//! Ends HTTP/2 connections whose frames are nothing but work.
//!
//! A frame of nine bytes can cost an answer, a walk over all streams or a stream that is set up and torn down again, and
//! HTTP/2 bounds neither their number nor their rate. `h2` bounds what such frames can make it *hold*; this bounds what
//! they can make it *do*. It reads nothing but the heads of frames (RFC 9113, section 4.1), in both directions, and keeps
//! one account: a frame that carries nothing takes from it, an answer or data that the peer is sent adds to it, for those
//! give it reason to send such frames, and so does time.

mod account;
mod frames;
#[cfg(test)]
mod tests;

use account::Account;
use bytes::Bytes;
use frames::Frames;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What each client begins with, before its first frame (RFC 9113, section 3.4).
const PREFACE_LENGTH: u32 = 24;

/// GOAWAY: of the streams any may have been looked at, and the error is ENHANCE_YOUR_CALM (RFC 9113, sections 6.8 and 7).
const CALM: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0b";

/// The side of a connection that the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Client,
    Server,
}

/// A transport of HTTP/2 whose reads fail once the peer floods, or stalls in a head.
pub struct Guard<T> {
    inner: T,
    /// Was read from `inner` already.
    unread: Bytes,
    read: Frames,
    written: Frames,
    account: Account,
    head_timeout: Option<Duration>,
    head_timer: Option<Pin<Box<Sleep>>>,
    /// Heads that were complete when the timer began.
    heads: u64,
    flooded: Rc<Cell<bool>>,
}

impl<T> Guard<T> {
    /// `prefix` was read from `inner` already, and comes first.
    pub fn new(inner: T, prefix: Bytes, peer: Peer) -> Self {
        let preface = |is_client| if is_client { PREFACE_LENGTH } else { 0 };
        Self {
            inner,
            unread: prefix,
            read: Frames::after(preface(peer == Peer::Client)),
            written: Frames::after(preface(peer == Peer::Server)),
            account: Account::full(),
            head_timeout: None,
            head_timer: None,
            heads: 0,
            flooded: Rc::default(),
        }
    }

    /// Gives up on a head, and on the first frame, that takes longer than this.
    pub fn head_timeout(mut self, limit: Duration) -> Self {
        self.head_timeout = Some(limit);
        self
    }

    /// Becomes true when the connection ends for a flood.
    pub fn flooded(&self) -> Rc<Cell<bool>> {
        self.flooded.clone()
    }

    /// Whether the peer may have sent this.
    fn follow_read(&mut self, bytes: &[u8]) -> bool {
        let account = &mut self.account;
        let mut within = true;
        self.read.follow(bytes, |head| within = within && account.take(head.cost()));
        within
    }

    fn follow_written(&mut self, slices: &[io::IoSlice<'_>], mut length: usize) {
        for slice in slices {
            let (sent, account) = (slice.get(..length).unwrap_or(slice), &mut self.account);
            self.written.follow(sent, |head| account.add(head.worth()));
            length -= sent.len();
        }
    }

    /// Nothing more has come. That is no reason to give up unless a head has begun.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(limit) = self.head_timeout.filter(|_| self.read.is_in_head()) else {
            self.head_timer = None;
            return Poll::Pending;
        };
        if self.heads != self.read.heads {
            (self.heads, self.head_timer) = (self.read.heads, None);
        }
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncWrite + Unpin> Guard<T> {
    /// Ends the connection. The peer is told why if there is room for that, and no frame is half written.
    fn end(&mut self, context: &mut Context<'_>) -> io::Error {
        self.flooded.set(true);
        if self.written.is_between() {
            // What comes of it does not matter: nothing else is written after it.
            let _ = Pin::new(&mut self.inner).poll_write(context, CALM);
        }
        io::Error::new(io::ErrorKind::InvalidData, "too many frames that carry nothing")
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.unread.is_empty() {
            match Pin::new(&mut this.inner).poll_read(context, buffer) {
                Poll::Pending => return this.wait(context),
                Poll::Ready(read) => read?,
            }
        } else {
            let length = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread.split_to(length));
        }
        let within = this.follow_read(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(if within { Ok(()) } else { Err(this.end(context)) })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(context, slices))?;
        this.follow_written(slices, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
