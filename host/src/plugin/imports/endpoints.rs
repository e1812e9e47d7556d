//! What the host knows of endpoints, and what policies may tell it of them.

use super::{State, shortened};
use crate::clock::now;
use crate::config::Capability;
use crate::plugin::bindings::endpoints;
use crate::service::endpoint::BreakerState;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use wasmtime::Result;

/// Bytes that are kept of the scope of a circuit breaker, and of why it changed its state.
const MAX_SCOPE: usize = 200;
const MAX_REASON: usize = 500;

impl endpoints::Host for State {
    fn load(&mut self, service: u32, endpoint: u32) -> Result<endpoints::EndpointLoad> {
        let set = self.context()?.services.get(service).map(|service| service.endpoints());
        let endpoint = set.as_ref().and_then(|set| set.get(endpoint));
        Ok(endpoint.map_or(endpoints::EndpointLoad { in_flight: 0, latency: 0 }, |endpoint| endpoints::EndpointLoad {
            in_flight: endpoint.in_flight(),
            latency: endpoint.load.latency(now()),
        }))
    }

    fn least_loaded(&mut self, service: u32, avoid: Vec<u32>) -> Result<Option<u32>> {
        Ok(self.context()?.services.get(service).and_then(|service| service.least_loaded(&avoid, now())))
    }

    fn eject(&mut self, service: u32, endpoint: u32, duration: u64) -> Result<bool> {
        if self.denied(&Capability::Endpoints)?.is_some() {
            return Ok(false);
        }
        let may_log = self.may_log();
        let context = self.context()?;
        let now = now();
        let Some(service) = context.services.get(service) else { return Ok(false) };
        let ejected = service.eject(endpoint, now.saturating_add(duration), now);
        if ejected && may_log {
            tracing::info!(
                policy = &*context.policy,
                service = &*service.name,
                endpoint,
                "endpoint ejected for {:?}",
                Duration::from_nanos(duration)
            );
        }
        Ok(ejected)
    }

    fn report_breaker(
        &mut self,
        service: u32,
        endpoint: Option<u32>,
        scope: String,
        state: endpoints::Breaker,
        reason: String,
    ) -> Result<()> {
        if self.denied(&Capability::Endpoints)?.is_some() {
            return Ok(());
        }
        let may_log = self.may_log();
        let context = self.context()?;
        let Some(service) = context.services.get(service) else { return Ok(()) };
        let (scope, reason) = (shortened(&scope, MAX_SCOPE).to_owned(), shortened(&reason, MAX_REASON).to_owned());
        let to = match state {
            endpoints::Breaker::Closed => "closed",
            endpoints::Breaker::Open => "open",
            endpoints::Breaker::HalfOpen => "half-open",
        };
        let id = endpoint;
        let endpoint = id.and_then(|id| service.endpoints().get(id).cloned());
        if id.is_some() && endpoint.is_none() {
            // It left in the meantime.
            return Ok(());
        }
        let address = endpoint.as_ref().map_or_else(|| Arc::from(""), |endpoint| endpoint.address.clone());
        if may_log {
            tracing::info!(
                policy = &*context.policy,
                service = &*service.name,
                endpoint = &*address,
                scope,
                state = to,
                reason,
                "circuit breaker"
            );
        }
        context.telemetry.metrics.breaker_transition(&context.policy, &service.name, &address, to);
        let told = BreakerState { policy: context.policy.clone(), state: to, reason };
        match endpoint {
            Some(endpoint) => *endpoint.breaker.lock().unwrap_or_else(PoisonError::into_inner) = Some(told),
            None => service.report_breaker(scope, told),
        }
        Ok(())
    }
}
