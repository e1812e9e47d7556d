//! A policy's own metrics and spans.

use super::{State, open};
use crate::clock::now;
use crate::plugin::bindings::{metrics, trace};
use crate::telemetry::metrics::policy::PolicyMetricKind;
use crate::telemetry::spans;
use std::time::{Duration, SystemTime};
use wasmtime::Result;

impl metrics::Host for State {
    fn open(&mut self, kind: metrics::Kind, name: String, _help: String) -> Result<std::result::Result<u32, String>> {
        let kind = match kind {
            metrics::Kind::Counter => PolicyMetricKind::Counter,
            metrics::Kind::Gauge => PolicyMetricKind::Gauge,
            metrics::Kind::Histogram => PolicyMetricKind::Histogram,
        };
        let context = self.context()?;
        let metric =
            context.telemetry.metrics.policies.declare(&context.policy, &name, kind).map_err(|error| error.to_string());
        Ok(metric.and_then(|metric| open(&mut self.metrics, metric)))
    }

    fn update(&mut self, metric: u32, value: f64) -> Result<()> {
        self.metrics
            .get(metric as usize)
            .ok_or_else(|| wasmtime::Error::msg(format!("metric {metric} is not open")))?
            .record(value);
        Ok(())
    }
}

impl trace::Host for State {
    fn emit(&mut self, span: trace::Span) -> Result<()> {
        let context = self.context()?;
        let (now, wall) = (now(), SystemTime::now());
        let time = |at: u64| wall.checked_sub(Duration::from_nanos(now.saturating_sub(at))).unwrap_or(wall);
        // What a span keeps at most: the guest's list may be any length.
        let links = span.links.iter().take(spans::MAX_LINKS);
        context.telemetry.spans.emit(spans::Span {
            trace_id: trace_id(span.trace_id),
            span_id: span.span_id.to_be_bytes(),
            parent: (span.parent != 0).then(|| span.parent.to_be_bytes()),
            kind: match span.kind {
                trace::SpanKind::Internal => spans::SpanKind::Internal,
                trace::SpanKind::Server => spans::SpanKind::Server,
                trace::SpanKind::Client => spans::SpanKind::Client,
                trace::SpanKind::Producer => spans::SpanKind::Producer,
                trace::SpanKind::Consumer => spans::SpanKind::Consumer,
            },
            name: span.name,
            start: time(span.start),
            end: time(span.end),
            attributes: span
                .attributes
                .into_iter()
                .map(|(name, value)| match value {
                    trace::AttributeValue::Text(text) => (name, spans::Value::Text(text)),
                    trace::AttributeValue::Number(number) => (name, spans::Value::Integer(number)),
                })
                .collect(),
            error: (!span.error.is_empty()).then_some(span.error),
            links: links
                .map(|link| spans::Link { trace_id: trace_id(link.trace_id), span_id: link.span_id.to_be_bytes() })
                .collect(),
            trace_state: span.state,
        });
        Ok(())
    }

    fn enabled(&mut self) -> Result<bool> {
        Ok(self.context()?.telemetry.spans.is_enabled())
    }
}

fn trace_id((high, low): (u64, u64)) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_its_high_half_first() {
        let bytes = trace_id((0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10));
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    }
}
