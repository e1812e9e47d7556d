//! Envoy, as a router alone and with those of its own policies that come nearest to ours.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::load::Asked;
use super::{ENVOY, ENVOY_POLICIES, Proxy, Scene};

pub fn plain(scene: &Scene, program: &Path) -> Result<Proxy> {
    let manager = json!({
        "route_config": routes(&json!({ "cluster": "service" })),
        "http_filters": [router()],
    });
    proxy(scene, program, ENVOY, manager, vec![service(scene, json!({}))])
}

pub fn with_policies(scene: &Scene, program: &Path) -> Result<Proxy> {
    let verify = json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": kind("extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
            "providers": { "issuer": {
                "issuer": Asked::ISSUER,
                "audiences": [Asked::AUDIENCE],
                "forward": true,
                "local_jwks": { "inline_string": scene.asked.jwks },
                "jwt_cache_config": { "jwt_cache_size": 1000 },
            } },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "issuer" } }],
        },
    });
    let route = json!({
        "cluster": "service",
        "retry_policy": {
            "retry_on": "gateway-error,reset,connect-failure,refused-stream",
            "num_retries": 2,
            "retry_back_off": { "base_interval": "0.05s", "max_interval": "1s" },
        },
    });
    let manager = json!({
        "route_config": routes(&route),
        "http_filters": [verify, router()],
        "tracing": {
            "random_sampling": { "value": 1.0 },
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": kind("config.trace.v3.OpenTelemetryConfig"),
                    "service_name": "bench",
                    "grpc_service": { "envoy_grpc": { "cluster_name": "collector" }, "timeout": "1s" },
                },
            },
        },
    });
    let breaker = json!({
        "circuit_breakers": { "thresholds": [
            { "max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 64 },
        ] },
        "outlier_detection": { "consecutive_5xx": 5, "interval": "10s", "base_ejection_time": "10s" },
    });
    let collector = cluster(
        "collector",
        &[scene.endpoints.collector()],
        json!({ "explicit_http_config": { "http2_protocol_options": {} } }),
    );
    proxy(scene, program, ENVOY_POLICIES, manager, vec![service(scene, breaker), collector])
}

fn proxy(scene: &Scene, program: &Path, name: &str, manager: Value, clusters: Vec<Value>) -> Result<Proxy> {
    let listen = scene.ports.one()?;
    let mut manager = manager;
    manager["@type"] = kind("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager").into();
    manager["stat_prefix"] = "in".into();
    manager["codec_type"] = "AUTO".into();
    let config = json!({ "static_resources": {
        "listeners": [{
            "name": "in",
            "address": address(listen),
            "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
        }],
        "clusters": clusters,
    } });
    let config = scene.write(&format!("{name}.json"), &config.to_string())?;
    let flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--config-path"];
    let arguments = flags.map(Into::into).into_iter().chain([config.into()]).collect();
    // One port speaks both protocols.
    Ok(Proxy { name: name.into(), program: program.into(), arguments, http1: listen, http2: Some(listen) })
}

/// Calls go on by the protocol by which they came.
fn service(scene: &Scene, more: Value) -> Value {
    let same =
        json!({ "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": {} } });
    let mut service = cluster("service", &scene.endpoints.addresses, same);
    if let (Value::Object(service), Value::Object(more)) = (&mut service, more) {
        service.extend(more);
    }
    service
}

fn cluster(name: &str, addresses: &[SocketAddr], protocols: Value) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|endpoint| json!({ "endpoint": { "address": address(*endpoint) } })).collect();
    let mut protocols = protocols;
    protocols["@type"] = kind("extensions.upstreams.http.v3.HttpProtocolOptions").into();
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocols },
    })
}

fn routes(to: &Value) -> Value {
    json!({ "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": to }] }] })
}

fn router() -> Value {
    json!({ "name": "envoy.filters.http.router", "typed_config": { "@type": kind("extensions.filters.http.router.v3.Router") } })
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.{name}")
}
