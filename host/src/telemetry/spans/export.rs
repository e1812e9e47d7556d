//! The task that batches spans and sends them to the collector.

use std::convert::Infallible;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Metrics, Span, SpanOptions, otlp};

/// Longest wait between two requests for one batch.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A collector that is away is mentioned in the log at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The export's state.
pub struct Exporter {
    options: SpanOptions,
    endpoint: Endpoint,
    waiting: mpsc::Receiver<Span>,
    /// What is being exported. It stays here until the collector has it or it is given up, so that
    /// cancelling an export at shutdown loses no span and no count.
    batch: Vec<Span>,
    exported: Counter,
    dropped: Counter,
    complaints: Complaints,
}

impl Exporter {
    pub fn new(options: SpanOptions, endpoint: Endpoint, waiting: mpsc::Receiver<Span>, metrics: &Metrics) -> Self {
        Self {
            options,
            endpoint,
            waiting,
            batch: Vec::new(),
            exported: metrics.spans_exported.clone(),
            dropped: metrics.spans_dropped.clone(),
            complaints: Complaints::default(),
        }
    }

    /// Exports until `stop` names the instant by which to end, or its sender is gone.
    pub async fn run(mut self, stop: oneshot::Receiver<Instant>) {
        // The channel connects when it is first used, and again whenever it has to.
        let mut client = TraceServiceClient::new(self.endpoint.connect_lazy());
        let end = tokio::select! {
            biased;
            end = stop => end.unwrap_or_else(|_| Instant::now()),
            never = self.export_forever(&mut client) => match never {},
        };
        self.waiting.close();
        // Sends the unfinished batch again: a collector may see a span twice, but misses none.
        let _in_time = timeout_at(end, self.export_rest(&mut client)).await;
        let lost = self.batch.len() + self.waiting.len();
        self.dropped.inc_by(lost as u64);
        if lost > 0 {
            tracing::warn!(spans = lost, "spans were not exported before the end");
        }
    }

    async fn export_forever(&mut self, client: &mut Client) -> Infallible {
        loop {
            self.fill_batch().await;
            self.export_batch(client).await;
        }
    }

    /// Waits for a span, then for as many as fit in a batch, or as come within the interval.
    async fn fill_batch(&mut self) {
        let first = self.waiting.recv_many(&mut self.batch, self.options.batch).await;
        if first == 0 {
            // Every sink is gone; only the stop is still to come.
            return std::future::pending().await;
        }
        let full = async {
            while let Some(room @ 1..) = self.options.batch.checked_sub(self.batch.len()) {
                if self.waiting.recv_many(&mut self.batch, room).await == 0 {
                    break;
                }
            }
        };
        // recv_many is cancel safe: what it took is in the batch.
        let _full = timeout(self.options.interval, full).await;
    }

    /// Exports everything, without waiting for more.
    async fn export_rest(&mut self, client: &mut Client) {
        loop {
            if !self.batch.is_empty() {
                self.export_batch(client).await;
            }
            if self.waiting.recv_many(&mut self.batch, self.options.batch).await == 0 {
                return;
            }
        }
    }

    /// Exports the batch, or gives it up after the configured number of requests. Empties it.
    async fn export_batch(&mut self, client: &mut Client) {
        let size = self.batch.len() as u64;
        match self.request_until_accepted(client).await {
            Ok(refused) => {
                let refused = refused.min(size);
                self.exported.inc_by(size - refused);
                self.dropped.inc_by(refused);
                self.complaints.accepted();
            }
            Err(status) => {
                self.dropped.inc_by(size);
                self.complaints.gave_up(&self.options.endpoint, size, &status);
            }
        }
        self.batch.clear();
    }

    /// Returns the number of spans that the collector refused, or the last failure.
    async fn request_until_accepted(&mut self, client: &mut Client) -> Result<u64, Status> {
        let mut backoff = self.options.backoff;
        let mut attempt = 1;
        loop {
            let status = match self.request(client).await {
                Ok(refused) => return Ok(refused),
                Err(status) => status,
            };
            if attempt >= self.options.attempts || !is_transient(status.code()) {
                return Err(status);
            }
            self.complaints.failed(&self.options.endpoint, &status);
            // Jittered, so that the nodes of a cluster do not all come back at once.
            sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))).await;
            backoff = backoff.saturating_mul(2).min(MAX_BACKOFF);
            attempt += 1;
        }
    }

    async fn request(&self, client: &mut Client) -> Result<u64, Status> {
        let request = otlp::request(&self.options.service_name, &self.batch);
        // Around the whole, as the channel's own limit does not cover waiting for a connection.
        let answer = timeout(self.options.timeout, client.export(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        // Spans that a collector refuses must not be sent again (OTLP, "Partial Success").
        let refused = answer.into_inner().partial_success.map(|partial| partial.rejected_spans);
        Ok(refused.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }
}

type Client = TraceServiceClient<Channel>;

/// Failures that OTLP/gRPC allows to try again ("Failures" in the OTLP specification).
///
/// `RESOURCE_EXHAUSTED` counts too: it is transient when the collector says how long to wait, and
/// the tries are few anyway. So does `UNKNOWN`, which tonic makes of a broken connection.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unknown
    )
}

/// Says that the collector is away: at once, then at most once a minute, and once when it is back.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    failing: bool,
    lost: u64,
}

impl Complaints {
    fn failed(&mut self, endpoint: &str, status: &Status) {
        self.failing = true;
        let due = |last: Instant| last.elapsed() >= COMPLAIN_EVERY;
        if self.last.is_none_or(due) {
            self.last = Some(Instant::now());
            tracing::warn!(
                collector = endpoint,
                code = ?status.code(),
                reason = status.message(),
                spans_lost = self.lost,
                "spans cannot be exported; calls are not affected"
            );
        }
    }

    fn gave_up(&mut self, endpoint: &str, spans: u64, status: &Status) {
        self.lost += spans;
        self.failed(endpoint, status);
    }

    fn accepted(&mut self) {
        if std::mem::take(&mut self.failing) && self.lost > 0 {
            tracing::info!(spans_lost = self.lost, "spans are exported again");
            self.lost = 0;
        }
    }
}
