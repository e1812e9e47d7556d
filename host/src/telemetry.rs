//! What every exchange leaves, exactly once: a log line, metric updates, and the spans that
//! policies ask for.
//!
//! [`Telemetry`] is the node's and lives on the control thread; each worker holds a
//! [`WorkerTelemetry`]; each exchange is a [`Recording`](recording::Recording). Nothing here ever
//! makes a worker wait: what cannot be handed on at once is dropped and counted.

pub mod host_log;
mod json;
mod lines;
pub mod log;
pub mod metrics;
pub mod record;
pub mod recording;
pub mod spans;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use self::log::{LogMode, LogSink, WorkerLog};
use self::metrics::Metrics;
use self::metrics::handles::RouteMetrics;
use self::record::Kind;
use self::spans::{SpanExport, SpanOptions, SpanSink};

/// What is to be told about exchanges, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which records are logged.
    pub log: LogMode,
    /// Where spans go; without it policies' spans are discarded at once.
    pub spans: Option<SpanOptions>,
}

/// The node's telemetry. Clones share it.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Every metric of the node.
    pub metrics: Metrics,
    /// Takes spans for export.
    pub spans: SpanSink,
    /// Takes records.
    pub log: LogSink,
}

/// What [`Telemetry::start`] set going; give it to [`Telemetry::finish`] when the node stops.
#[derive(Debug)]
#[must_use = "spans are lost at the end unless the export is finished"]
pub struct Running(Option<SpanExport>);

impl Telemetry {
    /// Starts the log's thread, which writes records to `output` (the node: stdout), and the export
    /// of spans on the `control` runtime.
    ///
    /// Errors: no thread, or an endpoint that cannot be used.
    pub fn start(
        options: &Options,
        metrics: Metrics,
        output: impl Write + Send + 'static,
        control: &Handle,
    ) -> io::Result<(Self, Running)> {
        let log = LogSink::start(options.log, output, metrics.log_lines_dropped("exchanges"))?;
        let (spans, export) = match &options.spans {
            Some(options) => {
                let (spans, export) = spans::start(options, &metrics, control)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                (spans, Some(export))
            }
            None => (SpanSink::discard(), None),
        };
        Ok((Self { metrics, spans, log }, Running(export)))
    }

    /// What one worker needs.
    pub fn worker(&self) -> Arc<WorkerTelemetry> {
        let none = Arc::from("");
        Arc::new(WorkerTelemetry {
            metrics: self.metrics.clone(),
            spans: self.spans.clone(),
            log: self.log.worker(),
            unrouted: self.metrics.route(Kind::Call, &none),
        })
    }

    /// Exports and writes what is left, at most for `limit` each. Workers must have flushed or
    /// dropped their part. Blocks for the log, so it belongs at the very end.
    pub async fn finish(self, running: Running, limit: Duration) {
        if let Some(export) = running.0 {
            export.finish(limit).await;
        }
        self.log.finish(limit);
    }
}

/// A worker's share of the telemetry.
#[derive(Debug)]
pub struct WorkerTelemetry {
    /// Every metric of the node.
    pub metrics: Metrics,
    /// Takes spans for export.
    pub spans: SpanSink,
    /// This worker's log lines.
    pub log: WorkerLog,
    /// Counts what matched no route; to the proxy all of that is calls.
    unrouted: Arc<RouteMetrics>,
}

#[cfg(test)]
mod tests {

    use std::sync::mpsc::{Sender, channel};

    use http::HeaderValue;

    use super::record::End;
    use super::recording::Recording;
    use super::*;

    struct Output(Sender<Vec<u8>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_node_that_ends_has_written_what_its_workers_left() {
        let (written, output) = channel();
        let control = Handle::current();
        let (telemetry, running) =
            Telemetry::start(&Options::default(), Metrics::new(), Output(written), &control).unwrap();
        for _worker in 0..3 {
            let worker = telemetry.worker();
            Recording::begin(&worker, Kind::Call, HeaderValue::from_static("a-1")).finish(End::Ok);
        }
        telemetry.finish(running, Duration::from_secs(30)).await;
        let bytes: Vec<u8> = output.try_iter().flatten().collect();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 3);
    }

    #[tokio::test]
    async fn an_unusable_collector_is_refused_at_the_start() {
        let options = Options { spans: Some(SpanOptions::new("collector")), ..Options::default() };
        let started = Telemetry::start(&options, Metrics::new(), io::sink(), &Handle::current());
        assert!(started.unwrap_err().to_string().contains("\"collector\""));
    }
}
