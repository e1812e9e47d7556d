//! A gRPC echo service: all four kinds of call, metadata, statuses and delays on demand.
//!
//! The service is small enough to be written over tonic's own building blocks, so that no build script and no
//! `protoc` is needed. [`paths`] and the messages are its whole interface.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, Request as HttpRequest, Response as HttpResponse};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::loopback;
use super::record::lock;
use super::server::{Count, Server};

/// Paths of the methods; every one takes [`EchoRequest`] and returns [`EchoReply`].
pub mod paths {
    pub const UNARY: &str = "/weir.test.Echo/Unary";
    pub const SERVER_STREAM: &str = "/weir.test.Echo/ServerStream";
    pub const CLIENT_STREAM: &str = "/weir.test.Echo/ClientStream";
    pub const BIDI: &str = "/weir.test.Echo/Bidi";
}

/// Request metadata that comes back: as initial metadata, and as trailers (binary). The names are those of gRPC's
/// interoperability tests.
const ECHO_INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");
const ECHO_TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");

#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoRequest {
    #[prost(string, tag = "1")]
    pub message: String,
    /// How many replies a server stream gives; 0 means 1.
    #[prost(uint32, tag = "2")]
    pub replies: u32,
    /// Milliseconds to wait before each reply.
    #[prost(uint64, tag = "3")]
    pub delay_ms: u64,
    /// The status to end with instead of a reply (after the replies, on a server stream); 0 means OK.
    #[prost(int32, tag = "4")]
    pub code: i32,
    /// The message of that status.
    #[prost(string, tag = "5")]
    pub status_message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoReply {
    #[prost(string, tag = "1")]
    pub message: String,
    /// Number of this reply on its stream, from 0; for a client stream, how many requests it had.
    #[prost(uint32, tag = "2")]
    pub sequence: u32,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub at: Instant,
    pub path: String,
    pub authority: Option<String>,
    pub metadata: HeaderMap,
}

/// The echo service on a port of its own (HTTP/2 with prior knowledge).
#[derive(Debug)]
pub struct GrpcUpstream {
    server: Server,
    echo: Arc<Echo>,
}

impl GrpcUpstream {
    pub async fn start() -> io::Result<Self> {
        Self::listen(loopback()).await
    }

    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let echo = Arc::new(Echo::default());
        let of_connections = echo.clone();
        let server = Server::start(address, move |stream, _| of_connections.clone().serve(stream)).await?;
        Ok(Self { server, echo })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Ends the next `times` calls at once with `code`, whatever they ask for.
    pub fn fail_next(&self, times: u64, code: Code) {
        *lock(&self.echo.failures) = (times, code);
    }

    /// The latest calls, oldest first; at most [`super::Received::KEPT`].
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.echo.calls).iter().cloned().collect()
    }

    pub fn call_count(&self) -> u64 {
        self.echo.count.get()
    }

    pub fn connection_count(&self) -> u64 {
        self.server.accepted()
    }

    /// Closes the port and every connection, and returns once they are closed.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

#[derive(Debug)]
struct Echo {
    failures: Mutex<(u64, Code)>,
    calls: Mutex<VecDeque<Call>>,
    count: Count,
}

impl Default for Echo {
    fn default() -> Self {
        Self { failures: Mutex::new((0, Code::Ok)), calls: Mutex::default(), count: Count::default() }
    }
}

impl Echo {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = hyper::service::service_fn(move |request| self.clone().call(request));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // The peer broke off, which the test that made it do so knows.
        let _ = connection.await;
    }

    async fn call(self: Arc<Self>, request: HttpRequest<Incoming>) -> Result<HttpResponse<Body>, Infallible> {
        self.keep(&request);
        if let Some(code) = self.next_failure() {
            return Ok(Status::new(code, "told to fail").into_http());
        }
        let initial = request.headers().get(&ECHO_INITIAL).cloned();
        let trailing = request.headers().get(&ECHO_TRAILING).cloned();
        let mut response = dispatch(request).await;
        if let Some(value) = initial {
            response.headers_mut().insert(ECHO_INITIAL, value);
        }
        let Some(value) = trailing else {
            return Ok(response);
        };
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers.insert(ECHO_TRAILING, value.clone());
                }
                frame
            }))
        }))
    }

    fn keep(&self, request: &HttpRequest<Incoming>) {
        let mut calls = lock(&self.calls);
        self.count.add();
        if calls.len() >= super::Received::KEPT {
            calls.pop_front();
        }
        calls.push_back(Call {
            at: Instant::now(),
            path: request.uri().path().to_owned(),
            authority: request.uri().authority().map(ToString::to_string),
            metadata: request.headers().clone(),
        });
    }

    fn next_failure(&self) -> Option<Code> {
        let mut failures = lock(&self.failures);
        let (left, code) = *failures;
        failures.0 = left.saturating_sub(1);
        (left > 0).then_some(code)
    }
}

async fn dispatch(request: HttpRequest<Incoming>) -> HttpResponse<Body> {
    let mut grpc = Grpc::new(ProstCodec::<EchoReply, EchoRequest>::default());
    match request.uri().path() {
        paths::UNARY => grpc.unary(service_fn(unary), request).await,
        paths::SERVER_STREAM => grpc.server_streaming(service_fn(server_stream), request).await,
        paths::CLIENT_STREAM => grpc.client_streaming(service_fn(client_stream), request).await,
        paths::BIDI => grpc.streaming(service_fn(bidi), request).await,
        path => Status::unimplemented(format!("no method {path}")).into_http(),
    }
}

async fn unary(request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
    let request = request.into_inner();
    pause(&request).await;
    asked_status(&request)?;
    Ok(Response::new(reply(&request, 0)))
}

async fn server_stream(
    request: Request<EchoRequest>,
) -> Result<Response<impl Stream<Item = Result<EchoReply, Status>>>, Status> {
    let request = request.into_inner();
    let end = asked_status(&request).err().map(Err);
    let replies = stream::unfold(0, move |sequence| {
        let request = request.clone();
        async move {
            if sequence == request.replies.max(1) {
                return None;
            }
            pause(&request).await;
            Some((Ok(reply(&request, sequence)), sequence + 1))
        }
    });
    Ok(Response::new(replies.chain(stream::iter(end))))
}

async fn client_stream(request: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
    let mut requests = request.into_inner();
    let mut whole = EchoReply::default();
    while let Some(request) = requests.message().await? {
        pause(&request).await;
        asked_status(&request)?;
        whole.message.push_str(&request.message);
        whole.sequence += 1;
    }
    Ok(Response::new(whole))
}

async fn bidi(
    request: Request<Streaming<EchoRequest>>,
) -> Result<Response<impl Stream<Item = Result<EchoReply, Status>>>, Status> {
    let replies = request.into_inner().enumerate().then(|(sequence, request)| async move {
        let request = request?;
        pause(&request).await;
        asked_status(&request)?;
        Ok(reply(&request, sequence as u32))
    });
    Ok(Response::new(replies))
}

async fn pause(request: &EchoRequest) {
    tokio::time::sleep(Duration::from_millis(request.delay_ms)).await;
}

fn asked_status(request: &EchoRequest) -> Result<(), Status> {
    match Code::from_i32(request.code) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, request.status_message.clone())),
    }
}

fn reply(request: &EchoRequest, sequence: u32) -> EchoReply {
    EchoReply { message: request.message.clone(), sequence }
}
