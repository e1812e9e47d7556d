//! The spans of an exchange: one of its own, and one for each attempt.

use crate::context::Context;
use weir_sdk::host::trace::{AttributeValue, Span, SpanKind};
use weir_sdk::prelude::*;

/// A sampled exchange that is not complete.
#[derive(Debug)]
pub struct Open {
    /// The exchange's id. The memo of an instance that was thrown away could otherwise be taken for one of ours.
    pub exchange: u64,
    pub context: Context,
    /// The span of the attempt under way.
    pub attempt: u64,
    method: String,
    /// Without the query, in which secrets travel.
    path: String,
    state: String,
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
        let path = exchange.text(":path").unwrap_or_default();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let method = exchange.text(":method").unwrap_or_default();
        Self {
            exchange: exchange.id,
            context,
            attempt: 0,
            method: start(method, 32),
            path: start(path, 512),
            state: state.to_owned(),
        }
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
        span
    }

    /// The span of the attempt that just ended.
    pub fn outcome(&self, exchange: &Exchange, outcome: &Outcome) -> Span {
        let Outcome { status, grpc_status, failure, latency, .. } = *outcome;
        let end = End { took: latency, status, grpc_status, failure };
        let mut span = self.span(exchange, self.context.child(self.attempt), SpanKind::Client, &end);
        span.attributes.extend(outcome.text(":endpoint").map(|address| text("weir.endpoint", address)));
        if exchange.attempt > 1 {
            span.attributes.push(number("http.request.resend_count", exchange.attempt - 1));
        }
        span
    }

    fn span(&self, exchange: &Exchange, context: Context, kind: SpanKind, end: &End) -> Span {
        let now = clock::now();
        let service = exchange.service.name();
        let error = end.error(kind);
        let mut attributes = Vec::with_capacity(10);
        let operation = match exchange.kind {
            ExchangeKind::Call => {
                attributes.extend([text("http.request.method", &self.method), text("url.path", &self.path)]);
                self.method.as_str()
            }
            ExchangeKind::Publish => "publish",
            ExchangeKind::Delivery => "deliver",
        };
        let name = match end.grpc_status {
            Some(_) => self.path.trim_start_matches('/').to_owned(),
            None => format!("{operation} {service}"),
        };
        attributes.extend([text("server.address", &service), text("weir.route", &exchange.route.name())]);
        if end.status > 0 {
            attributes.push(number("http.response.status_code", u32::from(end.status)));
        }
        if let Some(code) = end.grpc_status {
            attributes.extend([text("rpc.system", "grpc"), number("rpc.grpc.status_code", code)]);
        }
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
        }
    }
}

impl End {
    /// The kind of error; empty: none. What is the caller's fault is an error of an attempt, but not of the exchange.
    fn error(&self, kind: SpanKind) -> String {
        let attempt = kind == SpanKind::Client;
        let failure = match self.failure {
            Failure::None => match self.grpc_status {
                Some(code) if code > 0 && (attempt || matches!(code, 2 | 4 | 12..=15)) => {
                    return format!("grpc-{code}");
                }
                None if self.status >= if attempt { 400 } else { 500 } => return self.status.to_string(),
                _ => "",
            },
            Failure::Connect => "connect",
            Failure::Reset => "reset",
            Failure::Timeout => "timeout",
            Failure::Protocol => "protocol",
            Failure::Rejected => "rejected",
            Failure::Cancelled => "cancelled",
            Failure::Overload => "overload",
        };
        failure.to_owned()
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
