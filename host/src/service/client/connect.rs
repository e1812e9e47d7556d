//! Dialling an endpoint, and the socket that counts itself.

use super::error::SendError;
use super::slots::Slot;
use prometheus_client::metrics::gauge::Gauge;
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// An endpoint that has acknowledged nothing for so long, neither data nor a probe, has vanished.
const VANISHED: Duration = Duration::from_secs(30);

/// Connects to `address`, "host:port", within `patience`.
pub(super) async fn connect(address: &str, patience: Duration, slot: Slot, open: &Gauge) -> Result<Socket, SendError> {
    let stream = dial(address, patience).await?;
    open.inc();
    let open = open.clone();
    Ok(Socket { stream, open, _slot: slot })
}

/// A bare connection, for a tunnel.
pub async fn dial(address: &str, patience: Duration) -> Result<TcpStream, SendError> {
    dial_any(address, patience).await.map_err(|error| SendError::connect(address, patience, &error))
}

async fn dial_any(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let stream = match address.parse() {
        Ok(literal) => first_of(&[literal], deadline, TcpStream::connect).await?,
        Err(_) => {
            let found = timeout_at(deadline, lookup_host(address)).await??;
            let candidates: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
            first_of(&candidates, deadline, TcpStream::connect).await?
        }
    };
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(VANISHED).with_interval(VANISHED / 3))?;
    socket.set_tcp_user_timeout(Some(VANISHED))?;
    Ok(stream)
}

/// Tries one address after the other. Each gets an equal share of the time that is left, so that one which does not
/// answer cannot keep the next from being tried.
async fn first_of<T, F: Future<Output = io::Result<T>>>(
    candidates: &[SocketAddr],
    deadline: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (candidate, left) in candidates.iter().zip((1..=candidates.len() as u32).rev()) {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        failure = match timeout(share, connect(*candidate)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
    }
    Err(failure)
}

/// A connection's socket: counted as open, and holding its slot, until it is closed. It outlives the connection where
/// an upgrade has taken it over.
pub(super) struct Socket {
    stream: TcpStream,
    open: Gauge,
    // Declared last: the slot is free once the socket is closed.
    _slot: Slot,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    const FIRST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const SECOND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_that_does_not_answer_is_a_timeout() {
        let error = first_of(&[FIRST], soon(), |_| pending::<io::Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = SendError::connect("orders:80", Duration::from_millis(20), &error);
        assert_eq!(error.failure, super::super::SendFailure::ConnectTimeout);
        assert!(!error.reached);
        assert_eq!(error.message, "cannot connect to orders:80: no answer within 20ms");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_silent_address_leaves_time_for_the_next() {
        let connect = |address| async move { if address == FIRST { pending().await } else { Ok(address) } };
        assert_eq!(first_of(&[FIRST, SECOND], soon(), connect).await.unwrap(), SECOND);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_address_tells_why() {
        let connect = |address: SocketAddr| ready(Err::<(), _>(io::Error::other(format!("no {}", address.port()))));
        let error = first_of(&[FIRST, SECOND], soon(), connect).await.unwrap_err();
        assert_eq!(error.to_string(), "no 2");
        let nobody = first_of(&[], soon(), connect).await.unwrap_err();
        assert_eq!(nobody.to_string(), "the name has no address");
    }
}
