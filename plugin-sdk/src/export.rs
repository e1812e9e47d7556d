//! Between the generated bindings and [`Policy`]: `Exported<P>` is the component of a policy.

use crate::bindings::imports::weir::policy::types as wit;
use crate::exchange::{
    Completion, EndpointId, Exchange, ExchangeKind, Failure, Fields, Outcome, Response, RouteId, ServiceId,
};
use crate::host::endpoints::Endpoint;
use crate::policy::{BodyOf, Described, Needs, Skip};
use crate::verdict::{Amendment, Attempt, BodyVerdict, Decision, Edit, Refusal, Reply, Verdict};
use crate::{Error, bindings};
use std::cell::{Cell, OnceCell};
use std::marker::PhantomData;
use std::thread::LocalKey;
use std::time::Duration;

pub mod late;

/// The policy of this instance, and the fields it asked for.
#[derive(Debug)]
pub struct Installed<P: 'static> {
    policy: P,
    request: &'static [String],
    response: &'static [String],
}

/// Where `#[policy]` keeps the instance's policy.
pub type Slot<P> = OnceCell<&'static Installed<P>>;

/// A policy with a place to keep it.
pub trait Component: Described {
    fn slot() -> &'static LocalKey<Slot<Self>>;
}

#[derive(Debug)]
pub struct Exported<P>(PhantomData<P>);

fn installed<P: Component>() -> Result<&'static Installed<P>, String> {
    P::slot().with(|slot| slot.get().copied()).ok_or_else(|| "a hook was called before configure".to_owned())
}

fn text<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

impl<P: Component> bindings::base::exports::weir::policy::describe::Guest for Exported<P> {
    fn describe() -> bindings::base::exports::weir::policy::describe::Description {
        bindings::base::exports::weir::policy::describe::Description {
            name: P::NAME.into(),
            version: P::VERSION.into(),
            summary: P::SUMMARY.into(),
            schema: crate::policy::schema::<P>(),
            tick: P::TICK.saturating_mul(1_000_000),
            max_body: P::MAX_BODY,
        }
    }
}

impl<P: Component> bindings::base::exports::weir::policy::configure::Guest for Exported<P> {
    fn configure(config: Vec<u8>) -> Result<wit::Needs, Vec<wit::Problem>> {
        let problem =
            |error: Error| vec![wit::Problem { pointer: error.pointer().into(), message: error.message().into() }];
        let (policy, needs) = crate::policy::configure::<P>(&config).map_err(problem)?;
        let Needs { request, response, skip, idle } = needs;
        let idle = idle.map(|idle| wit::Idle { word: idle.word, skip: occasions(idle.skip) });
        let answer = wit::Needs { request: request.clone(), response: response.clone(), skip: occasions(skip), idle };
        // An instance is configured once and lives as long as its memory, so leaking costs nothing.
        let installed = Installed { policy, request: Box::leak(request.into()), response: Box::leak(response.into()) };
        P::slot()
            .with(|slot| slot.set(Box::leak(Box::new(installed))))
            .map_err(|_| problem(Error::new("configure was called twice")))?;
        Ok(answer)
    }
}

impl<P: Component> bindings::on_request::exports::weir::policy::on_request::Guest for Exported<P> {
    fn on_request(exchange: wit::Exchange, fields: wit::Fields) -> Result<wit::Answer, String> {
        let this = installed::<P>()?;
        let exchange = Exchange::new(exchange, this.request, fields);
        let verdict = text(this.policy.on_request(&exchange))?;
        Ok(wit::Answer { verdict: verdict.into(), memo: exchange.memo() })
    }
}

impl<P: Component> bindings::on_endpoints::exports::weir::policy::on_endpoints::Guest for Exported<P> {
    fn on_endpoints(service: u32, endpoints: Vec<wit::Endpoint>) -> Result<(), String> {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(Endpoint::from).collect();
        text(installed::<P>()?.policy.on_endpoints(ServiceId(service), &endpoints))
    }
}

impl<P: Component> bindings::pick::exports::weir::policy::pick::Guest for Exported<P> {
    fn pick(exchange: wit::Exchange, tried: Vec<u32>, fields: wit::Fields) -> Result<Option<u32>, String> {
        let this = installed::<P>()?;
        let exchange = Exchange::new(exchange, this.request, fields);
        let tried: Vec<EndpointId> = tried.into_iter().map(EndpointId).collect();
        Ok(text(this.policy.pick(&exchange, &tried))?.map(|endpoint| endpoint.0))
    }
}

