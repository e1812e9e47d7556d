//! Spans on their way to an OpenTelemetry collector, which may be slow or away: then spans are lost
//! and counted, and exchanges notice nothing.
//!
//! Exported over OTLP/gRPC with the messages of `opentelemetry-proto` and a tonic channel. The
//! OpenTelemetry SDK would add a second span type, a second queue and a thread of its own between
//! [`Span`] and those messages.

mod export;
mod otlp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use self::export::Exporter;
use super::metrics::Metrics;

/// Most attributes that a span keeps.
pub const MAX_ATTRIBUTES: usize = 128;
/// Most bytes of each text that a span keeps. `tracestate` has 512 (W3C Trace Context, section 3.3.1.5).
pub const MAX_TEXT: usize = 1024;
/// Most links that a span keeps.
pub const MAX_LINKS: usize = 32;

/// What a span describes (OpenTelemetry, "SpanKind").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside.
    #[default]
    Internal,
    /// A call that we answer.
    Server,
    /// A call that we make.
    Client,
    /// A message that we publish.
    Producer,
    /// A message that we deliver.
    Consumer,
}

/// The value of a span's attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// A span of another trace, or of this one, that this span has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The other span's trace.
    pub trace_id: [u8; 16],
    /// The other span.
    pub span_id: [u8; 8],
}

/// One finished, sampled span.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace_id: [u8; 16],
    /// This span.
    pub span_id: [u8; 8],
    /// The span that this one is part of; a trace's root has none.
    pub parent: Option<[u8; 8]>,
    /// What it describes.
    pub kind: SpanKind,
    /// Its name, of few different values: "GET /users", not "GET /users/17".
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What there is to know; more than [`MAX_ATTRIBUTES`] are cut.
    pub attributes: Vec<(String, Value)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Related spans; more than [`MAX_LINKS`] are cut.
    pub links: Vec<Link>,
    /// The W3C `tracestate` as it goes on.
    pub trace_state: String,
}

/// Where and how spans are exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanOptions {
    /// The collector's OTLP/gRPC address: `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// `service.name` of the resource: "weir", or the node's name.
    pub service_name: String,
    /// Most spans that wait. Further ones are dropped.
    pub queue: usize,
    /// Most spans in one request.
    pub batch: usize,
    /// Longest time that a span waits for its batch to fill.
    pub interval: Duration,
    /// Longest time that one request may take.
    pub timeout: Duration,
    /// Requests for one batch before its spans are dropped.
    pub attempts: u32,
    /// Wait before the second request, doubled before each further one.
    pub backoff: Duration,
}

impl SpanOptions {
    /// The usual settings for a collector at `endpoint`.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            service_name: "weir".to_owned(),
            queue: 4_096,
            batch: 512,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            attempts: 4,
            backoff: Duration::from_millis(500),
        }
    }
}

/// The collector's address cannot be used.
#[derive(Debug)]
pub struct SpanEndpointError {
    endpoint: String,
    reason: String,
}

impl fmt::Display for SpanEndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, reason } = self;
        write!(f, "span collector {endpoint:?}: {reason}; write its OTLP/gRPC address, like http://127.0.0.1:4317")
    }
}

impl std::error::Error for SpanEndpointError {}

/// Takes spans for export. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SpanSink(Option<Queue>);

#[derive(Clone, Debug)]
struct Queue {
    spans: mpsc::Sender<Span>,
    dropped: Counter,
}

impl SpanSink {
    /// A sink without a collector: it forgets spans at once, and nothing is counted.
    pub fn discard() -> Self {
        Self(None)
    }

    /// Is there a collector? If not, a span need not even be made.
    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Queues the span, or drops and counts it when the queue is full. Never waits.
    pub fn emit(&self, mut span: Span) {
        let Some(queue) = &self.0 else { return };
        span.attributes.truncate(MAX_ATTRIBUTES);
        span.links.truncate(MAX_LINKS);
        for (name, value) in &mut span.attributes {
            cut(name);
            if let Value::Text(text) = value {
                cut(text);
            }
        }
        cut(&mut span.name);
        cut(&mut span.trace_state);
        span.error.as_mut().map(cut);
        if queue.spans.try_send(span).is_err() {
            queue.dropped.inc();
        }
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}

/// The running export.
#[derive(Debug)]
pub struct SpanExport {
    stop: oneshot::Sender<Instant>,
    task: JoinHandle<()>,
}

impl SpanExport {
    /// Exports what is queued, for at most `limit`, and ends. What is left then is dropped and
    /// counted.
    pub async fn finish(self, limit: Duration) {
        if self.stop.send(Instant::now() + limit).is_ok() {
            // Ends by that instant; an error here would mean that the runtime is gone already.
            let _ended = self.task.await;
        }
    }
}

/// Starts the export on the `control` runtime. The collector need not be there, now or ever.
///
/// Errors: the endpoint is no `http://` address.
pub fn start(
    options: &SpanOptions,
    metrics: &Metrics,
    control: &Handle,
) -> Result<(SpanSink, SpanExport), SpanEndpointError> {
    let endpoint = endpoint(options)?;
    let (spans, waiting) = mpsc::channel(options.queue.max(1));
    let (stop, stopped) = oneshot::channel();
    let exporter = Exporter::new(options.clone(), endpoint, waiting, metrics);
    let task = control.spawn(exporter.run(stopped));
    let dropped = metrics.spans_dropped.clone();
    let sink = SpanSink(Some(Queue { spans, dropped }));
    Ok((sink, SpanExport { stop, task }))
}

fn endpoint(options: &SpanOptions) -> Result<Endpoint, SpanEndpointError> {
    let refused = |reason: String| SpanEndpointError { endpoint: options.endpoint.clone(), reason };
    let endpoint = Endpoint::from_shared(options.endpoint.clone()).map_err(|error| refused(error.to_string()))?;
    match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
        (Some("http"), Some(_)) => Ok(endpoint.connect_timeout(options.timeout).timeout(options.timeout)),
        (Some("https"), _) => Err(refused("TLS is not supported here".to_owned())),
        _ => Err(refused("not an http:// address".to_owned())),
    }
}
