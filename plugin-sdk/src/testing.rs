//! Runs a policy natively against a fake host: time, randomness, cells, endpoints and keys are in the test's hands.
//!
//! ```
//! use weir_sdk::{prelude::*, testing::{Call, Harness, json}};
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Greet { name: String }
//!
//! #[policy]
//! impl Policy for Greet {
//!     fn on_request(&self, _: &Exchange) -> Result<Verdict> {
//!         Ok(Amendment::new().set("x-greeting", self.name.as_str()).into())
//!     }
//! }
//!
//! # fn main() {
//! let policy = Harness::<Greet>::new(json!({ "name": "hello" })).unwrap();
//! let verdict = policy.on_request(&Call::new()).unwrap();
//! assert_eq!(verdict, Amendment::new().set("x-greeting", "hello").into());
//! # }
//! ```

pub mod fake;

use crate::exchange::{
    Completion, EndpointId, Exchange, ExchangeKind, Failure, Fields, Outcome, Response, RouteId, ServiceId,
};
use crate::host::cells::Word;
use crate::host::endpoints::Endpoint;
use crate::policy::{BodyOf, Described, Idle, Needs, Skip};
use crate::verdict::{Attempt, BodyVerdict, Decision, Verdict};
use crate::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

pub use fake::{BreakerReport, Host, Sent};
/// For configurations: a test needs no dependency on serde_json.
pub use serde_json::json;

/// A configured policy and the fake host around it. One a thread: a new harness starts with a fresh host.
#[derive(Debug)]
pub struct Harness<P> {
    policy: P,
    needs: Needs,
    request: &'static [String],
    response: &'static [String],
}

/// An exchange, as a test describes it.
#[derive(Debug, Clone, Default)]
pub struct Call {
    fields: BTreeMap<String, Vec<u8>>,
    kind: ExchangeKind,
    service: ServiceId,
    route: RouteId,
    id: u64,
    deadline: Option<u64>,
    attempt: Cell<u32>,
    memo: Cell<u64>,
    attributes: RefCell<BTreeMap<String, String>>,
}

impl Call {
    /// A call to service 0 on route 0 with a deadline 15 s from now.
    pub fn new() -> Self {
        Self { id: 1, ..Self::default() }
    }

    /// A request field, as it arrives; `:method`, `:path` and the like included, and attributes that the host sets, such as
    /// `@message-id`.
    pub fn field(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    pub fn kind(mut self, kind: ExchangeKind) -> Self {
        self.kind = kind;
        self
    }

    pub fn service(mut self, service: u32) -> Self {
        self.service = ServiceId(service);
        self
    }

    pub fn route(mut self, route: u32) -> Self {
        self.route = RouteId(route);
        self
    }

    pub fn id(mut self, id: u64) -> Self {
        self.id = id;
        self
    }

    /// The deadline, this long after now.
    pub fn deadline_in(mut self, time: Duration) -> Self {
        self.deadline = Some(fake::with(|host| host.now).saturating_add(time.as_nanos() as u64));
        self
    }

    /// So many attempts were made before: at a delivery each is an exchange of its own, in which the number goes on.
    pub fn attempts(self, made: u32) -> Self {
        self.attempt.set(made);
        self
    }

    /// What the policy last remembered.
    pub fn memo(&self) -> u64 {
        self.memo.get()
    }

    /// An attribute that the policy set.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.attributes.borrow().get(name).cloned()
    }

    /// The value of a field of either side. Attributes are the exchange's, and read on both.
    fn value(&self, name: &str, side: &BTreeMap<String, Vec<u8>>) -> Option<Vec<u8>> {
        match name.strip_prefix('@') {
            Some(attribute) => self.attribute(attribute).map(String::into_bytes).or(self.fields.get(name).cloned()),
            None => side.get(name).cloned(),
        }
    }
}

/// An answer or a failure of an endpoint, as a test describes it.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    outcome: Outcome,
    fields: BTreeMap<String, Vec<u8>>,
}

