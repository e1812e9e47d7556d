//! What policies can ask of the host: the other end of `wit/imports.wit`. Here: the host's side of an instance, and what
//! bounds it. Each group of functions has a file of its own.

mod cells;
mod crypto;
mod endpoints;
mod outbound;
mod simple;
mod telemetry;

use super::bindings::log::Level;
use super::bindings::{Imports, PACKAGE, VERSION};
use super::outbound::Caller;
use super::{Context, cpu};
use crate::cells::Cell;
use crate::clock::now;
use crate::config::{Capability, PolicyLimits};
use crate::keys::Key;
use crate::telemetry::metrics::policy::PolicyMetric;
use std::sync::Arc;
use std::time::Duration;
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
    /// What makes calls of the policy's own, where this instance may: it ticks on a thread of its own.
    caller: Option<Caller>,
    /// What was asked for first and is not granted.
    denied: Option<Capability>,
    denial_told: u64,
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
                // One of them is the shortcut's.
                .instances(65)
                .trap_on_grow_failure(true)
                .build(),
            cpu_limit: limits.cpu,
            cpu_now: limits.cpu,
            excused: Duration::ZERO,
            cpu_at_first_tick: None,
            cells: Vec::new(),
            keys: Vec::new(),
            metrics: Vec::new(),
            caller: None,
            denied: None,
            denial_told: 0,
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
        let (result, spent) = timed(work);
        let spent = spent.min(MAX_EXCUSED.saturating_sub(self.excused));
        self.excused += spent;
        self.forgive(spent);
        result
    }

    fn forgive(&mut self, spent: Duration) {
        if let Some(since) = &mut self.cpu_at_first_tick {
            *since += spent;
        }
    }

    /// Lets the instance make calls of its own from now on. For one that does nothing but tick, on a thread of its own.
    pub fn let_call_out(&mut self, caller: Caller) {
        self.caller = Some(caller);
    }

    /// What was asked for first and is not granted.
    pub fn first_denied(&self) -> Option<&Capability> {
        self.denied.as_ref()
    }

    /// Why the policy may not use this, if so. That it asked is remembered, counted, and told once a second.
    fn denied(&mut self, capability: &Capability) -> Result<Option<String>> {
        let context = self.context()?.clone();
        if context.grants.allow(capability) {
            return Ok(None);
        }
        context.telemetry.metrics.capability_denied(&context.policy, capability.kind().as_str());
        let (policy, hint) = (&*context.policy, context.grants.hint(&capability.to_string()));
        let second = now() / 1_000_000_000;
        if self.denial_told != second {
            self.denial_told = second;
            tracing::warn!(policy, %capability, "policy {policy:?} asks for {capability}, which it is not allowed: {hint}");
        }
        self.denied.get_or_insert_with(|| capability.clone());
        Ok(Some(format!("policy {policy:?} is not allowed {capability}: {hint}")))
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
    pub fn log(&mut self, level: Level, message: &str) {
        if !self.may_log() {
            return;
        }
        let Some(context) = &self.context else { return };
        let (policy, message) = (&*context.policy, shortened(message, MAX_LOG_LINE));
        match level {
            Level::Error => tracing::error!(policy, "{message}"),
            Level::Warn => tracing::warn!(policy, "{message}"),
            Level::Info => tracing::info!(policy, "{message}"),
            Level::Debug => tracing::debug!(policy, "{message}"),
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

/// Does something, and says how much CPU time it took.
fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let before = cpu::thread_time();
    let result = work();
    (result, cpu::thread_time().saturating_sub(before))
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
    const INTERFACES: [&str; 11] =
        ["types", "log", "clock", "random", "names", "cells", "endpoints", "crypto", "metrics", "trace", "outbound"];
    INTERFACES.iter().any(|name| import == format!("{PACKAGE}/{name}@{VERSION}"))
}

pub fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    Imports::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}
