//! A publish: from a draft to the broker's word that the message is kept.

use super::draft::{Asked, Draft, kept};
use super::head::{Head, View};
use super::{Sent, Walk};
use crate::attempt::{self, Endpoints};
use crate::broker::{BrokerError, BrokerFailure};
use crate::call::AnswerHead;
use crate::call::own::{self, Refusal};
use crate::call::request::{grpc_timeout, weir_timeout};
use crate::exchange::Exchange;
use crate::outcome::{Decision, FailureKind};
use crate::plugin::bindings::types::BodyOf;
use crate::response::{self, Caller, ErrorKind, ProxyError, REQUEST_ID};
use crate::snapshot::messages::Channel;
use crate::telemetry::metrics::handles::Event;
use crate::telemetry::record::{End, Kind};
use crate::telemetry::recording::Recording;
use crate::worker::{Current, Worker};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Who publishes, and what came with it.
#[derive(Clone)]
pub struct Publisher {
    pub caller: Caller,
    pub listener: Arc<str>,
    /// Of the listener.
    pub identity: Option<String>,
    /// Address and port, and the address alone.
    pub client: Arc<str>,
    pub peer: String,
    /// As in `call`: what the publisher took the node for.
    pub authority: String,
}

/// The answer to a publisher, and the exchange, which ends when the answer was written. There is none where the draft was
/// refused before it became one.
pub struct Published {
    pub response: Response<Bytes>,
    pub exchange: Option<Box<Exchange>>,
}

/// Publishes one message. Never fails: what goes wrong is an answer too.
pub async fn publish(
    worker: &Worker,
    current: &Current,
    publisher: &Publisher,
    channel: &str,
    draft: Draft,
) -> Published {
    let mut recording = begin_record(worker, publisher);
    recording.record.request_bytes = draft.body.len() as u64;
    let accepted = accept(worker, current, channel, &draft);
    let (channel, asked, place) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return Published { response: refuse(publisher, recording, &error), exchange: None },
    };
    let (route, metrics) = channel.metrics(&worker.node.telemetry.metrics);
    recording.set_route(&channel.name, route);
    recording.record.attributes.push(("message-id".into(), asked.id.clone()));
    metrics.count(Event::Published);
    let chain = current.chain(channel.chain);
    let service = channel.broker.service.clone();
    let mut exchange = Exchange::new(worker.next_exchange_id(), channel.id, service, chain.clone(), recording, place);
    let path = format!("/v1/publish/{}", channel.name);
    let view = View {
        path: &path,
        authority: &publisher.authority,
        protocol: if publisher.caller.http2 { "http2" } else { "http1" },
        peer: Some(&publisher.peer),
        identity: publisher.identity.as_deref(),
        route: &channel.name,
    };
    let walk = Walk { worker, chain: &chain, view };
    let max_attempts = current.snapshot.config.limits.max_attempts;
    let confirmed = walk.publish(&mut exchange, channel, &asked, draft, max_attempts).await;
    let mut response = match confirmed {
        Ok(()) => {
            metrics.count(Event::Confirmed);
            exchange.end = End::Ok;
            confirmation(&publisher.caller, channel, &asked)
        }
        Err(refusal) => own::respond(&publisher.caller, &mut exchange, &refusal),
    };
    let mut head = AnswerHead { response: &mut response, in_flight: None };
    if let Err(stop) = chain.on_response(&mut exchange, &mut head) {
        response = own::respond(&publisher.caller, &mut exchange, &stop.into());
    }
    exchange.recording.first_byte();
    exchange.recording.record.status = Some(response.status().as_u16());
    exchange.recording.record.response_bytes = response.body().len() as u64;
    Published { response, exchange: Some(Box::new(exchange)) }
}

/// What a message has to pass before it is an exchange.
fn accept<'a>(
    worker: &Worker,
    current: &'a Current,
    channel: &str,
    draft: &Draft,
) -> Result<(&'a Arc<Channel>, Asked, crate::worker::Place), ProxyError> {
    let error = |kind, message: String| ProxyError::new(kind, message);
    let place = worker.enter().ok_or_else(|| {
        let message = "the node has as many exchanges in progress as [limits] max-pending allows";
        error(ErrorKind::Overload, message.into())
    })?;
    let found = current.snapshot.messages.channels.get(channel);
    let channel = found.ok_or_else(|| error(ErrorKind::NoChannel, format!("there is no channel {channel:?}")))?;
    let length = draft.body.len();
    if length > channel.max_message {
        let most = channel.max_message;
        let message = format!("channel {:?}: {length} bytes are more than the {most} of max-message", channel.name);
        return Err(error(ErrorKind::TooLarge, message));
    }
    Ok((channel, draft.asked()?, place))
}

