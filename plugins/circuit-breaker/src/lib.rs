//! Refuses attempts at what keeps failing, and lets a few calls find out when it works again.

mod breaker;
mod failures;
mod places;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod values;

use breaker::{AT_WORK, Leave};
use failures::FailuresOn;
use places::{Places, Scope};
use rules::{HalfOpen, Rules, Trip, within};
use state::Ticket;
use std::cell::RefCell;
use weir_sdk::Skip;
use weir_sdk::prelude::*;

/// A circuit breaker: closed while calls succeed, open when too many of them failed, half-open while it tries whether
/// they succeed again.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct CircuitBreaker {
    /// What shares a breaker: "endpoint" (the default), "service", "route", or { field = "x-tenant" } for each value of
    /// a request field or attribute, apart for each service.
    scope: Scope,
    /// When it opens.
    trip: Trip,
    /// How long it stays open before calls are tried again; from 10ms to 1h.
    open_for: Period,
    /// Which calls are tried, and what they decide.
    half_open: HalfOpen,
    /// A call that takes longer until its answer begins is slow, and counts as failed; up to 1h.
    slow_call: Option<Period>,
    /// The percentage of slow calls that opens it. Slow calls then
    /// no longer count as failed ones. Needs trip.failure-rate.
    #[schemars(range(min = 1, max = 100))]
    slow_call_rate: Option<u32>,
    /// Which outcomes are failures.
    failures_on: FailuresOn,
    #[serde(skip)]
    rules: Rules,
    #[serde(skip)]
    places: RefCell<Places>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            trip: Trip::default(),
            open_for: Period::from_secs(10),
            half_open: HalfOpen::default(),
            slow_call: None,
            slow_call_rate: None,
            failures_on: FailuresOn::default(),
            rules: Rules::default(),
            places: RefCell::default(),
        }
    }
}

#[policy]
impl Policy for CircuitBreaker {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        if let Some(slow) = self.slow_call {
            within("/slow-call", *slow, Duration::from_nanos(1)..=Duration::from_secs(3600))?;
        } else if self.slow_call_rate.is_some() {
            return Err(Error::at("/slow-call-rate", "say which calls are slow: slow-call = \"500ms\""));
        }
        self.rules = Rules::new(&self.trip, self.slow_call_rate, *self.open_for, &self.half_open)?;
        self.places = RefCell::new(Places::new(self.rules.window()));
        if let Scope::Field(field) = &mut self.scope {
            if field.is_empty() {
                return Err(Error::at(
                    "/scope/field",
                    "names a request field or an attribute, as in \"x-tenant\" or \"@subject\"",
                ));
            }
            field.make_ascii_lowercase();
            needs.read(field.as_str());
        }
        if self.rules.ignore_successes_at_rest() && self.slow_call.is_none() {
            needs.skip_while_zero(AT_WORK, Skip { on_outcome_of_success: true, ..Skip::default() });
        }
        Ok(())
    }

    fn on_endpoints(&self, service: ServiceId, endpoints: &[Endpoint]) -> Result<()> {
        if self.scope == Scope::Endpoint {
            self.places.borrow_mut().announce(service, endpoints);
        }
        Ok(())
    }

    fn on_attempt(&self, exchange: &Exchange, endpoint: EndpointId) -> Result<Attempt> {
        let mut places = self.places.borrow_mut();
        let (index, breaker) = places.find(&self.scope, exchange, endpoint)?;
        match breaker.admit(&self.rules, exchange.service) {
            Leave::Granted { epoch } => {
                exchange.remember(Ticket { epoch, index, tag: breaker.tag }.into());
                Ok(Attempt::Proceed)
            }
            Leave::Refused { reason, retry_after } => {
                exchange.remember(0);
                Ok(Attempt::Refuse(Refusal {
                    reason: reason.into(),
                    error: "breaker-open".into(),
                    retry_after: Some(retry_after),
                    every_endpoint: self.scope != Scope::Endpoint,
                }))
            }
        }
    }

    fn on_outcome(&self, exchange: &Exchange, outcome: &Outcome) -> Result<Decision> {
        let memo = exchange.memo();
        // An attempt ends once, whatever the host says.
        exchange.remember(0);
        if let Some(ticket) = Ticket::from_memo(memo)
            && let Some(breaker) = self.places.borrow_mut().find_again(ticket, &self.scope, exchange, outcome.endpoint)
        {
            let slow = self.slow_call.is_some_and(|slow| outcome.latency > *slow);
            let result = self.failures_on.judge(outcome).map(|failed| match self.slow_call_rate {
                Some(_) => breaker::CallResult { failed, slow },
                None => breaker::CallResult { failed: failed || slow, slow: false },
            });
            breaker.settle(&self.rules, exchange.service, ticket.epoch, result);
        }
        Ok(Decision::Accept)
    }
}
