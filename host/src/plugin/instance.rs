//! One instance of a policy: a store, its hooks, and what happens when a call goes wrong.

use super::bindings::Hooks;
use super::fields::Needs;
use super::imports::{SETUP_CPU, State};
use super::outbound::Caller;
use super::{Plugin, Policy};
use crate::config::Capability;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use wasmtime::{AsContextMut, Store, StoreContextMut, Trap};

/// A configured instance. Not to be used again after a call has failed with [`HookError::Broken`].
pub struct Instance {
    store: Store<State>,
    hooks: Hooks,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instance")
    }
}

/// How a hook failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookError {
    /// The policy returned an error; the instance is as good as before.
    Returned(String),
    /// A trap, a limit, or an answer that breaks the contract: the instance is to be thrown away.
    Broken(String),
}

impl HookError {
    pub fn message(&self) -> &str {
        match self {
            Self::Returned(message) | Self::Broken(message) => message,
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone)]
pub enum ConfigureError {
    /// Problems by JSON Pointer.
    Problems(Vec<(String, String)>),
    Broken(String),
    /// The plugin asked for what the policy is not granted, whatever it made of the answer.
    Denied(Capability),
}

impl Instance {
    /// Instantiates a policy and configures it.
    pub fn new(policy: &Policy, plugin: &Plugin) -> Result<(Self, Needs), ConfigureError> {
        let broken = |error: wasmtime::Error| ConfigureError::Broken(reason(&error));
        let state = State::new(Some(policy.context.clone()), policy.limits.clone());
        let mut store = Store::new(plugin.loaded.pre.engine(), state);
        State::limit(&mut store);
        let made = catch_unwind(AssertUnwindSafe(|| {
            let instance = plugin.loaded.pre.instantiate(&mut store)?;
            Hooks::bind(&plugin.loaded.exports, &instance, &mut store)
        }));
        let hooks = made.unwrap_or_else(|_| Err(wasmtime::Error::msg("the host panicked"))).map_err(broken)?;
        let mut this = Self { store, hooks };
        let config = policy.config.to_string();
        let configured = this.call(SETUP_CPU, |hooks, store| hooks.configure(store, config.as_bytes()).map(Ok));
        if let Some(capability) = this.store.data().first_denied() {
            return Err(ConfigureError::Denied(capability.clone()));
        }
        let configured = configured.map_err(|error| ConfigureError::Broken(error.message().into()))?;
        let needs = configured.map_err(|problems| {
            ConfigureError::Problems(problems.into_iter().map(|problem| (problem.pointer, problem.message)).collect())
        })?;
        let needs = Needs::parse(&needs).map_err(|message| ConfigureError::Problems(vec![(String::new(), message)]))?;
        Ok((this, needs))
    }

    /// Lets it make calls of its own from now on. For an instance that does nothing but tick, on a thread of its own.
    pub fn let_call_out(&mut self, caller: Caller) {
        self.store.data_mut().let_call_out(caller);
    }

    /// Calls one hook under the policy's limits, but with at least so much CPU time.
    pub fn call<R>(
        &mut self,
        cpu: Duration,
        hook: impl FnOnce(&Hooks, StoreContextMut<'_, State>) -> wasmtime::Result<Result<R, String>>,
    ) -> Result<R, HookError> {
        State::arm(&mut self.store, cpu);
        let hooks = &self.hooks;
        let context = self.store.as_context_mut();
        // A panic in the host's own part of a call must not take the worker, and all its exchanges, with it.
        match catch_unwind(AssertUnwindSafe(|| hook(hooks, context))) {
            Ok(Ok(answer)) => answer.map_err(HookError::Returned),
            Ok(Err(error)) => Err(HookError::Broken(reason(&error))),
            Err(_) => Err(HookError::Broken("the host panicked".into())),
        }
    }
}

/// What went wrong, in one line: the trap and the guest's own last words, without the stack.
pub fn reason(error: &wasmtime::Error) -> String {
    let cause = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => "it ran longer than its CPU limit".to_owned(),
        Some(Trap::StackOverflow) => "it overflowed its stack".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let mut line: String = cause.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    if line.is_empty() {
        line.push_str("unknown error");
    }
    line
}
