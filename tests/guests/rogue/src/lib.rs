//! Breaks the contract where and how its configuration says, in exchanges whose request carries `x-rogue`. Everything
//! else it does as a good policy would, so that a test sees what one bad answer costs.

mod deed;

use deed::Deed;
use weir_sdk::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Rogue {
    /// The hook that goes wrong.
    #[serde(rename = "in")]
    place: Place,
    /// How it goes wrong.
    #[serde(rename = "do")]
    deed: Deed,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq)]
enum Place {
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

impl Rogue {
    /// Whether this is the place and the exchange.
    fn is_due(&self, place: Place, exchange: &Exchange) -> bool {
        self.place == place && exchange.memo() == 1
    }

    fn verdict(&self, place: Place, exchange: &Exchange) -> Result<Verdict> {
        if !self.is_due(place, exchange) {
            return Ok(Verdict::Proceed);
        }
        self.deed.act()?;
        Ok(self.deed.verdict())
    }
}

#[policy(reads = ["x-rogue"], tick = 50, max_body = 65536)]
impl Policy for Rogue {
    fn configure(&mut self, _: &mut Needs) -> Result<()> {
        if self.place == Place::Configure { self.deed.act() } else { Ok(()) }
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        exchange.remember(exchange.field("x-rogue").is_some().into());
        self.verdict(Place::OnRequest, exchange)
    }

    fn on_endpoints(&self, _: ServiceId, _: &[Endpoint]) -> Result<()> {
        if self.place == Place::OnEndpoints { self.deed.act() } else { Ok(()) }
    }

    fn pick(&self, exchange: &Exchange, tried: &[EndpointId]) -> Result<Option<EndpointId>> {
        if self.is_due(Place::Pick, exchange) {
            self.deed.act()?;
            return Ok(Some(EndpointId(u32::MAX)));
        }
        Ok(endpoints::least_loaded(exchange.service, tried))
    }

    fn on_attempt(&self, exchange: &Exchange, _: EndpointId) -> Result<Attempt> {
        if !self.is_due(Place::OnAttempt, exchange) {
            return Ok(Attempt::Proceed);
        }
        self.deed.act()?;
        Ok(self.deed.attempt())
    }

    fn on_outcome(&self, exchange: &Exchange, _: &Outcome) -> Result<Decision> {
        if !self.is_due(Place::OnOutcome, exchange) {
            return Ok(Decision::Accept);
        }
        self.deed.act()?;
        Ok(self.deed.decision())
    }

    fn on_response(&self, exchange: &Exchange, _: &Response) -> Result<Verdict> {
        self.verdict(Place::OnResponse, exchange)
    }

    fn on_body(&self, exchange: &Exchange, _: BodyOf, _: &[u8]) -> Result<BodyVerdict> {
        if !self.is_due(Place::OnBody, exchange) {
            return Ok(BodyVerdict::Proceed);
        }
        self.deed.act()?;
        Ok(self.deed.body())
    }

    fn on_complete(&self, exchange: &Exchange, _: &Completion) {
        if self.is_due(Place::OnComplete, exchange) && self.deed.act().is_err() {
            log::info("on-complete cannot fail");
        }
    }

    fn tick(&self) {
        if self.place == Place::Tick && self.deed.act().is_err() {
            log::info("tick cannot fail");
        }
    }
}
