//! The admin listener: what an operator, a probe or a scraper asks the node. Bind it to loopback: it has no login.

use crate::clock;
use crate::node::Node;
use crate::plugin::{Plugin, Policy};
use crate::reload::Status;
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
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 64;

#[derive(Debug, Clone)]
pub struct Admin {
    node: Arc<Node>,
    status: Arc<Mutex<Status>>,
}

/// Answers until the node stops. While it drains `/readyz` says so.
pub async fn serve(admin: Admin, socket: std::net::TcpListener, _drain: watch::Receiver<bool>) {
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
                let answer = admin.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            drop(http.serve_connection(TokioIo::new(stream), service).await);
            drop(place);
        });
    }
}

impl Admin {
    pub fn new(node: Arc<Node>, status: Arc<Mutex<Status>>) -> Self {
        Self { node, status }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return json(
                StatusCode::METHOD_NOT_ALLOWED,
                &json!({ "error": "method-not-allowed", "message": "the admin pages are read with GET" }),
            );
        }
        match request.uri().path() {
            "/healthz" => json(StatusCode::OK, &json!({ "status": "ok" })),
            "/readyz" if self.node.draining.load(Ordering::Acquire) => {
                json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "draining" }))
            }
            "/readyz" => json(StatusCode::OK, &json!({ "status": "ready", "generation": self.node.generation() })),
            "/metrics" => respond(StatusCode::OK, CONTENT_TYPE, self.node.telemetry.metrics.encode()),
            "/plugins" => json(StatusCode::OK, &self.plugins()),
            "/services" => json(StatusCode::OK, &self.services()),
            "/config" => json(StatusCode::OK, &self.config()),
            path => {
                let pages = ["/healthz", "/readyz", "/metrics", "/plugins", "/services", "/config"];
                json(
                    StatusCode::NOT_FOUND,
                    &json!({ "error": "not-found", "message": format!("there is no page {path}"), "pages": pages }),
                )
            }
        }
    }

    fn plugins(&self) -> Value {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let plugins: Vec<Value> = status
            .directory
            .files()
            .map(|(name, file)| self.plugin(name, file.serving.as_deref(), file.last_error.as_deref()))
            .collect();
        json!({ "generation": self.node.generation(), "plugins": plugins })
    }

    fn plugin(&self, name: &str, plugin: Option<&Plugin>, last_error: Option<&str>) -> Value {
        let Some(plugin) = plugin else { return json!({ "name": name, "serving": false, "last-error": last_error }) };
        let metrics = &self.node.telemetry.metrics;
        let times = |policy: &Arc<str>| -> serde_json::Map<String, Value> {
            let hook = |hook: &'static str| {
                let spent = metrics.hook(policy, hook);
                (hook.to_owned(), json!({ "calls": spent.calls(), "seconds": spent.seconds() }))
            };
            plugin.hooks.names().into_iter().map(hook).collect()
        };
        let snapshot = self.node.snapshot();
        let of_plugin = |policy: &&Arc<Policy>| policy.plugin.as_ref().is_ok_and(|of| of.name == plugin.name);
        let policy = |policy: &Arc<Policy>| json!({ "name": &*policy.name, "on-error": policy.on_error, "time": times(&policy.name) });
        let policies: Vec<Value> = snapshot.policies.values().filter(of_plugin).map(policy).collect();
        json!({
            "name": name,
            "serving": true,
            "digest": plugin.digest,
            "generation": plugin.generation,
            "version": plugin.description.version,
            "summary": plugin.description.summary,
            "hooks": plugin.hooks.names(),
            "imports": plugin.imports,
            "loaded-at": time(plugin.loaded_at),
            "last-error": last_error,
            "traps": plugin.traps.load(Ordering::Relaxed),
            "last-trap": *plugin.last_trap.lock().unwrap_or_else(PoisonError::into_inner),
            "policies": policies,
        })
    }

    fn services(&self) -> Value {
        let snapshot = self.node.snapshot();
        let configured =
            |service: &Arc<Service>| snapshot.config.services.iter().any(|configured| configured.name == *service.name);
        let services: Vec<Value> = self
            .node
            .services
            .all()
            .iter()
            .filter(|service| configured(service))
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
        json!({
            "generation": snapshot.generation,
            "loaded-at": status.config_loaded_at.map(time),
            "last-error": status.config_error,
            "config": snapshot.config.to_json(),
        })
    }
}

fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", format!("{value:#}\n"))
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