impl<P: Component> bindings::on_attempt::exports::weir::policy::on_attempt::Guest for Exported<P> {
    fn on_attempt(exchange: wit::Exchange, endpoint: u32, fields: wit::Fields) -> Result<wit::AttemptAnswer, String> {
        let this = installed::<P>()?;
        let exchange = Exchange::new(exchange, this.request, fields);
        let verdict = match text(this.policy.on_attempt(&exchange, EndpointId(endpoint)))? {
            Attempt::Proceed => wit::AttemptVerdict::Proceed,
            Attempt::Amend(edits) => wit::AttemptVerdict::Amend(edits.into_iter().map(Into::into).collect()),
            Attempt::Refuse(refusal) => wit::AttemptVerdict::Refuse(refusal.into()),
        };
        Ok(wit::AttemptAnswer { verdict, memo: exchange.memo() })
    }
}

impl<P: Component> bindings::on_outcome::exports::weir::policy::on_outcome::Guest for Exported<P> {
    fn on_outcome(
        exchange: wit::Exchange,
        outcome: wit::Outcome,
        fields: wit::Fields,
    ) -> Result<wit::DecisionAnswer, String> {
        let this = installed::<P>()?;
        let exchange = Exchange::new(exchange, &[], Vec::new());
        let outcome = Outcome {
            endpoint: EndpointId(outcome.endpoint),
            status: outcome.status,
            grpc_status: u32::try_from(outcome.grpc_status).ok(),
            failure: outcome.failure.into(),
            latency: Duration::from_nanos(outcome.latency),
            repeatable: outcome.repeatable,
            fields: Fields { names: this.response, packed: fields },
        };
        let decision = match text(this.policy.on_outcome(&exchange, &outcome))? {
            Decision::Accept => wit::Decision::Accept,
            Decision::Retry { after, elsewhere } => wit::Decision::Retry(wit::Retry { after: nanos(after), elsewhere }),
            Decision::DeadLetter(reason) => wit::Decision::DeadLetter(reason),
        };
        Ok(wit::DecisionAnswer { decision, memo: exchange.memo() })
    }
}

impl<P: Component> bindings::on_response::exports::weir::policy::on_response::Guest for Exported<P> {
    fn on_response(exchange: wit::Exchange, fields: wit::Fields) -> Result<wit::Answer, String> {
        let this = installed::<P>()?;
        let exchange = Exchange::new(exchange, &[], Vec::new());
        let response = Response { fields: Fields { names: this.response, packed: fields } };
        let verdict = text(this.policy.on_response(&exchange, &response))?;
        Ok(wit::Answer { verdict: verdict.into(), memo: exchange.memo() })
    }
}

impl<P: Component> bindings::on_body::exports::weir::policy::on_body::Guest for Exported<P> {
    fn on_body(exchange: wit::Exchange, of: wit::BodyOf, body: Vec<u8>) -> Result<wit::BodyVerdict, String> {
        let exchange = Exchange::new(exchange, &[], Vec::new());
        let of = match of {
            wit::BodyOf::Request => BodyOf::Request,
            wit::BodyOf::Response => BodyOf::Response,
            wit::BodyOf::Message => BodyOf::Message,
        };
        Ok(match text(installed::<P>()?.policy.on_body(&exchange, of, &body))? {
            BodyVerdict::Proceed => wit::BodyVerdict::Proceed,
            BodyVerdict::Replace(body) => wit::BodyVerdict::Replace(body),
            BodyVerdict::Reply(reply) => wit::BodyVerdict::Reply(reply.into()),
        })
    }
}

impl<P: Component> bindings::on_complete::exports::weir::policy::on_complete::Guest for Exported<P> {
    fn on_complete(
        exchange: wit::Exchange,
        completion: bindings::on_complete::exports::weir::policy::on_complete::Completion,
    ) {
        let Ok(this) = installed::<P>() else { return };
        let completion = Completion {
            status: completion.status,
            grpc_status: u32::try_from(completion.grpc_status).ok(),
            failure: completion.failure.into(),
            attempts: completion.attempts,
            duration: Duration::from_nanos(completion.duration),
            request_bytes: completion.request_bytes,
            response_bytes: completion.response_bytes,
        };
        this.policy.on_complete(&Exchange::new(exchange, &[], Vec::new()), &completion);
    }
}

