//! Attempts: which endpoint gets the next one, and what is noted of it. The same for calls and messages.

use crate::call::own::Refusal;
use crate::chain::{Chain, Metadata};
use crate::clock;
use crate::exchange::Exchange;
use crate::node::Node;
use crate::outcome::{FailureKind, Outcome};
use crate::plugin::bindings::types;
use crate::response::{ErrorKind, ProxyError};
use crate::service::endpoint::Endpoint;
use crate::telemetry::record::AttemptRecord;
use crate::worker::Worker;
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

/// What became of the endpoints of an exchange so far.
#[derive(Default)]
pub struct Endpoints {
    /// To be avoided if there are others.
    tried: SmallVec<[u32; 8]>,
    /// Refused by policies: never to be picked.
    refused: SmallVec<[u32; 8]>,
    refusal: Option<types::Refusal>,
}

impl Endpoints {
    /// The next attempt had better go to another one.
    pub fn avoid(&mut self, endpoint: u32) {
        if !self.tried.contains(&endpoint) {
            self.tried.push(endpoint);
        }
    }

    /// A policy will not have this one, or none at all, which is the error.
    pub async fn refuse(&mut self, exchange: &Exchange, endpoint: u32, refusal: types::Refusal) -> Result<(), Refusal> {
        if refusal.every_endpoint {
            return Err(Refusal::of_endpoint(&exchange.service.name, refusal));
        }
        self.refused.push(endpoint);
        self.refusal = Some(refusal);
        if self.refused.len().is_multiple_of(16) {
            // A large service of which a policy refuses all must not hold up the worker's other exchanges.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The endpoint of the next attempt: one that was not tried if there is one, and never one that a policy refused.
    pub fn pick(&self, chain: &Chain, exchange: &mut Exchange, head: &impl Metadata) -> Result<Arc<Endpoint>, Refusal> {
        let mut avoid: SmallVec<[u32; 8]> = self.refused.iter().chain(&self.tried).copied().collect();
        let mut picked = pick_one(chain, exchange, head, &avoid)?;
        if picked.is_none() && !self.tried.is_empty() {
            avoid.truncate(self.refused.len());
            picked = pick_one(chain, exchange, head, &avoid)?;
        }
        let service = &exchange.service;
        match (picked, &self.refusal) {
            (Some(endpoint), _) => Ok(endpoint),
            (None, Some(refusal)) => Err(Refusal::of_endpoint(&service.name, refusal.clone())),
            (None, None) => {
                let set = service.endpoints();
                let ejected = set.iter().filter(|endpoint| endpoint.is_ejected(clock::now())).count();
                let message = match set.len() {
                    0 => format!("service {:?} has no endpoints", &*service.name),
                    all => format!("service {:?}: no endpoint of {all} ({ejected} ejected)", &*service.name),
                };
                Err(ProxyError::new(ErrorKind::NoEndpoint, message).into())
            }
        }
    }
}

fn pick_one(
    chain: &Chain,
    exchange: &mut Exchange,
    head: &impl Metadata,
    avoid: &[u32],
) -> Result<Option<Arc<Endpoint>>, Refusal> {
    Ok(match chain.pick(exchange, head, avoid)? {
        Some(picked) => picked.and_then(|id| exchange.service.endpoints().get(id).cloned()),
        None => exchange.service.round_robin(avoid, clock::now()),
    })
}

/// Whether the node's retry budget allows another attempt, which is then spent.
pub fn may_retry(node: &Node, exchange: &mut Exchange) -> bool {
    if node.retry_budget.withdraw() {
        return true;
    }
    node.telemetry.metrics.retry_budget_exhausted.inc();
    exchange.acted(
        &Arc::from("retry-budget"),
        "on-outcome",
        "refused a retry",
        Some("the retry budget is spent".into()),
    );
    false
}

/// Notes in the record how an attempt ended.
pub fn record(worker: &Worker, exchange: &mut Exchange, endpoint: &Endpoint, outcome: &Outcome, backoff: Duration) {
    let metrics = worker.endpoint_metrics(&exchange.service.name, &endpoint.address);
    let attempt = AttemptRecord {
        endpoint: endpoint.address.clone(),
        status: (outcome.status != 0).then_some(outcome.status),
        failure: outcome.failure.map(FailureKind::as_str),
        duration: outcome.latency,
        backoff,
    };
    exchange.recording.attempt(&metrics, attempt);
}
