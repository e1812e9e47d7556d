//! The generated types, the typed functions of a component's exports, and the one place that needs `unsafe`.
#![expect(unsafe_code, reason = "typed functions are checked once at load and then called with shorter lifetimes")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "imports",
    imports: { default: trappable },
});

pub use self::weir::policy::types;
pub use self::weir::policy::{cells, clock, crypto, endpoints, log, metrics, names, outbound, random, trace};

use super::imports::State;
use std::mem::MaybeUninit;
use wasmtime::ValRaw;
use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, ComponentType, Func, Instance, Lift, Lower, TypedFunc,
};
use wasmtime::{Store, StoreContextMut};

/// The version of the contract that this host speaks.
pub const PACKAGE: &str = "weir:policy";
pub const VERSION: &str = "0.1.0";

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub summary: String,
    pub schema: String,
    pub tick: u64,
    #[component(name = "max-body")]
    pub max_body: u32,
}

/// The hooks of the contract, in the order of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    Describe,
    Configure,
    OnRequest,
    OnEndpoints,
    Pick,
    OnAttempt,
    OnOutcome,
    OnResponse,
    OnBody,
    OnComplete,
    Tick,
}

impl Hook {
    pub const ALL: [Self; 11] = [
        Self::Describe,
        Self::Configure,
        Self::OnRequest,
        Self::OnEndpoints,
        Self::Pick,
        Self::OnAttempt,
        Self::OnOutcome,
        Self::OnResponse,
        Self::OnBody,
        Self::OnComplete,
        Self::Tick,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Configure => "configure",
            Self::OnRequest => "on-request",
            Self::OnEndpoints => "on-endpoints",
            Self::Pick => "pick",
            Self::OnAttempt => "on-attempt",
            Self::OnOutcome => "on-outcome",
            Self::OnResponse => "on-response",
            Self::OnBody => "on-body",
            Self::OnComplete => "on-complete",
            Self::Tick => "tick",
        }
    }
}

/// Which hooks a component exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookSet(u16);

impl HookSet {
    pub fn has(self, hook: Hook) -> bool {
        self.0 & (1 << hook as u16) != 0
    }

    pub fn insert(&mut self, hook: Hook) {
        self.0 |= 1 << hook as u16;
    }

    pub fn names(self) -> Vec<&'static str> {
        Hook::ALL.into_iter().filter(|hook| self.has(*hook)).map(Hook::name).collect()
    }
}

/// Where the hooks are in a component. Found once per component, by export name.
#[derive(Debug, Clone)]
pub struct Exports {
    indices: Vec<Option<ComponentExportIndex>>,
}

impl Exports {
    /// Fails where a hook has another type than the contract's, or `describe` or `configure` is missing.
    pub fn find(component: &Component) -> (Self, HookSet) {
        let mut hooks = HookSet::default();
        let index = |hook: Hook| {
            let interface = component.get_export_index(None, format!("{PACKAGE}/{}@{VERSION}", hook.name()))?;
            component.get_export_index(Some(&interface), hook.name())
        };
        let indices: Vec<_> = Hook::ALL.into_iter().map(index).collect();
        for (hook, index) in Hook::ALL.into_iter().zip(&indices) {
            if index.is_some() {
                hooks.insert(hook);
            }
        }
        (Self { indices }, hooks)
    }

    fn func(&self, hook: Hook, instance: &Instance, store: &mut Store<State>) -> Option<Func> {
        let index = self.indices.get(hook as usize)?.as_ref()?;
        instance.get_func(store, index)
    }
}

/// A list given to a hook. An empty one, which most are, is not worth a call of the guest's allocator.
#[derive(Clone, Copy)]
struct Given<'a, T>(&'a [T]);

// SAFETY: a list in every respect, as far as types and layouts go.
unsafe impl<T: ComponentType> ComponentType for Given<'_, T> {
    type Lower = <[T] as ComponentType>::Lower;
    const ABI: CanonicalAbiInfo = <[T] as ComponentType>::ABI;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        <[T] as ComponentType>::typecheck(ty, types)
    }
}

