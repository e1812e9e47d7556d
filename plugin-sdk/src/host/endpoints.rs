//! What the host knows of endpoints.

use super::sys::endpoints as sys;
use crate::exchange::{EndpointId, ServiceId};
use std::time::Duration;
pub use sys::Breaker;

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    pub id: EndpointId,
    /// `host:port`
    pub address: String,
    /// 1 to 65535.
    pub weight: u32,
    pub metadata: Vec<(String, String)>,
    /// Taken out of picking for now.
    pub ejected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    pub in_flight: u32,
    /// Peak-sensitive moving average of latency, decayed to now. `None`: not known.
    pub latency: Option<Duration>,
}

pub fn load(service: ServiceId, endpoint: EndpointId) -> Load {
    let load = sys::load(service.0, endpoint.0);
    Load { in_flight: load.in_flight, latency: (load.latency > 0).then(|| Duration::from_nanos(load.latency)) }
}

/// The endpoint with the fewest exchanges in flight for its weight; ties are broken at random.
pub fn least_loaded(service: ServiceId, avoid: &[EndpointId]) -> Option<EndpointId> {
    let avoid: Vec<u32> = avoid.iter().map(|endpoint| endpoint.0).collect();
    sys::least_loaded(service.0, &avoid).map(EndpointId)
}

/// Takes an endpoint out of picking for so long. The last endpoint that is not ejected stays: `false`. So does every
/// endpoint if the policy's `allow` is given without `endpoints`.
pub fn eject(service: ServiceId, endpoint: EndpointId, duration: Duration) -> bool {
    sys::eject(service.0, endpoint.0, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Tells the state of a circuit breaker, for the log, the metrics and the admin page. Without an endpoint it is the whole
/// service's; `scope` names it where it is neither, as in `"route:checkout"`. Nothing happens if the policy's `allow` is given
/// without `endpoints`.
pub fn report_breaker(service: ServiceId, endpoint: Option<EndpointId>, scope: &str, state: Breaker, reason: &str) {
    sys::report_breaker(service.0, endpoint.map(|endpoint| endpoint.0), scope, state, reason);
}
