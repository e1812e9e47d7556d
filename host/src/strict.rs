//! Refuses malformed HTTP/1 requests whatever the parser behind it thinks of them.
//!
//! Two parties that disagree on where a request ends can be made to see different requests in the same bytes (request
//! smuggling, RFC 9112, section 11.2). hyper is lenient in places: it takes a bare LF for a line end, drops
//! `content-length` where `transfer-encoding` is also given, and merges equal lengths. [`Strict`] stands between the
//! socket and hyper, follows the framing of each request in one pass over its head, and passes on only what has one
//! reading. The bytes themselves are never changed.
//!
//! **How a request is refused.** A violation in a head is cut off and replaced by bytes that hyper refuses by itself
//! (see `strict/refusal.rs`), so that the answer (400, 414 or 431) comes after those to requests pipelined before it,
//! and the connection is closed. A violation in a chunked body comes too late for that, unless the head ends in the
//! same read: the read fails with [`io::ErrorKind::InvalidData`], which fails the request's body and closes the
//! connection after the answer. Nothing that follows a violation is ever passed on.
//!
//! **What hyper must be told.** Leave `max_header_size` and `max_buf_size` alone, or at 96 KiB or more: a target
//! that is too long is answered by exceeding hyper's own limit of 65 534 bytes. Set `max_headers` only if
//! [`Limits::max_headers`] is above hyper's 100, and then to the same number.

mod framing;
mod refusal;
#[cfg(test)]
mod tests;
mod text;
mod violation;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use framing::Framing;
use refusal::Refusal;
pub use violation::Violation;

/// How large a request's head may be. The same limits hold for the trailers of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the request target, in bytes; 65 534 is the most that hyper accepts. More: 414.
    pub max_target_bytes: usize,
    /// From the request line to the empty line, in bytes. More: 431.
    pub max_head_bytes: usize,
    /// Number of header fields. More: 431.
    pub max_headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_target_bytes: 16 * 1024, max_head_bytes: 64 * 1024, max_headers: 100 }
    }
}

/// What the owner of a connection keeps in hand while hyper has its [`Strict`].
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<Shared>);

// `Arc` and atomics, although a connection stays on one thread: hyper's upgrades require the transport to be `Send`.
#[derive(Debug, Default)]
struct Shared {
    passthrough: AtomicBool,
    violation: OnceLock<Violation>,
    /// Something of a request has come, and not all of it.
    reading: AtomicBool,
    /// Something was given to be written, and is perhaps not.
    writing: AtomicBool,
}

