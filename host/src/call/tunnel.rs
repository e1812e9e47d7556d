//! Connections that stop being HTTP: after 101 (RFC 9110, section 7.8) bytes go both ways until both sides are done.

use super::body::{Read, ResponseBody};
use super::own;
use super::request;
use crate::exchange::Exchange;
use crate::listener::Connection;
use crate::response::{Caller, ErrorKind, ProxyError};
use crate::service::InFlight;
use crate::telemetry::record::End;
use http::Response;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// The caller's side of an upgrade that it asked for.
pub struct Upgrade(OnUpgrade);

impl Upgrade {
    /// Taken from the request before it is forwarded.
    pub fn of(parts: &mut Parts) -> Option<Self> {
        request::upgrade_of(parts)?;
        parts.extensions.remove::<OnUpgrade>().map(Self)
    }
}

/// Passes 101 on, and then bytes.
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
        return refuse(exchange, ErrorKind::BadRequest, "bytes that are not HTTP came before the protocol was switched");
    }
    let upstream = hyper::upgrade::on(&mut response);
    // The deadline was for the answer; a tunnel lasts as long as its ends want it to.
    tokio::task::spawn_local(async move {
        // Whole, so that the exchange ends here and not with the answer's head.
        let (mut exchange, _busy) = (exchange, in_flight);
        let (downstream, upstream) = match tokio::try_join!(downstream, upstream) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!("upgrade failed: {error}");
                exchange.end = End::Truncated;
                return;
            }
        };
        let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(downstream), &mut TokioIo::new(upstream)).await;
        if let Ok((sent, received)) = copied {
            let record = &mut exchange.recording.record;
            (record.request_bytes, record.response_bytes) = (sent, received);
        }
        exchange.end = if copied.is_ok() { End::Ok } else { End::Truncated };
    });
    response.map(|_| ResponseBody::Empty)
}
