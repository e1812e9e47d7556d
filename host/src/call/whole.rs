//! Bodies for policies that want to see them whole: held back until they are complete, within the policies' limits.

use super::body::BodyError;
use super::own::Refusal;
use super::{Answer, Walk};
use crate::exchange::Exchange;
use crate::outcome::FailureKind;
use crate::plugin::bindings::types::BodyOf;
use crate::response::{ErrorKind, ProxyError};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

impl Walk<'_> {
    /// Shows the request's body to the policies that asked for it.
    pub(super) async fn request_body(&self, exchange: &mut Exchange, parts: &mut Parts) -> Result<(), Refusal> {
        let Some(limit) = self.chain.body_limit().filter(|_| !self.caller.grpc && !self.upload.is_empty()) else {
            return Ok(());
        };
        let whole = self.in_time(exchange, self.upload.whole(limit)).await;
        let whole = whole.map_err(|error| {
            exchange.failure = match error {
                BodyError::Deadline | BodyError::Idle(_) => Some(FailureKind::Timeout),
                _ if self.connection.is_malformed() => None,
                _ => Some(FailureKind::Cancelled),
            };
            let kind = match error {
                BodyError::Deadline => ErrorKind::Timeout,
                BodyError::Idle(_) => ErrorKind::RequestTimeout,
                BodyError::Superseded | BodyError::Peer(_) | BodyError::Service(_) => ErrorKind::BadRequest,
            };
            broken("the request's body", kind, &error)
        })?;
        let Some(body) = whole else { return Ok(()) };
        if let Some(body) = self.chain.on_body(exchange, BodyOf::Request, &body)? {
            set_length(&mut parts.headers, body.len());
            self.upload.replace(body);
        }
        Ok(())
    }

    /// Shows an answer's body to the policies that asked for it. A stream is never held back.
    pub(super) async fn response_body(&self, exchange: &mut Exchange, answer: &mut Answer) -> Result<(), Refusal> {
        let (Some(limit), Answer::Relayed(response, _)) = (self.chain.body_limit(), answer) else { return Ok(()) };
        let is_stream = self.caller.grpc
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
            || response
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if is_stream || response.body().is_empty() {
            return Ok(());
        }
        let progress = self.upload.progress();
        let whole = self.in_time(exchange, response.body_mut().whole(limit, || progress.moved())).await;
        let whole = whole.map_err(|error| {
            let failure = error.of_answer();
            exchange.failure = Some(failure);
            broken("the answer's body", failure.into(), &error)
        })?;
        let Some(body) = whole else { return Ok(()) };
        if let Some(body) = self.chain.on_body(exchange, BodyOf::Response, &body)? {
            set_length(response.headers_mut(), body.len());
            response.body_mut().replace(body);
        }
        Ok(())
    }

    /// Reading a body spends the deadline too, and may not stand still.
    async fn in_time(
        &self,
        exchange: &Exchange,
        read: impl Future<Output = Result<Option<Bytes>, BodyError>>,
    ) -> Result<Option<Bytes>, BodyError> {
        self.upload.progress().within(exchange.deadline, read).await?
    }
}

fn broken(what: &str, kind: ErrorKind, error: &BodyError) -> Refusal {
    ProxyError::new(kind, format!("{what} did not come to its end: {error}")).into()
}

fn set_length(headers: &mut HeaderMap, length: usize) {
    headers.remove(TRANSFER_ENCODING);
    headers.insert(CONTENT_LENGTH, length.into());
}
