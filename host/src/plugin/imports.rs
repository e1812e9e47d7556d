//! What policies can ask of the host: the other end of `wit/imports.wit`.

use super::bindings::{
    Imports, PACKAGE, VERSION, cells, clock, crypto, endpoints, log, metrics, names, random, trace, types,
};
use super::{Context, cpu};
use crate::cells::{Cell, Kind};
use crate::clock::{now, unix};
use crate::config::PolicyLimits;
use crate::keys::{Algorithm, Key, sha256};
use crate::service::endpoint::BreakerState;
use crate::telemetry::metrics::policy::{PolicyMetric, PolicyMetricKind};
use crate::telemetry::spans;
use rand::RngCore;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Result, Store, StoreLimits, StoreLimitsBuilder, Trap, UpdateDeadline};

/// CPU time that instantiation, `describe`, `configure` and `on-endpoints` may have whatever a policy's limit: they run
/// when something changes, not with each exchange.
pub const SETUP_CPU: Duration = Duration::from_millis(200);
/// The most of the host's own CPU time that one hook may cause without being charged: some tens of signatures.
const MAX_EXCUSED: Duration = Duration::from_millis(50);
/// The most an instance may hold open of each kind of handle.
const MAX_HANDLES: usize = 100_000;
/// Bytes that one call of the host may take from a guest.
const MAX_TRANSFER: usize = 2 * 1024 * 1024;
const MAX_LOG_LINE: usize = 4096;
const MAX_LOG_LINES_A_SECOND: u32 = 100;
/// Bytes that are kept of the scope of a circuit breaker, and of why it changed its state.
const MAX_SCOPE: usize = 200;
const MAX_REASON: usize = 500;

/// The host's side of one instance.
pub struct State {
    /// Absent while a plugin describes itself: then nothing is granted.
    context: Option<Arc<Context>>,
    limits: StoreLimits,
    cpu_limit: Duration,
    /// The limit of the running hook.
    cpu_now: Duration,
    /// CPU time of the running hook that was the host's.
    excused: Duration,
    /// CPU time when the running hook was first seen by the epoch.
    cpu_at_first_tick: Option<Duration>,
    cells: Vec<Arc<Cell>>,
    keys: Vec<Arc<Key>>,
    metrics: Vec<PolicyMetric>,
    log_second: u64,
    log_lines: u32,
}

impl State {
    pub fn new(context: Option<Arc<Context>>, limits: PolicyLimits) -> Self {
        let memory = usize::try_from(limits.memory).unwrap_or(usize::MAX);
        Self {
            context,
            // `trap_on_grow_failure`: a guest that cannot have more memory has no good way on.
            limits: StoreLimitsBuilder::new()
                .memory_size(memory)
                .memories(1)
                .tables(16)
                .table_elements(100_000)
                .instances(64)
                .trap_on_grow_failure(true)
                .build(),
            cpu_limit: limits.cpu,
            cpu_now: limits.cpu,
            excused: Duration::ZERO,
            cpu_at_first_tick: None,
            cells: Vec::new(),
            keys: Vec::new(),
            metrics: Vec::new(),
            log_second: 0,
            log_lines: 0,
        }
    }

    /// Installs the limits of a store. Once, before anything runs in it.
    pub fn limit(store: &mut Store<Self>) {
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(MAX_TRANSFER);
        store.epoch_deadline_callback(|mut context| {
            // The epoch counts wall time; a hook is judged by the CPU time it has had since the first tick it saw.
            let spent = cpu::thread_time();
            let state = context.data_mut();
            let since = *state.cpu_at_first_tick.get_or_insert(spent);
            if spent.saturating_sub(since) >= state.cpu_now {
                Err(Trap::Interrupt.into())
            } else {
                Ok(UpdateDeadline::Continue(1))
            }
        });
        Self::arm(store, SETUP_CPU);
    }

    /// Starts the CPU time of one call, which may take as long as the policy's limit says, or at least so long.
    pub fn arm(store: &mut Store<Self>, at_least: Duration) {
        let state = store.data_mut();
        state.cpu_at_first_tick = None;
        state.excused = Duration::ZERO;
        state.cpu_now = state.cpu_limit.max(at_least);
        store.set_epoch_deadline(1);
    }

