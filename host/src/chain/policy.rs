//! A policy on one worker: its instance, and what becomes of it.

use crate::cells::{Cell as Shared, Kind};
use crate::clock;
use crate::plugin::bindings::{Hook, HookSet, Hooks, types};
use crate::plugin::instance::{ConfigureError, HookError, Instance};
use crate::plugin::outbound::{self, Caller};
use crate::plugin::{Policy, SETUP_CPU};
use crate::service::Service;
use crate::telemetry::metrics::handles::HookMetrics;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wasmtime::StoreContextMut;

/// A policy as one worker runs it. One instance serves its exchanges one hook at a time: hooks are short and never wait.
#[derive(Debug)]
pub struct BoundPolicy {
    pub policy: Arc<Policy>,
    calls: HookSet,
    slot: RefCell<Slot>,
    ticked: Cell<Option<Instant>>,
    /// By hook.
    metrics: [Option<HookMetrics>; Hook::ALL.len()],
    /// While this word is 0, these occasions are skipped as well.
    idle: Option<(Arc<Shared>, types::Occasions)>,
    /// What makes the policy's own calls, where it ticks on a thread of its own.
    caller: Option<Caller>,
}

#[derive(Debug, Default)]
struct Slot {
    instance: Option<Instance>,
    /// The version of each service's endpoints that the instance was last given, by the service's number.
    versions: Vec<u64>,
    /// No instance could be made: why, and until when not to try again. An attempt may cost a lot of CPU.
    failed: Option<(String, Instant)>,
}

/// How long no instance is made after one could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// How a policy failed an exchange.
#[derive(Debug, Clone)]
pub struct PolicyError {
    pub policy: Arc<str>,
    pub hook: Hook,
    pub message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {:?} failed in {}: {}", &*self.policy, self.hook.name(), self.message)
    }
}

impl BoundPolicy {
    /// For a worker.
    pub fn new(policy: Arc<Policy>) -> Self {
        let ticks_alone = outbound::ticks_alone(&policy).is_some();
        Self::with(policy, None, |hook| hook != Hook::Tick || !ticks_alone)
    }

    /// For the thread on which the policy ticks alone, and calls out. Only there [`BoundPolicy::tick`] may take long.
    pub fn calling_out(policy: Arc<Policy>, caller: Caller) -> Self {
        Self::with(policy, Some(caller), |hook| hook == Hook::Tick)
    }

    fn with(policy: Arc<Policy>, caller: Option<Caller>, wanted: impl Fn(Hook) -> bool) -> Self {
        let mut calls = HookSet::default();
        if let Ok(plugin) = &policy.plugin {
            for hook in Hook::ALL.into_iter().filter(|hook| {
                plugin.hooks.has(*hook)
                    && wanted(*hook)
                    && !occasion(*hook).is_some_and(|occasion| policy.needs.skips(occasion))
            }) {
                calls.insert(hook);
            }
        }
        let metrics = &policy.context.telemetry.metrics;
        let metrics = Hook::ALL.map(|hook| calls.has(hook).then(|| metrics.hook(&policy.name, hook.name())));
        // Without a cell it is called each time.
        let cell = |name: &str| policy.context.cells.open(name, Kind::Word, clock::now()).ok();
        let idle = policy.needs.idle.as_ref().and_then(|(word, skip)| Some((cell(word)?, *skip)));
        Self { calls, slot: RefCell::default(), ticked: Cell::new(None), metrics, idle, caller, policy }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.policy.name
    }

    /// Why the policy cannot work at all, if so.
    pub fn unusable(&self) -> Result<(), &str> {
        self.policy.plugin.as_ref().map(|_| ()).map_err(String::as_str)
    }

    pub fn calls(&self, hook: Hook) -> bool {
        self.calls.has(hook)
    }

    /// Whether a hook is called, as things are now.
    pub fn calls_now(&self, hook: Hook) -> bool {
        self.calls.has(hook) && !occasion(hook).is_some_and(|occasion| self.idles(occasion))
    }

