//! Spans, exported by the host as OTLP. When its queue is full they are dropped and counted.

use super::sys::trace as sys;
pub use sys::{AttributeValue, Link, Span, SpanKind};

pub fn emit(span: &Span) {
    sys::emit(span);
}

/// Whether anything takes spans at all.
pub fn enabled() -> bool {
    sys::enabled()
}
