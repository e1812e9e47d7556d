//! Connections that stop being HTTP: after 101 (RFC 9110, section 7.8), or 200 to CONNECT (section 9.3.6), bytes go both
//! ways until both sides are done.

use super::body::{BodyError, Read, ResponseBody};
use super::own;
use super::progress::{Late, Progress};
use super::request;
use super::send::Failed;
use crate::exchange::Exchange;
use crate::listener::Connection;
use crate::outcome::FailureKind;
use crate::response::{Caller, ErrorKind, ProxyError};
use crate::service::InFlight;
use crate::service::client;
use crate::service::endpoint::Endpoint;
use crate::telemetry::record::End;
use http::request::Parts;
use http::{Method, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;

/// The caller's side of a tunnel that it asked for.
pub struct Upgrade(OnUpgrade);

impl Upgrade {
    /// Taken from the request before it is forwarded.
    pub fn of(parts: &mut Parts) -> Option<Self> {
        if parts.method != Method::CONNECT {
            request::upgrade_of(parts)?;
        }
        parts.extensions.remove::<OnUpgrade>().map(Self)
    }
}

/// The connection behind the answer to a CONNECT. Extensions have to be cloneable; only one takes it.
#[derive(Clone)]
struct Dialled(Arc<Mutex<Option<TcpStream>>>);

/// Opens the connection that a CONNECT asks for.
pub async fn dial(endpoint: &Endpoint, patience: Duration) -> Result<Response<Read>, Failed> {
    let stream = client::dial(&endpoint.address, patience).await?;
    let mut response = Response::new(Read::empty());
    response.extensions_mut().insert(Dialled(Arc::new(Mutex::new(Some(stream)))));
    Ok(response)
}

pub fn is_dialled(response: &Response<Read>) -> bool {
    response.extensions().get::<Dialled>().is_some()
}

/// Passes the answer on, and then bytes.
pub fn respond(
    connection: &Connection,
    caller: &Caller,
    exchange: Exchange,
    mut response: Response<Read>,
    in_flight: Option<InFlight>,
    upgrade: Option<Upgrade>,
    idle: Option<Duration>,
) -> Response<ResponseBody> {
    let refuse = |mut exchange, kind, message: &str| {
        let response = own::respond(caller, &mut exchange, &ProxyError::new(kind, message).into());
        own::with_exchange(response, exchange)
    };
    let Some(Upgrade(downstream)) = upgrade else {
        return refuse(exchange, ErrorKind::Protocol, "the endpoint switched protocols, which nobody had asked for");
    };
    if connection.switch.as_ref().is_some_and(|switch| switch.passthrough().is_err()) {
        return refuse(
            exchange,
            ErrorKind::BadRequest,
            "bytes that are not HTTP came before the protocol was switched",
        );
    }
    let dialled = response.extensions_mut().remove::<Dialled>();
    let dialled = dialled.and_then(|Dialled(stream)| stream.lock().unwrap_or_else(PoisonError::into_inner).take());
    let upstream = hyper::upgrade::on(&mut response);
    // The deadline was for the answer; a tunnel lasts as long as its ends want it to, and something moves.
    tokio::task::spawn_local(async move {
        // Whole, so that the exchange ends here and not with the answer's head.
        let (mut exchange, _busy) = (exchange, in_flight);
        let passed = Passed { up: Cell::new(0), down: Cell::new(0), progress: Progress::new(idle) };
        let copied = match dialled {
            Some(stream) => copy(&passed, downstream, async { Ok(stream) }).await,
            None => copy(&passed, downstream, async { upstream.await.map(TokioIo::new) }).await,
        };
        let record = &mut exchange.recording.record;
        (record.request_bytes, record.response_bytes) = (passed.up.get(), passed.down.get());
        if let Err(late) = copied {
            record.error = Some(FailureKind::Timeout.as_str());
            record.message = Some(format!("the tunnel: {}", BodyError::from(late)));
            exchange.failure = Some(FailureKind::Timeout);
        }
        exchange.end = if matches!(copied, Ok(Ok(()))) { End::Ok } else { End::Truncated };
    });
    response.map(|_| ResponseBody::Empty)
}

/// What has come through a tunnel, in bytes.
struct Passed {
    up: Cell<u64>,
    down: Cell<u64>,
    progress: Progress,
}

impl Passed {
    fn count(&self, way: &Cell<u64>, bytes: usize) {
        way.set(way.get() + bytes as u64);
        self.progress.moved();
    }
}

/// Copies both ways once both sides are ready. Which side has ended does not matter: as long as something comes from the
/// other, the tunnel lives.
async fn copy<S: AsyncRead + AsyncWrite + Unpin>(
    passed: &Passed,
    downstream: impl Future<Output = hyper::Result<Upgraded>>,
    upstream: impl Future<Output = hyper::Result<S>>,
) -> Result<io::Result<()>, Late> {
    let copied = async {
        let (downstream, mut upstream) = tokio::try_join!(downstream, upstream).map_err(io::Error::other)?;
        let mut downstream = Counted { inner: TokioIo::new(downstream), passed };
        copy_bidirectional(&mut downstream, &mut upstream).await.map(drop)
    };
    passed.progress.within(None, copied).await
}

/// The caller's side, through which everything passes.
struct Counted<'a, T> {
    inner: T,
    passed: &'a Passed,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buffer.filled().len());
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        this.passed.count(&this.passed.up, buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(context, bytes))?;
        this.passed.count(&this.passed.down, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