    /// Whether a hook after `on-request` is called in an exchange with this memo.
    pub fn calls_in(&self, hook: Hook, memo: u64) -> bool {
        self.calls_now(hook) && (memo != 0 || !self.skips(types::Occasions::WITHOUT_MEMO))
    }

    /// Always, or as things are now.
    fn skips(&self, occasion: types::Occasions) -> bool {
        self.policy.needs.skips(occasion) || self.idles(occasion)
    }

    fn idles(&self, occasion: types::Occasions) -> bool {
        self.idle.as_ref().is_some_and(|(cell, skip)| {
            skip.contains(occasion) && cell.word().is_some_and(|word| word.load(Ordering::SeqCst) == 0)
        })
    }

    /// The largest body that the policy wants to see, where it wants to see bodies.
    pub fn body_limit(&self) -> Option<usize> {
        let plugin = self.policy.plugin.as_ref().ok()?;
        (self.calls.has(Hook::OnBody) && plugin.description.max_body > 0).then_some(plugin.description.max_body)
    }

    /// Calls `tick` if it is time. Errors are logged: there is no exchange to fail.
    pub fn tick(&self, now: Instant) {
        let Some(every) = self.policy.plugin.as_ref().ok().and_then(|plugin| plugin.description.tick) else { return };
        if !self.calls.has(Hook::Tick)
            || self.ticked.get().is_some_and(|last| now.saturating_duration_since(last) < every)
        {
            return;
        }
        self.ticked.set(Some(now));
        if let Err(error) = self.call(Hook::Tick, |hooks, store| hooks.tick(store).map(Ok)) {
            tracing::warn!("{error}");
        }
    }

    pub fn ignores_success(&self) -> bool {
        self.skips(types::Occasions::ON_OUTCOME_OF_SUCCESS)
    }

    fn metrics(&self, hook: Hook) -> Option<&HookMetrics> {
        self.metrics.get(hook as usize)?.as_ref()
    }

    pub fn error(&self, hook: Hook, message: String) -> PolicyError {
        if let Some(metrics) = self.metrics(hook) {
            metrics.failed();
        }
        PolicyError { policy: self.policy.name.clone(), hook, message }
    }

    /// The policy's answer breaks the contract: as bad as a trap.
    pub fn broke(&self, hook: Hook, message: String) -> PolicyError {
        *self.slot.borrow_mut() = Slot::default();
        self.count_trap(hook, &message);
        self.error(hook, message)
    }

