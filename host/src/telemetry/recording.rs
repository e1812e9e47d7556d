//! An exchange's record while it is being made, and the promise that it is left exactly once.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::HeaderValue;

use super::WorkerTelemetry;
use super::metrics::handles::{EndpointMetrics, RouteMetrics};
use super::record::{AttemptRecord, End, Kind, Record};

/// A record in the making.
///
/// The log line and the metrics are left where the value is dropped, and only there, so an exchange
/// leaves them exactly once whichever way it ends: [`Recording::finish`] says how it ended and
/// drops; a client that leaves, or a drain that gives up, drops the exchange and with it a
/// recording that still says [`End::ClientLeft`].
#[derive(Debug)]
pub struct Recording {
    /// What is known so far; the walk fills it in as it goes.
    pub record: Record,
    started: Instant,
    route: Option<Arc<RouteMetrics>>,
    worker: Arc<WorkerTelemetry>,
}

impl Recording {
    /// Begins the record of an exchange, now.
    pub fn begin(worker: &Arc<WorkerTelemetry>, kind: Kind, id: HeaderValue) -> Self {
        Self {
            record: Record::new(kind, id, SystemTime::now()),
            started: Instant::now(),
            route: None,
            worker: Arc::clone(worker),
        }
    }

    /// When the exchange began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Settles whose metrics the exchange counts in. Without this it counts as one that matched no
    /// route.
    pub fn set_route(&mut self, name: &Arc<str>, metrics: &Arc<RouteMetrics>) {
        if let Some(previous) = self.route.replace(Arc::clone(metrics)) {
            previous.leave();
        }
        metrics.begin();
        self.record.route = Some(Arc::clone(name));
    }

    /// Adds the outcome of an attempt. Each but the first is a retry.
    pub fn attempt(&mut self, endpoint: &EndpointMetrics, attempt: AttemptRecord) {
        endpoint.attempt(attempt.status, attempt.failure, attempt.duration);
        if let Some(route) = &self.route
            && !self.record.attempts.is_empty()
        {
            route.retry();
        }
        self.record.attempts.push(attempt);
    }

    /// Notes that the first byte of the response goes out now.
    pub fn first_byte(&mut self) {
        self.record.first_byte = Some(self.started.elapsed());
    }

    /// Ends the exchange and leaves its record.
    pub fn finish(mut self, end: End) {
        self.record.end = end;
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let now = Instant::now();
        self.record.duration = now.saturating_duration_since(self.started);
        let (status, duration) = (self.record.status, self.record.duration);
        if let Some(route) = &self.route {
            route.leave();
        }
        let route = self.route.as_ref().unwrap_or(&self.worker.unrouted);
        route.end(status, duration);
        if let Some(kind) = self.record.error {
            self.worker.metrics.error(kind);
        }
        self.worker.log.write(&self.record, now);
    }
}

#[cfg(test)]
mod tests {

    use std::time::Duration;

    use super::*;
    use crate::telemetry::log::{LogMode, LogSink};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::spans::SpanSink;
    use crate::telemetry::{Telemetry, lines};

    struct Node {
        telemetry: Telemetry,
        worker: Arc<WorkerTelemetry>,
        output: std::sync::mpsc::Receiver<Vec<u8>>,
    }

    struct Output(std::sync::mpsc::Sender<Vec<u8>>);

    impl std::io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Node {
        fn new() -> Self {
            let (written, output) = std::sync::mpsc::channel();
            let metrics = Metrics::new();
            let dropped = metrics.log_lines_dropped("exchanges");
            let log = LogSink::start(LogMode::All, Output(written), dropped).unwrap();
            let telemetry = Telemetry { metrics, spans: SpanSink::discard(), log };
            let worker = telemetry.worker();
            Self { telemetry, worker, output }
        }

        fn begin(&self) -> Recording {
            Recording::begin(&self.worker, Kind::Call, HeaderValue::from_static("a-1"))
        }

        fn lines(&self) -> Vec<serde_json::Value> {
            self.worker.log.flush();
            assert!(self.telemetry.log.finish(Duration::from_secs(30)));
            let bytes: Vec<u8> = self.output.try_iter().flatten().collect();
            let lines = bytes.split_inclusive(|byte| *byte == b'\n');
            lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
        }