impl Switch {
    /// Bytes from here on are no longer HTTP. To be called before 101, or 2xx to CONNECT, is sent.
    ///
    /// # Errors
    /// The caller already sent something, before the answer, that HTTP does not allow. It must not be tunnelled:
    /// answer 400 instead. This concerns upgrades only, where a caller has to wait for 101 (RFC 9110, section 7.8);
    /// what follows CONNECT is kept unread until this call.
    pub fn passthrough(&self) -> Result<(), Violation> {
        match self.violation() {
            Some(violation) => Err(violation),
            None => {
                self.0.passthrough.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Why the connection was refused, for the log.
    pub fn violation(&self) -> Option<Violation> {
        self.0.violation.get().copied()
    }

    /// Whether nothing is on its way: no part of a request that is not complete, and no part of an answer.
    pub fn is_at_rest(&self) -> bool {
        let Shared { passthrough, violation, reading, writing } = &*self.0;
        let busy = [passthrough, reading, writing].iter().any(|flag| flag.load(Ordering::Relaxed));
        !busy && violation.get().is_none()
    }

    /// Whether bytes are no longer HTTP.
    pub fn is_passthrough(&self) -> bool {
        self.0.passthrough.load(Ordering::Relaxed)
    }
}

/// A transport whose reads are well-formed HTTP/1 requests, and nothing after the first that is not.
///
/// After CONNECT nothing is read until [`Switch::passthrough`]; a caller whose CONNECT is refused must be answered with
/// `connection: close`, since it may have sent its tunnel's first bytes already.
pub struct Strict<T> {
    inner: T,
    /// Read from the socket but not passed on yet: the sniffed prefix, later the bytes that came along with CONNECT.
    unread: Bytes,
    framing: Framing,
    switch: Switch,
    ending: Option<Ending>,
    /// How long a head may take from its first byte to its last.
    head_timeout: Option<Duration>,
    /// Runs while a head has begun and not ended.
    head_timer: Option<Pin<Box<Sleep>>>,
}

/// What is read after a violation.
enum Ending {
    /// Bytes that make hyper refuse the request, then the end.
    Refuse(Refusal),
    /// An error, for it was a body's.
    Fail(Violation),
}

impl<T> Strict<T> {
    /// `prefix` was read from `inner` already, and comes first.
    pub fn new(inner: T, prefix: Bytes, limits: Limits) -> Self {
        Self {
            inner,
            unread: prefix,
            framing: Framing::new(limits),
            switch: Switch::default(),
            ending: None,
            head_timeout: None,
            head_timer: None,
        }
    }

    /// Gives up on a head that takes longer than this; without it a caller may take for ever over one.
    pub fn head_timeout(mut self, limit: Duration) -> Self {
        self.head_timeout = Some(limit);
        self
    }

    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }

    /// Checks what was read into `buf` after its first `before` bytes, and takes out what must not be passed on.
    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let read = buf.filled().get(before..).unwrap_or_default();
        match self.framing.check(read) {
            Ok(passed) if passed == read.len() => Ok(()),
            Ok(passed) => {
                let early = read.get(passed..).unwrap_or_default();
                // They may come from the front of `unread`, and go back there.
                let mut unread = Vec::with_capacity(early.len() + self.unread.len());
                unread.extend_from_slice(early);
                unread.extend_from_slice(&self.unread);
                self.unread = unread.into();
                buf.set_filled(before + passed);
                Ok(())
            }
            Err(stop) => {
                // The first one stays; there is never a second, since nothing is read any more.
                let _ = self.switch.0.violation.set(stop.violation);
                buf.set_filled(before + stop.at);
                self.ending = Some(match stop.refusal {
                    Some(refusal) => Ending::Refuse(refusal),
                    None => Ending::Fail(stop.violation),
                });
                // A read of nothing would mean the end.
                if stop.at == 0 { self.end(buf) } else { Ok(()) }
            }
        }
    }

    /// Nothing more has come. That is no reason to give up unless a head has begun.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(limit) = self.head_timeout.filter(|_| self.framing.is_in_head()) else {
            self.head_timer = None;
            return Poll::Pending;
        };
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn end(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match &mut self.ending {
            Some(Ending::Refuse(refusal)) => {
                refusal.read(buf);
                Ok(())
            }
            Some(Ending::Fail(violation)) => Err(io::Error::new(io::ErrorKind::InvalidData, *violation)),
            None => Ok(()),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending.is_some() {
            return Poll::Ready(this.end(buf));
        }
        let passthrough = this.switch.is_passthrough();
        if !passthrough && this.framing.is_tunnel() {
            // No waker: whoever takes over the connection reads anew.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.unread.is_empty() {
            match Pin::new(&mut this.inner).poll_read(cx, buf) {
                Poll::Pending if !passthrough => return this.wait(cx),
                read => ready!(read)?,
            }
        } else {
            let length = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread.split_to(length));
        }
        if passthrough {
            return Poll::Ready(Ok(()));
        }
        let checked = this.check(buf, before);
        let between = this.framing.is_between() && this.unread.is_empty();
        this.switch.0.reading.store(!between, Ordering::Relaxed);
        Poll::Ready(checked)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Strict<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.switch.0.writing.store(true, Ordering::Relaxed);
        Pin::new(&mut this.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.switch.0.writing.store(true, Ordering::Relaxed);
        Pin::new(&mut this.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = ready!(Pin::new(&mut this.inner).poll_flush(cx));
        // It is asked for once everything was written.
        this.switch.0.writing.store(false, Ordering::Relaxed);
        Poll::Ready(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
