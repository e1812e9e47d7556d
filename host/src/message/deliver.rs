//! A delivery: one attempt to give a message to a consumer, and what is to become of the message.

use super::head::{Ended, Head, View};
use super::post::{headers, retry_after};
use super::{Sent, Walk};
use crate::attempt::Endpoints;
use crate::broker::Message;
use crate::call::own::Refusal;
use crate::chain::Stop;
use crate::exchange::Exchange;
use crate::outcome::{Decision, FailureKind};
use crate::plugin::bindings::types::BodyOf;
use crate::response::ErrorKind;
use crate::service::endpoint::Endpoint;
use crate::snapshot::messages::Subscription;
use crate::telemetry::metrics::handles::Event;
use crate::telemetry::record::{End, Kind};
use crate::telemetry::recording::Recording;
use crate::worker::Worker;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// A message that is to be delivered.
pub struct Order {
    /// The subscription's name: what it is now is the worker's to know.
    pub subscription: Arc<str>,
    pub message: Message,
    /// That were made before.
    pub attempts: u32,
    /// The endpoint that had better not be tried again.
    pub avoid: Option<u32>,
    /// Who has come for it, where consumers do.
    pub taker: Option<oneshot::Sender<Pulled>>,
}

/// A message as a consumer that came for it gets it.
pub struct Pulled {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What the consumer says of it.
    pub settle: oneshot::Sender<Settled>,
}

/// What a consumer that came for a message says of it.
#[derive(Debug)]
pub struct Settled {
    /// 200: done. Anything else is a failure with that status.
    pub status: u16,
    /// When it wants to see the message again, if it is not done.
    pub after: Option<Duration>,
    /// Told once that is settled with the broker.
    pub done: oneshot::Sender<()>,
}

/// What is to become of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Ack,
    /// It is to be tried again.
    Again {
        /// `None`: as the subscription has it.
        after: Option<Duration>,
        /// Whether it was an attempt.
        counts: bool,
        avoid: Option<u32>,
        why: String,
    },
    /// It is given up.
    Dead(String),
}

impl Verdict {
    /// Whatever policies say, there is a last attempt.
    fn bounded(self, attempt: u32, max_attempts: u32) -> Self {
        match self {
            Self::Again { counts: true, why, .. } if attempt >= max_attempts => {
                Self::Dead(format!("attempt {attempt} of {max_attempts} failed: {why}"))
            }
            verdict => verdict,
        }
    }
}

/// A verdict, and who waits for its being carried out.
pub struct Delivered {
    pub verdict: Verdict,
    pub done: Option<oneshot::Sender<()>>,
}

/// No wait for another attempt is longer, whoever asks for it: the message holds a place meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// How long a message waits that could not be tried at all, where nothing says better.
const NOT_NOW: Duration = Duration::from_secs(1);

fn not_now(after: Option<Duration>, why: impl Into<String>) -> Verdict {
    Verdict::Again { after: Some(after.unwrap_or(NOT_NOW)), counts: false, avoid: None, why: why.into() }
}

