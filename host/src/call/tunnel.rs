//! Connections that stop being HTTP: after 101 (RFC 9110, section 7.8), or 200 to CONNECT (section 9.3.6), bytes go both
//! ways until both sides are done.

use super::body::{Read, ResponseBody};
use super::own;
use super::request;
use super::send::Failed;
use crate::exchange::Exchange;
use crate::listener::Connection;
use crate::response::{Caller, ErrorKind, ProxyError};
use crate::service::InFlight;
use crate::service::client;
use crate::service::endpoint::Endpoint;
use crate::telemetry::record::End;
use http::request::Parts;
use http::{Method, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
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
    // The deadline was for the answer; a tunnel lasts as long as its ends want it to.
    tokio::task::spawn_local(async move {
        // Whole, so that the exchange ends here and not with the answer's head.
        let (mut exchange, _busy) = (exchange, in_flight);
        let copied = match dialled {
            Some(stream) => copy(downstream, async { Ok(stream) }).await,
            None => copy(downstream, async { upstream.await.map(TokioIo::new) }).await,
        };
        if let Ok((sent, received)) = copied {
            let record = &mut exchange.recording.record;
            (record.request_bytes, record.response_bytes) = (sent, received);
        }
        exchange.end = if copied.is_ok() { End::Ok } else { End::Truncated };
    });
    response.map(|_| ResponseBody::Empty)
}

/// Copies both ways once both sides are ready; says how many bytes went up and down.
async fn copy<S: AsyncRead + AsyncWrite + Unpin>(
    downstream: impl Future<Output = hyper::Result<Upgraded>>,
    upstream: impl Future<Output = hyper::Result<S>>,
) -> io::Result<(u64, u64)> {
    let (downstream, mut upstream) = tokio::try_join!(downstream, upstream).map_err(io::Error::other)?;
    copy_bidirectional(&mut TokioIo::new(downstream), &mut upstream).await
}
