//! The node of all scenarios: its policies, chains, services and routes.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use weir::config;

use super::request;
use super::rig::Rig;
use super::token::KEY;
use crate::weir::{Setup, guests_directory};

/// The five policies of the chain that is measured everywhere, in their order.
pub const FIVE: [&str; 5] = ["trace", "verify", "breaker", "retry", "balance"];

/// Numbers of endpoints to pick from.
pub const ENDPOINTS: [usize; 3] = [3, 100, 10_000];

pub const ALGORITHMS: [&str; 7] = [
    "round-robin",
    "weighted-round-robin",
    "random",
    "weighted-random",
    "least-connections",
    "p2c-ewma",
    "consistent-hash",
];

/// What the policies read that only read.
const FIELDS: [&str; 8] =
    ["x-user", "content-type", "accept", "x-tenant", "user-agent", "accept-language", "via", ":path"];

/// What the scenarios of a thread share.
///
/// # Panics
/// The node cannot be started.
pub fn rig() -> Rc<Rig> {
    thread_local!(static RIG: Rc<Rig> = Rc::new(start()));
    RIG.with(Rc::clone)
}

/// A node of one's own. Its services are named as their chains, and the service of requests as chain and protocol.
///
/// # Panics
/// It cannot be started.
pub fn start() -> Rig {
    let files = tempfile::tempdir().expect("a temporary directory");
    let mut setup = reference_policies(files.path()).workers(1).toml("[log]\nexchanges = \"none\"");
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
    let mut chains = vec![("empty".to_owned(), vec![]), ("five".into(), owned(&FIVE))];
    chains.extend(FIVE.iter().chain(&["mint", "marker"]).map(|policy| ((*policy).to_owned(), owned(&[policy]))));
    setup = setup.with_plugin_file(&guests_directory().join("fields.wasm"), "fields");
    for count in [0, 2, 8] {
        let name = format!("{count}-fields");
        setup = policy(setup, &name, "fields", &format!("{{ reads = {:?} }}", &FIELDS[..count]));
        chains.push((name.clone(), vec![name]));
    }
    for algorithm in ALGORITHMS {
        let name = format!("pick-{algorithm}");
        let hash_on = if algorithm == "consistent-hash" { ", hash-on = \"x-user\"" } else { "" };
        setup = policy(setup, &name, "load-balance", &format!("{{ algorithm = {algorithm:?}{hash_on} }}"));
        chains.push((name.clone(), vec![name]));
    }
    let others = ["marker", "0-fields", "2-fields", "8-fields", "pick-random"];
    chains.push(("ten".into(), owned(&[FIVE, others].concat())));

    let three: Vec<SocketAddr> = (1..=3).map(|host| SocketAddr::from(([127, 0, 1, host], 9))).collect();
    for (name, _) in &chains {
        setup = setup.service_with(name, &three, "http1", &format!("chain = {name:?}"));
    }
    for (protocol, address) in ["http1", "http2"].into_iter().zip(request::services()) {
        for chain in ["empty", "five"] {
            let (name, route) = (format!("{chain}-{protocol}"), format!("chain = {chain:?}"));
            setup = setup.service_with(&name, &[address], protocol, &route);
        }
    }
    for count in ENDPOINTS {
        setup = setup.service(&format!("of-{count}"), &three);
    }
    let chains: Vec<String> = chains.iter().map(|(name, policies)| format!("{name} = {policies:?}")).collect();
    let rig = Rig::start(&setup.toml(&format!("[chain]\n{}", chains.join("\n"))), files).expect("the node starts");
    for count in ENDPOINTS {
        let service = rig.worker.node.services.named(&format!("of-{count}")).expect("a service");
        // Not in the file, which would take longer to read than all that is measured.
        service.set_endpoints(&endpoints(count));
    }
    rig
}

/// The reference policies, as one would configure them.
const REFERENCE: [(&str, &str, &str); 7] = [
    ("trace", "trace", r#"{ sample = 0.01 }"#),
    (
        "verify",
        "token-verify",
        r#"{ key = "issuer", algorithms = ["RS256"], issuer = "https://auth", audience = "user-service" }"#,
    ),
    ("breaker", "circuit-breaker", r#"{ trip = { consecutive-failures = 5 }, open-for = "10s" }"#),
    ("retry", "retry", r#"{ max-attempts = 3, retry-on = { statuses = [502, 503, 504] } }"#),
    ("balance", "load-balance", r#"{ algorithm = "round-robin" }"#),
    ("mint", "token-mint", r#"{ key = "signing", issuer = "weir", ttl = "1h", field = "authorization" }"#),
    ("marker", "headers", r#"{ response = { set = { "x-policy-marker" = "v1" } } }"#),
];

fn reference_policies(files: &Path) -> Setup {
    let (public, secret) = (files.join("issuer.pem"), files.join("secret"));
    std::fs::write(&public, KEY).expect("the key is written");
    std::fs::write(&secret, [b'x'; 32]).expect("the secret is written");
    let keys = Setup::new()
        .toml(&format!("[key.issuer]\nalgorithm = \"RS256\"\npublic = {{ file = {public:?} }}"))
        .toml(&format!("[key.signing]\nalgorithm = \"HS256\"\nsecret = {{ file = {secret:?} }}"));
    REFERENCE.iter().fold(keys, |setup, (name, plugin, config)| policy(setup, name, plugin, config))
}

/// A policy that may take its time: under valgrind a hook needs fifty times as much.
fn policy(setup: Setup, name: &str, plugin: &str, config: &str) -> Setup {
    setup.policy(name, plugin, config).toml("limits = { cpu = \"1s\" }")
}

/// Endpoints of which some weigh more than others.
fn endpoints(count: usize) -> Vec<config::Endpoint> {
    let endpoint = |number: usize| config::Endpoint {
        address: format!("10.{}.{}.{}:80", number >> 16, number >> 8 & 255, number & 255),
        weight: 1 + number as u32 % 5,
        metadata: Default::default(),
    };
    (0..count).map(endpoint).collect()
}
