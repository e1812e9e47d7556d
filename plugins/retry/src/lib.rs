//! Tries again, after a wait, what is likely to work the second time.

mod advice;
mod backoff;
mod transient;

use advice::Advice;
use backoff::Backoff;
use transient::Transient;
use weir_sdk::Failure;
use weir_sdk::prelude::*;

/// What is tried again, how often and when. The host has the last word: it knows what is safe to repeat, and keeps the
/// deadline and the node's retry budget.
#[derive(Deserialize, JsonSchema)]
struct Retry {
    /// Attempts in all, the first one included. If left out 5, and of a delivery as many as the subscription says.
    #[schemars(range(min = 1, max = 10))]
    max_attempts: Option<u32>,
    /// The longest time for the whole exchange with all its attempts and waits. The route's own stays in force.
    timeout: Option<Period>,
    /// The longest time for one attempt. The route's own stays in force.
    attempt_timeout: Option<Period>,
    /// How long to wait before the next attempt.
    #[serde(default)]
    backoff: Backoff,
    /// Which outcomes are worth another attempt.
    #[serde(default)]
    retry_on: Transient,
    /// Whether the next attempt should go to an endpoint that was not tried.
    #[serde(default = "yes")]
    elsewhere: bool,
}

/// Where nothing is configured.
const MAX_ATTEMPTS: u32 = 5;

fn yes() -> bool {
    true
}

#[policy(reads_response = ["retry-after", "grpc-retry-pushback-ms"])]
impl Policy for Retry {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        if self.max_attempts.is_some_and(|attempts| !(1..=10).contains(&attempts)) {
            return Err(Error::at("/max-attempts", "attempts in all, from 1 to 10"));
        }
        for (pointer, timeout) in [("/timeout", self.timeout), ("/attempt-timeout", self.attempt_timeout)] {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Err(Error::at(pointer, "no attempt can be made in no time: leave it out for no limit"));
            }
        }
        self.backoff.check()?;
        self.retry_on.check()?;
        needs.skip = Skip {
            on_request: self.timeout.is_none() && self.attempt_timeout.is_none(),
            on_outcome_of_success: true,
            ..Skip::default()
        };
        Ok(())
    }

    fn on_request(&self, _: &Exchange) -> Result<Verdict> {
        let timeout = self.timeout.map(|timeout| timeout.0);
        let attempt_timeout = self.attempt_timeout.map(|timeout| timeout.0);
        Ok(Amendment { timeout, attempt_timeout, ..Amendment::new() }.into())
    }

    fn on_outcome(&self, exchange: &Exchange, outcome: &Outcome) -> Result<Decision> {
        let is_delivery = exchange.kind == ExchangeKind::Delivery;
        if !self.retry_on.includes(exchange.kind, outcome) {
            return Ok(give_up(exchange, outcome, "not to be tried again"));
        }
        if let Some(most) = self.max_attempts.or((!is_delivery).then_some(MAX_ATTEMPTS))
            && exchange.attempt >= most
        {
            return Ok(give_up(exchange, outcome, &format!("attempt {} of {most}", exchange.attempt)));
        }
        // The host's own limits. It says itself when a delivery has reached them.
        if !outcome.repeatable {
            return Ok(Decision::Accept);
        }
        let after = match Advice::of(outcome) {
            Advice::Never => return Ok(give_up(exchange, outcome, "the service asked for no other attempt")),
            Advice::Exactly(wait) => wait,
            Advice::AtLeast(wait) => wait.max(self.backoff.wait(exchange)),
        };
        // An attempt after the deadline helps nobody: the answer at hand is passed on now rather than then. A message waits
        // outside of the exchange, whose deadline is for one attempt.
        if !is_delivery && after >= exchange.remaining() {
            return Ok(Decision::Accept);
        }
        Ok(Decision::Retry { after, elsewhere: self.elsewhere })
    }
}

/// No other attempt. A caller or a publisher has what it sent and hears of the failure. A message that is being delivered
/// has nobody else who would say that it is no use, and the host would try again.
fn give_up(exchange: &Exchange, outcome: &Outcome, why: &str) -> Decision {
    let ended = match outcome.failure {
        _ if exchange.kind != ExchangeKind::Delivery => return Decision::Accept,
        // It says nothing of the message or its consumer.
        Failure::Rejected | Failure::Cancelled | Failure::Overload => return Decision::Accept,
        Failure::None => &format!("status {}", outcome.status),
        Failure::Connect => "connect",
        Failure::Reset => "reset",
        Failure::Timeout => "timeout",
        Failure::Protocol => "protocol",
    };
    Decision::DeadLetter(format!("{ended}: {why}"))
}

#[cfg(test)]
mod tests;
