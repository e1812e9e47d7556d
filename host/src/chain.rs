//! The chain: policies in order, and what their answers mean. It knows no protocol and no Wasm.

mod policy;

use crate::clock::nanos;
use crate::config::OnError;
use crate::exchange::Exchange;
use crate::outcome::{Decision, Outcome};
use crate::plugin::bindings::{Hook, types};
use crate::plugin::fields::{Field, Pseudo};
use crate::response::Reply;
use crate::telemetry::record::End;
use bytes::Bytes;
use http::HeaderName;
pub use policy::BoundPolicy;
use policy::PolicyError;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

/// The longest name and the longest value of an attribute, in bytes together.
const MAX_ATTRIBUTE: usize = 8 * 1024;

/// The most edits, and the most attributes, of one amendment.
const MAX_EDITS: usize = 256;
/// Bytes of all edits of one amendment, names and values.
const MAX_EDIT_BYTES: usize = 64 * 1024;

/// The fields of a request, an answer or a message, whatever the protocol.
pub trait Metadata {
    /// All values of a field as one.
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>>;
    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>>;
    /// Makes all of the edits, or none: fails where a field is not a policy's to change or the bytes are not valid.
    fn edit(&mut self, edits: &[types::Edit]) -> Result<(), String>;
}

/// Why a chain ended an exchange.
#[derive(Debug)]
pub enum Stop {
    /// A policy answers itself.
    Reply(Reply),
    /// A policy that guards has failed.
    Failed(String),
}

/// What a chain says to an attempt.
#[derive(Debug)]
pub enum Attempt {
    Proceed,
    Refused(types::Refusal),
}

/// The policies of a route on this worker.
#[derive(Debug, Default)]
pub struct Chain {
    policies: Vec<Rc<BoundPolicy>>,
}

impl Chain {
    pub fn new(policies: Vec<Rc<BoundPolicy>>) -> Self {
        Self { policies }
    }

    pub fn len(&self) -> usize {
        self.policies.len()
    }

    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether some policy may ask for another attempt, which is what a body is kept for.
    pub fn judges_outcomes(&self) -> bool {
        self.policies.iter().any(|bound| bound.calls(Hook::OnOutcome))
    }

    /// The largest body, in bytes, that some policy wants to see whole.
    pub fn body_limit(&self) -> Option<usize> {
        self.policies.iter().filter_map(|bound| bound.body_limit()).max()
    }

    /// In order for a request's body, in reverse for an answer's. Each policy sees what the one before has made of it, as
    /// long as that is within its limit. `Some` is the body to use instead.
    pub fn on_body(&self, exchange: &mut Exchange, of: types::BodyOf, body: &[u8]) -> Result<Option<Bytes>, Stop> {
        let mut replaced: Option<Bytes> = None;
        let mut order: SmallVec<[usize; 8]> = (0..exchange.seen).collect();
        if of == types::BodyOf::Response {
            order.reverse();
        }
        for at in order {
            let current = replaced.as_deref().unwrap_or(body);
            let Some(bound) =
                self.policies.get(at).filter(|bound| bound.body_limit().is_some_and(|limit| current.len() <= limit))
            else {
                continue;
            };
            if !bound.calls_in(Hook::OnBody, exchange.view(at).memo) {
                continue;
            }
            match bound.call(Hook::OnBody, |hooks, store| hooks.on_body(store, exchange.view(at), of, current)) {
                Ok(types::BodyVerdict::Proceed) => {}
                Ok(types::BodyVerdict::Replace(body)) => {
                    exchange.acted(bound.name(), Hook::OnBody.name(), "replaced the body", None);
                    replaced = Some(body.into());
                }
                Ok(types::BodyVerdict::Reply(reply)) => {
                    let reply = Reply::from(reply);
                    if let Err(message) = reply.check() {
                        self.failed(exchange, bound.broke(Hook::OnBody, message), bound)?;
                        continue;
                    }
                    exchange.acted(bound.name(), Hook::OnBody.name(), format!("replied {}", reply.status), None);
                    return Err(Stop::Reply(reply));
                }
                Err(error) => self.failed(exchange, error, bound)?,
            }
        }
        Ok(replaced)
    }

    /// In order. The edits of each policy are seen by those after it.
    pub fn on_request(&self, exchange: &mut Exchange, head: &mut impl Metadata) -> Result<(), Stop> {
        for (at, bound) in self.policies.iter().enumerate() {
            exchange.seen = at + 1;
            if let Err(why) = bound.unusable() {
                self.failed(
                    exchange,
                    PolicyError { policy: bound.name().clone(), hook: Hook::Configure, message: why.to_owned() },
                    bound,
                )?;
                continue;
            }
            if !bound.calls_now(Hook::OnRequest) {
                continue;
            }
            let result = with_values(exchange, &bound.policy.needs.request, head, |exchange, values| {
                bound.call(Hook::OnRequest, |hooks, store| hooks.on_request(store, exchange.view(at), values))
            });
            let judged = result.and_then(|answer| {
                exchange.remember(at, answer.memo);
                self.judge(exchange, bound, Hook::OnRequest, answer.verdict, head)
            });
            match judged {
                Ok(None) => {}
                Ok(Some(reply)) => return Err(Stop::Reply(reply)),
                Err(error) => self.failed(exchange, error, bound)?,
            }
        }
        Ok(())
    }

