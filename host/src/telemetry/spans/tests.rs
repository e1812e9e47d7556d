use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyKind;
use opentelemetry_proto::tonic::trace::v1::Span as ProtoSpan;
use tokio::net::TcpListener;
use tonic::codegen::Service;
use tonic::{Code, Request, Response, Status};

use super::*;

/// Far longer than anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the collector answers, by number of the request.
type Answer = fn(usize) -> Result<i64, Status>;

/// A collector that keeps what it receives. An answer of `Ok(n)` refuses n spans.
#[derive(Clone)]
struct Collector {
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    answer: Answer,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let number = {
            let mut received = self.received.lock().unwrap();
            received.push(request.into_inner());
            received.len()
        };
        let rejected_spans = (self.answer)(number)?;
        let partial = ExportTracePartialSuccess { rejected_spans, error_message: String::new() };
        let partial_success = (rejected_spans > 0).then_some(partial);
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

impl Collector {
    async fn start(answer: Answer) -> (Self, SocketAddr) {
        let collector = Self { received: Arc::default(), answer };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = TraceServiceServer::new(collector.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let service = service_fn(move |request| server.clone().call(request));
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        (collector, address)
    }

    /// The spans of each request.
    fn batches(&self) -> Vec<Vec<ProtoSpan>> {
        let spans = |request: &ExportTraceServiceRequest| request.resource_spans[0].scope_spans[0].spans.clone();
        self.received.lock().unwrap().iter().map(spans).collect()
    }
}

fn options(address: SocketAddr) -> SpanOptions {
    SpanOptions {
        interval: Duration::from_millis(10),
        backoff: Duration::from_millis(1),
        timeout: PATIENCE,
        ..SpanOptions::new(format!("http://{address}"))
    }
}

fn span(number: u8) -> Span {
    Span {
        trace_id: [number; 16],
        span_id: [number; 8],
        parent: None,
        kind: SpanKind::Server,
        name: format!("span {number}"),
        start: SystemTime::UNIX_EPOCH + Duration::from_nanos(1),
        end: SystemTime::UNIX_EPOCH + Duration::from_nanos(2),
        attributes: Vec::new(),
        error: None,
        links: Vec::new(),
        trace_state: String::new(),
    }
}

fn begin(options: &SpanOptions) -> (Metrics, SpanSink, SpanExport) {
    let metrics = Metrics::new();
    let (sink, export) = start(options, &metrics, &Handle::current()).unwrap();
    (metrics, sink, export)
}

async fn until(reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(wait).await;
}

async fn timeout<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

#[tokio::test]
async fn every_span_arrives_in_batches_of_the_set_size() {
    let (collector, address) = Collector::start(|_| Ok(0)).await;
    let (metrics, sink, export) = begin(&SpanOptions { batch: 10, ..options(address) });
    for number in 0..25 {
        sink.emit(span(number));
    }
    timeout(export.finish(PATIENCE)).await;
    let batches = collector.batches();
    assert!(batches.iter().all(|batch| batch.len() <= 10));
    let names: Vec<String> = batches.into_iter().flatten().map(|span| span.name).collect();
    let expected: Vec<String> = (0..25).map(|number| format!("span {number}")).collect();
    assert_eq!(names, expected);
    assert_eq!((metrics.spans_exported.get(), metrics.spans_dropped.get()), (25, 0));
}

#[tokio::test]
async fn a_batch_does_not_wait_for_more_than_the_interval() {
    let (collector, address) = Collector::start(|_| Ok(0)).await;
    let (metrics, sink, _export) = begin(&options(address));
    sink.emit(span(1));
    until(|| metrics.spans_exported.get() == 1).await;
    assert_eq!(collector.batches().len(), 1);
}

#[tokio::test]
async fn all_of_a_span_arrives() {
    let (collector, address) = Collector::start(|_| Ok(0)).await;
    let options = SpanOptions { service_name: "node-7".to_owned(), ..options(address) };
    let (_metrics, sink, export) = begin(&options);
    sink.emit(Span {
        parent: Some([9; 8]),
        kind: SpanKind::Client,
        attributes: vec![("peer".to_owned(), "127.0.0.1:1".into()), ("tries".to_owned(), 3.into())],
        error: Some("reset".to_owned()),
        links: vec![Link { trace_id: [5; 16], span_id: [6; 8] }],
        trace_state: "a=b".to_owned(),
        ..span(1)
    });
    timeout(export.finish(PATIENCE)).await;
    let resource = collector.received.lock().unwrap()[0].resource_spans[0].resource.clone();
    let name = &resource.unwrap().attributes[0];
    let value = name.value.clone().unwrap().value.unwrap();
    assert_eq!((name.key.as_str(), value), ("service.name", AnyKind::StringValue("node-7".into())));

    let span = &collector.batches()[0][0];
    assert_eq!((&span.trace_id, &span.span_id), (&vec![1; 16], &vec![1; 8]));
    assert_eq!(span.parent_span_id, vec![9; 8]);
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1, 2));
    assert_eq!((span.kind, span.trace_state.as_str()), (3, "a=b"));
    let attributes = span
        .attributes
        .iter()
        .map(|attribute| (attribute.key.as_str(), attribute.value.clone().unwrap().value.unwrap()));
    let expected = vec![("peer", AnyKind::StringValue("127.0.0.1:1".into())), ("tries", AnyKind::IntValue(3))];
    assert_eq!(attributes.collect::<Vec<_>>(), expected);
    let status = span.status.clone().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "reset"));
    assert_eq!((&span.links[0].trace_id, &span.links[0].span_id), (&vec![5; 16], &vec![6; 8]));
}

