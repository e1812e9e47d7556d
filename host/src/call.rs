//! The call walk: one request on its way, from a listener to a service and back.
//!
//! listener → route → deadline → `on-request` through the chain → { pick → `on-attempt` → send → `on-outcome` in reverse
//! order → stop, or back off and go round } → `on-response` in reverse order → relay the body → `on-complete` → record.

pub mod body;
pub mod forward;
mod head;
pub mod own;
mod progress;
pub mod request;
mod send;
mod tunnel;
mod whole;

use crate::attempt::{self, Endpoints};
use crate::chain::{Attempt, Chain};
use crate::exchange::{Exchange, NoHead};
use crate::listener::{Connection, Terms};
use crate::message;
use crate::outcome::{Decision, FailureKind, Outcome};
use crate::response::{self, Caller, ErrorKind, ProxyError};
use crate::service::InFlight;
use crate::snapshot::{Route, Snapshot};
use crate::telemetry::record::{End, Kind};
use crate::telemetry::recording::Recording;
use crate::worker::Worker;
use body::{CallerBody, Read, Relay, ResponseBody, Upload};
use bytes::Bytes;
pub(crate) use head::AnswerHead;
use head::{AnswerView, RequestHead};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use own::Refusal;
use request::Target;
use send::Failed;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tunnel::Upgrade;

/// The longest wait between two attempts of an exchange without a deadline.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// What is answered, and by whom.
enum Answer {
    /// The endpoint, which is busy with the exchange until the body ends.
    Relayed(Response<Read>, Option<InFlight>),
    /// The proxy or a policy.
    Own(Response<Bytes>),
}

/// What stays the same throughout a walk.
struct Walk<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
    terms: &'a Terms,
    caller: &'a Caller,
    target: &'a Target,
    route: &'a Route,
    upload: &'a Upload,
    chain: &'a Chain,
}

/// Answers one request. Never fails: what goes wrong is an answer too.
pub async fn call(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<CallerBody>,
) -> Response<ResponseBody> {
    let (mut parts, incoming) = request.into_parts();
    let caller = Caller::of(&parts);
    let current = connection.listener.current(&worker);
    let terms = connection.terms();
    if let Some(asked) = message::http::asked(&current.snapshot, &parts) {
        let request = message::http::Request {
            worker: &worker,
            current: &current,
            connection: &connection,
            terms: &terms,
            caller,
        };
        return Box::pin(request.answer(asked, parts, incoming)).await;
    }
    let mut recording = begin_record(&worker, &connection, &caller, &parts);
    let Some(place) = worker.enter() else {
        let error = ProxyError::new(
            ErrorKind::Overload,
            "the node has as many exchanges in progress as [limits] max-pending allows",
        );
        return unrouted(&caller, recording, error);
    };
    let (target, route) = match accept(&terms, &current.snapshot, &parts) {
        Ok(accepted) => accepted,
        Err(error) => return unrouted(&caller, recording, error),
    };
    recording.set_route(&route.name, route.metrics(&worker.node.telemetry.metrics));
    let chain = current.chain(route.chain);
    let limits = current.snapshot.config.limits.clone();
    let mut exchange =
        Exchange::new(worker.next_exchange_id(), route.id, route.service.clone(), chain.clone(), recording, place);
    drop(current);

    let upgrade = Upgrade::of(&mut parts);
    let keep = chain.judges_outcomes().then_some(limits.max_body_buffer);
    let upload = Upload::new(incoming, keep, route.stream_idle_timeout);
    let walk = Walk {
        worker: &worker,
        connection: &connection,
        terms: &terms,
        caller: &caller,
        target: &target,
        route: &route,
        upload: &upload,
        chain: &chain,
    };
    let answered = walk.answer(&mut exchange, &mut parts, limits.max_attempts).await;
    let answer = answered.unwrap_or_else(|refusal| Answer::Own(own::respond(&caller, &mut exchange, &refusal)));
    walk.respond(exchange, answer, upgrade)
}

/// Where a request wants to go, and the route that takes it there.
fn accept(terms: &Terms, snapshot: &Snapshot, parts: &Parts) -> Result<(Target, Arc<Route>), ProxyError> {
    let (fields, max_fields) = (parts.headers.len(), snapshot.config.limits.max_headers);
    // On HTTP/2 nothing before this counts them.
    if fields > max_fields {
        let message = format!("{fields} header fields are more than the {max_fields} of [limits] max-headers");
        return Err(ProxyError::new(ErrorKind::HeadersTooLarge, message));
    }
    let target = Target::of(parts)?;
    let listener = &terms.listener;
    if parts.method == http::Method::CONNECT && !listener.connect {
        let message =
            format!("CONNECT is not allowed on listener {:?} (set connect = true to allow it)", listener.name);
        return Err(ProxyError::new(ErrorKind::ConnectRefused, message));
    }
    match snapshot.route(&listener.name, target.host(), target.path(), &parts.method, &parts.headers) {
        Some(route) => Ok((target, route.clone())),
        None => {
            let message = format!(
                "no route for {} {:?} {:?} on listener {:?}",
                parts.method,
                target.host(),
                target.path(),
                listener.name
            );
            Err(ProxyError::new(ErrorKind::NoRoute, message))
        }
    }
}

