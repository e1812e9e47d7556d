//! Clients for the tests: one [`Client`] is one connection, so that a test decides what is reused.

mod grpc;
mod websocket;

pub use grpc::EchoClient;
pub use websocket::{WebSocket, websocket};

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

/// Nothing that a test asks for takes longer on the slowest machine: what does hangs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The body of a request: [`full`] or [`stream`].
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body known as a whole, sent with its length.
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without an announced length, from a stream of pieces; an error breaks the request off.
pub fn stream(pieces: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    let frames = futures_util::TryStreamExt::map_ok(pieces, Frame::data);
    StreamBody::new(frames).boxed_unsync()
}

/// A request without a body for `http://{service}{path}`.
pub fn get(service: &str, path: &str) -> Result<Request<Body>> {
    request(Method::GET, service, path, Bytes::new())
}

/// A POST for `http://{service}{path}`.
pub fn post(service: &str, path: &str, body: impl Into<Bytes>) -> Result<Request<Body>> {
    request(Method::POST, service, path, body)
}

/// A request for `http://{service}{path}`; the client turns the target into the form its connection needs.
pub fn request(method: Method, service: &str, path: &str, body: impl Into<Bytes>) -> Result<Request<Body>> {
    let request = Request::builder().method(method).uri(format!("http://{service}{path}"));
    request.body(full(body)).with_context(|| format!("not a request target: http://{service}{path}"))
}

/// How an HTTP/1.1 client writes the target (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Origin,
    Absolute,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>, Form),
    Http2(http2::SendRequest<Body>),
}

/// One connection to a proxy, or to any other server.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
}

impl Client {
    /// HTTP/1.1 with targets in origin form and the service in `host`.
    pub async fn http1(address: SocketAddr) -> Result<Self> {
        Self::connect_http1(address, Form::Origin).await
    }

    /// HTTP/1.1 with targets in absolute form, as a client sends them to its `http_proxy`.
    pub async fn http1_as_proxy(address: SocketAddr) -> Result<Self> {
        Self::connect_http1(address, Form::Absolute).await
    }

    /// HTTP/2 with prior knowledge.
    pub async fn http2(address: SocketAddr) -> Result<Self> {
        let stream = connect(address).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.timer(TokioTimer::new()).handshake(stream).await?;
        // Its errors come out of the requests.
        tokio::spawn(connection);
        Ok(Self { sender: Sender::Http2(sender) })
    }

    async fn connect_http1(address: SocketAddr, form: Form) -> Result<Self> {
        let (sender, connection) = http1::handshake(connect(address).await?).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Self { sender: Sender::Http1(sender, form) })
    }

    /// Another handle on the same HTTP/2 connection, for concurrent streams; none for HTTP/1.1.
    pub fn another(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(..) => None,
            Sender::Http2(sender) => Some(Self { sender: Sender::Http2(sender.clone()) }),
        }
    }

    /// Whether the connection can take no further request.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender, _) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request and reads the whole response, within [`LIMIT`].
    ///
    /// A body that breaks off is not an error here: [`Response::broken`] says so.
    pub async fn send(&mut self, mut request: Request<Body>) -> Result<Response> {
        let interim = Arc::new(Mutex::new(Vec::new()));
        let of_callback = interim.clone();
        hyper::ext::on_informational(&mut request, move |head| {
            let head = (head.status(), head.headers().clone());
            of_callback.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        });
        let started = Instant::now();
        let whole = async {
            let head = self.open(request).await?;
            Ok(Response::read(head, started).await)
        };
        let read: Result<Response> = tokio::time::timeout(LIMIT, whole).await.context("no complete response")?;
        let mut response = read?;
        response.interim = std::mem::take(&mut *interim.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(response)
    }

    /// Sends a request and returns once the head of the response is there.
    pub async fn open(&mut self, request: Request<Body>) -> Result<http::Response<Incoming>> {
        let response = match &mut self.sender {
            Sender::Http1(sender, form) => {
                let request = for_http1(request, *form)?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        Ok(response)
    }
}

/// One GET over a connection of its own.
pub async fn fetch(address: SocketAddr, service: &str, path: &str) -> Result<Response> {
    Client::http1(address).await?.send(get(service, path)?).await
}

async fn connect(address: SocketAddr) -> Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// Adds `host`, unless the test set its own, and brings the target into its form.
fn for_http1(mut request: Request<Body>, form: Form) -> Result<Request<Body>> {
    if let (Some(authority), false) = (request.uri().authority(), request.headers().contains_key(HOST)) {
        let host = HeaderValue::try_from(authority.as_str())?;
        request.headers_mut().insert(HOST, host);
    }
    if form == Form::Origin {
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
    }
    Ok(request)
}

/// A response that was read to its end.
#[derive(Clone)]
pub struct Response {
    pub version: Version,
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// What arrived of it, if it is [`broken`](Response::broken).
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// Interim responses (1xx) that came before, in order; hyper tells of them on HTTP/1.1 only.
    pub interim: Vec<(StatusCode, HeaderMap)>,
    /// From sending to the head of the response.
    pub head_after: Duration,
    /// From sending to the end of the response.
    pub end_after: Duration,
    /// Why the body ended too early, if it did.
    pub broken: Option<String>,
}

impl Response {
    /// Reads the rest of a response that was [opened](Client::open) at `started`.
    pub async fn read(response: http::Response<Incoming>, started: Instant) -> Self {
        let head_after = started.elapsed();
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut trailers, mut broken) = (BytesMut::new(), HeaderMap::new(), None);
        while let Some(frame) = incoming.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
                Err(error) => {
                    broken = Some(format!("{:#}", anyhow::Error::from(error)));
                    break;
                }
            }
        }
        Self {
            version: head.version,
            status: head.status,
            headers: head.headers,
            body: body.freeze(),
            trailers,
            interim: Vec::new(),
            head_after,
            end_after: started.elapsed(),
            broken,
        }
    }

    /// The first value of a field, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {:?}", self.text()))
    }
}

/// Short enough for the message of a failed assertion.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 400;
        let body: String = self.text().chars().take(SHOWN).collect();
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body", &body)
            .field("length", &self.body.len())
            .field("trailers", &self.trailers)
            .field("end_after", &self.end_after)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