    /// Does something for the guest whose cost is the host's: it does not count against the guest's limit.
    fn excused<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let before = cpu::thread_time();
        let result = work();
        let spent = cpu::thread_time().saturating_sub(before).min(MAX_EXCUSED.saturating_sub(self.excused));
        self.excused += spent;
        if let Some(since) = &mut self.cpu_at_first_tick {
            *since += spent;
        }
        result
    }

    fn context(&self) -> Result<&Arc<Context>> {
        self.context
            .as_ref()
            .ok_or_else(|| wasmtime::Error::msg("a plugin has no access to the node while it describes itself"))
    }

    fn cell(&self, cell: u32) -> Result<&Cell> {
        self.cells
            .get(cell as usize)
            .map(|cell| &**cell)
            .ok_or_else(|| wasmtime::Error::msg(format!("cell {cell} is not open")))
    }

    fn key(&self, key: u32) -> Result<&Arc<Key>> {
        self.keys.get(key as usize).ok_or_else(|| wasmtime::Error::msg(format!("key {key} is not open")))
    }

    /// Writes a line of the policy's to the node's log, within limits.
    pub fn log(&mut self, level: log::Level, message: &str) {
        if !self.may_log() {
            return;
        }
        let Some(context) = &self.context else { return };
        let (policy, message) = (&*context.policy, shortened(message, MAX_LOG_LINE));
        match level {
            log::Level::Error => tracing::error!(policy, "{message}"),
            log::Level::Warn => tracing::warn!(policy, "{message}"),
            log::Level::Info => tracing::info!(policy, "{message}"),
            log::Level::Debug => tracing::debug!(policy, "{message}"),
        }
    }

    /// Counts a line that goes to the node's log because of this instance; false if there were enough in this second.
    fn may_log(&mut self) -> bool {
        let second = now() / 1_000_000_000;
        if self.log_second != second {
            (self.log_second, self.log_lines) = (second, 0);
        }
        self.log_lines = self.log_lines.saturating_add(1);
        self.log_lines <= MAX_LOG_LINES_A_SECOND
    }
}

/// The beginning of a text, of at most so many bytes.
fn shortened(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Keeps a thing and returns its handle.
fn open<T>(things: &mut Vec<T>, thing: T) -> std::result::Result<u32, String> {
    if things.len() >= MAX_HANDLES {
        return Err(format!("an instance holds at most {MAX_HANDLES} handles of a kind"));
    }
    things.push(thing);
    Ok(things.len() as u32 - 1)
}

/// Whether this host offers an interface of the contract.
pub fn is_known(import: &str) -> bool {
    const INTERFACES: [&str; 10] =
        ["types", "log", "clock", "random", "names", "cells", "endpoints", "crypto", "metrics", "trace"];
    INTERFACES.iter().any(|name| import == format!("{PACKAGE}/{name}@{VERSION}"))
}

pub fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    Imports::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        self.log(level, &message);
        Ok(())
    }
}

impl clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        Ok(now())
    }

    fn unix(&mut self) -> Result<u64> {
        Ok(unix())
    }
}

impl random::Host for State {
    fn next(&mut self) -> Result<u64> {
        Ok(rand::random())
    }

    fn secure(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length.min(1024) as usize];
        rand::rng().fill_bytes(&mut bytes);
        Ok(bytes)
    }
}

impl names::Host for State {
    fn service(&mut self, id: u32) -> Result<String> {
        Ok(self.context()?.services.get(id).map(|service| service.name.to_string()).unwrap_or_default())
    }

    fn route(&mut self, id: u32) -> Result<String> {
        Ok(self.context()?.routes.name(id).map(|name| name.to_string()).unwrap_or_default())
    }
}

impl cells::Host for State {
    fn open(&mut self, name: String, kind: cells::Kind) -> Result<std::result::Result<u32, String>> {
        let kind = match kind {
            cells::Kind::Word => Kind::Word,
            cells::Kind::CountWindow(size) => Kind::CountWindow(size),
            cells::Kind::TimeWindow(span) => Kind::TimeWindow(span),
            cells::Kind::Bucket(bucket) => Kind::Bucket { rate: bucket.rate.to_bits(), burst: bucket.burst.to_bits() },
        };
        let cell = self.context()?.cells.open(&name, kind, now());
        Ok(cell.and_then(|cell| open(&mut self.cells, cell)))
    }

    fn load(&mut self, cell: u32) -> Result<u64> {
        Ok(word(self.cell(cell)?)?.load(Ordering::SeqCst))
    }

    fn fetch_add(&mut self, cell: u32, delta: u64) -> Result<u64> {
        Ok(word(self.cell(cell)?)?.fetch_add(delta, Ordering::SeqCst))
    }