impl Walk<'_> {
    async fn answer(&self, exchange: &mut Exchange, parts: &mut Parts, max_attempts: u32) -> Result<Answer, Refusal> {
        self.prepare(exchange, parts)?;
        self.request_body(exchange, parts).await?;
        let mut answer = self.attempts(exchange, parts, max_attempts).await?;
        self.response_body(exchange, &mut answer).await?;
        Ok(answer)
    }

    /// Fixes the deadline, and lets the chain see the request.
    fn prepare(&self, exchange: &mut Exchange, parts: &mut Parts) -> Result<(), Refusal> {
        for timeout in
            [self.route.timeout, request::grpc_timeout(&parts.headers)?, request::weir_timeout(&parts.headers)?]
                .into_iter()
                .flatten()
        {
            exchange.shorten(timeout);
        }
        exchange.attempt_timeout = self.route.attempt_timeout;
        forward::prepare(parts, &self.terms.origin, self.target, self.caller);
        let mut head = RequestHead { parts, walk: self };
        self.chain.on_request(exchange, &mut head).map_err(Refusal::from)
    }

    /// Tries endpoints until an outcome is accepted.
    async fn attempts(&self, exchange: &mut Exchange, parts: &Parts, max_attempts: u32) -> Result<Answer, Refusal> {
        let mut endpoints = Endpoints::default();
        let mut backoff = Duration::ZERO;
        loop {
            // Without time there is no attempt, and nothing that could count against an endpoint.
            if exchange.remaining().is_some_and(|left| left.is_zero()) {
                exchange.failure = Some(FailureKind::Timeout);
                return Err(ProxyError::new(ErrorKind::Timeout, "the deadline passed before an attempt").into());
            }
            let mut attempt_parts = parts.clone();
            let mut head = RequestHead { parts: &mut attempt_parts, walk: self };
            let endpoint = endpoints.pick(self.chain, exchange, &head)?;
            exchange.attempt += 1;
            let said = self.chain.on_attempt(exchange, endpoint.id, &mut head);
            if !matches!(said, Ok(Attempt::Proceed)) {
                exchange.attempt -= 1;
            }
            if let Attempt::Refused(refusal) = said? {
                endpoints.refuse(exchange, endpoint.id, refusal).await?;
                continue;
            }
            if exchange.attempt == 1 {
                self.worker.node.retry_budget.deposit();
            }
            let started = exchange.begin_attempt(&endpoint);
            let sent = self.send(exchange, &endpoint, attempt_parts, started).await;
            let failure = sent.as_ref().err().map(|error| error.failure);
            let (latency, in_flight) = exchange.end_attempt(failure);
            let outcome = Outcome {
                endpoint: endpoint.id,
                status: sent.as_ref().map_or(0, |response| response.status().as_u16()),
                grpc_status: sent.as_ref().ok().and_then(grpc_status),
                failure,
                latency,
                repeatable: exchange.attempt < max_attempts && self.is_repeatable(parts, &sent),
            };
            attempt::record(self.worker, exchange, &endpoint, &outcome, backoff);
            let decision = match &sent {
                Ok(response) => self.chain.on_outcome(
                    exchange,
                    self.chain.len(),
                    &outcome,
                    &AnswerView { response, endpoint: &endpoint.address },
                ),
                Err(_) => self.chain.on_outcome(exchange, self.chain.len(), &outcome, &NoHead),
            };
            if let Decision::Retry { after, elsewhere } = decision
                && outcome.repeatable
                && after < exchange.remaining().unwrap_or(LONGEST_BACKOFF)
                && attempt::may_retry(&self.worker.node, exchange)
            {
                if elsewhere {
                    endpoints.avoid(endpoint.id);
                }
                drop(in_flight);
                discard(sent);
                backoff = after;
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                continue;
            }
            return match sent {
                Ok(response) => Ok(Answer::Relayed(response, in_flight)),
                Err(error) => {
                    // Who stands still, or sends what is no HTTP, has not left.
                    exchange.failure = match error.kind {
                        ErrorKind::RequestTimeout => Some(FailureKind::Timeout),
                        _ => Some(error.failure).filter(|_| !self.connection.is_malformed()),
                    };
                    Err(ProxyError::from(error).into())
                }
            };
        }
    }

    /// Whether the host would let the exchange be tried once more: nothing of an answer was relayed, the body can be sent
    /// again, and repeating does no harm (RFC 9110, section 9.2.2) or the request never arrived.
    ///
    /// gRPC has no methods to tell by. There an answer without a message, of which nothing was relayed, leaves the call
    /// uncommitted, and the policy's list of codes says what is safe (gRFC A6).
    fn is_repeatable(&self, parts: &Parts, sent: &Result<Response<Read>, Failed>) -> bool {
        self.upload.is_replayable()
            && match sent {
                Ok(response) if self.caller.grpc => grpc_status(response).is_some(),
                Ok(_) => request::is_repeatable(&parts.method, &parts.headers),
                Err(error) => {
                    !error.reached || (!self.caller.grpc && request::is_repeatable(&parts.method, &parts.headers))
                }
            }
    }

    /// Lets the chain see the answer, and hands it to the caller together with the exchange, which ends with its body.
    fn respond(&self, mut exchange: Exchange, mut answer: Answer, upgrade: Option<Upgrade>) -> Response<ResponseBody> {
        let seen = match &mut answer {
            Answer::Relayed(response, in_flight) => {
                forward::strip_response(response, self.caller);
                self.chain.on_response(&mut exchange, &mut AnswerHead { response, in_flight: in_flight.as_ref() })
            }
            Answer::Own(response) => {
                self.chain.on_response(&mut exchange, &mut AnswerHead { response, in_flight: None })
            }
        };
        if let Err(stop) = seen {
            answer = Answer::Own(own::respond(self.caller, &mut exchange, &stop.into()));
        }
        exchange.recording.record.request_bytes = self.upload.bytes();
        exchange.recording.first_byte();
        match answer {
            Answer::Own(response) => own::with_exchange(response, exchange),
            Answer::Relayed(response, in_flight) => {
                let record = &mut exchange.recording.record;
                record.status = Some(response.status().as_u16());
                record.grpc_status = response::grpc_status(response.headers());
                if response.status() == StatusCode::SWITCHING_PROTOCOLS || tunnel::is_dialled(&response) {
                    let idle = self.route.stream_idle_timeout;
                    return tunnel::respond(self.connection, self.caller, exchange, response, in_flight, upgrade, idle);
                }
                let (parts, body) = response.into_parts();
                let relay = Relay::new(body, exchange, in_flight, self.upload.clone(), self.caller.grpc);
                Response::from_parts(parts, ResponseBody::Relay(Box::new(relay)))
            }
        }
    }
}

