//! One circuit breaker: the state machine over its cell.

use crate::rules::{Limit, Rules, TrialRule};
use crate::state::{Phase, State, Trial, coarse, overdue};
use std::cell::Cell;
use weir_sdk::host::cells::{Window, Word};
use weir_sdk::prelude::*;

/// The name of the word that counts the breakers with something to do: those that are not closed, or closed after a
/// failure. While it is 0 a success changes nothing, where failures in a row are counted.
pub const AT_WORK: &str = "at-work";

/// One breaker, as this instance sees it: the cells are shared with all others.
pub struct Breaker {
    /// Tells its name from others.
    pub tag: u32,
    pub word: Word,
    /// The one of [`AT_WORK`].
    pub at_work: Word,
    /// Counts calls while the breaker is closed, where a rate trips it.
    pub window: Option<Window>,
    pub subject: Cell<Subject>,
    /// As in `route:checkout`, for people.
    pub scope: String,
}

/// Whose state it is that the host shows.
#[derive(Clone, Copy, PartialEq)]
pub enum Subject {
    Endpoint(EndpointId),
    /// An endpoint that left. Its number may be another's by now, so nothing is told of it.
    Gone,
    /// More than an endpoint.
    Wider,
}

/// What a breaker says to an attempt.
pub enum Leave {
    Granted { epoch: u32 },
    Refused { reason: &'static str, retry_after: Duration },
}

/// How an attempt counts.
#[derive(Clone, Copy)]
pub struct CallResult {
    pub failed: bool,
    pub slow: bool,
}

impl Breaker {
    /// Asks whether an attempt may be made. A closed breaker costs one load.
    pub fn admit(&self, rules: &Rules, service: ServiceId) -> Leave {
        let State { epoch, phase } = State::from(self.word.load());
        if let Phase::Closed { .. } = phase {
            return Leave::Granted { epoch };
        }
        let now = clock::now();
        let (before, after) = self.change(|state| admitted(state, rules, now));
        match (before.phase, after) {
            (Phase::Closed { .. }, _) => Leave::Granted { epoch: before.epoch },
            (phase, Some(after)) => {
                if let Phase::Open { .. } = phase {
                    // No call counts into the window until the breaker closes again.
                    self.clear();
                    self.report(
                        service,
                        endpoints::Breaker::HalfOpen,
                        &format!("it was open for {:?}", Duration::from_nanos(rules.open_for)),
                    );
                } else if after.epoch != before.epoch {
                    log::warn(format!(
                        "circuit breaker {}: the outcomes of its trial calls are lost, new ones are admitted",
                        self.scope
                    ));
                }
                Leave::Granted { epoch: after.epoch }
            }
            (Phase::Open { until }, None) => Leave::Refused {
                reason: "circuit breaker open",
                // `until` was rounded up: a whole `open-for` must not become a second more where seconds are told.
                retry_after: Duration::from_nanos((until * 1_000_000).saturating_sub(now).min(rules.open_for)),
            },
            (Phase::HalfOpen(_), None) => {
                let soon = Duration::from_nanos(rules.open_for).min(Duration::from_secs(1));
                Leave::Refused {
                    reason: "circuit breaker half-open, and its trial calls are on their way",
                    retry_after: soon,
                }
            }
        }
    }

    /// Takes the result of an attempt that was admitted in `epoch`; `None`: it says nothing. In a closed breaker a
    /// success costs one load, and a count where a rate trips it.
    pub fn settle(&self, rules: &Rules, service: ServiceId, epoch: u32, result: Option<CallResult>) {
        let mut why = None;
        if let (Limit::Rate(rates), Some(window), Some(CallResult { failed, slow })) =
            (&rules.trip, self.window, result)
        {
            let state = State::from(self.word.load());
            if state.epoch != epoch {
                return;
            }
            if let Phase::Closed { .. } = state.phase {
                why = rates.exceeded_in_window(window.record(failed, slow));
                if why.is_none() {
                    return;
                }
            }
        }
        let (before, after) =
            self.change(|state| if state.epoch == epoch { settled(state, rules, result, why.is_some()) } else { None });
        let (state, reason) = match (before.phase, after.map(|after| after.phase)) {
            (Phase::Closed { failures }, Some(Phase::Open { .. })) => {
                (endpoints::Breaker::Open, why.unwrap_or_else(|| format!("{} failures in a row", failures + 1)))
            }
            (Phase::HalfOpen(trial), Some(Phase::Open { .. })) => {
                let sample = result.and_then(|result| rules.exceeded_by(trial.finish(result)));
                (endpoints::Breaker::Open, sample.unwrap_or_else(|| "a trial call failed or was slow".into()))
            }
            (Phase::HalfOpen(trial), Some(Phase::Closed { .. })) => {
                let calls = trial.finished + 1;
                (endpoints::Breaker::Closed, format!("{} of {calls} trial calls succeeded", calls - trial.failed))
            }
            _ => return,
        };
        self.report(service, state, &reason);
    }