    /// The endpoint that the first policy with a `pick` chooses. `None`: no policy of the chain picks, or the one that
    /// does may be skipped and has failed.
    pub fn pick(
        &self,
        exchange: &mut Exchange,
        head: &impl Metadata,
        avoid: &[u32],
    ) -> Result<Option<Option<u32>>, Stop> {
        let Some((at, bound)) = self.policies.iter().enumerate().find(|(_, bound)| bound.calls(Hook::Pick)) else {
            return Ok(None);
        };
        let picked = bound.push_endpoints(&exchange.service).and_then(|()| {
            with_values(exchange, &bound.policy.needs.request, head, |exchange, values| {
                bound.call(Hook::Pick, |hooks, store| hooks.pick(store, exchange.view(at), avoid, values))
            })
        });
        let checked = picked.and_then(|picked| match picked {
            Some(id) if avoid.contains(&id) => {
                Err(bound.broke(Hook::Pick, format!("it picked endpoint {id}, which it was told to avoid")))
            }
            Some(id) if exchange.service.endpoints().get(id).is_none() => {
                Err(bound.broke(Hook::Pick, format!("it picked endpoint {id}, which does not exist")))
            }
            picked => Ok(picked),
        });
        match checked {
            Ok(picked) => Ok(Some(picked)),
            Err(error) => self.failed(exchange, error, bound).map(|()| None),
        }
    }

    /// In order. When a policy refuses the endpoint, those before it are told the outcome.
    pub fn on_attempt(
        &self,
        exchange: &mut Exchange,
        endpoint: u32,
        head: &mut impl Metadata,
    ) -> Result<Attempt, Stop> {
        for (at, bound) in self.policies.iter().enumerate() {
            if !bound.calls_in(Hook::OnAttempt, exchange.view(at).memo) {
                continue;
            }
            let answer = bound.push_endpoints(&exchange.service).and_then(|()| {
                with_values(exchange, &bound.policy.needs.request, head, |exchange, values| {
                    bound.call(Hook::OnAttempt, |hooks, store| {
                        hooks.on_attempt(store, exchange.view(at), endpoint, values)
                    })
                })
            });
            let judged = answer.and_then(|answer| {
                exchange.remember(at, answer.memo);
                match answer.verdict {
                    types::AttemptVerdict::Proceed => Ok(None),
                    types::AttemptVerdict::Amend(edits) => {
                        apply(&edits, head).map(|()| None).map_err(|message| bound.broke(Hook::OnAttempt, message))
                    }
                    types::AttemptVerdict::Refuse(refusal) => Ok(Some(refusal)),
                }
            });
            let stopped = match judged {
                Ok(None) => continue,
                Ok(Some(refusal)) => {
                    exchange.acted(bound.name(), Hook::OnAttempt.name(), "refused", Some(refusal.reason.clone()));
                    bound.count_refusal(&exchange.service, &refusal);
                    Ok(Attempt::Refused(refusal))
                }
                Err(error) => match self.failed(exchange, error, bound) {
                    Ok(()) => continue,
                    Err(stop) => Err(stop),
                },
            };
            self.on_outcome(exchange, at, &Outcome::rejected(endpoint), &crate::exchange::NoHead);
            return stopped;
        }
        Ok(Attempt::Proceed)
    }

    /// In reverse order, for the first `upto` policies. Each sees the outcome; the first that wants more than to accept
    /// decides.
    pub fn on_outcome(
        &self,
        exchange: &mut Exchange,
        upto: usize,
        outcome: &Outcome,
        head: &impl Metadata,
    ) -> Decision {
        let mut decided = Decision::Accept;
        for (at, bound) in self.policies.iter().enumerate().take(upto).rev() {
            if !bound.calls_in(Hook::OnOutcome, exchange.view(at).memo)
                || (outcome.is_success() && bound.ignores_success())
            {
                continue;
            }
            let view = view_of(outcome);
            let answer = with_values(exchange, &bound.policy.needs.response, head, |exchange, values| {
                bound.call(Hook::OnOutcome, |hooks, store| hooks.on_outcome(store, exchange.view(at), view, values))
            });
            match answer {
                Ok(answer) => {
                    exchange.remember(at, answer.memo);
                    let decision = match answer.decision {
                        types::Decision::Accept => continue,
                        types::Decision::Retry(retry) => {
                            Decision::Retry { after: Duration::from_nanos(retry.after), elsewhere: retry.elsewhere }
                        }
                        types::Decision::DeadLetter(reason) => Decision::DeadLetter(reason),
                    };
                    if decided == Decision::Accept {
                        let why = if let Decision::DeadLetter(reason) = &decision {
                            reason.clone()
                        } else {
                            outcome.to_string()
                        };
                        exchange.acted(bound.name(), Hook::OnOutcome.name(), decision.as_str(), Some(why));
                        decided = decision;
                    }
                }
                // Nothing is left to refuse: the outcome stands, whatever the policy would have said.
                Err(error) => drop(self.failed(exchange, error, bound)),
            }
        }
        decided
    }