// SAFETY: what is written is what a list writes. An empty one is at an address that is aligned, and within any memory,
// which is all that the canonical ABI asks of it.
unsafe impl<T: Lower> Lower for Given<'_, T> {
    fn linear_lower_to_flat<U>(
        &self,
        context: &mut LowerContext<'_, U>,
        ty: InterfaceType,
        target: &mut MaybeUninit<Self::Lower>,
    ) -> wasmtime::Result<()> {
        if self.0.is_empty() {
            target.write([ValRaw::u32(T::ALIGN32), ValRaw::u32(0)]);
            return Ok(());
        }
        self.0.linear_lower_to_flat(context, ty, target)
    }

    fn linear_lower_to_memory<U>(
        &self,
        context: &mut LowerContext<'_, U>,
        ty: InterfaceType,
        offset: usize,
    ) -> wasmtime::Result<()> {
        self.0.linear_lower_to_memory(context, ty, offset)
    }
}

type Described = (Description,);
type Configured = (Result<types::Needs, Vec<types::Problem>>,);
type Answered = (Result<types::Answer, String>,);
type Picked = (Result<Option<u32>, String>,);
type Attempted = (Result<types::AttemptAnswer, String>,);
type Decided = (Result<types::DecisionAnswer, String>,);
type BodyJudged = (Result<types::BodyVerdict, String>,);
type Done = (Result<(), String>,);

/// The hooks of one instance. Absent ones cost nothing but a look.
#[derive(Debug)]
pub struct Hooks {
    describe: Option<Func>,
    configure: Option<Func>,
    on_request: Option<Func>,
    on_endpoints: Option<Func>,
    pick: Option<Func>,
    on_attempt: Option<Func>,
    on_outcome: Option<Func>,
    on_response: Option<Func>,
    on_body: Option<Func>,
    on_complete: Option<Func>,
    tick: Option<Func>,
}

/// Looks up a function and checks its type.
fn checked<P, R>(
    exports: &Exports,
    hook: Hook,
    instance: &Instance,
    store: &mut Store<State>,
) -> wasmtime::Result<Option<Func>>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let Some(func) = exports.func(hook, instance, store) else { return Ok(None) };
    func.typed::<P, R>(&mut *store)
        .map_err(|error| error.context(format!("`{}` does not have the type of {PACKAGE}@{VERSION}", hook.name())))?;
    Ok(Some(func))
}

/// Calls a function that `checked` has found to have the type of `P` and `R`.
fn call<P, R>(func: Option<Func>, hook: Hook, store: StoreContextMut<'_, State>, params: P) -> wasmtime::Result<R>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    let func = func.ok_or_else(|| wasmtime::Error::msg(format!("the plugin has no `{}`", hook.name())))?;
    // SAFETY: `Hooks::bind` has checked this function against the same types. They differ in lifetimes only, which the
    // component model's types do not know.
    let typed = unsafe { TypedFunc::<P, R>::new_unchecked(func) };
    typed.call(store, params)
}