    fn compare_exchange(&mut self, cell: u32, current: u64, new: u64) -> Result<std::result::Result<(), u64>> {
        Ok(word(self.cell(cell)?)?.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).map(|_| ()))
    }

    fn record_result(&mut self, cell: u32, failed: bool, slow: bool) -> Result<cells::Tally> {
        let tally = self
            .cell(cell)?
            .record(failed, slow, now())
            .ok_or_else(|| wasmtime::Error::msg(format!("cell {cell} is not a window")))?;
        Ok(cells::Tally { total: tally.total, failed: tally.failed, slow: tally.slow })
    }

    fn clear(&mut self, cell: u32) -> Result<()> {
        self.cell(cell)?.clear();
        Ok(())
    }

    fn take(&mut self, cell: u32, tokens: f64) -> Result<bool> {
        self.cell(cell)?.take(tokens, now()).ok_or_else(|| wasmtime::Error::msg(format!("cell {cell} is not a bucket")))
    }

    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        Ok(self.context()?.cells.get(&key, now()))
    }

    fn put(&mut self, key: String, value: Vec<u8>, ttl: u64) -> Result<std::result::Result<(), String>> {
        Ok(self.context()?.cells.put(key, value, now().saturating_add(ttl)))
    }
}

fn word(cell: &Cell) -> Result<&std::sync::atomic::AtomicU64> {
    cell.word().ok_or_else(|| wasmtime::Error::msg("the cell is not a word"))
}

impl endpoints::Host for State {
    fn load(&mut self, service: u32, endpoint: u32) -> Result<endpoints::EndpointLoad> {
        let set = self.context()?.services.get(service).map(|service| service.endpoints());
        let endpoint = set.as_ref().and_then(|set| set.get(endpoint));
        Ok(endpoint.map_or(endpoints::EndpointLoad { in_flight: 0, latency: 0 }, |endpoint| endpoints::EndpointLoad {
            in_flight: endpoint.in_flight(),
            latency: endpoint.load.latency(now()),
        }))
    }

    fn least_loaded(&mut self, service: u32, avoid: Vec<u32>) -> Result<Option<u32>> {
        Ok(self.context()?.services.get(service).and_then(|service| service.least_loaded(&avoid, now())))
    }

    fn eject(&mut self, service: u32, endpoint: u32, duration: u64) -> Result<bool> {
        let may_log = self.may_log();
        let context = self.context()?;
        let now = now();
        let Some(service) = context.services.get(service) else { return Ok(false) };
        let ejected = service.eject(endpoint, now.saturating_add(duration), now);
        if ejected && may_log {
            tracing::info!(
                policy = &*context.policy,
                service = &*service.name,
                endpoint,
                "endpoint ejected for {:?}",
                Duration::from_nanos(duration)
            );
        }
        Ok(ejected)
    }

    fn report_breaker(
        &mut self,
        service: u32,
        endpoint: Option<u32>,
        scope: String,
        state: endpoints::Breaker,
        reason: String,
    ) -> Result<()> {
        let may_log = self.may_log();
        let context = self.context()?;
        let Some(service) = context.services.get(service) else { return Ok(()) };
        let (scope, reason) = (shortened(&scope, MAX_SCOPE).to_owned(), shortened(&reason, MAX_REASON).to_owned());
        let to = match state {
            endpoints::Breaker::Closed => "closed",
            endpoints::Breaker::Open => "open",
            endpoints::Breaker::HalfOpen => "half-open",
        };
        let id = endpoint;
        let endpoint = id.and_then(|id| service.endpoints().get(id).cloned());
        if id.is_some() && endpoint.is_none() {
            // It left in the meantime.
            return Ok(());
        }
        let address = endpoint.as_ref().map_or_else(|| Arc::from(""), |endpoint| endpoint.address.clone());
        if may_log {
            tracing::info!(
                policy = &*context.policy,
                service = &*service.name,
                endpoint = &*address,
                scope,
                state = to,
                reason,
                "circuit breaker"
            );
        }
        context.telemetry.metrics.breaker_transition(&context.policy, &service.name, &address, to);
        let told = BreakerState { policy: context.policy.clone(), state: to, reason };
        match endpoint {
            Some(endpoint) => *endpoint.breaker.lock().unwrap_or_else(PoisonError::into_inner) = Some(told),
            None => service.report_breaker(scope, told),
        }
        Ok(())
    }
}

