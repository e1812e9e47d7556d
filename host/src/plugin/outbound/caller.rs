//! One call of a policy's own, from the request that a guest gives to the answer that it gets.

use crate::call::request::{editable_name, editable_value};
use crate::clock::now;
use crate::config::Protocol;
use crate::plugin::Context;
use crate::plugin::bindings::outbound::{Error, ErrorKind, Request, Response};
use crate::service::Services;
use crate::service::client::{MAX_FIELDS as MAX_ANSWER_FIELDS, MAX_HEAD, root_cause};
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The longest that a call may take.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The longest body, either way, in bytes.
const MAX_BODY: usize = 1024 * 1024;
const MAX_FIELDS: usize = 100;
const MAX_PATH: usize = 8 * 1024;

/// Makes the calls of one policy, and waits for them.
#[derive(Debug, Clone)]
pub struct Caller {
    policy: Arc<str>,
    services: Arc<Services>,
    metrics: Metrics,
    /// Closed when the policy is to stop.
    cancelled: watch::Receiver<()>,
}

/// Why there is no answer.
struct Failed {
    kind: ErrorKind,
    why: String,
}

fn failed(kind: ErrorKind, why: impl Into<String>) -> Failed {
    Failed { kind, why: why.into() }
}

impl Caller {
    pub fn new(context: &Context, cancelled: watch::Receiver<()>) -> Self {
        let metrics = context.telemetry.metrics.clone();
        Self { policy: context.policy.clone(), services: context.services.clone(), metrics, cancelled }
    }

    /// Waits on this thread, which must not be a worker's.
    ///
    /// # Errors
    /// The message names the service.
    pub fn send(&self, service: &str, request: Request, timeout: Duration) -> Result<Response, Error> {
        let answer = self.call(service, request, timeout.min(MAX_TIME));
        self.metrics.outbound_call(&self.policy, answer.as_ref().map_or_else(|failed| outcome(failed.kind), |_| "ok"));
        answer.map_err(|Failed { kind, why }| Error { kind, message: format!("service {service:?}: {why}") })
    }

    fn call(&self, service: &str, request: Request, timeout: Duration) -> Result<Response, Failed> {
        let service =
            self.services.named(service).ok_or_else(|| failed(ErrorKind::Unavailable, "there is no such service"))?;
        let endpoint = service.least_loaded(&[], now()).and_then(|id| service.endpoints().get(id).cloned());
        let endpoint = endpoint.ok_or_else(|| failed(ErrorKind::Unavailable, "it has no endpoint"))?;
        let protocol = service.options.load().protocol;
        let request = checked(request, protocol, &endpoint.address)?;
        let _in_flight = service.begin(&endpoint);
        // For this call alone: with the runtime ends everything that the call has begun, come what may.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(ErrorKind::Unavailable, format!("no runtime: {error}")))?;
        let mut cancelled = self.cancelled.clone();
        let answer = runtime.block_on(async {
            tokio::select! {
                biased;
                _ = cancelled.changed() => Err(failed(ErrorKind::Cancelled, "the policy is being stopped")),
                answer = exchange(&endpoint.address, protocol, request) => answer,
                () = tokio::time::sleep(timeout) => {
                    Err(failed(ErrorKind::Timeout, format!("no complete answer from {} within {timeout:?}", endpoint.address)))
                }
            }
        });
        // A name that is being resolved cannot be given up, and is not waited for.
        runtime.shutdown_background();
        answer
    }
}

