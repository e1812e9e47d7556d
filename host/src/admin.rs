//! The admin listener: what an operator, a probe or a scraper asks the node. Bind it to loopback: it has no login.

mod channels;
mod command;
mod plugins;

use crate::clock;
use crate::listener::Impatient;
use crate::node::Node;
use crate::reload::Status;
use crate::reload::command::Commands;
use crate::service::Service;
use crate::telemetry::metrics::CONTENT_TYPE;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// For a reader to ask for something, and to take what it is given.
const PATIENCE: Duration = Duration::from_secs(30);

const PAGES: [&str; 7] = ["/healthz", "/readyz", "/metrics", "/plugins", "/services", "/channels", "/config"];

#[derive(Debug, Clone)]
pub struct Admin {
    node: Arc<Node>,
    status: Arc<Mutex<Status>>,
    commands: Commands,
}

/// The socket of the admin pages, and its address.
pub fn bind(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok((socket.local_addr()?, socket))
}

/// Answers until the node stops. While it drains `/readyz` says so.
pub async fn serve(admin: Admin, socket: TcpListener, _drain: watch::Receiver<bool>) {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!("the admin listener cannot accept: {error}"),
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the admin listener cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = admin.clone();
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let stream = Impatient::new(stream, PATIENCE, None);
            drop(http.serve_connection(TokioIo::new(stream), service).await);
            drop(place);
        });
    }
}

impl Admin {
    pub fn new(node: Arc<Node>, status: Arc<Mutex<Status>>, commands: Commands) -> Self {
        Self { node, status, commands }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if let Some(answer) = self.command(request).await {
            return answer;
        }
        let path = request.uri().path();
        if !PAGES.contains(&path) {
            let pages: Vec<&str> = PAGES.into_iter().chain(command::PAGES).collect();
            let message = format!("there is no page {path}");
            return json(StatusCode::NOT_FOUND, &json!({ "error": "not-found", "message": message, "pages": pages }));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD", "the admin pages are read with GET");
        }
        match path {
            "/healthz" => json(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" if self.node.draining.load(Ordering::Acquire) => {
                json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "draining" }))
            }
            "/readyz" => json(StatusCode::OK, &json!({ "status": "ready", "generation": self.node.generation() })),
            "/metrics" => respond(StatusCode::OK, CONTENT_TYPE, self.node.telemetry.metrics.encode()),
            "/plugins" => json(StatusCode::OK, &self.plugins()),
            "/services" => json(StatusCode::OK, &self.services()),
            "/channels" => json(StatusCode::OK, &self.channels().await),
            _ => json(StatusCode::OK, &self.config()),
        }
    }

    fn services(&self) -> Value {
        let services: Vec<Value> = self
            .node
            .services
            .all()
            .iter()
            .filter(|service| service.is_configured())
            .map(|service| self.service(service))
            .collect();
        json!({ "services": services })
    }

    fn service(&self, service: &Service) -> Value {
        let now = clock::now();
        let breaker = |told: &crate::service::endpoint::BreakerState| json!({ "policy": &*told.policy, "state": told.state, "reason": told.reason });
        let endpoints: Vec<Value> = service
            .endpoints()
            .iter()
            .map(|endpoint| {
                let told = endpoint.breaker.lock().unwrap_or_else(PoisonError::into_inner);
                let state = told.as_ref().map_or("closed", |told| told.state);
                json!({
                    "address": &*endpoint.address,
                    "weight": endpoint.weight,
                    "metadata": endpoint.metadata,
                    "health": if endpoint.is_ejected(now) { "ejected" } else if state == "open" { "breaker-open" } else { "ok" },
                    "in-flight": endpoint.in_flight(),
                    "latency-ms": endpoint.load.latency(now) as f64 / 1e6,
                    "breaker": told.as_ref().map(breaker).unwrap_or_else(|| json!({ "state": "closed" })),
                })
            })
            .collect();
        let breakers = service.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let breakers: serde_json::Map<String, Value> = breakers
            .iter()
            .map(|(scope, told)| (if scope.is_empty() { "service".to_owned() } else { scope.clone() }, breaker(told)))
            .collect();
        json!({ "name": &*service.name, "protocol": service.options.load().protocol, "endpoints": endpoints, "breakers": breakers })
    }

    fn config(&self) -> Value {
        let snapshot = self.node.snapshot();
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let bound: serde_json::Map<String, Value> =
            snapshot.listeners.iter().map(|bound| (bound.name.to_string(), json!(bound.address))).collect();
        json!({
            "generation": snapshot.generation,
            "listening": bound,
            "loaded-at": status.config_loaded_at.map(time),
            "last-error": status.config_error,
            "config": snapshot.config.to_json(),
        })
    }
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{value:#}\n"))
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    json(status, &json!({ "error": kind, "message": message }))
}

fn not_allowed(allowed: &'static str, message: &str) -> Response<Full<Bytes>> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message);
    response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allowed));
    response
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// RFC 3339.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
