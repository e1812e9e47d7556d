//! Closes a caller's connection so that it gets to read its last answers.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy, sink};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a caller may take to close after the last answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket that is not closed when it is dropped, but left to whoever has the other half of it. hyper drops what it has
/// served without a word when it refuses a request, or when some request on the connection had asked for an upgrade.
pub struct Lent {
    stream: Option<TcpStream>,
    left: Left,
}

/// Where the socket is once it is no longer lent. `Arc`, although a connection stays on one thread: hyper's upgrades
/// require the transport to be `Send`.
#[derive(Clone, Default)]
pub struct Left(Arc<Mutex<Option<TcpStream>>>);

impl Lent {
    pub fn new(stream: TcpStream) -> (Self, Left) {
        let left = Left::default();
        (Self { stream: Some(stream), left: left.clone() }, left)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Left {
    /// The socket, if it is no longer lent.
    pub fn take(&self) -> Option<TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says that nothing more comes, and throws away what the caller still sends, until it closes too.
    ///
    /// A socket that is closed with something unread resets the connection, and the caller loses those answers that it has
    /// not read yet (RFC 9112, section 9.6). A tunnel keeps its socket, and then there is nothing to do.
    pub async fn close(self) {
        let Some(mut stream) = self.take() else { return };
        let closed = async {
            stream.shutdown().await?;
            copy(&mut stream, &mut sink()).await
        };
        drop(timeout(PATIENCE, closed).await);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}