        fn shows(&self, series: &str) -> bool {
            self.telemetry.metrics.encode().lines().any(|line| line == series)
        }
    }

    fn attempt(status: Option<u16>, failure: Option<&'static str>) -> AttemptRecord {
        AttemptRecord {
            endpoint: "127.0.0.1:3201".into(),
            status,
            failure,
            duration: Duration::from_millis(1),
            backoff: Duration::ZERO,
        }
    }

    #[test]
    fn a_finished_exchange_is_recorded_once() {
        let node = Node::new();
        let route: Arc<str> = "users".into();
        let metrics = node.telemetry.metrics.route(Kind::Call, &route);
        let mut recording = node.begin();
        recording.set_route(&route, &metrics);
        assert!(node.shows(r#"weir_exchanges_in_flight{kind="call",route="users"} 1"#));
        recording.record.status = Some(200);
        recording.finish(End::Ok);
        let lines = node.lines();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines.first().unwrap().get("outcome").unwrap(), "ok");
        assert!(node.shows(r#"weir_exchanges_in_flight{kind="call",route="users"} 0"#));
        assert!(node.shows(r#"weir_exchanges_total{kind="call",route="users",class="2xx"} 1"#));
        assert!(node.shows(r#"weir_exchange_duration_seconds_count{kind="call",route="users"} 1"#));
    }

    #[test]
    fn a_client_that_leaves_is_recorded_once() {
        let node = Node::new();
        let route: Arc<str> = "users".into();
        let metrics = node.telemetry.metrics.route(Kind::Call, &route);
        let mut recording = node.begin();
        recording.set_route(&route, &metrics);
        drop(recording);
        let lines = node.lines();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines.first().unwrap().get("outcome").unwrap(), "client-left");
        assert!(node.shows(r#"weir_exchanges_total{kind="call",route="users",class="none"} 1"#));
        assert!(node.shows(r#"weir_exchanges_in_flight{kind="call",route="users"} 0"#));
    }

    #[test]
    fn an_exchange_without_a_route_is_counted_as_such() {
        let node = Node::new();
        let mut recording = node.begin();
        recording.record.status = Some(404);
        recording.record.error = Some("no-route");
        recording.finish(End::Error);
        assert!(node.shows(r#"weir_exchanges_total{kind="call",route="",class="4xx"} 1"#));
        assert!(node.shows(r#"weir_errors_total{kind="no-route"} 1"#));
    }

    #[test]
    fn attempts_are_counted_by_result_and_retries_by_route() {
        let node = Node::new();
        let (route, service): (Arc<str>, Arc<str>) = ("users".into(), "user-service".into());
        let endpoint = node.telemetry.metrics.endpoint(&service, &"127.0.0.1:3201".into());
        let mut recording = node.begin();
        recording.set_route(&route, &node.telemetry.metrics.route(Kind::Call, &route));
        recording.attempt(&endpoint, attempt(None, Some("connect")));
        recording.attempt(&endpoint, attempt(Some(503), None));
        recording.attempt(&endpoint, attempt(Some(404), None));
        recording.finish(End::Ok);
        for result in ["connect", "5xx", "ok"] {
            let labels = r#"service="user-service",endpoint="127.0.0.1:3201""#;
            let series = format!("weir_attempts_total{{{labels},result=\"{result}\"}} 1");
            assert!(node.shows(&series), "{series}");
        }
        assert!(node.shows(r#"weir_retries_total{kind="call",route="users"} 2"#));
        let lines = node.lines();
        assert_eq!(lines.first().unwrap().get("attempts").unwrap().as_array().unwrap().len(), 3);
    }

    #[test]
    fn statuses_that_do_not_exist_are_counted_as_none() {
        let node = Node::new();
        for status in [0, 99, 600, u16::MAX] {
            let mut recording = node.begin();
            recording.record.status = Some(status);
            recording.finish(End::Ok);
        }
        assert!(node.shows(r#"weir_exchanges_total{kind="call",route="",class="none"} 4"#));
    }

    #[test]
    fn recordings_may_travel_with_bodies() {
        fn may_travel<T: Send + 'static>() {}
        may_travel::<Recording>();
        may_travel::<lines::Lines>();
    }
}
