//! Where exchanges come in and where they go: `[[listener]]` and `[[service]]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::names::Kind;
use super::positions::Positions;
use super::problem::Position;
use super::reader::{Fields, Value};
use super::show;
use super::values::{boolean, choice, host_and_port, integer, name, socket_address, strings, timeout};

/// `[[listener]]`: a bound address. HTTP/1.1 and HTTP/2 with prior knowledge share it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listener {
    pub name: String,
    /// Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Who calls through it: the subject of minted tokens and the value of `x-service-name`. Without it the caller's own
    /// `x-service-name` is kept where `trust-forwarded` says so, and removed otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether CONNECT is allowed.
    pub connect: bool,
    /// Whether `x-forwarded-*` of the caller are kept rather than replaced.
    pub trust_forwarded: bool,
    #[serde(skip)]
    positions: Positions,
}

impl Listener {
    /// Where its address is written.
    pub fn address_position(&self) -> Position {
        self.positions.nearest("/listen")
    }
}

/// Who has which address already, so that no two listeners ask for one.
pub(super) type Taken = BTreeMap<SocketAddr, String>;

pub(super) fn listener(fields: &mut Fields<'_>, taken: &mut Taken) -> Option<Listener> {
    let name_of_listener = fields.name(Kind::Listener);
    let listen = fields.required("listen", socket_address);
    let identity = fields.optional("identity", name);
    let connect = fields.or("connect", false, boolean);
    let trust_forwarded = fields.or("trust-forwarded", false, boolean);
    if let Some(address) = listen.filter(|address| address.port() != 0) {
        let owner = format!("[[listener]] {}", name_of_listener.as_deref().unwrap_or_default());
        if let Some(first) = taken.insert(address, owner) {
            let message = format!("{address} is already the address of {first}");
            fields.reader.report(fields.at_key("listen"), message, "give each its own port");
        }
    }
    let mut positions = Positions::default();
    positions.note("/listen", fields.at_key("listen"));
    Some(Listener { name: name_of_listener?, listen: listen?, identity, connect, trust_forwarded, positions })
}

/// `[[service]]`: a named group of endpoints.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Service {
    pub name: String,
    pub protocol: Protocol,
    /// No two have the same address. May be empty: calls are then answered 503 no-endpoint.
    pub endpoints: Vec<Endpoint>,
    #[serde(serialize_with = "show::duration")]
    pub connect_timeout: Duration,
    /// How long a connection without an exchange is kept.
    #[serde(serialize_with = "show::duration")]
    pub idle_timeout: Duration,
    /// Connections to each endpoint.
    pub max_connections: usize,
    /// Exchanges that wait for a connection to one endpoint.
    pub max_pending: usize,
}

/// What an endpoint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http1,
    /// With prior knowledge; what gRPC services speak.
    Http2,
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Endpoint {
    /// `host:port`. The host may be a name: it is resolved when it is used.
    pub address: String,
    /// Share of the picks, 1 to 65535.
    pub weight: u32,
    /// For policies that choose by it, a version for example.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

pub(super) fn service(fields: &mut Fields<'_>) -> Option<Service> {
    let name = fields.name(Kind::Service);
    let protocol = choice(&[("http1", Protocol::Http1), ("http2", Protocol::Http2)]);
    let protocol = fields.or("protocol", Protocol::Http1, protocol);
    let endpoints = fields.required("endpoints", endpoints);
    let connect_timeout = fields.or("connect-timeout", Duration::from_secs(1), timeout);
    let idle_timeout = fields.or("idle-timeout", Duration::from_secs(60), timeout);
    let max_connections = fields.or("max-connections", 1024, integer(1..=65_535));
    let max_pending = fields.or("max-pending", 1024, integer(1..=1_000_000));
    Some(Service {
        name: name?,
        protocol,
        endpoints: endpoints?,
        connect_timeout,
        idle_timeout,
        max_connections,
        max_pending,
    })
}

fn endpoints(value: &Value<'_>) -> Option<Vec<Endpoint>> {
    let mut seen = BTreeMap::new();
    let mut endpoints = Vec::new();
    for item in value.items("an array of endpoints", "write it as in [{ address = \"127.0.0.1:3201\" }]")? {
        let Some(endpoint) = item.fields(endpoint) else {
            continue;
        };
        if let Some(first) = seen.insert(endpoint.address.clone(), item.at()) {
            let message = format!("{} is an endpoint of this service already", endpoint.address);
            item.fail::<()>(message, format!("the first is in line {}; give it a weight instead", first.line));
        }
        endpoints.push(endpoint);
    }
    Some(endpoints)
}

fn endpoint(fields: &mut Fields<'_>) -> Option<Endpoint> {
    let address = fields.required("address", host_and_port);
    let weight = fields.or("weight", 1, integer(1..=65_535));
    let metadata = fields.or("metadata", BTreeMap::new(), strings);
    Some(Endpoint { address: address?, weight, metadata })
}