fn begin_record(worker: &Worker, connection: &Connection, caller: &Caller, parts: &Parts) -> Recording {
    let mut recording = Recording::begin(&worker.telemetry, Kind::Call, caller.id.clone());
    let record = &mut recording.record;
    record.listener = Some(connection.listener.sockets.name.clone());
    record.client = Some(connection.client.clone());
    record.method = Some(parts.method.clone());
    record.path = parts.uri.path_and_query().cloned();
    record.protocol = Some(if caller.http2 { "h2" } else { "http/1.1" });
    recording
}

/// Answers what never became an exchange: it took no route.
fn unrouted(caller: &Caller, mut recording: Recording, error: ProxyError) -> Response<ResponseBody> {
    recording.record.error = Some(error.kind.as_str());
    recording.record.message = Some(error.message.clone());
    let response = response::respond(&error, caller);
    recording.record.status = Some(response.status().as_u16());
    recording.record.grpc_status = response::grpc_status(response.headers());
    recording.record.response_bytes = response.body().len() as u64;
    recording.finish(End::Error);
    response.map(|body| ResponseBody::own(body, None))
}

/// The gRPC status of an answer without a message, which has it in its head or in trailers right after it.
fn grpc_status(response: &Response<Read>) -> Option<u32> {
    response::grpc_status(response.headers()).or_else(|| response::grpc_status(response.body().trailers()?))
}

/// Lets go of an answer that another attempt replaces.
fn discard(sent: Result<Response<Read>, Failed>) {
    let Ok(response) = sent else { return };
    read_on(response.into_body());
}

/// Reads a short rest that nobody wants, so that its connection can be used again.
pub fn read_on(mut body: Read) {
    const REST: usize = 64 * 1024;
    if !body.is_empty() {
        tokio::task::spawn_local(async move {
            drop(tokio::time::timeout(Duration::from_millis(100), body.whole(REST, || ())).await);
        });
    }
}