    /// Changes the state by compare-exchange. Only who changes it gets the state after.
    pub fn change(&self, next: impl Fn(State) -> Option<State>) -> (State, Option<State>) {
        let mut after = None;
        // Counted among those at work before the state says so, and until it no longer does: a breaker that has something
        // to do is told, even if this instance ends on the way.
        let mut counted: u64 = 0;
        let (before, _) = self.word.update(|word| {
            let state = State::from(word);
            after = next(state);
            if counted == 0 && after.is_some_and(|after| state.is_at_rest() && !after.is_at_rest()) {
                self.at_work.fetch_add(1);
                counted = 1;
            }
            after.map(u64::from)
        });
        let before = State::from(before);
        let (was, is) = (before.is_at_rest(), after.unwrap_or(before).is_at_rest());
        let due = u64::from(!is).wrapping_sub(u64::from(!was));
        if due != counted {
            self.at_work.fetch_add(due.wrapping_sub(counted));
        }
        (before, after)
    }

    fn clear(&self) {
        if let Some(window) = self.window {
            window.clear();
        }
    }

    fn report(&self, service: ServiceId, state: endpoints::Breaker, reason: &str) {
        let endpoint = match self.subject.get() {
            Subject::Endpoint(endpoint) => Some(endpoint),
            Subject::Wider => None,
            Subject::Gone => return,
        };
        endpoints::report_breaker(service, endpoint, &self.scope, state, reason);
    }
}

/// The state after one more admission. `None`: it stays as it is, and lets the attempt pass only if it is closed.
pub fn admitted(state: State, rules: &Rules, now: u64) -> Option<State> {
    let first = Phase::HalfOpen(Trial { admitted: coarse(now), pending: 1, ..Trial::default() });
    match state.phase {
        Phase::Closed { .. } => None,
        Phase::Open { until } => (now / 1_000_000 >= until).then(|| state.to(first)),
        Phase::HalfOpen(trial) => {
            let has_room = match rules.trial {
                TrialRule::Concurrent { max_calls, .. } => trial.pending < max_calls,
                TrialRule::Sample { calls } => trial.pending + trial.finished < calls,
            };
            if has_room {
                let trial = Trial { admitted: coarse(now), pending: trial.pending + 1, ..trial };
                return Some(State { phase: Phase::HalfOpen(trial), ..state });
            }
            // An instance that was thrown away took its permits with it.
            overdue(trial.admitted, now, rules.lost_after()).then(|| state.to(first))
        }
    }
}

/// The state after an attempt of its epoch has ended. `tripped`: the window says that this was one failure too many.
fn settled(state: State, rules: &Rules, result: Option<CallResult>, tripped: bool) -> Option<State> {
    // Rounded up, so that it is never open for less than it says.
    let open = || state.to(Phase::Open { until: clock::now().saturating_add(rules.open_for).div_ceil(1_000_000) });
    let still = |phase| State { phase, ..state };
    match (state.phase, result) {
        (Phase::HalfOpen(trial), None) => Some(still(Phase::HalfOpen(trial.give_back()))),
        (Phase::HalfOpen(trial), Some(result)) => {
            let trial = trial.finish(result);
            let works = match rules.trial {
                TrialRule::Concurrent { .. } if result.failed || result.slow => Some(false),
                TrialRule::Concurrent { successes, .. } => (trial.finished >= successes).then_some(true),
                TrialRule::Sample { calls } => (trial.finished >= calls).then(|| rules.exceeded_by(trial).is_none()),
            };
            Some(match works {
                None => still(Phase::HalfOpen(trial)),
                Some(true) => state.to(Phase::Closed { failures: 0 }),
                Some(false) => open(),
            })
        }
        (Phase::Closed { failures }, Some(CallResult { failed, .. })) => match rules.trip {
            Limit::Rate(_) => tripped.then(open),
            Limit::Consecutive(limit) if failed && failures + 1 >= limit => Some(open()),
            Limit::Consecutive(_) if failed => Some(still(Phase::Closed { failures: failures + 1 })),
            Limit::Consecutive(_) => (failures > 0).then(|| still(Phase::Closed { failures: 0 })),
        },
        (Phase::Closed { .. }, None) | (Phase::Open { .. }, _) => None,
    }
}

impl Trial {
    fn give_back(self) -> Self {
        Self { pending: self.pending.saturating_sub(1), ..self }
    }

    fn finish(self, CallResult { failed, slow }: CallResult) -> Self {
        Self {
            finished: self.finished + 1,
            failed: self.failed + u8::from(failed),
            slow: self.slow + u8::from(slow),
            ..self.give_back()
        }
    }
}
