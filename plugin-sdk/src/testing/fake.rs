#![expect(clippy::expect_used, reason = "a test that misuses the fake host should fail where it does")]

//! The fake host: plain data that a test sets and reads.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::host::outbound::{Error, Request, Response};

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host::default());
}

pub(crate) fn with<R>(look: impl FnOnce(&mut Host) -> R) -> R {
    HOST.with_borrow_mut(look)
}

pub(crate) fn install(host: Host) {
    with(|current| *current = host);
}

/// What [`endpoints::report_breaker`](crate::host::endpoints::report_breaker) was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    pub service: u32,
    pub endpoint: Option<u32>,
    pub scope: String,
    pub state: endpoints::Breaker,
    pub reason: String,
}

/// What [`outbound::Request::send`](crate::host::outbound::Request::send) has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub service: String,
    pub request: Request,
    pub timeout: Duration,
}

/// The fake host of a test.
#[derive(Debug)]
pub struct Host {
    /// The monotonic clock, in nanoseconds.
    pub now: u64,
    /// Nanoseconds since 1970.
    pub unix: u64,
    /// The state of the random numbers: the same seed gives the same numbers.
    pub seed: u64,
    /// Numbers that [`random::next`](crate::host::random::next) returns first.
    pub random: VecDeque<u64>,
    /// Names of services by number; a service without a name is `service-N`.
    pub services: HashMap<u32, String>,
    /// Names of routes by number; a route without a name is `route-N`.
    pub routes: HashMap<u32, String>,
    /// Load by (service, endpoint).
    pub load: HashMap<(u32, u32), endpoints::Load>,
    /// Endpoints that were ejected, and until when.
    pub ejected: BTreeMap<(u32, u32), u64>,
    pub breakers: Vec<BreakerReport>,
    /// Keys by name. A fake key signs by hashing its secret with the data.
    pub keys: Vec<Key>,
    pub log: Vec<String>,
    pub spans: Vec<trace::Span>,
    /// Whether anything takes spans.
    pub tracing: bool,
    /// Sums of the policy's own metrics, by name.
    pub metrics: Vec<(String, f64)>,
    /// Requests of the policy's own, in order.
    pub sent: Vec<Sent>,
    answers: HashMap<(String, String), Result<Response, Error>>,
    /// Whether `tick` is running.
    pub(crate) ticking: bool,
    cells: Vec<(String, Cell)>,
    values: HashMap<String, (Vec<u8>, u64)>,
}

/// A key of the fake host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    /// `RS256` and so on; empty for a set of keys, which takes any algorithm.
    pub algorithm: String,
    pub id: Option<String>,
    pub version: u64,
    pub secret: Vec<u8>,
}

impl Key {
    pub fn new(name: &str, algorithm: &str, secret: &[u8]) -> Self {
        Self { name: name.into(), algorithm: algorithm.into(), id: None, version: 1, secret: secret.into() }
    }
}

#[derive(Debug)]
struct Cell {
    kind: cells::Kind,
    word: u64,
    results: VecDeque<(u64, bool, bool)>,
    tokens: f64,
    filled: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            now: 1_000_000_000,
            unix: 1_767_225_600_000_000_000,
            seed: 1,
            random: VecDeque::new(),
            services: HashMap::new(),
            routes: HashMap::new(),
            load: HashMap::new(),
            ejected: BTreeMap::new(),
            breakers: Vec::new(),
            keys: Vec::new(),
            log: Vec::new(),
            spans: Vec::new(),
            tracing: true,
            metrics: Vec::new(),
            sent: Vec::new(),
            answers: HashMap::new(),
            ticking: false,
            cells: Vec::new(),
            values: HashMap::new(),
        }
    }
}

impl Host {
    /// Lets time pass on both clocks.
    pub fn advance(&mut self, time: Duration) {
        let nanos = time.as_nanos() as u64;
        self.now += nanos;
        self.unix += nanos;
    }

