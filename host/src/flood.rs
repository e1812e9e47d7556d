//! Ends HTTP/2 connections whose frames are nothing but work.
//!
//! A frame of nine bytes can cost an answer, a walk over all streams or a stream that is set up and torn down again, and
//! HTTP/2 bounds neither their number nor their rate. `h2` bounds what such frames can make it *hold*; this bounds what
//! they can make it *do*. It reads nothing but the heads of frames (RFC 9113, section 4.1), in both directions, and keeps
//! one account: a frame that carries nothing takes from it, an answer or data that the peer is sent adds to it, for those
//! give it reason to send such frames, and so does time.

use bytes::Bytes;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Frames without content that a peer may send at once, and in each second from then on. All streams of a connection may
/// be cancelled together, several times over.
const BURST: u32 = 10_000;
const PER_SECOND: u32 = 1_000;
/// A change of settings may touch every stream.
const SETTINGS_COST: u32 = 50;
/// Data that was sent may be answered by updates of two windows and a few pings that measure the way.
const PER_DATA_SENT: u32 = 8;
const PER_HEAD_SENT: u32 = 2;

/// What each client begins with, before its first frame (RFC 9113, section 3.4).
const PREFACE_LENGTH: u32 = 24;

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
            account: Account { left: BURST, filled: Instant::now() },
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

    fn follow_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let account = &mut self.account;
        let mut within = true;
        self.read.follow(bytes, |head| within = within && account.take(head.cost()));
        if !within {
            self.flooded.set(true);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many frames that carry nothing"));
        }
        Ok(())
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

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
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
        Poll::Ready(this.follow_read(buffer.filled().get(before..).unwrap_or_default()))
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

/// How many frames a peer may still send for nothing.
struct Account {
    left: u32,
    filled: Instant,
}

impl Account {
    fn add(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(BURST);
    }

    /// The clock is asked only where there is nothing left.
    fn take(&mut self, frames: u32) -> bool {
        if self.left < frames {
            let earned = self.filled.elapsed().as_secs_f64() * f64::from(PER_SECOND);
            self.filled = Instant::now();
            // Saturates.
            self.add(earned as u32);
        }
        let left = self.left.checked_sub(frames);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// The types of RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The head of a frame, as far as it matters here.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
}

impl Head {
    fn parse(bytes: [u8; 9]) -> Self {
        let [a, b, c, kind, flags, ..] = bytes;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Carries fields.
    fn is_block(self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE | CONTINUATION)
    }

    fn cost(self) -> u32 {
        match self.kind {
            DATA => u32::from(self.length == 0 && !self.has(END_STREAM)),
            HEADERS => 0,
            SETTINGS if !self.has(ACK) => SETTINGS_COST,
            _ => 1,
        }
    }

    fn worth(self) -> u32 {
        match self.kind {
            DATA if self.length > 0 => PER_DATA_SENT,
            HEADERS => PER_HEAD_SENT,
            _ => 0,
        }
    }
}

/// Finds the frames in one direction of a connection.
#[derive(Debug, Default)]
struct Frames {
    /// The head of the next frame, as far as it is there.
    next: [u8; 9],
    have: usize,
    /// The frame that is under way, and how much of it is still to come.
    current: Option<Head>,
    rest: u32,
    /// Whether the first frame is there.
    begun: bool,
    /// A block of fields goes on in the next frame.
    in_block: bool,
    /// Blocks that have ended.
    heads: u64,
}

impl Frames {
    fn after(preface: u32) -> Self {
        Self { rest: preface, ..Self::default() }
    }

    /// Waits for the rest of a head, or for the first frame.
    fn is_in_head(&self) -> bool {
        !self.begun || self.in_block || (self.rest > 0 && self.current.is_some_and(Head::is_block))
    }

    fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let length = bytes.len().min(self.rest as usize);
                bytes = bytes.get(length..).unwrap_or_default();
                self.rest -= length as u32;
            } else if let Some((byte, more)) = bytes.split_first() {
                if let Some(place) = self.next.get_mut(self.have) {
                    *place = *byte;
                }
                (self.have, bytes) = (self.have + 1, more);
                if self.have < self.next.len() {
                    continue;
                }
                let head = Head::parse(self.next);
                (self.have, self.rest, self.current) = (0, head.length, Some(head));
                each(head);
            }
            if self.rest == 0
                && let Some(head) = self.current.take()
            {
                self.end(head);
            }
        }
    }

    fn end(&mut self, head: Head) {
        self.begun = true;
        if head.is_block() {
            self.in_block = !head.has(END_HEADERS);
            self.heads += u64::from(!self.in_block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: u32) -> Vec<u8> {
        let [_, a, b, c] = length.to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + length as usize, 0xff);
        frame
    }

    fn kinds(frames: &mut Frames, bytes: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        frames.follow(bytes, |head| found.push(head.kind));
        found
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_split() {
        let mut stream = vec![0xff; PREFACE_LENGTH as usize];
        for (kind, length) in [(SETTINGS, 0), (HEADERS, 300), (DATA, 70_000), (DATA, 0), (PING, 8)] {
            stream.extend(frame(kind, END_HEADERS, length));
        }
        for size in [1, 2, 8, 9, 10, 24, 1000, stream.len()] {
            let mut frames = Frames::after(PREFACE_LENGTH);
            let found: Vec<u8> = stream.chunks(size).flat_map(|chunk| kinds(&mut frames, chunk)).collect();
            assert_eq!(found, [SETTINGS, HEADERS, DATA, DATA, PING], "{size}");
            assert!(!frames.is_in_head());
        }
    }

    #[test]
    fn a_head_is_under_way_until_its_block_has_ended() {
        let mut frames = Frames::after(0);
        assert!(frames.is_in_head(), "the first frame is to come");
        kinds(&mut frames, &frame(SETTINGS, 0, 6));
        assert!(!frames.is_in_head());
        let headers = frame(HEADERS, 0, 10);
        kinds(&mut frames, headers.get(..15).unwrap());
        assert!(frames.is_in_head());
        kinds(&mut frames, headers.get(15..).unwrap());
        assert!(frames.is_in_head());
        kinds(&mut frames, &frame(CONTINUATION, 0, 0));
        assert!(frames.is_in_head());
        kinds(&mut frames, &frame(CONTINUATION, END_HEADERS, 0));
        assert!(!frames.is_in_head());
        kinds(&mut frames, frame(DATA, 0, 10).get(..12).unwrap());
        assert!(!frames.is_in_head(), "a body may take its time");
    }

    fn guarded() -> (DuplexStream, Guard<DuplexStream>) {
        let (peer, node) = duplex(1 << 20);
        (peer, Guard::new(node, Bytes::new(), Peer::Server))
    }

    /// Sends frames of a kind; says whether the guard lets all of them pass.
    async fn passes(peer: &mut DuplexStream, guard: &mut Guard<DuplexStream>, frame: &[u8], count: usize) -> bool {
        for _ in 0..count {
            peer.write_all(frame).await.unwrap();
            let mut read = vec![0; frame.len()];
            if guard.read_exact(&mut read).await.is_err() {
                return false;
            }
        }
        true
    }

    #[tokio::test]
    async fn what_carries_nothing_is_bounded_and_what_does_is_not() {
        for (kind, length, limit) in
            [(PING, 8, BURST), (WINDOW_UPDATE, 4, BURST), (DATA, 0, BURST), (SETTINGS, 0, BURST / SETTINGS_COST)]
        {
            let (mut peer, mut guard) = guarded();
            assert!(passes(&mut peer, &mut guard, &frame(kind, 0, length), limit as usize).await, "{kind}");
            assert!(!passes(&mut peer, &mut guard, &frame(kind, 0, length), 10 * limit as usize).await, "{kind}");
            assert!(guard.flooded().get());
        }
        for (kind, flags) in [(DATA, 0), (DATA, END_STREAM), (HEADERS, END_HEADERS)] {
            let (mut peer, mut guard) = guarded();
            assert!(passes(&mut peer, &mut guard, &frame(kind, flags, 1), 2 * BURST as usize).await, "{kind}");
        }
    }

    #[test]
    fn time_and_what_was_sent_allow_for_more() {
        let mut account = Account { left: 1, filled: Instant::now() };
        assert!(account.take(1) && !account.take(1));
        account.add(Head { length: 1, kind: DATA, flags: 0 }.worth());
        assert!(account.take(PER_DATA_SENT) && !account.take(1));
        std::thread::sleep(Duration::from_millis(20));
        assert!(account.take(PER_SECOND / 50));
        account.add(u32::MAX);
        assert_eq!(account.left, BURST);
    }

    #[tokio::test]
    async fn what_is_sent_is_counted() {
        let (mut peer, mut guard) = guarded();
        guard.account.left = 0;
        let sent = [vec![0; PREFACE_LENGTH as usize], frame(DATA, 0, 100), frame(HEADERS, 0, 5)].concat();
        guard.write_all(&sent).await.unwrap();
        assert_eq!(guard.account.left, PER_DATA_SENT + PER_HEAD_SENT);
        peer.read_exact(&mut vec![0; sent.len()]).await.unwrap();
    }

    #[tokio::test]
    async fn a_head_that_stalls_is_given_up() {
        let (mut peer, guard) = guarded();
        let mut guard = guard.head_timeout(Duration::from_millis(20));
        peer.write_all(&frame(SETTINGS, 0, 0)).await.unwrap();
        peer.write_all(&frame(HEADERS, 0, 3)).await.unwrap();
        let mut read = Vec::new();
        assert_eq!(guard.read_to_end(&mut read).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
