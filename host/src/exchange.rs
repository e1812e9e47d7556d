//! One exchange on its way: what the walk, the chain and the record share.

use crate::chain::Chain;
use crate::clock;
use crate::outcome::{FailureKind, Outcome};
use crate::plugin::bindings::types;
use crate::service::endpoint::Endpoint;
use crate::service::{InFlight, Service};
use crate::telemetry::record::{Acted, End, Kind};
use crate::telemetry::recording::Recording;
use crate::worker::Place;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An exchange. However it ends, its attempt gets an outcome, its policies their `on-complete` and its record is left:
/// dropping it is enough.
pub struct Exchange {
    /// Unique in the process.
    pub id: u64,
    pub route: u32,
    pub service: Arc<Service>,
    /// The number of the current attempt, from 1.
    pub attempt: u32,
    pub deadline: Option<Instant>,
    /// The same as hooks are given it.
    deadline_at: u64,
    pub attempt_timeout: Option<Duration>,
    pub recording: Recording,
    /// How it ends, for those that ask at the end: the record and `on-complete`.
    pub end: End,
    pub failure: Option<FailureKind>,
    pub(crate) chain: Rc<Chain>,
    /// What each policy of the chain last remembered.
    pub(crate) memos: SmallVec<[u64; 8]>,
    /// How many policies of the chain have seen the exchange.
    pub(crate) seen: usize,
    open: Option<OpenAttempt>,
    /// Counts it among those in progress until the end.
    _place: Place,
}

/// The least latency that a failure is taken for in an endpoint's load.
const FAILURE_COUNTS_AS: Duration = Duration::from_secs(1);

/// An attempt without an outcome yet.
struct OpenAttempt {
    started: Instant,
    in_flight: InFlight,
}

impl Exchange {
    pub fn new(
        id: u64,
        route: u32,
        service: Arc<Service>,
        chain: Rc<Chain>,
        recording: Recording,
        place: Place,
    ) -> Self {
        let memos = SmallVec::from_elem(0, chain.len());
        Self {
            id,
            route,
            service,
            attempt: 0,
            deadline: None,
            deadline_at: u64::MAX,
            attempt_timeout: None,
            recording,
            end: End::ClientLeft,
            failure: None,
            chain,
            memos,
            seen: 0,
            open: None,
            _place: place,
        }
    }

    /// The exchange as the hooks of one policy see it.
    pub(crate) fn view(&self, policy: usize) -> types::Exchange {
        types::Exchange {
            id: self.id,
            kind: match self.recording.record.kind {
                Kind::Call => types::ExchangeKind::Call,
                Kind::Publish => types::ExchangeKind::Publish,
                Kind::Delivery => types::ExchangeKind::Delivery,
            },
            route: self.route,
            service: self.service.id,
            attempt: self.attempt,
            deadline: self.deadline_at,
            memo: self.memos.get(policy).copied().unwrap_or(0),
        }
    }

    pub(crate) fn remember(&mut self, policy: usize, memo: u64) {
        if let Some(slot) = self.memos.get_mut(policy) {
            *slot = memo;
        }
    }

    /// Notes in the record what a policy did.
    pub(crate) fn acted(
        &mut self,
        policy: &Arc<str>,
        hook: &'static str,
        did: impl Into<Cow<'static, str>>,
        why: Option<String>,
    ) {
        self.recording.record.acted.push(Acted { policy: policy.clone(), hook, did: did.into(), why });
    }

    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Lets the exchange end sooner; never later.
    pub fn shorten(&mut self, timeout: Duration) {
        let ends = Instant::now().checked_add(timeout);
        self.deadline = match (self.deadline, ends) {
            (Some(deadline), Some(ends)) => Some(deadline.min(ends)),
            (deadline, ends) => deadline.or(ends),
        };
        self.deadline_at = self.deadline.map_or(u64::MAX, clock::at);
    }

    /// Begins an attempt that the chain has let pass; says when that was.
    pub fn begin_attempt(&mut self, endpoint: &Arc<Endpoint>) -> Instant {
        let (in_flight, started) = (self.service.begin(endpoint), Instant::now());
        self.open = Some(OpenAttempt { started, in_flight });
        started
    }

    /// Ends the open attempt: says how long it took, and counts that against the endpoint unless something else failed.
    /// The guard keeps counting the exchange as in flight there, for as long as the body takes.
    pub fn end_attempt(&mut self, failure: Option<FailureKind>) -> (Duration, Option<InFlight>) {
        let Some(OpenAttempt { started, in_flight }) = self.open.take() else { return (Duration::ZERO, None) };
        let now = Instant::now();
        let latency = now.saturating_duration_since(started);
        // One that fails fast must not look like one that answers fast.
        let counted = match failure {
            None => Some(latency),
            Some(failure) if failure.is_endpoints() => Some(latency.max(FAILURE_COUNTS_AS)),
            Some(_) => None,
        };
        if let Some(latency) = counted {
            in_flight.endpoint().load.observe(clock::nanos(latency), clock::at(now));
        }
        (latency, Some(in_flight))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let chain = self.chain.clone();
        if let (latency, Some(in_flight)) = self.end_attempt(Some(FailureKind::Cancelled)) {
            let endpoint = in_flight.endpoint().id;
            let outcome = Outcome {
                endpoint,
                status: 0,
                grpc_status: None,
                failure: Some(FailureKind::Cancelled),
                latency,
                repeatable: false,
            };
            chain.on_outcome(self, chain.len(), &outcome, &NoHead);
        }
        chain.on_complete(self);
        self.recording.record.service = Some(self.service.name.clone());
        self.recording.record.end = self.end;
    }
}

/// For outcomes without an answer.
pub struct NoHead;

impl crate::chain::Metadata for NoHead {
    fn header(&self, _: &http::HeaderName) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn pseudo(&self, _: crate::plugin::fields::Pseudo) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn edit(&mut self, _: &[types::Edit]) -> Result<(), String> {
        Ok(())
    }
}