    pub fn key(mut self, key: Key) -> Self {
        self.keys.push(key);
        self
    }

    /// What a service answers to requests for this path from now on. Without it there is no such service.
    pub fn answer(&mut self, service: &str, path: &str, answer: Result<Response, Error>) {
        self.answers.insert((service.into(), path.into()), answer);
    }

    fn next(&mut self) -> u64 {
        if let Some(number) = self.random.pop_front() {
            return number;
        }
        // SplitMix64, so that a test repeats.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn cell(&mut self, cell: u32) -> &mut Cell {
        &mut self.cells.get_mut(cell as usize).expect("a cell is opened before it is used").1
    }
}

pub mod log {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Level {
        Error,
        Warn,
        Info,
        Debug,
    }

    pub(crate) fn write(level: Level, message: &str) {
        super::with(|host| host.log.push(format!("{level:?}: {message}")));
    }
}

pub(crate) mod clock {
    pub fn now() -> u64 {
        super::with(|host| host.now)
    }

    pub fn unix() -> u64 {
        super::with(|host| host.unix)
    }
}

pub(crate) mod random {
    pub fn next() -> u64 {
        super::with(super::Host::next)
    }

    pub fn secure(length: u32) -> Vec<u8> {
        (0..length).map(|_| next() as u8).collect()
    }
}

pub(crate) mod names {
    pub fn service(id: u32) -> String {
        super::with(|host| host.services.get(&id).cloned()).unwrap_or_else(|| format!("service-{id}"))
    }

    pub fn route(id: u32) -> String {
        super::with(|host| host.routes.get(&id).cloned()).unwrap_or_else(|| format!("route-{id}"))
    }
}

pub mod cells {
    use super::{Cell, with};
    use std::collections::VecDeque;

    /// What a window holds.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Tally {
        pub total: u32,
        pub failed: u32,
        pub slow: u32,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(crate) enum Kind {
        Word,
        CountWindow(u32),
        TimeWindow(u64),
        Bucket(Bucket),
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(crate) struct Bucket {
        pub rate: f64,
        pub burst: f64,
    }

    pub(crate) fn open(name: &str, kind: Kind) -> Result<u32, String> {
        with(|host| {
            if let Some(at) = host.cells.iter().position(|(known, cell)| known == name && cell.kind == kind) {
                return Ok(at as u32);
            }
            let tokens = if let Kind::Bucket(bucket) = kind { bucket.burst } else { 0.0 };
            host.cells
                .push((name.to_owned(), Cell { kind, word: 0, results: VecDeque::new(), tokens, filled: host.now }));
            Ok(host.cells.len() as u32 - 1)
        })
    }

    pub(crate) fn load(cell: u32) -> u64 {
        with(|host| host.cell(cell).word)
    }

    pub(crate) fn fetch_add(cell: u32, delta: u64) -> u64 {
        with(|host| {
            let word = &mut host.cell(cell).word;
            let before = *word;
            *word = before.wrapping_add(delta);
            before
        })
    }

    pub(crate) fn compare_exchange(cell: u32, current: u64, new: u64) -> Result<(), u64> {
        with(|host| {
            let word = &mut host.cell(cell).word;
            if *word != current {
                return Err(*word);
            }
            *word = new;
            Ok(())
        })
    }

    pub(crate) fn record_result(cell: u32, failed: bool, slow: bool) -> Tally {
        with(|host| {
            let now = host.now;
            let cell = host.cell(cell);
            cell.results.push_back((now, failed, slow));
            match cell.kind {
                Kind::CountWindow(size) => {
                    while cell.results.len() > size as usize {
                        cell.results.pop_front();
                    }
                }
                Kind::TimeWindow(span) => cell.results.retain(|(at, ..)| now - at < span),
                Kind::Word | Kind::Bucket(_) => {}
            }
            let count = |which: fn(&(u64, bool, bool)) -> bool| {
                cell.results.iter().filter(|result| which(result)).count() as u32
            };
            Tally { total: count(|_| true), failed: count(|result| result.1), slow: count(|result| result.2) }
        })
    }

    pub(crate) fn clear(cell: u32) {
        with(|host| host.cell(cell).results.clear());
    }

    pub(crate) fn take(cell: u32, tokens: f64) -> bool {
        with(|host| {
            let now = host.now;
            let cell = host.cell(cell);
            let Kind::Bucket(Bucket { rate, burst }) = cell.kind else { return false };
            cell.tokens = (cell.tokens + rate * (now - cell.filled) as f64 / 1e9).min(burst);
            cell.filled = now;
            let enough = cell.tokens >= tokens;
            if enough {
                cell.tokens -= tokens;
            }
            enough
        })
    }

    pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
        with(|host| host.values.get(key).filter(|(_, until)| *until > host.now).map(|(value, _)| value.clone()))
    }

