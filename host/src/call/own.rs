//! Answers that the proxy or a policy makes itself.

use super::body::ResponseBody;
use crate::chain::Stop;
use crate::exchange::Exchange;
use crate::outcome::FailureKind;
use crate::plugin::bindings::types;
use crate::response::{self, Caller, ErrorKind, ProxyError, Reply};
use crate::telemetry::record::End;
use bytes::Bytes;
use http::Response;
use std::time::Duration;

/// Why there is no answer of the service.
pub enum Refusal {
    Error(ProxyError),
    /// A policy's own answer.
    Reply(Reply),
}

impl From<ProxyError> for Refusal {
    fn from(error: ProxyError) -> Self {
        Self::Error(error)
    }
}

impl From<Stop> for Refusal {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(message) => ProxyError::new(ErrorKind::Policy, message).into(),
            Stop::Reply(reply) => Self::Reply(reply),
        }
    }
}

impl Refusal {
    /// No endpoint is left, because a policy refused it or all of them.
    pub fn of_endpoint(service: &str, refusal: types::Refusal) -> Self {
        let retry_after = refusal.retry_after.map(Duration::from_nanos);
        let kind = ErrorKind::named(&refusal.error).unwrap_or(ErrorKind::NoEndpoint);
        ProxyError { retry_after, ..ProxyError::new(kind, format!("service {service:?}: {}", refusal.reason)) }.into()
    }
}

/// Makes the response, and says in the record why.
pub fn respond(caller: &Caller, exchange: &mut Exchange, refusal: &Refusal) -> Response<Bytes> {
    let record = &mut exchange.recording.record;
    let response = match refusal {
        Refusal::Error(error) => {
            record.error = Some(error.kind.as_str());
            record.message = Some(error.message.clone());
            response::respond(error, caller)
        }
        Refusal::Reply(reply) => {
            record.error = response::known_kind(&reply.error);
            record.message = (!reply.message.is_empty()).then(|| reply.message.clone());
            response::reply(reply, caller)
        }
    };
    record.grpc_status = response::grpc_status(response.headers());
    record.response_bytes = response.body().len() as u64;
    exchange.end = match (record.error, exchange.failure) {
        (None, _) => End::Ok,
        // It broke off its body, and waits for no answer.
        (Some(_), Some(FailureKind::Cancelled)) => {
            record.error = None;
            End::ClientLeft
        }
        (Some(_), _) => End::Error,
    };
    response
}

/// The response with its exchange, which ends once it is written.
pub fn with_exchange(response: Response<Bytes>, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.recording.record.status = Some(response.status().as_u16());
    response.map(|body| ResponseBody::own(body, Some(Box::new(exchange))))
}
