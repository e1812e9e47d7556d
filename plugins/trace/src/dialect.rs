//! The fields in which a request carries its trace.

use crate::context::{Caller, Context, TraceId, hex, parse_span};
use weir_sdk::Edit;
use weir_sdk::prelude::*;

/// A set of fields in which a request carries its trace.
#[derive(Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// W3C Trace Context: `traceparent` and `tracestate`.
    W3c,
    /// `x-trace-id`, `x-span-id`, `x-parent-span-id` and `x-sampled`.
    XTrace,
    /// Zipkin's `x-b3-traceid`, `x-b3-spanid`, `x-b3-parentspanid`, `x-b3-sampled` and `x-b3-flags`, and the single `b3`.
    B3,
}

/// A dialect with one field for each part.
struct Separate {
    trace: &'static str,
    span: &'static str,
    parent: &'static str,
    sampled: &'static str,
}

const X_TRACE: Separate =
    Separate { trace: "x-trace-id", span: "x-span-id", parent: "x-parent-span-id", sampled: "x-sampled" };
const B3: Separate =
    Separate { trace: "x-b3-traceid", span: "x-b3-spanid", parent: "x-b3-parentspanid", sampled: "x-b3-sampled" };

impl Dialect {
    /// The fields that are read.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::W3c => &["traceparent", "tracestate"],
            Self::XTrace => &[X_TRACE.trace, X_TRACE.span, X_TRACE.sampled],
            Self::B3 => &["b3", B3.trace, B3.span, B3.sampled, "x-b3-flags"],
        }
    }

    /// What the request says in this dialect. `None`: nothing, or nothing that can be used.
    pub fn read(self, exchange: &Exchange) -> Option<Caller> {
        match self {
            Self::W3c => Caller::traceparent(exchange.field("traceparent")?),
            Self::XTrace => X_TRACE.read(exchange),
            Self::B3 => exchange.field("b3").and_then(read_single).or_else(|| match exchange.field("x-b3-flags") {
                Some(b"1") => Some(Caller { sampled: Some(true), ..B3.read(exchange).unwrap_or_default() }),
                _ => B3.read(exchange),
            }),
        }
    }

    pub fn write(self, context: Context, edits: &mut Vec<Edit>) {
        match self {
            Self::W3c => edits.push(Edit::Set("traceparent".into(), context.traceparent().into())),
            Self::XTrace => X_TRACE.write(context, edits),
            Self::B3 => {
                B3.write(context, edits);
                edits.push(Edit::Set("b3".into(), single(context)));
                // Debug is sent on as sampled.
                edits.push(Edit::Remove("x-b3-flags".into()));
            }
        }
    }
}

impl Separate {
    fn read(&self, exchange: &Exchange) -> Option<Caller> {
        let id = |name| exchange.field(name).map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
        let sampled = exchange.field(self.sampled).and_then(decision);
        match TraceId::parse(&id(self.trace)) {
            Some(trace) => {
                Some(Caller { trace, span: parse_span(&id(self.span)).unwrap_or(0), sampled, random: false })
            }
            None => sampled.map(|sampled| Caller { sampled: Some(sampled), ..Caller::default() }),
        }
    }

    fn write(&self, context: Context, edits: &mut Vec<Edit>) {
        edits.push(Edit::Set(self.trace.into(), context.trace.hex().into()));
        edits.push(Edit::Set(self.span.into(), hex(context.span).into()));
        edits.push(match context.parent {
            0 => Edit::Remove(self.parent.into()),
            parent => Edit::Set(self.parent.into(), hex(parent).into()),
        });
        edits.push(Edit::Set(self.sampled.into(), if context.sampled { b"1" } else { b"0" }.into()));
    }
}

/// `b3: {trace}-{span}-{decision}-{parent}`, of which the last two may be absent, or `b3: {decision}`.
fn read_single(value: &[u8]) -> Option<Caller> {
    let value = value.trim_ascii().to_ascii_lowercase();
    let mut parts = value.split(|byte| *byte == b'-');
    let (first, span, last) = (parts.next()?, parts.next(), parts.next());
    match span {
        Some(span) => Some(Caller {
            trace: TraceId::parse(first)?,
            span: parse_span(span)?,
            sampled: last.and_then(decision),
            random: false,
        }),
        None => decision(first).map(|sampled| Caller { sampled: Some(sampled), ..Caller::default() }),
    }
}

fn single(context: Context) -> Vec<u8> {
    let mut value = context.trace.hex().to_vec();
    value.push(b'-');
    value.extend_from_slice(&hex(context.span));
    value.extend_from_slice(if context.sampled { b"-1" } else { b"-0" });
    if context.parent != 0 {
        value.push(b'-');
        value.extend_from_slice(&hex(context.parent));
    }
    value
}

fn decision(value: &[u8]) -> Option<bool> {
    match value.to_ascii_lowercase().as_slice() {
        b"1" | b"true" | b"d" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}