impl Hooks {
    pub fn bind(exports: &Exports, instance: &Instance, store: &mut Store<State>) -> wasmtime::Result<Self> {
        type V = Given<'static, u8>;
        Ok(Self {
            describe: checked::<(), Described>(exports, Hook::Describe, instance, store)?,
            configure: checked::<(&'static [u8],), Configured>(exports, Hook::Configure, instance, store)?,
            on_request: checked::<(types::Exchange, V), Answered>(exports, Hook::OnRequest, instance, store)?,
            on_endpoints: checked::<(u32, &'static [types::Endpoint]), Done>(
                exports,
                Hook::OnEndpoints,
                instance,
                store,
            )?,
            pick: checked::<(types::Exchange, Given<'static, u32>, V), Picked>(exports, Hook::Pick, instance, store)?,
            on_attempt: checked::<(types::Exchange, u32, V), Attempted>(exports, Hook::OnAttempt, instance, store)?,
            on_outcome: checked::<(types::Exchange, types::Outcome, V), Decided>(
                exports,
                Hook::OnOutcome,
                instance,
                store,
            )?,
            on_response: checked::<(types::Exchange, V), Answered>(exports, Hook::OnResponse, instance, store)?,
            on_body: checked::<(types::Exchange, types::BodyOf, &'static [u8]), BodyJudged>(
                exports,
                Hook::OnBody,
                instance,
                store,
            )?,
            on_complete: checked::<(types::Exchange, types::Completion), ()>(
                exports,
                Hook::OnComplete,
                instance,
                store,
            )?,
            tick: checked::<(), ()>(exports, Hook::Tick, instance, store)?,
        })
    }

    pub fn describe(&self, store: StoreContextMut<'_, State>) -> wasmtime::Result<Description> {
        call::<_, Described>(self.describe, Hook::Describe, store, ()).map(|(answer,)| answer)
    }

    pub fn configure(
        &self,
        store: StoreContextMut<'_, State>,
        config: &[u8],
    ) -> wasmtime::Result<Result<types::Needs, Vec<types::Problem>>> {
        call::<_, Configured>(self.configure, Hook::Configure, store, (config,)).map(|(answer,)| answer)
    }

    pub fn on_request(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        fields: &[u8],
    ) -> wasmtime::Result<Result<types::Answer, String>> {
        call::<_, Answered>(self.on_request, Hook::OnRequest, store, (exchange, Given(fields))).map(|(answer,)| answer)
    }

    pub fn on_endpoints(
        &self,
        store: StoreContextMut<'_, State>,
        service: u32,
        endpoints: &[types::Endpoint],
    ) -> wasmtime::Result<Result<(), String>> {
        call::<_, Done>(self.on_endpoints, Hook::OnEndpoints, store, (service, endpoints)).map(|(answer,)| answer)
    }

    pub fn pick(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        tried: &[u32],
        fields: &[u8],
    ) -> wasmtime::Result<Result<Option<u32>, String>> {
        call::<_, Picked>(self.pick, Hook::Pick, store, (exchange, Given(tried), Given(fields))).map(|(answer,)| answer)
    }

    pub fn on_attempt(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        endpoint: u32,
        fields: &[u8],
    ) -> wasmtime::Result<Result<types::AttemptAnswer, String>> {
        call::<_, Attempted>(self.on_attempt, Hook::OnAttempt, store, (exchange, endpoint, Given(fields)))
            .map(|(answer,)| answer)
    }

    pub fn on_outcome(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        outcome: types::Outcome,
        fields: &[u8],
    ) -> wasmtime::Result<Result<types::DecisionAnswer, String>> {
        call::<_, Decided>(self.on_outcome, Hook::OnOutcome, store, (exchange, outcome, Given(fields)))
            .map(|(answer,)| answer)
    }

    pub fn on_response(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        fields: &[u8],
    ) -> wasmtime::Result<Result<types::Answer, String>> {
        call::<_, Answered>(self.on_response, Hook::OnResponse, store, (exchange, Given(fields)))
            .map(|(answer,)| answer)
    }

    pub fn on_body(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        of: types::BodyOf,
        body: &[u8],
    ) -> wasmtime::Result<Result<types::BodyVerdict, String>> {
        call::<_, BodyJudged>(self.on_body, Hook::OnBody, store, (exchange, of, body)).map(|(answer,)| answer)
    }

    pub fn on_complete(
        &self,
        store: StoreContextMut<'_, State>,
        exchange: types::Exchange,
        completion: types::Completion,
    ) -> wasmtime::Result<()> {
        call(self.on_complete, Hook::OnComplete, store, (exchange, completion))
    }

    pub fn tick(&self, store: StoreContextMut<'_, State>) -> wasmtime::Result<()> {
        call(self.tick, Hook::Tick, store, ())
    }
}
