//! A caller that reads nothing: its socket takes no more, and nobody asks for the rest of what it is sent.

use crate::strict::Switch;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A transport whose writes fail if nothing of them is taken for as long as a limit. Each byte that is taken starts it
/// anew.
pub struct Impatient<T> {
    inner: T,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Tells when bytes are no longer HTTP: the ends of a tunnel may make each other wait.
    switch: Option<Switch>,
}

impl<T> Impatient<T> {
    pub fn new(inner: T, limit: Duration, switch: Option<Switch>) -> Self {
        Self { inner, limit, timer: None, switch }
    }

    fn watch<R>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() || self.switch.as_ref().is_some_and(Switch::is_passthrough) {
            self.timer = None;
            return written;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller reads nothing")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Impatient<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Impatient<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.watch(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(context, slices);
        this.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(context);
        this.watch(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(context);
        this.watch(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, sleep};

    #[tokio::test]
    async fn a_write_of_which_nothing_is_taken_fails() {
        let limit = Duration::from_millis(20);
        let (_caller, node) = duplex(10);
        let mut node = Impatient::new(node, limit, None);
        let begun = Instant::now();
        assert_eq!(node.write_all(&[0; 11]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= limit);
    }

    #[tokio::test]
    async fn a_caller_may_read_slowly() {
        let limit = Duration::from_millis(500);
        let (mut caller, node) = duplex(1);
        let mut node = Impatient::new(node, limit, None);
        let reader = tokio::spawn(async move {
            for _ in 0..20 {
                sleep(limit / 10).await;
                caller.read_u8().await.unwrap();
            }
        });
        node.write_all(&[0; 20]).await.unwrap();
        reader.await.unwrap();
    }
}
