//! One attempt on the wire, and how it can fail.

use super::body::{BodyError, Read, RequestBody};
use super::forward::{Hop, to_upstream};
use super::progress::Late;
use super::{Walk, tunnel};
use crate::config::Protocol;
use crate::exchange::Exchange;
use crate::outcome::FailureKind;
use crate::response::{ErrorKind, ProxyError};
use crate::service::client::{SendError, SendFailure};
use crate::service::endpoint::Endpoint;
use http::request::Parts;
use http::{Method, Request, Response};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

/// An attempt without an answer.
#[derive(Debug)]
pub struct Failed {
    pub failure: FailureKind,
    /// What the caller is told.
    pub kind: ErrorKind,
    /// False only where it is certain that the endpoint did not get the request.
    pub reached: bool,
    pub message: String,
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        let failure = match error.failure {
            SendFailure::Connect | SendFailure::ConnectTimeout => FailureKind::Connect,
            SendFailure::Reset => FailureKind::Reset,
            SendFailure::Protocol => FailureKind::Protocol,
            SendFailure::Overload => FailureKind::Overload,
            SendFailure::Upload => FailureKind::Cancelled,
        };
        Self { reached: error.reached, ..Self::reached(failure, error.message) }
    }
}

impl Failed {
    fn reached(failure: FailureKind, message: String) -> Self {
        Self { failure, kind: failure.into(), reached: true, message }
    }
}

impl From<Failed> for ProxyError {
    fn from(failed: Failed) -> Self {
        Self::new(failed.kind, failed.message)
    }
}

impl Walk<'_> {
    /// Sends one attempt, which has just started, and waits for the head of the answer, no longer than the attempt may take.
    pub(super) async fn send(
        &self,
        exchange: &Exchange,
        endpoint: &Endpoint,
        parts: Parts,
        started: Instant,
    ) -> Result<Response<Read>, Failed> {
        let left = exchange.deadline.map(|deadline| deadline.saturating_duration_since(started));
        let limit = exchange.attempt_timeout.into_iter().chain(left).min();
        let send = async {
            let options = **exchange.service.options.load();
            if parts.method == Method::CONNECT {
                return tunnel::dial(endpoint, options.connect_timeout).await;
            }
            let request = self.outgoing(endpoint, options.protocol, parts, left);
            let sent = self.worker.clients.send(&exchange.service.name, endpoint, &options, request).await?;
            let mut response = sent.map(Read::from);
            if self.caller.grpc {
                let broke =
                    |error| Failed::reached(FailureKind::Reset, format!("{} broke off: {error}", endpoint.address));
                poll_fn(|context| Poll::Ready(response.body_mut().peek(context))).await.map_err(broke)?;
            }
            Ok(response)
        };
        let progress = self.upload.progress();
        let deadline = limit.and_then(|limit| started.checked_add(limit));
        let late = match progress.within(deadline, send).await {
            Ok(sent) => {
                progress.moved();
                return sent;
            }
            Err(late) => late,
        };
        Err(match late {
            // That says nothing of the endpoint.
            Late::Idle(idle) if self.upload.is_awaited() => Failed {
                kind: ErrorKind::RequestTimeout,
                ..Failed::reached(FailureKind::Cancelled, format!("the request's body: {}", BodyError::Idle(idle)))
            },
            Late::Idle(idle) => {
                Failed::reached(FailureKind::Timeout, format!("{}: {}", endpoint.address, BodyError::Idle(idle)))
            }
            Late::Deadline => {
                let limit = limit.map(shown).unwrap_or_default();
                Failed::reached(FailureKind::Timeout, format!("{} did not answer within {limit}", endpoint.address))
            }
        })
    }

    /// The request of this attempt, as the endpoint gets it.
    fn outgoing(
        &self,
        endpoint: &Endpoint,
        protocol: Protocol,
        parts: Parts,
        left: Option<Duration>,
    ) -> Request<RequestBody> {
        let hop = Hop {
            protocol,
            address: &endpoint.address,
            target: self.target,
            strip_prefix: self.route.strip_prefix.as_deref(),
            left,
        };
        Request::from_parts(to_upstream(parts, &hop), self.upload.attempt(protocol))
    }
}

/// Whole milliseconds: a message does not need more.
fn shown(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
