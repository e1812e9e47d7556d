//! Configurations of any size.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::weir::Setup;

/// The service whose only endpoint changes is in the middle of the others.
pub const PROBE: &str = "probe";

/// How much of what a configuration has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    pub services: u32,
    /// Of each service.
    pub endpoints: u32,
    pub routes: u32,
}

impl Shape {
    /// So many services with ten endpoints and a route each.
    pub fn of(services: u32) -> Self {
        Self { services, endpoints: 10, routes: services }
    }

    /// The five policies on all routes. Every endpoint is one of 127.0.0.0/8 with the port given, and `probe` is the only
    /// one of the service [`PROBE`].
    pub fn setup(self, port: u16, probe: SocketAddr) -> Setup {
        let mut text = String::new();
        for service in 0..self.services.max(1) {
            let first = service * self.endpoints;
            let endpoints: Vec<String> = (first..first + self.endpoints)
                .map(|endpoint| format!("{{ address = \"{}\" }}", address(endpoint, port)))
                .collect();
            let endpoints = endpoints.join(", ");
            let _ = write!(text, "[[service]]\nname = \"{}\"\nendpoints = [{endpoints}]\n\n", name(service));
            if service == self.services / 2 {
                let _ = write!(
                    text,
                    "[[service]]\nname = \"{PROBE}\"\nendpoints = [{{ address = \"{probe}\" }}]\n\n{}",
                    route(PROBE, PROBE)
                );
            }
        }
        for number in 0..self.routes {
            text.push_str(&route(&name(number), &name(number % self.services.max(1))));
        }
        with_policies(base()).toml(&text)
    }
}

/// No policies, services or routes; room for many idle connections.
pub fn base() -> Setup {
    Setup::new().toml("[limits]\nmax-connections = 200000\nidle-timeout = \"30m\"\n[log]\nexchanges = \"none\"")
}

/// A chain `default` of the five policies that this is about.
fn with_policies(mut setup: Setup) -> Setup {
    setup = setup
        .toml("[chain]\ndefault = [\"trace\", \"token-verify\", \"circuit-breaker\", \"retry\", \"load-balance\"]");
    for plugin in PLUGINS {
        setup = setup.policy(plugin, plugin, config_of(plugin));
    }
    setup.toml(KEY)
}

/// For `token-verify`. Any file that is long enough does: nothing is signed with it.
pub const KEY: &str =
    concat!("[key.verify]\nsecret = { file = \"", env!("CARGO_MANIFEST_DIR"), "/src/scale/shape.rs\" }");

pub const PLUGINS: [&str; 5] = ["trace", "token-verify", "circuit-breaker", "retry", "load-balance"];

/// What a policy of one of these plugins is given.
pub fn config_of(plugin: &str) -> &'static str {
    match plugin {
        "trace" => "{ sample = 0.01, dialects = [\"w3c\"] }",
        "token-verify" => {
            "{ key = \"verify\", algorithms = [\"HS256\"], issuer = \"weir\", audience = \"scale\", optional = true }"
        }
        "circuit-breaker" => {
            "{ scope = \"endpoint\", trip = { consecutive-failures = 5 }, open-for = \"10s\", half-open = { max-calls = 1, successes = 1 } }"
        }
        "retry" => {
            "{ max-attempts = 3, backoff = { kind = \"fixed\", delay = \"5ms\" }, retry-on = { statuses = [503] } }"
        }
        _ => "{ algorithm = \"round-robin\" }",
    }
}

pub fn name(number: u32) -> String {
    format!("service-{number}")
}

fn route(host: &str, service: &str) -> String {
    format!("[[route]]\nmatch = {{ host = \"{host}\" }}\nservice = \"{service}\"\nchain = \"default\"\n\n")
}

/// One of the addresses of this machine's loopback.
pub fn address(number: u32, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0000 + number)), port)
}