    /// Calls a hook, in a fresh instance where there is none. An instance that failed is not used again.
    pub fn call<R>(
        &self,
        hook: Hook,
        run: impl FnOnce(&Hooks, StoreContextMut<'_, crate::plugin::State>) -> wasmtime::Result<Result<R, String>>,
    ) -> Result<R, PolicyError> {
        let mut slot = self.slot.borrow_mut();
        let result = match slot.ready(&self.policy, self.caller.as_ref()) {
            Ok(instance) => {
                let started = clock::now();
                let cpu = if hook == Hook::OnEndpoints { SETUP_CPU } else { Duration::ZERO };
                let result = instance.call(cpu, run);
                if let Some(metrics) = self.metrics(hook) {
                    metrics.called(clock::now().saturating_sub(started));
                }
                result
            }
            Err(why) => return Err(self.error(hook, why)),
        };
        match result {
            Ok(answer) => Ok(answer),
            Err(HookError::Returned(message)) => Err(self.error(hook, message)),
            Err(HookError::Broken(message)) => {
                *slot = Slot::default();
                self.count_trap(hook, &message);
                Err(self.error(hook, message))
            }
        }
    }

    /// Tells the instance the endpoints of a service where it does not know the current ones.
    pub fn push_endpoints(&self, service: &Service) -> Result<(), PolicyError> {
        if !self.calls.has(Hook::OnEndpoints) {
            return Ok(());
        }
        let (at, version) = (service.id as usize, service.version());
        if self.slot.borrow().versions.get(at) == Some(&version) {
            return Ok(());
        }
        let set = service.endpoints();
        let now = clock::now();
        let list: Vec<types::Endpoint> = set
            .iter()
            .map(|endpoint| types::Endpoint {
                id: endpoint.id,
                address: endpoint.address.to_string(),
                weight: endpoint.weight,
                metadata: endpoint.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
                ejected: endpoint.is_ejected(now),
            })
            .collect();
        self.call(Hook::OnEndpoints, |hooks, store| hooks.on_endpoints(store, service.id, &list))?;
        let versions = &mut self.slot.borrow_mut().versions;
        if versions.len() <= at {
            versions.resize(at + 1, 0);
        }
        if let Some(known) = versions.get_mut(at) {
            *known = set.version;
        }
        Ok(())
    }

    /// Gets the instance before the first exchange needs it.
    pub fn warm(&self) {
        if let Err(why) = self.slot.borrow_mut().ready(&self.policy, self.caller.as_ref()).map(|_| ()) {
            tracing::warn!(policy = &*self.policy.name, "cannot make an instance: {why}");
        }
    }

    pub fn count_refusal(&self, service: &Service, refusal: &types::Refusal) {
        if refusal.error == "breaker-open" {
            self.policy.context.telemetry.metrics.breaker_rejection(&self.policy.name, &service.name);
        }
    }

    fn count_trap(&self, hook: Hook, message: &str) {
        let Ok(plugin) = &self.policy.plugin else { return };
        self.policy.context.telemetry.metrics.traps(&plugin.name).inc();
        plugin.count_trap(message);
        tracing::warn!(
            policy = &*self.policy.name,
            plugin = &*plugin.name,
            generation = plugin.generation,
            hook = hook.name(),
            "instance thrown away: {message}"
        );
    }
}

impl Slot {
    fn ready(&mut self, policy: &Policy, caller: Option<&Caller>) -> Result<&mut Instance, String> {
        if self.instance.is_none() {
            if let Some((why, until)) = &self.failed
                && Instant::now() < *until
            {
                return Err(why.clone());
            }
            let plugin = policy.plugin.as_ref().map_err(Clone::clone)?;
            let made = match caller {
                None => policy.instance(plugin),
                // Those that are kept are the workers'.
                Some(caller) => Instance::new(policy, plugin).map(|(mut instance, _)| {
                    instance.let_call_out(caller.clone());
                    instance
                }),
            };
            match made {
                Ok(instance) => (self.instance, self.failed) = (Some(instance), None),
                Err(error) => {
                    let why = format!("no instance can be made: {}", reason(error));
                    plugin.count_trap(&why);
                    policy.context.telemetry.metrics.traps(&plugin.name).inc();
                    tracing::warn!(policy = &*policy.name, plugin = &*plugin.name, "{why}");
                    self.failed = Some((why.clone(), Instant::now() + PAUSE));
                    return Err(why);
                }
            }
        }
        self.instance.as_mut().ok_or_else(|| "there is no instance".to_owned())
    }
}

fn reason(error: ConfigureError) -> String {
    match error {
        ConfigureError::Broken(why) => why,
        ConfigureError::Denied(capability) => format!("it asks for {capability}, which is not allowed"),
        ConfigureError::Problems(problems) => {
            let problems: Vec<String> =
                problems.into_iter().map(|(pointer, message)| format!("{pointer} {message}")).collect();
            problems.join("; ")
        }
    }
}

/// The occasion that stands for a whole hook, where there is one.
fn occasion(hook: Hook) -> Option<types::Occasions> {
    match hook {
        Hook::OnRequest => Some(types::Occasions::ON_REQUEST),
        Hook::OnAttempt => Some(types::Occasions::ON_ATTEMPT),
        Hook::OnOutcome => Some(types::Occasions::ON_OUTCOME),
        Hook::OnResponse => Some(types::Occasions::ON_RESPONSE),
        Hook::OnComplete => Some(types::Occasions::ON_COMPLETE),
        Hook::Describe | Hook::Configure | Hook::OnEndpoints | Hook::Pick | Hook::OnBody | Hook::Tick => None,
    }
}