impl crypto::Host for State {
    fn open(&mut self, name: String) -> Result<std::result::Result<u32, String>> {
        let key = self.context()?.keys.get(&name);
        Ok(key
            .ok_or_else(|| format!("there is no key {name:?}: add [key.{name}] to the configuration"))
            .and_then(|key| open(&mut self.keys, key)))
    }

    fn algorithm(&mut self, key: u32) -> Result<String> {
        Ok(self.key(key)?.algorithm().map(|algorithm| algorithm.as_str().to_owned()).unwrap_or_default())
    }

    fn key_id(&mut self, key: u32) -> Result<Option<String>> {
        Ok(self.key(key)?.kid())
    }

    fn version(&mut self, key: u32) -> Result<u64> {
        Ok(self.key(key)?.version())
    }

    fn sign(&mut self, key: u32, data: Vec<u8>) -> Result<std::result::Result<Vec<u8>, String>> {
        let key = self.key(key)?.clone();
        Ok(self.excused(|| key.sign(&data)).map_err(|error| error.to_string()))
    }

    fn verify(
        &mut self,
        key: u32,
        algorithm: String,
        key_id: Option<String>,
        data: Vec<u8>,
        signature: Vec<u8>,
    ) -> Result<std::result::Result<bool, String>> {
        let key = self.key(key)?.clone();
        let algorithm = match algorithm.parse::<Algorithm>() {
            Ok(algorithm) => algorithm,
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(self
            .excused(|| key.verify(algorithm, key_id.as_deref(), &data, &signature))
            .map_err(|error| error.to_string()))
    }

    fn sha256(&mut self, data: Vec<u8>) -> Result<Vec<u8>> {
        Ok(sha256(&data).to_vec())
    }
}

impl metrics::Host for State {
    fn open(&mut self, kind: metrics::Kind, name: String, _help: String) -> Result<std::result::Result<u32, String>> {
        let kind = match kind {
            metrics::Kind::Counter => PolicyMetricKind::Counter,
            metrics::Kind::Gauge => PolicyMetricKind::Gauge,
            metrics::Kind::Histogram => PolicyMetricKind::Histogram,
        };
        let context = self.context()?;
        let metric =
            context.telemetry.metrics.policies.declare(&context.policy, &name, kind).map_err(|error| error.to_string());
        Ok(metric.and_then(|metric| open(&mut self.metrics, metric)))
    }

    fn update(&mut self, metric: u32, value: f64) -> Result<()> {
        self.metrics
            .get(metric as usize)
            .ok_or_else(|| wasmtime::Error::msg(format!("metric {metric} is not open")))?
            .record(value);
        Ok(())
    }
}

impl trace::Host for State {
    fn emit(&mut self, span: trace::Span) -> Result<()> {
        let context = self.context()?;
        let (now, wall) = (now(), SystemTime::now());
        let time = |at: u64| wall.checked_sub(Duration::from_nanos(now.saturating_sub(at))).unwrap_or(wall);
        let mut trace_id = [0; 16];
        let (high, low) = trace_id.split_at_mut(8);
        high.copy_from_slice(&span.trace_id.0.to_be_bytes());
        low.copy_from_slice(&span.trace_id.1.to_be_bytes());
        context.telemetry.spans.emit(spans::Span {
            trace_id,
            span_id: span.span_id.to_be_bytes(),
            parent: (span.parent != 0).then(|| span.parent.to_be_bytes()),
            kind: match span.kind {
                trace::SpanKind::Internal => spans::SpanKind::Internal,
                trace::SpanKind::Server => spans::SpanKind::Server,
                trace::SpanKind::Client => spans::SpanKind::Client,
                trace::SpanKind::Producer => spans::SpanKind::Producer,
                trace::SpanKind::Consumer => spans::SpanKind::Consumer,
            },
            name: span.name,
            start: time(span.start),
            end: time(span.end),
            attributes: span
                .attributes
                .into_iter()
                .map(|(name, value)| match value {
                    trace::AttributeValue::Text(text) => (name, spans::Value::Text(text)),
                    trace::AttributeValue::Number(number) => (name, spans::Value::Integer(number)),
                })
                .collect(),
            error: (!span.error.is_empty()).then_some(span.error),
            links: Vec::new(),
            trace_state: span.state,
        });
        Ok(())
    }

    fn enabled(&mut self) -> Result<bool> {
        Ok(self.context()?.telemetry.spans.is_enabled())
    }
}