/// The request as it is sent.
fn checked(request: Request, protocol: Protocol, address: &str) -> Result<http::Request<Full<Bytes>>, Failed> {
    let invalid = |why: String| failed(ErrorKind::Invalid, why);
    let Request { method, path, fields, body } = request;
    let method = Method::from_bytes(method.as_bytes())
        .ok()
        .filter(|method| *method != Method::CONNECT && method.as_str().len() <= 32)
        .ok_or_else(|| invalid("the method cannot be sent".into()))?;
    let path = Some(path)
        .filter(|path| path.starts_with('/') && path.len() <= MAX_PATH)
        .and_then(|path| PathAndQuery::try_from(path).ok())
        .ok_or_else(|| invalid(format!("the path does not begin with \"/\", or cannot be sent in {MAX_PATH} bytes")))?;
    if body.len() > MAX_BODY {
        return Err(invalid(format!("the body has {} bytes; {MAX_BODY} are the most", body.len())));
    }
    if fields.len() > MAX_FIELDS {
        return Err(invalid(format!("there are {} fields; {MAX_FIELDS} are the most", fields.len())));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = editable_name(&name).map_err(invalid)?;
        let value = editable_value(&name, &value).map_err(invalid)?;
        headers.append(name, value);
    }
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    match protocol {
        Protocol::Http1 => {
            let host = HeaderValue::from_str(address).map_err(|error| invalid(error.to_string()))?;
            headers.insert(HOST, host);
        }
        Protocol::Http2 => {
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(address.parse().map_err(|_| invalid(format!("{address} is no authority")))?);
        }
    }
    let mut request = http::Request::new(Full::new(Bytes::from(body)));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| invalid(error.to_string()))?;
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    Ok(request)
}

/// On a connection of its own: calls are few, and none is to be sent on a connection that may be closed by now.
async fn exchange(address: &str, protocol: Protocol, request: http::Request<Full<Bytes>>) -> Result<Response, Failed> {
    let connected = TcpStream::connect(address).await;
    let stream = connected
        .map_err(|error| failed(ErrorKind::Unavailable, format!("no connection to {address}: {}", error.kind())))?;
    let stream = TokioIo::new(stream);
    let broke = |error: hyper::Error| broken(address, &error);
    match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            builder.max_headers(MAX_ANSWER_FIELDS).max_header_size(MAX_HEAD);
            let (mut sender, connection) = builder.handshake(stream).await.map_err(broke)?;
            tokio::spawn(connection);
            receive(address, sender.send_request(request).await.map_err(broke)?).await
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_header_list_size(MAX_HEAD as u32);
            let (mut sender, connection) = builder.handshake(stream).await.map_err(broke)?;
            tokio::spawn(connection);
            receive(address, sender.send_request(request).await.map_err(broke)?).await
        }
    }
}

async fn receive(address: &str, answer: http::Response<Incoming>) -> Result<Response, Failed> {
    let (head, body) = answer.into_parts();
    if !(200..=599).contains(&head.status.as_u16()) {
        return Err(failed(ErrorKind::Broken, format!("{address} answers with status {}", head.status.as_u16())));
    }
    if head.headers.len() > MAX_ANSWER_FIELDS {
        return Err(failed(ErrorKind::Broken, format!("{address} answers with more than {MAX_ANSWER_FIELDS} fields")));
    }
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return failed(ErrorKind::TooLarge, format!("{address} answers with more than {MAX_BODY} bytes"));
        }
        match error.downcast_ref::<hyper::Error>() {
            Some(error) => broken(address, error),
            None => failed(ErrorKind::Broken, format!("{address} broke off")),
        }
    })?;
    let field =
        |(name, value): (&http::HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
    Ok(Response {
        status: head.status.as_u16(),
        fields: head.headers.iter().map(field).collect(),
        body: body.to_bytes().to_vec(),
    })
}

fn broken(address: &str, error: &hyper::Error) -> Failed {
    failed(ErrorKind::Broken, format!("{address} broke off, or does not speak its protocol: {}", root_cause(error)))
}

/// The word of the metrics.
fn outcome(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::OnlyInTick => "only-in-tick",
        ErrorKind::Denied => "denied",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Broken => "broken",
        ErrorKind::Timeout => "timeout",
        ErrorKind::TooLarge => "too-large",
        ErrorKind::Cancelled => "cancelled",
    }
}
