//! Chooses the endpoint of each attempt: in turn, by weight, by load, by latency or by a field of the request.

mod pool;
mod ring;
mod schedule;

use pool::Pool;
use std::cell::RefCell;
use weir_sdk::prelude::*;

/// How attempts are spread over the endpoints of a service.
#[derive(Deserialize, JsonSchema)]
struct LoadBalance {
    /// How the endpoint of an attempt is chosen.
    #[serde(default)]
    algorithm: Algorithm,
    /// For consistent-hash: the request field that decides, as in "x-user", ":path" or ":peer".
    hash_on: Option<String>,
    /// By service.
    #[serde(skip)]
    pools: RefCell<Vec<Option<Pool>>>,
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Default)]
enum Algorithm {
    /// Each endpoint in turn, over all workers together.
    #[default]
    RoundRobin,
    /// Any endpoint.
    Random,
    /// Any endpoint, a heavy one more often.
    WeightedRandom,
    /// Each endpoint as often as its weight says and as evenly spaced as that can be, over all workers together.
    WeightedRoundRobin,
    /// The endpoint with the fewest exchanges in flight for its weight.
    LeastConnections,
    /// The better of two random endpoints, by recent latency, exchanges in flight and weight.
    P2cEwma,
    /// The same endpoint for the same value of a field, in proportion to the weights.
    ConsistentHash,
}

impl Algorithm {
    fn is_weighted(self) -> bool {
        matches!(self, Self::WeightedRandom | Self::WeightedRoundRobin)
    }

    /// Whether it takes endpoints in turn: consistent-hash does for requests without the field.
    fn takes_turns(self) -> bool {
        matches!(self, Self::RoundRobin | Self::WeightedRoundRobin | Self::ConsistentHash)
    }
}

#[policy]
impl Policy for LoadBalance {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        match (self.algorithm, self.hash_on.as_deref()) {
            (Algorithm::ConsistentHash, Some(field)) if !field.is_empty() => {
                needs.read(field.to_ascii_lowercase());
                Ok(())
            }
            (Algorithm::ConsistentHash, _) => {
                Err(Error::at("/hash-on", "consistent-hash needs the request field to go by: hash-on = \"x-user\""))
            }
            (_, Some(_)) => Err(Error::at(
                "/hash-on",
                "only consistent-hash goes by a field: set algorithm = \"consistent-hash\" or remove hash-on",
            )),
            (_, None) => Ok(()),
        }
    }

    fn on_endpoints(&self, service: ServiceId, endpoints: &[Endpoint]) -> Result<()> {
        let pool = match self.algorithm {
            // The host keeps the order of load itself.
            Algorithm::LeastConnections => return Ok(()),
            _ if endpoints.is_empty() => None,
            algorithm => Some(Pool::new(algorithm, service, endpoints)?),
        };
        let mut pools = self.pools.borrow_mut();
        if pools.len() <= service.index() {
            pools.resize_with(service.index() + 1, || None);
        }
        if let Some(place) = pools.get_mut(service.index()) {
            *place = pool;
        }
        Ok(())
    }

    fn pick(&self, exchange: &Exchange, tried: &[EndpointId]) -> Result<Option<EndpointId>> {
        let service = exchange.service;
        if self.algorithm == Algorithm::LeastConnections {
            return Ok(endpoints::least_loaded(service, tried));
        }
        let pools = self.pools.borrow();
        let pool = pools.get(service.index()).and_then(Option::as_ref);
        let Some(candidates) = pool.and_then(|pool| pool.without(tried)) else {
            return Ok(None);
        };
        Ok(match self.algorithm {
            Algorithm::Random | Algorithm::WeightedRandom => candidates.at_random(),
            Algorithm::P2cEwma => candidates.better_of_two(service),
            // The field is the only one that was asked for; an empty one tells nobody apart.
            Algorithm::ConsistentHash => match exchange.fields().at(0) {
                Some(key) if !key.is_empty() => candidates.on_ring(key),
                _ => candidates.in_turn(),
            },
            _ => candidates.in_turn(),
        })
    }
}

#[cfg(test)]
mod tests;