impl<P: Component> bindings::tick::exports::weir::policy::tick::Guest for Exported<P> {
    fn tick() {
        if let Ok(this) = installed::<P>() {
            this.policy.tick();
        }
    }
}

impl Exchange {
    fn new(exchange: wit::Exchange, names: &'static [String], packed: wit::Fields) -> Self {
        Self {
            id: exchange.id,
            kind: match exchange.kind {
                wit::ExchangeKind::Call => ExchangeKind::Call,
                wit::ExchangeKind::Publish => ExchangeKind::Publish,
                wit::ExchangeKind::Delivery => ExchangeKind::Delivery,
            },
            route: RouteId(exchange.route),
            service: ServiceId(exchange.service),
            attempt: exchange.attempt,
            deadline: exchange.deadline,
            memo: Cell::new(exchange.memo),
            fields: Fields { names, packed },
        }
    }
}

impl From<wit::Endpoint> for Endpoint {
    fn from(endpoint: wit::Endpoint) -> Self {
        let wit::Endpoint { id, address, weight, metadata, ejected } = endpoint;
        Self { id: EndpointId(id), address, weight, metadata, ejected }
    }
}

impl From<wit::Failure> for Failure {
    fn from(failure: wit::Failure) -> Self {
        match failure {
            wit::Failure::None => Self::None,
            wit::Failure::Connect => Self::Connect,
            wit::Failure::Reset => Self::Reset,
            wit::Failure::Timeout => Self::Timeout,
            wit::Failure::Protocol => Self::Protocol,
            wit::Failure::Rejected => Self::Rejected,
            wit::Failure::Cancelled => Self::Cancelled,
            wit::Failure::Overload => Self::Overload,
        }
    }
}

impl From<Verdict> for wit::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Proceed => Self::Proceed,
            Verdict::Amend(amendment) => Self::Amend(amendment.into()),
            Verdict::Reply(reply) => Self::Reply(reply.into()),
        }
    }
}

impl From<Amendment> for wit::Amendment {
    fn from(amendment: Amendment) -> Self {
        let Amendment { edits, attributes, timeout, attempt_timeout, service } = amendment;
        Self {
            edits: edits.into_iter().map(Into::into).collect(),
            attributes,
            timeout: timeout.map(nanos),
            attempt_timeout: attempt_timeout.map(nanos),
            service: service.map(|service| service.0),
        }
    }
}

impl From<Edit> for wit::Edit {
    fn from(edit: Edit) -> Self {
        match edit {
            Edit::Set(name, value) => Self::Set((name, value)),
            Edit::Append(name, value) => Self::Append((name, value)),
            Edit::Remove(name) => Self::Remove(name),
        }
    }
}

impl From<Reply> for wit::Reply {
    fn from(reply: Reply) -> Self {
        let Reply { status, error, message, headers, body, grpc_status } = reply;
        Self { status, error, message, headers, body, grpc_status }
    }
}

impl From<Refusal> for wit::Refusal {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, error, retry_after, every_endpoint } = refusal;
        Self { reason, error, retry_after: retry_after.map(nanos), every_endpoint }
    }
}

fn occasions(skip: Skip) -> wit::Occasions {
    let Skip { on_request, on_attempt, on_outcome, on_outcome_of_success, on_response, on_complete, without_memo } =
        skip;
    [
        (on_request, wit::Occasions::ON_REQUEST),
        (on_attempt, wit::Occasions::ON_ATTEMPT),
        (on_outcome, wit::Occasions::ON_OUTCOME),
        (on_outcome_of_success, wit::Occasions::ON_OUTCOME_OF_SUCCESS),
        (on_response, wit::Occasions::ON_RESPONSE),
        (on_complete, wit::Occasions::ON_COMPLETE),
        (without_memo, wit::Occasions::WITHOUT_MEMO),
    ]
    .into_iter()
    .filter(|(skipped, _)| *skipped)
    .fold(wit::Occasions::empty(), |all, (_, one)| all | one)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