#[tokio::test]
async fn a_span_keeps_so_many_links_and_no_more() {
    let (collector, address) = Collector::start(|_| Ok(0)).await;
    let (_metrics, sink, export) = begin(&options(address));
    let links = (0..100).map(|number| Link { trace_id: [number; 16], span_id: [number; 8] }).collect();
    sink.emit(Span { links, ..span(1) });
    timeout(export.finish(PATIENCE)).await;
    let kept: Vec<u8> = collector.batches()[0][0].links.iter().map(|link| link.span_id[0]).collect();
    assert_eq!(kept, (0..MAX_LINKS as u8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_queue_drops_spans_and_counts_them() {
    let (collector, address) = Collector::start(|_| Ok(0)).await;
    let (metrics, sink, export) = begin(&SpanOptions { queue: 8, ..options(address) });
    // The export shares this thread, so nothing leaves the queue before the next await.
    for number in 0..20 {
        sink.emit(span(number));
    }
    assert_eq!(metrics.spans_dropped.get(), 12);
    timeout(export.finish(PATIENCE)).await;
    assert_eq!(collector.batches().concat().len(), 8);
    assert_eq!((metrics.spans_exported.get(), metrics.spans_dropped.get()), (8, 12));
}

#[tokio::test]
async fn an_absent_collector_costs_spans_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (metrics, sink, export) = begin(&SpanOptions { attempts: 2, ..options(address) });
    for round in 1..=2 {
        sink.emit(span(1));
        until(|| metrics.spans_dropped.get() == round).await;
    }
    timeout(export.finish(PATIENCE)).await;
    sink.emit(span(3));
    assert_eq!((metrics.spans_exported.get(), metrics.spans_dropped.get()), (0, 3));
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_with_the_same_spans() {
    let answer: Answer = |number| match number {
        1 => Err(Status::unavailable("starting")),
        _ => Ok(0),
    };
    let (collector, address) = Collector::start(answer).await;
    let (metrics, sink, _export) = begin(&options(address));
    sink.emit(span(1));
    until(|| metrics.spans_exported.get() == 1).await;
    let batches = collector.batches();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0], batches[1]);
    assert_eq!(metrics.spans_dropped.get(), 0);
}

#[tokio::test]
async fn tries_end_at_the_set_number() {
    let (collector, address) = Collector::start(|_| Err(Status::unavailable("always"))).await;
    let (metrics, sink, _export) = begin(&SpanOptions { attempts: 3, ..options(address) });
    sink.emit(span(1));
    until(|| metrics.spans_dropped.get() == 1).await;
    assert_eq!(collector.batches().len(), 3);
}

#[tokio::test]
async fn a_lasting_failure_is_not_tried_again() {
    let (collector, address) = Collector::start(|_| Err(Status::new(Code::PermissionDenied, "no"))).await;
    let (metrics, sink, _export) = begin(&options(address));
    sink.emit(span(1));
    until(|| metrics.spans_dropped.get() == 1).await;
    assert_eq!(collector.batches().len(), 1);
}

#[tokio::test]
async fn spans_that_the_collector_refuses_are_counted_and_not_sent_again() {
    let (collector, address) = Collector::start(|_| Ok(2)).await;
    let (metrics, sink, export) = begin(&options(address));
    for number in 0..5 {
        sink.emit(span(number));
    }
    timeout(export.finish(PATIENCE)).await;
    assert_eq!(collector.batches().len(), 1);
    assert_eq!((metrics.spans_exported.get(), metrics.spans_dropped.get()), (3, 2));
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_silent_collector() {
    // Connections wait in the backlog: accepted by the kernel, answered by nobody.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, sink, export) = begin(&options(address));
    sink.emit(span(1));
    sink.emit(span(2));
    timeout(export.finish(Duration::from_millis(50))).await;
    assert_eq!((metrics.spans_exported.get(), metrics.spans_dropped.get()), (0, 2));
}

#[tokio::test]
async fn without_a_collector_nothing_is_queued_or_counted() {
    let sink = SpanSink::discard();
    assert!(!sink.is_enabled());
    sink.emit(span(1));
}

#[tokio::test]
async fn an_unusable_address_is_named_with_what_to_write() {
    for address in ["https://collector:4317", "collector:4317", "", "http://", "grpc://a", "http://a b"] {
        let options = SpanOptions::new(address);
        let error = start(&options, &Metrics::new(), &Handle::current()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("{address:?}")), "{message}");
        assert!(message.contains("http://127.0.0.1:4317"), "{message}");
    }
}