    pub(crate) fn put(key: &str, value: &[u8], ttl: u64) -> Result<(), String> {
        with(|host| host.values.insert(key.to_owned(), (value.to_vec(), host.now.saturating_add(ttl))));
        Ok(())
    }
}

pub mod endpoints {
    use super::{BreakerReport, with};

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Load {
        pub in_flight: u32,
        /// Nanoseconds; 0: not known.
        pub latency: u64,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Breaker {
        Closed,
        Open,
        HalfOpen,
    }

    pub(crate) fn load(service: u32, endpoint: u32) -> Load {
        with(|host| host.load.get(&(service, endpoint)).copied().unwrap_or_default())
    }

    /// The least of those whose load the test has set, in order of their numbers; weights do not count here.
    pub(crate) fn least_loaded(service: u32, avoid: &[u32]) -> Option<u32> {
        with(|host| {
            let others = host.load.iter().filter(|((of, endpoint), _)| *of == service && !avoid.contains(endpoint));
            others.map(|((_, endpoint), load)| (load.in_flight, *endpoint)).min().map(|(_, endpoint)| endpoint)
        })
    }

    pub(crate) fn eject(service: u32, endpoint: u32, duration: u64) -> bool {
        with(|host| host.ejected.insert((service, endpoint), host.now.saturating_add(duration)));
        true
    }

    pub(crate) fn report_breaker(service: u32, endpoint: Option<u32>, scope: &str, state: Breaker, reason: &str) {
        let report = BreakerReport { service, endpoint, scope: scope.into(), state, reason: reason.into() };
        with(|host| host.breakers.push(report));
    }
}

pub(crate) mod crypto {
    use super::{Key, with};
    use sha2::{Digest, Sha256};

    fn key<R>(key: u32, look: impl FnOnce(&Key) -> R) -> R {
        with(|host| look(host.keys.get(key as usize).expect("a key is opened before it is used")))
    }

    pub fn open(name: &str) -> Result<u32, String> {
        with(|host| host.keys.iter().position(|key| key.name == name))
            .map(|at| at as u32)
            .ok_or_else(|| format!("no key {name:?}"))
    }

    pub fn algorithm(of: u32) -> String {
        key(of, |key| key.algorithm.clone())
    }

    pub fn key_id(of: u32) -> Option<String> {
        key(of, |key| key.id.clone())
    }

    pub fn version(of: u32) -> u64 {
        key(of, |key| key.version)
    }

    pub fn sign(with_key: u32, data: &[u8]) -> Result<Vec<u8>, String> {
        Ok(key(with_key, |key| sha256(&[&key.secret, data].concat())))
    }

    pub fn verify(
        with_key: u32,
        algorithm: &str,
        key_id: Option<&str>,
        data: &[u8],
        signature: &[u8],
    ) -> Result<bool, String> {
        let (own, id) = key(with_key, |key| (key.algorithm.clone(), key.id.clone()));
        if !own.is_empty() && own != algorithm {
            return Err(format!("the key is for {own}, not {algorithm}"));
        }
        if let (Some(wanted), Some(id)) = (key_id, id)
            && wanted != id
        {
            return Err(format!("no key with kid {wanted:?}"));
        }
        Ok(sign(with_key, data)? == signature)
    }

