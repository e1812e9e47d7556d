//! The spans of an exchange: one of its own, and one for each attempt.

use crate::context::{Context, TraceId};
use weir_sdk::host::trace::{AttributeValue, Link, Span, SpanKind};
use weir_sdk::prelude::*;

/// A sampled exchange that is not complete.
#[derive(Debug)]
pub struct Open {
    /// The exchange's id. The memo of an instance that was thrown away could otherwise be taken for one of ours.
    pub exchange: u64,
    pub context: Context,
    /// The span of the attempt under way.
    pub attempt: u64,
    subject: Subject,
    state: String,
}

/// What is on its way.
#[derive(Debug)]
enum Subject {
    /// `path` is without the query, in which secrets travel.
    Call { method: String, path: String },
    /// `operation` is "send" or "process". Of a delivery the channel, and of both the id, is known from the first outcome on.
    Message { operation: &'static str, channel: Option<String>, id: Option<String> },
}

/// How an exchange or an attempt ended.
struct End {
    took: Duration,
    status: u16,
    grpc_status: Option<u32>,
    failure: Failure,
}

impl Open {
    pub fn new(exchange: &Exchange, context: Context, state: &str) -> Self {
        let message = |operation| Subject::Message { operation, channel: None, id: None };
        let subject = match exchange.kind {
            ExchangeKind::Call => {
                let path = exchange.text(":path").unwrap_or_default();
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                Subject::Call {
                    method: start(exchange.text(":method").unwrap_or_default(), 32),
                    path: start(path, 512),
                }
            }
            ExchangeKind::Publish => message("send"),
            ExchangeKind::Delivery => message("process"),
        };
        Self { exchange: exchange.id, context, attempt: 0, subject, state: state.to_owned() }
    }

    /// The span of the exchange as a whole.
    pub fn complete(&self, exchange: &Exchange, completion: &Completion) -> Span {
        let Completion { status, grpc_status, failure, duration, attempts, .. } = *completion;
        let kind = match exchange.kind {
            ExchangeKind::Call => SpanKind::Server,
            ExchangeKind::Publish => SpanKind::Producer,
            ExchangeKind::Delivery => SpanKind::Consumer,
        };
        let mut span = self.span(exchange, self.context, kind, &End { took: duration, status, grpc_status, failure });
        span.attributes.push(number("weir.attempts", attempts));
        // Its trace goes on as a call's does. The link besides is what tells that it was a message, which may have waited
        // for days.
        if exchange.kind == ExchangeKind::Delivery && self.context.parent != 0 {
            let TraceId(high, low) = self.context.trace;
            span.links.push(Link { trace_id: (high, low), span_id: self.context.parent });
        }
        span
    }

    /// The span of the attempt that just ended.
    pub fn outcome(&mut self, exchange: &Exchange, outcome: &Outcome) -> Span {
        if let Subject::Message { channel, id, .. } = &mut self.subject {
            let attribute = |name| outcome.text(name).map(|value| start(value, 256));
            (*channel, *id) = (attribute("@channel"), attribute("@message-id"));
        }
        let Outcome { status, grpc_status, failure, latency, .. } = *outcome;
        let end = End { took: latency, status, grpc_status, failure };
        let mut span = self.span(exchange, self.context.child(self.attempt), SpanKind::Client, &end);
        span.attributes.extend(outcome.text(":endpoint").map(|address| text("weir.endpoint", address)));
        match &self.subject {
            Subject::Call { .. } if exchange.attempt > 1 => {
                span.attributes.push(number("http.request.resend_count", exchange.attempt - 1));
            }
            Subject::Call { .. } => {}
            Subject::Message { .. } => span.attributes.push(number("weir.attempt", exchange.attempt)),
        }
        span
    }