/// Makes one attempt to deliver a message.
pub async fn deliver(worker: Rc<Worker>, order: Order) -> Delivered {
    let nothing = |verdict| Delivered { verdict, done: None };
    let current = worker.current();
    let Some(subscription) = current.snapshot.messages.subscriptions.get(&*order.subscription).cloned() else {
        return nothing(not_now(None, "the subscription has left the configuration"));
    };
    let Some(place) = worker.enter() else {
        return nothing(not_now(None, "the node has as many exchanges in progress as [limits] max-pending allows"));
    };
    let id = crate::response::new_id();
    let mut recording = Recording::begin(&worker.telemetry, Kind::Delivery, id.clone());
    let (route, metrics) = subscription.metrics(&worker.node.telemetry.metrics);
    recording.set_route(&subscription.name, route);
    metrics.count(Event::Delivered);
    let attempt = order.attempts + 1;
    let number = attempt.to_string();
    let attributes =
        [("message-id", order.message.id.as_str()), ("channel", &*subscription.channel.name), ("attempt", &number)];
    recording.record.attributes.extend(attributes.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let chain = current.chain(subscription.chain);
    let service = subscription.service.clone();
    let mut exchange =
        Exchange::new(worker.next_exchange_id(), subscription.id, service, chain.clone(), recording, place);
    drop(current);
    exchange.attempt = order.attempts;
    exchange.attempt_timeout = Some(subscription.config.timeout);
    // Nobody wants it later.
    let left = order.message.expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
    left.into_iter().for_each(|left| exchange.shorten(left));
    let (name, path) = (exchange.service.name.clone(), subscription.path().to_owned());
    let view = View {
        path: &path,
        authority: &name,
        protocol: match exchange.service.options.load().protocol {
            crate::config::Protocol::Http1 => "http1",
            crate::config::Protocol::Http2 => "http2",
        },
        peer: None,
        identity: None,
        route: &subscription.name,
    };
    let walk = Walk { worker: &worker, chain: &chain, view };
    let (verdict, done) = walk.deliver(&mut exchange, &subscription, order, id).await;
    let verdict = verdict.bounded(attempt, subscription.config.max_attempts);
    note(&mut exchange, &subscription, &verdict);
    Delivered { verdict, done }
}

impl Walk<'_> {
    async fn deliver(
        &self,
        exchange: &mut Exchange,
        subscription: &Subscription,
        order: Order,
        id: HeaderValue,
    ) -> (Verdict, Option<oneshot::Sender<()>>) {
        let Order { message, attempts, avoid, taker, .. } = order;
        let mut headers = headers(&message, subscription, attempts + 1, id);
        let mut body = message.body;
        exchange.recording.record.request_bytes = body.len() as u64;
        if let Err(stop) = self.chain.on_request(exchange, &mut Head { headers: &mut headers, view: &self.view }) {
            return (refused(exchange, stop.into()), None);
        }
        if let Some(limit) = self.chain.body_limit()
            && body.len() <= limit
        {
            match self.chain.on_body(exchange, BodyOf::Message, &body) {
                Ok(None) => {}
                Ok(Some(other)) => body = other,
                Err(stop) => return (refused(exchange, stop.into()), None),
            }
        }
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut endpoints = Endpoints::default();
        avoid.into_iter().for_each(|endpoint| endpoints.avoid(endpoint));
        let max_attempts = subscription.config.max_attempts;
        let (mut settled, service) = (None, exchange.service.clone());
        let sent = {
            let settled = &mut settled;
            let send = async |endpoint: Arc<Endpoint>, headers: HeaderMap| match taker {
                Some(taker) => hand_over(taker, headers, body, settled).await,
                None => {
                    let request = self.request(subscription, &service, &endpoint, headers, body);
                    self.post(&service, &endpoint, request).await
                }
            };
            self.attempt(exchange, &headers, &mut endpoints, (Duration::ZERO, max_attempts), send).await
        };
        let (mut sent, decision, endpoint) = match sent {
            Ok(sent) => sent,
            Err(refusal) => return (refused(exchange, refusal), None),
        };
        let done = settled.map(|settled: Settled| settled.done);
        exchange.recording.record.status = Some(sent.status).filter(|status| *status > 0);
        exchange.failure = sent.failure;
        let mut status = sent.status;
        let mut head = Ended { status, headers: &mut sent.headers, endpoint: &endpoint.address };
        if let Err(stop) = self.chain.on_response(exchange, &mut head) {
            match stop {
                // What a policy answers in the consumer's place counts as the consumer's answer.
                Stop::Reply(reply) => status = reply.status,
                Stop::Failed(why) => return (not_now(None, why), done),
            }
        }
        let verdict = match decision {
            _ if (200..300).contains(&status) => Verdict::Ack,
            // Nobody had it.
            _ if sent.failure == Some(FailureKind::Cancelled) => {
                exchange.attempt -= 1;
                Verdict::Again { after: Some(Duration::ZERO), counts: false, avoid: None, why: sent.message }
            }
            Decision::DeadLetter(reason) => Verdict::Dead(reason),
            Decision::Retry { after: wait, elsewhere } => {
                let avoid = elsewhere.then_some(endpoint.id);
                Verdict::Again { after: Some(wait.min(LONGEST_WAIT)), counts: true, avoid, why: sent.message }
            }
            Decision::Accept => {
                let after = retry_after(&sent.headers).map(|wait| wait.min(LONGEST_WAIT));
                Verdict::Again { after, counts: true, avoid: None, why: sent.message }
            }
        };
        (verdict, done)
    }
}

/// Gives a message to a consumer that has come for it, and waits for what that one says.
async fn hand_over(
    taker: oneshot::Sender<Pulled>,
    headers: HeaderMap,
    body: Bytes,
    settled: &mut Option<Settled>,
) -> Sent {
    let (settle, said) = oneshot::channel();
    if taker.send(Pulled { headers, body, settle }).is_err() {
        return Sent::failed(FailureKind::Cancelled, "the consumer left before it had the message");
    }
    match said.await {
        Ok(said) => {
            // As one that is called would say it: in whole seconds.
            let after = said.after.map(|after| after.as_millis().div_ceil(1000).max(1).to_string());
            let after = after.and_then(|seconds| Some((RETRY_AFTER, HeaderValue::from_str(&seconds).ok()?)));
            let (headers, message) = (after.into_iter().collect(), "the consumer did not accept it".into());
            let sent = Sent { status: said.status, failure: None, headers, message };
            *settled = Some(said);
            sent
        }
        Err(_) => Sent::failed(FailureKind::Reset, "the consumer left without a word"),
    }
}

/// What it means for a message that it never got to a consumer.
fn refused(exchange: &mut Exchange, refusal: Refusal) -> Verdict {
    match refusal {
        Refusal::Reply(reply) => {
            exchange.recording.record.status = Some(reply.status);
            let why = if reply.message.is_empty() { reply.error } else { reply.message };
            match reply.status {
                200..300 => Verdict::Ack,
                408 | 425 | 429 | 500.. => not_now(None, format!("a policy replied {}: {why}", reply.status)),
                status => Verdict::Dead(format!("a policy replied {status}: {why}")),
            }
        }
        Refusal::Error(error) => match error.kind {
            // The policy may have failed because of the message.
            ErrorKind::Policy => Verdict::Again { after: None, counts: true, avoid: None, why: error.message },
            _ => not_now(error.retry_after, error.message),
        },
    }
}

/// Says in the record what becomes of the message.
fn note(exchange: &mut Exchange, subscription: &Subscription, verdict: &Verdict) {
    let (did, why) = match verdict {
        Verdict::Ack => {
            exchange.end = End::Ok;
            return;
        }
        Verdict::Again { why, .. } => ("will try again", why),
        Verdict::Dead(why) => (if subscription.dead_letter.is_some() { "dead-lettered" } else { "dropped" }, why),
    };
    exchange.end = End::Error;
    exchange.recording.record.message = Some(why.clone());
    let name: Arc<str> = subscription.name.clone();
    exchange.acted(&name, "subscription", did, None);
}