impl Walk<'_> {
    /// Carries a message to the broker, in as many attempts as policies want and limits allow.
    async fn publish(
        &self,
        exchange: &mut Exchange,
        channel: &Channel,
        asked: &Asked,
        draft: Draft,
        max_attempts: u32,
    ) -> Result<(), Refusal> {
        let Draft { mut headers, mut body } = draft;
        let timeouts = [Some(channel.timeout), grpc_timeout(&headers)?, weir_timeout(&headers)?];
        timeouts.into_iter().flatten().for_each(|timeout| exchange.shorten(timeout));
        let publishers = headers.get(AUTHORIZATION).cloned();
        self.chain.on_request(exchange, &mut Head { headers: &mut headers, view: &self.view })?;
        if !Arc::ptr_eq(&exchange.service, &channel.broker.service) {
            let message =
                format!("a policy sent a publish to service {:?}, which is no broker", &*exchange.service.name);
            return Err(ProxyError::new(ErrorKind::Policy, message).into());
        }
        self.worker.node.retry_budget.deposit();
        if let Some(limit) = self.chain.body_limit()
            && body.len() <= limit
            && let Some(other) = self.chain.on_body(exchange, BodyOf::Message, &body)?
        {
            body = other;
        }
        let (mut endpoints, mut backoff) = (Endpoints::default(), Duration::ZERO);
        loop {
            let send = async |_, headers: HeaderMap| {
                let headers = kept(&headers, publishers.as_ref());
                let message = asked.message(headers, body.clone(), channel.destination.options.ttl);
                let kept = channel.broker.client.publish(&channel.destination, &message).await;
                kept.map_or_else(Sent::from, |()| Sent { status: 200, ..Sent::nothing() })
            };
            let limits = (backoff, max_attempts);
            let (sent, decision, endpoint) = self.attempt(exchange, &headers, &mut endpoints, limits, send).await?;
            if sent.status == 200 {
                return Ok(());
            }
            if let Decision::Retry { after, elsewhere } = decision
                && exchange.attempt < max_attempts
                && exchange.remaining().is_some_and(|left| after < left)
                && attempt::may_retry(&self.worker.node, exchange)
            {
                if elsewhere {
                    endpoints.avoid(endpoint.id);
                }
                backoff = after;
                tokio::time::sleep(after).await;
                continue;
            }
            exchange.failure = sent.failure;
            return Err(sent.into_error(channel).into());
        }
    }
}

impl From<BrokerError> for Sent {
    fn from(error: BrokerError) -> Self {
        let (status, failure) = match error.kind {
            BrokerFailure::Unreachable => (0, Some(FailureKind::Connect)),
            BrokerFailure::Lost => (0, Some(FailureKind::Reset)),
            BrokerFailure::Full => (503, None),
            BrokerFailure::TooLarge => (413, None),
            BrokerFailure::Refused => (502, None),
        };
        Self { status, failure, message: error.message, ..Self::nothing() }
    }
}

impl Sent {
    /// What the publisher is told.
    fn into_error(self, channel: &Channel) -> ProxyError {
        let kind = match (self.failure, self.status) {
            (Some(FailureKind::Timeout), _) => ErrorKind::Timeout,
            (Some(_), _) => ErrorKind::BrokerDown,
            (None, 503) => ErrorKind::BrokerFull,
            (None, 413) => ErrorKind::TooLarge,
            (None, _) => ErrorKind::BrokerRefused,
        };
        let broker = &channel.broker.config.name;
        ProxyError::new(kind, format!("channel {:?}: broker {broker:?}: {}", channel.name, self.message))
    }
}

fn begin_record(worker: &Worker, publisher: &Publisher) -> Recording {
    let mut recording = Recording::begin(&worker.telemetry, Kind::Publish, publisher.caller.id.clone());
    let record = &mut recording.record;
    record.listener = Some(publisher.listener.clone());
    record.client = Some(publisher.client.clone());
    record.protocol = Some(if publisher.caller.http2 { "h2" } else { "http/1.1" });
    recording
}

/// Answers what never became an exchange.
pub fn refused(worker: &Worker, publisher: &Publisher, error: &ProxyError) -> Response<Bytes> {
    refuse(publisher, begin_record(worker, publisher), error)
}

fn refuse(publisher: &Publisher, mut recording: Recording, error: &ProxyError) -> Response<Bytes> {
    recording.record.error = Some(error.kind.as_str());
    recording.record.message = Some(error.message.clone());
    let response = response::respond(error, &publisher.caller);
    recording.record.status = Some(response.status().as_u16());
    recording.record.response_bytes = response.body().len() as u64;
    recording.finish(End::Error);
    response
}

fn confirmation(caller: &Caller, channel: &Channel, asked: &Asked) -> Response<Bytes> {
    let body = json!({ "channel": &*channel.name, "id": asked.id }).to_string();
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(REQUEST_ID, caller.id.clone());
    response
}
