//! A collector of spans: OTLP over gRPC, as far as an exporter can tell.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::loopback;
use super::record::lock;
use super::server::Server;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A span as it arrived. Ids are in lower-case hexadecimal; a root has an empty parent.
#[derive(Clone, Debug)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    /// OTLP's number: 2 for a server's, 3 for a client's.
    pub kind: i32,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    /// Texts and numbers, both as text.
    pub attributes: BTreeMap<String, String>,
    /// Spans of other exchanges, each as its trace and its id.
    pub links: Vec<(String, String)>,
}

impl Span {
    pub const SERVER: i32 = 2;
    pub const CLIENT: i32 = 3;
    pub const PRODUCER: i32 = 4;
    pub const CONSUMER: i32 = 5;

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// Takes all spans, and keeps them.
#[derive(Debug)]
pub struct Collector {
    server: Server,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    pub async fn start() -> io::Result<Self> {
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let of_connections = spans.clone();
        let server = Server::start(loopback(), move |stream, _| serve(stream, of_connections.clone())).await?;
        Ok(Self { server, spans })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// All spans so far, in the order in which they arrived.
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.spans).clone()
    }
}

async fn serve(stream: TcpStream, spans: Arc<Mutex<Vec<Span>>>) {
    let service = hyper::service::service_fn(move |request| answer(spans.clone(), request));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // The exporter broke off, which the test that made it do so knows.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(kept: Arc<Mutex<Vec<Span>>>, request: HttpRequest<Incoming>) -> Result<HttpResponse<Body>, Infallible> {
    if request.uri().path() != EXPORT {
        return Ok(Status::unimplemented(format!("no method {}", request.uri().path())).into_http());
    }
    let export = service_fn(move |request: Request<proto::ExportRequest>| {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        lock(&kept).extend(spans.map(Span::from));
        async { Ok::<_, Status>(Response::new(proto::ExportResponse {})) }
    });
    let mut grpc = Grpc::new(ProstCodec::<proto::ExportResponse, proto::ExportRequest>::default());
    Ok(grpc.unary(export, request).await)
}

impl From<proto::Span> for Span {
    fn from(span: proto::Span) -> Self {
        let text = |value: proto::AnyValue| match value.kind? {
            proto::Kind::Text(text) => Some(text),
            proto::Kind::Integer(number) => Some(number.to_string()),
        };
        let attributes = span.attributes.into_iter();
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name,
            kind: span.kind,
            start: span.start,
            end: span.end,
            attributes: attributes.filter_map(|field| Some((field.key, text(field.value?)?))).collect(),
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of OTLP's `trace.proto` and `common.proto` that are looked at, under the tags of the protocol. Written out
/// so that the test checks what is on the wire, and not the host's own code by itself.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ExportRequest {
        #[prost(message, repeated, tag = "1")]
        pub resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ExportResponse {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ResourceSpans {
        #[prost(message, repeated, tag = "2")]
        pub scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub name: String,
        #[prost(int32, tag = "6")]
        pub kind: i32,
        #[prost(fixed64, tag = "7")]
        pub start: u64,
        #[prost(fixed64, tag = "8")]
        pub end: u64,
        #[prost(message, repeated, tag = "9")]
        pub attributes: Vec<KeyValue>,
        #[prost(message, repeated, tag = "13")]
        pub links: Vec<Link>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Link {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct KeyValue {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(message, optional, tag = "2")]
        pub value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AnyValue {
        #[prost(oneof = "Kind", tags = "1, 3")]
        pub kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(int64, tag = "3")]
        Integer(i64),
    }
}