impl Answer {
    /// An answer with this status from endpoint 0, after 1 ms; the exchange could be repeated.
    pub fn status(status: u16) -> Self {
        let outcome = Outcome { status, repeatable: true, latency: Duration::from_millis(1), ..Outcome::default() };
        Self { outcome, fields: BTreeMap::from([(":status".to_owned(), status.to_string().into_bytes())]) }
    }

    /// A gRPC answer, by its status.
    pub fn grpc(code: u32) -> Self {
        let mut answer = Self::status(200).field("grpc-status", code.to_string());
        answer.outcome.grpc_status = Some(code);
        answer
    }

    pub fn failure(failure: Failure) -> Self {
        let mut answer = Self::status(0);
        answer.outcome.failure = failure;
        answer.fields.clear();
        answer
    }

    pub fn from(mut self, endpoint: u32) -> Self {
        self.outcome.endpoint = EndpointId(endpoint);
        self
    }

    pub fn after(mut self, latency: Duration) -> Self {
        self.outcome.latency = latency;
        self
    }

    pub fn not_repeatable(mut self) -> Self {
        self.outcome.repeatable = false;
        self
    }

    /// A response field.
    pub fn field(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

impl<P: Described> Harness<P> {
    /// Configures the policy in a fresh fake host.
    pub fn new(config: serde_json::Value) -> Result<Self> {
        Self::in_host(Host::default(), config)
    }

    /// Configures the policy in a host prepared by the test, with its keys for instance.
    pub fn in_host(host: Host, config: serde_json::Value) -> Result<Self> {
        fake::install(host);
        Self::another(config)
    }

    /// One more instance, as another worker or a reload would make it, in the same host: its cells are shared.
    pub fn another(config: serde_json::Value) -> Result<Self> {
        let (policy, needs) = crate::policy::configure::<P>(config.to_string().as_bytes())?;
        let (request, response) = (Vec::leak(needs.request.clone()), Vec::leak(needs.response.clone()));
        Ok(Self { policy, needs, request, response })
    }

    pub fn policy(&self) -> &P {
        &self.policy
    }

    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The fake host, to set it or to look at it.
    pub fn host<R>(&self, look: impl FnOnce(&mut Host) -> R) -> R {
        fake::with(look)
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, time: Duration) {
        fake::with(|host| host.advance(time));
    }

    /// This and the hooks below are not called where the policy asked to skip them, as in the host.
    pub fn on_request(&self, call: &Call) -> Result<Verdict> {
        if self.skip().on_request {
            return Ok(Verdict::Proceed);
        }
        let verdict = self.in_exchange(call, |policy, exchange| policy.on_request(exchange))?;
        if let Verdict::Amend(amendment) = &verdict {
            call.attributes.borrow_mut().extend(amendment.attributes.iter().cloned());
        }
        Ok(verdict)
    }

    /// Endpoints 0, 1, … of service 0, by address and weight.
    pub fn on_endpoints(&self, endpoints: &[(&str, u32)]) -> Result<()> {
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .zip(0..)
            .map(|((address, weight), id)| Endpoint {
                id: EndpointId(id),
                address: (*address).to_owned(),
                weight: *weight,
                ..Endpoint::default()
            })
            .collect();
        self.policy.on_endpoints(ServiceId(0), &endpoints)
    }

    pub fn pick(&self, call: &Call, tried: &[u32]) -> Result<Option<u32>> {
        let tried: Vec<EndpointId> = tried.iter().copied().map(EndpointId).collect();
        Ok(self.in_exchange(call, |policy, exchange| policy.pick(exchange, &tried))?.map(|endpoint| endpoint.0))
    }

    /// Begins the next attempt.
    pub fn on_attempt(&self, call: &Call, endpoint: u32) -> Result<Attempt> {
        call.attempt.set(call.attempt.get() + 1);
        if self.skip().on_attempt || self.skips_without_memo(call) {
            return Ok(Attempt::Proceed);
        }
        self.in_exchange(call, |policy, exchange| policy.on_attempt(exchange, EndpointId(endpoint)))
    }

    pub fn on_outcome(&self, call: &Call, answer: Answer) -> Result<Decision> {
        let Answer { mut outcome, fields } = answer;
        let success = outcome.failure == Failure::None && outcome.status < 400 && outcome.grpc_status.unwrap_or(0) == 0;
        let Skip { on_outcome, on_outcome_of_success, .. } = self.skip();
        if on_outcome || (success && on_outcome_of_success) || self.skips_without_memo(call) {
            return Ok(Decision::Accept);
        }
        outcome.fields = self.response_fields(call, &fields);
        self.in_exchange(call, |policy, exchange| policy.on_outcome(exchange, &outcome))
    }

    pub fn on_response(&self, call: &Call, answer: Answer) -> Result<Verdict> {
        if self.skip().on_response || self.skips_without_memo(call) {
            return Ok(Verdict::Proceed);
        }
        let response = Response { fields: self.response_fields(call, &answer.fields) };
        self.in_exchange(call, |policy, exchange| policy.on_response(exchange, &response))
    }

    pub fn on_body(&self, call: &Call, of: BodyOf, body: &[u8]) -> Result<BodyVerdict> {
        self.in_exchange(call, |policy, exchange| policy.on_body(exchange, of, body))
    }

    pub fn on_complete(&self, call: &Call, completion: &Completion) {
        if self.skip().on_complete || self.skips_without_memo(call) {
            return;
        }
        let complete = |policy: &P, exchange: &Exchange| {
            policy.on_complete(exchange, completion);
            Ok::<_, Error>(())
        };
        let _ = self.in_exchange(call, complete);
    }

    pub fn tick(&self) {
        fake::with(|host| host.ticking = true);
        self.policy.tick();
        fake::with(|host| host.ticking = false);
    }

    fn skips_without_memo(&self, call: &Call) -> bool {
        self.skip().without_memo && call.memo() == 0
    }

    /// What is skipped, as things are now.
    fn skip(&self) -> Skip {
        let idles = |idle: &&Idle| Word::open(&idle.word).is_ok_and(|word| word.load() == 0);
        let idle = self.needs.idle.as_ref().filter(idles).map(|idle| idle.skip).unwrap_or_default();
        let always = self.needs.skip;
        Skip {
            on_request: always.on_request || idle.on_request,
            on_attempt: always.on_attempt || idle.on_attempt,
            on_outcome: always.on_outcome || idle.on_outcome,
            on_outcome_of_success: always.on_outcome_of_success || idle.on_outcome_of_success,
            on_response: always.on_response || idle.on_response,
            on_complete: always.on_complete || idle.on_complete,
            without_memo: always.without_memo || idle.without_memo,
        }
    }

    fn in_exchange<R>(&self, call: &Call, hook: impl FnOnce(&P, &Exchange) -> Result<R>) -> Result<R> {
        let values: Vec<Option<Vec<u8>>> = self.request.iter().map(|name| call.value(name, &call.fields)).collect();
        let exchange = Exchange {
            id: call.id,
            kind: call.kind,
            route: call.route,
            service: call.service,
            attempt: call.attempt.get(),
            deadline: call.deadline.unwrap_or_else(|| fake::with(|host| host.now) + 15_000_000_000),
            memo: call.memo.clone(),
            fields: Fields::pack(self.request, values.iter().map(Option::as_deref)),
        };
        let result = hook(&self.policy, &exchange);
        call.memo.set(exchange.memo());
        result
    }

    fn response_fields(&self, call: &Call, fields: &BTreeMap<String, Vec<u8>>) -> Fields {
        let values: Vec<Option<Vec<u8>>> = self.response.iter().map(|name| call.value(name, fields)).collect();
        Fields::pack(self.response, values.iter().map(Option::as_deref))
    }
}