    /// In reverse order, for the policies that have seen the request.
    pub fn on_response(&self, exchange: &mut Exchange, head: &mut impl Metadata) -> Result<(), Stop> {
        for (at, bound) in self.policies.iter().enumerate().take(exchange.seen).rev() {
            if !bound.calls_in(Hook::OnResponse, exchange.view(at).memo) {
                continue;
            }
            let result = with_values(exchange, &bound.policy.needs.response, head, |exchange, values| {
                bound.call(Hook::OnResponse, |hooks, store| hooks.on_response(store, exchange.view(at), values))
            });
            let judged = result.and_then(|answer| {
                exchange.remember(at, answer.memo);
                self.judge(exchange, bound, Hook::OnResponse, answer.verdict, head)
            });
            match judged {
                Ok(None) => {}
                Ok(Some(reply)) => return Err(Stop::Reply(reply)),
                Err(error) => self.failed(exchange, error, bound)?,
            }
        }
        Ok(())
    }

    /// In order, for the policies that have seen the request. Called once, by the exchange's end.
    pub fn on_complete(&self, exchange: &mut Exchange) {
        for (at, bound) in self.policies.iter().enumerate().take(exchange.seen) {
            if !bound.calls_in(Hook::OnComplete, exchange.view(at).memo) {
                continue;
            }
            let record = &exchange.recording.record;
            let completion = types::Completion {
                status: if exchange.end == End::ClientLeft { 0 } else { record.status.unwrap_or(0) },
                grpc_status: record.grpc_status.and_then(|status| i32::try_from(status).ok()).unwrap_or(-1),
                failure: failure_view(exchange.failure),
                attempts: exchange.attempt,
                duration: nanos(exchange.recording.started().elapsed()),
                request_bytes: record.request_bytes,
                response_bytes: record.response_bytes,
            };
            let done = bound
                .call(Hook::OnComplete, |hooks, store| hooks.on_complete(store, exchange.view(at), completion).map(Ok));
            if let Err(error) = done {
                drop(self.failed(exchange, error, bound));
            }
        }
    }

    /// What a verdict means: `Some` is a reply.
    fn judge(
        &self,
        exchange: &mut Exchange,
        bound: &BoundPolicy,
        hook: Hook,
        verdict: types::Verdict,
        head: &mut impl Metadata,
    ) -> Result<Option<Reply>, PolicyError> {
        let amendment = match verdict {
            types::Verdict::Proceed => return Ok(None),
            types::Verdict::Reply(reply) => {
                let reply = Reply::from(reply);
                reply.check().map_err(|message| bound.broke(hook, message))?;
                let why = (!reply.message.is_empty()).then(|| reply.message.clone());
                exchange.acted(bound.name(), hook.name(), format!("replied {}", reply.status), why);
                return Ok(Some(reply));
            }
            types::Verdict::Amend(amendment) => amendment,
        };
        if amendment.attributes.iter().any(|(name, value)| name.len() + value.len() > MAX_ATTRIBUTE) {
            return Err(bound.broke(hook, format!("it set an attribute of more than {MAX_ATTRIBUTE} bytes")));
        }
        if amendment.edits.len() + amendment.attributes.len() > MAX_EDITS {
            return Err(bound.broke(hook, format!("it amended more than {MAX_EDITS} fields and attributes")));
        }
        // All of an amendment or nothing: what can fail comes first.
        let service = match amendment.service {
            Some(_) if hook != Hook::OnRequest => {
                return Err(bound.broke(hook, "it chose another service, which only `on-request` can".into()));
            }
            Some(id) => Some(
                bound
                    .policy
                    .context
                    .services
                    .get(id)
                    .ok_or_else(|| bound.broke(hook, "it chose a service that does not exist".into()))?,
            ),
            None => None,
        };
        apply(&amendment.edits, head).map_err(|message| bound.broke(hook, message))?;
        if let Some(service) = service {
            exchange.service = service;
        }
        if let Some(timeout) = amendment.timeout {
            exchange.shorten(Duration::from_nanos(timeout));
        }
        if let Some(timeout) = amendment.attempt_timeout.map(Duration::from_nanos) {
            exchange.attempt_timeout = Some(exchange.attempt_timeout.map_or(timeout, |current| current.min(timeout)));
        }
        exchange.acted(bound.name(), hook.name(), "amended", None);
        exchange.recording.record.attributes.extend(amendment.attributes);
        Ok(None)
    }

