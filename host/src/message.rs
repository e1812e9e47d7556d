//! The message walk: a message on its way to a broker, and from a broker to a consumer.
//!
//! Both have the shape of a call (`call.rs`) and share its parts: deadline → `on-request` through the chain → `on-body` →
//! { pick → `on-attempt` → send → `on-outcome` in reverse order → stop, or back off and go round } → `on-response` →
//! `on-complete` → record. A publish goes round here, while its publisher waits. A delivery does not: each attempt is an
//! exchange of its own, with the policies, endpoints and tokens of its time, and in between the message waits with its
//! subscription (`message/runner.rs`), where it holds up nothing.

pub mod batch;
pub mod cloudevents;
pub mod deliver;
pub mod desk;
pub mod draft;
pub mod grpc;
mod head;
pub mod http;
mod post;
pub mod publish;
mod queue;
pub mod runner;
mod settle;
pub mod supervise;
mod work;

use crate::attempt::{self, Endpoints};
use crate::call::own::Refusal;
use crate::chain::{Attempt, Chain};
use crate::exchange::Exchange;
use crate::outcome::{Decision, FailureKind, Outcome};
use crate::response::{ErrorKind, ProxyError};
use crate::service::endpoint::Endpoint;
use crate::worker::Worker;
use ::http::HeaderMap;
use head::{Answer, Head, View};
use std::sync::Arc;
use std::time::Duration;

/// What stays the same throughout a walk.
struct Walk<'a> {
    worker: &'a Worker,
    chain: &'a Chain,
    view: View<'a>,
}

/// What a broker or a consumer said to an attempt.
#[derive(Debug)]
struct Sent {
    /// 0: it said nothing.
    status: u16,
    failure: Option<FailureKind>,
    /// Of a consumer's answer.
    headers: HeaderMap,
    /// Why it is no success, in words.
    message: String,
}

impl Sent {
    fn nothing() -> Self {
        Self { status: 0, failure: None, headers: HeaderMap::new(), message: String::new() }
    }

    fn failed(failure: FailureKind, message: impl Into<String>) -> Self {
        Self { failure: Some(failure), message: message.into(), ..Self::nothing() }
    }
}

impl Walk<'_> {
    /// One attempt: an endpoint that the chain lets pass, what is sent there, and what the policies make of the outcome.
    ///
    /// `backoff` is the wait that was before it, and `repeatable` whether there could be another one.
    async fn attempt<F: Future<Output = Sent>>(
        &self,
        exchange: &mut Exchange,
        headers: &HeaderMap,
        endpoints: &mut Endpoints,
        (backoff, max_attempts): (Duration, u32),
        send: impl FnOnce(Arc<Endpoint>, HeaderMap) -> F,
    ) -> Result<(Sent, Decision, Arc<Endpoint>), Refusal> {
        let (endpoint, headers) = loop {
            if exchange.remaining().is_some_and(|left| left.is_zero()) {
                exchange.failure = Some(FailureKind::Timeout);
                return Err(ProxyError::new(ErrorKind::Timeout, "the deadline passed before an attempt").into());
            }
            let mut headers = headers.clone();
            let mut head = Head { headers: &mut headers, view: &self.view };
            let endpoint = endpoints.pick(self.chain, exchange, &head)?;
            exchange.attempt += 1;
            let said = self.chain.on_attempt(exchange, endpoint.id, &mut head);
            if !matches!(said, Ok(Attempt::Proceed)) {
                exchange.attempt -= 1;
            }
            match said? {
                Attempt::Proceed => break (endpoint, headers),
                Attempt::Refused(refusal) => endpoints.refuse(exchange, endpoint.id, refusal).await?,
            }
        };
        exchange.begin_attempt(&endpoint);
        let limit = exchange.attempt_timeout.into_iter().chain(exchange.remaining()).min();
        let send = send(endpoint.clone(), headers);
        let sent = match limit {
            None => send.await,
            Some(limit) => tokio::time::timeout(limit, send).await.unwrap_or_else(|_| {
                let message = format!("{} did not answer within {} ms", endpoint.address, limit.as_millis());
                Sent::failed(FailureKind::Timeout, message)
            }),
        };
        let (latency, _) = exchange.end_attempt(sent.failure);
        let outcome = Outcome {
            endpoint: endpoint.id,
            status: sent.status,
            grpc_status: None,
            failure: sent.failure,
            latency,
            repeatable: exchange.attempt < max_attempts,
        };
        attempt::record(self.worker, exchange, &endpoint, &outcome, backoff);
        let answer = Answer { status: sent.status, headers: &sent.headers, endpoint: &endpoint.address };
        let decision = self.chain.on_outcome(exchange, self.chain.len(), &outcome, &answer);
        Ok((sent, decision, endpoint))
    }
}
