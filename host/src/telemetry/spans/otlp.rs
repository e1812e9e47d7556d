//! A [`Span`] in the words of OTLP (opentelemetry-proto, `trace.proto` and `common.proto`).

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyKind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as proto;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind as ProtoKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::{Link, Span, SpanKind, Value};

/// The W3C trace flag "sampled", which every span that is exported has.
const SAMPLED: u32 = 1;

/// One request with all these spans, under one resource.
pub fn request(service_name: &str, spans: &[Span]) -> ExportTraceServiceRequest {
    let resource =
        Resource { attributes: vec![key_value("service.name", &Value::from(service_name))], ..Resource::default() };
    let scope = InstrumentationScope {
        name: "weir".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = proto::ScopeSpans {
        scope: Some(scope),
        spans: spans.iter().map(span).collect(),
        ..proto::ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![proto::ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope_spans],
            ..proto::ResourceSpans::default()
        }],
    }
}

fn span(span: &Span) -> proto::Span {
    let status =
        span.error.as_ref().map(|message| proto::Status { message: message.clone(), code: StatusCode::Error.into() });
    let attributes = span.attributes.iter();
    proto::Span {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: span.trace_state.clone(),
        // The proto's way of saying "a root" is an empty parent.
        parent_span_id: span.parent.map_or_else(Vec::new, |parent| parent.to_vec()),
        flags: SAMPLED,
        name: span.name.clone(),
        kind: kind(span.kind).into(),
        start_time_unix_nano: unix_nanos(span.start),
        end_time_unix_nano: unix_nanos(span.end),
        attributes: attributes.map(|(key, value)| key_value(key, value)).collect(),
        links: span.links.iter().map(link).collect(),
        status,
        ..proto::Span::default()
    }
}

fn link(link: &Link) -> proto::span::Link {
    proto::span::Link {
        trace_id: link.trace_id.to_vec(),
        span_id: link.span_id.to_vec(),
        ..proto::span::Link::default()
    }
}

fn kind(kind: SpanKind) -> ProtoKind {
    match kind {
        SpanKind::Internal => ProtoKind::Internal,
        SpanKind::Server => ProtoKind::Server,
        SpanKind::Client => ProtoKind::Client,
        SpanKind::Producer => ProtoKind::Producer,
        SpanKind::Consumer => ProtoKind::Consumer,
    }
}

fn key_value(key: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => AnyKind::StringValue(text.clone()),
        Value::Integer(number) => AnyKind::IntValue(*number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Nanoseconds since 1970; 0 for moments before.
fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