    /// A policy has failed: its `on-error` says what that means. The last word is in the record either way.
    fn failed(&self, exchange: &mut Exchange, error: PolicyError, bound: &BoundPolicy) -> Result<(), Stop> {
        exchange.acted(&error.policy, error.hook.name(), "failed", Some(error.message.clone()));
        match bound.policy.on_error {
            OnError::Skip => Ok(()),
            OnError::Reject => Err(Stop::Failed(error.to_string())),
        }
    }
}

fn apply(edits: &[types::Edit], head: &mut impl Metadata) -> Result<(), String> {
    if edits.len() > MAX_EDITS {
        return Err(format!("it made more than {MAX_EDITS} edits"));
    }
    let size = |edit: &types::Edit| match edit {
        types::Edit::Set((name, value)) | types::Edit::Append((name, value)) => name.len() + value.len(),
        types::Edit::Remove(name) => name.len(),
    };
    let bytes: usize = edits.iter().map(size).sum();
    if bytes > MAX_EDIT_BYTES {
        return Err(format!("its edits have {bytes} bytes; {MAX_EDIT_BYTES} are the most"));
    }
    if edits.is_empty() { Ok(()) } else { head.edit(edits) }
}

/// The length that stands for a field that is absent.
const ABSENT: u32 = u32::MAX;

/// Calls a hook with the values of the fields that its policy declared, packed as `fields` in `wit/types.wit` says.
fn with_values<R>(
    exchange: &Exchange,
    fields: &[Field],
    head: &impl Metadata,
    call: impl FnOnce(&Exchange, &[u8]) -> R,
) -> R {
    let mut packed: SmallVec<[u8; 1024]> = SmallVec::new();
    for field in fields {
        let value = match field {
            Field::Header(name) => head.header(name),
            // An earlier policy may have chosen another one than the route's.
            Field::Pseudo(Pseudo::Service) => Some(exchange.service.name.as_bytes().into()),
            Field::Pseudo(pseudo) => head.pseudo(*pseudo),
            Field::Attribute(name) => {
                let mut attributes = exchange.recording.record.attributes.iter().rev();
                attributes.find(|(known, _)| known == name).map(|(_, value)| value.as_bytes().into())
            }
        };
        // What a head or an attribute may hold is far below 4 GiB.
        let length = value.as_ref().map(|value| u32::try_from(value.len()).unwrap_or(ABSENT));
        packed.extend_from_slice(&length.unwrap_or(ABSENT).to_le_bytes());
        packed.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    call(exchange, &packed)
}

fn view_of(outcome: &Outcome) -> types::Outcome {
    types::Outcome {
        endpoint: outcome.endpoint,
        status: outcome.status,
        grpc_status: outcome.grpc_status.and_then(|status| i32::try_from(status).ok()).unwrap_or(-1),
        failure: failure_view(outcome.failure),
        latency: nanos(outcome.latency),
        repeatable: outcome.repeatable,
    }
}

fn failure_view(failure: Option<crate::outcome::FailureKind>) -> types::Failure {
    use crate::outcome::FailureKind;
    match failure {
        None => types::Failure::None,
        Some(FailureKind::Connect) => types::Failure::Connect,
        Some(FailureKind::Reset) => types::Failure::Reset,
        Some(FailureKind::Timeout) => types::Failure::Timeout,
        Some(FailureKind::Protocol) => types::Failure::Protocol,
        Some(FailureKind::Rejected) => types::Failure::Rejected,
        Some(FailureKind::Cancelled) => types::Failure::Cancelled,
        Some(FailureKind::Overload) => types::Failure::Overload,
    }
}

impl From<types::Reply> for Reply {
    fn from(reply: types::Reply) -> Self {
        let types::Reply { status, error, message, headers, body, grpc_status } = reply;
        Self { status, error, message, headers, body: body.map(Into::into), grpc_status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::NoHead;

    #[test]
    fn the_edits_of_one_amendment_are_bounded_in_number_and_together() {
        let edits = |count, length| vec![types::Edit::Append(("a".into(), vec![b'x'; length])); count];
        let refused = |edits: &[types::Edit]| apply(edits, &mut NoHead).unwrap_err();
        assert!(apply(&edits(MAX_EDITS, 255), &mut NoHead).is_ok());
        assert!(refused(&edits(MAX_EDITS + 1, 0)).contains("more than 256"));
        assert!(refused(&edits(MAX_EDITS, 256)).contains("65792 bytes"));
    }
}