    fn span(&self, exchange: &Exchange, context: Context, kind: SpanKind, end: &End) -> Span {
        let now = clock::now();
        let service = exchange.service.name();
        let route = exchange.route.name();
        let mut attributes = Vec::with_capacity(12);
        let (name, error) = match &self.subject {
            Subject::Call { method, path } => {
                attributes.extend([text("http.request.method", method), text("url.path", path)]);
                attributes.extend([text("server.address", &service), text("weir.route", &route)]);
                if end.status > 0 {
                    attributes.push(number("http.response.status_code", u32::from(end.status)));
                }
                if let Some(code) = end.grpc_status {
                    attributes.extend([text("rpc.system", "grpc"), number("rpc.grpc.status_code", code)]);
                }
                let name = match end.grpc_status {
                    Some(_) => path.trim_start_matches('/').to_owned(),
                    None => format!("{method} {service}"),
                };
                (name, end.error_of_call(kind))
            }
            Subject::Message { operation, channel, id } => {
                // "publish order.created", "deliver invoices": with the channel's or the subscription's name at its end.
                let named = route.split_once(' ').map_or(route.as_str(), |(_, name)| name);
                let channel = channel.as_deref().unwrap_or(named);
                attributes.extend([
                    text("messaging.system", "weir"),
                    text("messaging.operation.name", operation),
                    text("messaging.operation.type", operation),
                    text("messaging.destination.name", channel),
                ]);
                if exchange.kind == ExchangeKind::Delivery {
                    attributes.push(text("messaging.destination.subscription.name", named));
                }
                attributes.extend(id.as_ref().map(|id| text("messaging.message.id", id)));
                attributes.extend([text("weir.service", &service), text("weir.route", &route)]);
                (format!("{operation} {channel}"), end.error_of_message(exchange.kind))
            }
        };
        if !error.is_empty() {
            attributes.push(text("error.type", &error));
        }
        Span {
            trace_id: (context.trace.0, context.trace.1),
            span_id: context.span,
            parent: context.parent,
            kind,
            name,
            start: now.saturating_sub(end.took.as_nanos() as u64),
            end: now,
            attributes,
            error,
            state: self.state.clone(),
            links: Vec::new(),
        }
    }
}

impl End {
    /// The kind of error; empty: none. What is the caller's fault is an error of an attempt, but not of the exchange.
    fn error_of_call(&self, kind: SpanKind) -> String {
        let attempt = kind == SpanKind::Client;
        match (self.failure, self.grpc_status) {
            (Failure::None, Some(code)) if code > 0 && (attempt || matches!(code, 2 | 4 | 12..=15)) => {
                format!("grpc-{code}")
            }
            (Failure::None, None) if self.status >= if attempt { 400 } else { 500 } => self.status.to_string(),
            (failure, _) => failed(failure).to_owned(),
        }
    }

    /// A message that was not taken has failed, whatever the status says of whose fault it is.
    fn error_of_message(&self, kind: ExchangeKind) -> String {
        match (self.failure, self.status) {
            (Failure::None, 200..300) => String::new(),
            // The publisher has left. Nobody can leave a delivery: it never came to an answer.
            (Failure::None, 0) if kind == ExchangeKind::Publish => String::new(),
            (Failure::None, 0) => "_OTHER".to_owned(),
            (Failure::None, status) => status.to_string(),
            (failure, _) => failed(failure).to_owned(),
        }
    }
}

fn failed(failure: Failure) -> &'static str {
    match failure {
        Failure::None => "",
        Failure::Connect => "connect",
        Failure::Reset => "reset",
        Failure::Timeout => "timeout",
        Failure::Protocol => "protocol",
        Failure::Rejected => "rejected",
        Failure::Cancelled => "cancelled",
        Failure::Overload => "overload",
    }
}

/// At most so many bytes of a text: what is kept of each exchange has a bound.
fn start(of: &str, bytes: usize) -> String {
    of.get(..of.floor_char_boundary(bytes)).unwrap_or_default().to_owned()
}

fn text(name: &str, value: &str) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::Text(value.to_owned()))
}

fn number(name: &str, value: u32) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::Number(value.into()))
}