    pub fn sha256(data: &[u8]) -> Vec<u8> {
        Sha256::digest(data).to_vec()
    }
}

pub(crate) mod metrics {
    use super::with;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Kind {
        Counter,
        Gauge,
        Histogram,
    }

    pub fn open(_: Kind, name: &str, _help: &str) -> Result<u32, String> {
        with(|host| {
            host.metrics.push((name.to_owned(), 0.0));
            Ok(host.metrics.len() as u32 - 1)
        })
    }

    pub fn update(metric: u32, value: f64) {
        with(|host| {
            if let Some((_, sum)) = host.metrics.get_mut(metric as usize) {
                *sum += value;
            }
        });
    }
}

pub(crate) mod outbound {
    use super::{Sent, with};
    use crate::host::outbound as sdk;
    pub use crate::host::outbound::ErrorKind;
    use std::time::Duration;

    pub(crate) struct Request {
        pub method: String,
        pub path: String,
        pub fields: Vec<(String, Vec<u8>)>,
        pub body: Vec<u8>,
    }

    pub(crate) struct Response {
        pub status: u16,
        pub fields: Vec<(String, Vec<u8>)>,
        pub body: Vec<u8>,
    }

    pub(crate) struct Error {
        pub kind: ErrorKind,
        pub message: String,
    }

    pub(crate) fn send(service: &str, request: &Request, timeout: u64) -> Result<Response, Error> {
        let failed = |kind, why: &str| Err(Error { kind, message: format!("service {service:?}: {why}") });
        with(|host| {
            if !host.ticking {
                return failed(ErrorKind::OnlyInTick, "a policy calls out in `tick` only");
            }
            let Request { method, path, fields, body } = request;
            let answer = host.answers.get(&(service.to_owned(), path.clone())).cloned();
            let (method, path, fields, body) = (method.clone(), path.clone(), fields.clone(), body.clone());
            let request = sdk::Request { method, path, fields, body };
            host.sent.push(Sent { service: service.to_owned(), request, timeout: Duration::from_nanos(timeout) });
            match answer {
                Some(Ok(sdk::Response { status, fields, body })) => Ok(Response { status, fields, body }),
                Some(Err(sdk::Error { kind, message })) => Err(Error { kind, message }),
                None => failed(ErrorKind::Unavailable, "the test gives no answer"),
            }
        })
    }
}

pub mod trace {
    use super::with;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum SpanKind {
        Internal,
        Server,
        Client,
        Producer,
        Consumer,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum AttributeValue {
        Text(String),
        Number(i64),
    }

    /// Another span that a span has to do with, in whatever trace.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Link {
        /// 16 bytes, the high half first.
        pub trace_id: (u64, u64),
        pub span_id: u64,
    }

    /// A finished span.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Span {
        /// 16 bytes, the high half first.
        pub trace_id: (u64, u64),
        pub span_id: u64,
        /// 0: a root.
        pub parent: u64,
        pub kind: SpanKind,
        pub name: String,
        /// Nanoseconds of [`clock::now`](crate::host::clock::now).
        pub start: u64,
        pub end: u64,
        pub attributes: Vec<(String, AttributeValue)>,
        /// Empty: not an error.
        pub error: String,
        /// `tracestate`, as it is sent on.
        pub state: String,
        /// Beside the parent, as from a delivery to its publish. The host keeps at most 32.
        pub links: Vec<Link>,
    }

    pub(crate) fn emit(span: &Span) {
        with(|host| host.spans.push(span.clone()));
    }

    pub(crate) fn enabled() -> bool {
        with(|host| host.tracing)
    }
}
