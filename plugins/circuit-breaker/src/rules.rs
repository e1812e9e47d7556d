//! When a breaker opens and closes: what an operator writes, and the rules it amounts to.

use crate::state::{MAX_TRIAL, Trial};
use std::fmt::Debug;
use std::ops::RangeInclusive;
use weir_sdk::host::cells::Tally;
use weir_sdk::prelude::*;

/// When a breaker opens. One of three forms: { consecutive-failures = 5 }, or { failure-rate = 50, window-calls = 100,
/// minimum-calls = 20 }, or { failure-rate = 50, window = "10s", minimum-calls = 20 }. Left out: five failures in a row.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
pub struct Trip {
    /// Opens after so many failures with no success in between.
    #[schemars(range(min = 1, max = 1_000_000))]
    consecutive_failures: Option<u32>,
    /// Opens when at least this percentage of the calls in the window have failed.
    #[schemars(range(min = 1, max = 100))]
    failure_rate: Option<u32>,
    /// The window is the last so many calls. 100 unless there is a `window`.
    #[schemars(range(min = 1, max = 65_536))]
    window_calls: Option<u32>,
    /// The window is the last so long, kept in ten steps; from 100ms to 1h.
    window: Option<Period>,
    /// Fewer calls in the window never open it. 20 by default, or `window-calls` where that is less.
    #[schemars(range(min = 1, max = 1_000_000))]
    minimum_calls: Option<u32>,
}

/// What a half-open breaker does. { max-calls = 1, successes = 1 }: at most `max-calls` calls at the same time, the first
/// failure opens it again and so many successes close it. Or { permitted-calls = 10 }, with a failure rate only: exactly
/// so many calls in all, and when each has ended their failure rate decides.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
pub struct HalfOpen {
    /// Calls at the same time, over all workers. 1 by default.
    #[schemars(range(min = 1, max = 100))]
    max_calls: Option<u32>,
    /// Successes that close it. 1 by default.
    #[schemars(range(min = 1, max = 100))]
    successes: Option<u32>,
    /// Calls in all, over all workers.
    #[schemars(range(min = 1, max = 100))]
    permitted_calls: Option<u32>,
}

/// The rules of all the breakers of one policy.
pub struct Rules {
    pub trip: Limit,
    /// Nanoseconds.
    pub open_for: u64,
    pub trial: TrialRule,
}

pub enum Limit {
    Consecutive(u64),
    Rate(Rates),
}

/// Percentages of the calls in a window.
pub struct Rates {
    failed: u32,
    slow: Option<u32>,
    minimum: u32,
    window: Window,
}

#[derive(Clone, Copy)]
pub enum Window {
    Calls(u32),
    Time(Duration),
}

#[derive(Clone, Copy)]
pub enum TrialRule {
    /// So many at the same time; the first failure opens, so many successes close.
    Concurrent { max_calls: u8, successes: u8 },
    /// So many in all, and then their rate decides.
    Sample { calls: u8 },
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            trip: Limit::Consecutive(5),
            open_for: 10_000_000_000,
            trial: TrialRule::Concurrent { max_calls: 1, successes: 1 },
        }
    }
}

impl Rules {
    /// Whether a success means nothing to a closed breaker that has seen no failure.
    pub fn ignore_successes_at_rest(&self) -> bool {
        matches!(self.trip, Limit::Consecutive(_))
    }

    pub fn new(trip: &Trip, slow_call_rate: Option<u32>, open_for: Duration, half_open: &HalfOpen) -> Result<Self> {
        within("/open-for", open_for, Duration::from_millis(10)..=Duration::from_secs(3600))?;
        let trip = trip.limit(slow_call_rate)?;
        let trial = half_open.rule(&trip)?;
        Ok(Self { trip, open_for: open_for.as_nanos() as u64, trial })
    }

    /// The window that counts calls, if one does.
    pub fn window(&self) -> Option<Window> {
        match &self.trip {
            Limit::Consecutive(_) => None,
            Limit::Rate(rates) => Some(rates.window),
        }
    }

    /// Why the calls of a half-open breaker are too bad, where their rate decides.
    pub fn exceeded_by(&self, trial: Trial) -> Option<String> {
        match (&self.trip, self.trial) {
            (Limit::Rate(rates), TrialRule::Sample { .. }) => rates.exceeded(Tally {
                total: trial.finished.into(),
                failed: trial.failed.into(),
                slow: trial.slow.into(),
            }),
            _ => None,
        }
    }

    /// After this long without news of the trial calls, in nanoseconds, their permits are lost.
    pub fn lost_after(&self) -> u64 {
        self.open_for.max(60_000_000_000)
    }
}

impl Trip {
    fn limit(&self, slow_call_rate: Option<u32>) -> Result<Limit> {
        let windowed = [
            ("window-calls", self.window_calls.is_some()),
            ("window", self.window.is_some()),
            ("minimum-calls", self.minimum_calls.is_some()),
        ];
        let Some(failed) = self.failure_rate else {
            if let Some((key, _)) = windowed.iter().find(|(_, given)| *given) {
                return Err(Error::at(format!("/trip/{key}"), "only has a meaning beside failure-rate"));
            }
            if slow_call_rate.is_some() {
                return Err(Error::at(
                    "/slow-call-rate",
                    "only has a meaning beside trip.failure-rate: failures in a row have no rate",
                ));
            }
            let failures = self.consecutive_failures.unwrap_or(5);
            within("/trip/consecutive-failures", failures, 1..=1_000_000)?;
            return Ok(Limit::Consecutive(failures.into()));
        };
        if self.consecutive_failures.is_some() {
            return Err(Error::at(
                "/trip/consecutive-failures",
                "cannot stand beside failure-rate: keep one of the two",
            ));
        }
        within("/trip/failure-rate", failed, 1..=100)?;
        if let Some(slow) = slow_call_rate {
            within("/slow-call-rate", slow, 1..=100)?;
        }
        let (window, default) = match (self.window_calls, self.window) {
            (Some(_), Some(_)) => {
                return Err(Error::at("/trip/window", "cannot stand beside window-calls: keep one of the two"));
            }
            (_, Some(span)) => {
                within("/trip/window", *span, Duration::from_millis(100)..=Duration::from_secs(3600))?;
                (Window::Time(*span), 20)
            }
            (calls, None) => {
                let calls = calls.unwrap_or(100);
                within("/trip/window-calls", calls, 1..=65_536)?;
                (Window::Calls(calls), calls.min(20))
            }
        };
        let minimum = self.minimum_calls.unwrap_or(default);
        let most = if let Window::Calls(calls) = window { calls } else { 1_000_000 };
        within("/trip/minimum-calls", minimum, 1..=most)?;
        Ok(Limit::Rate(Rates { failed, slow: slow_call_rate, minimum, window }))
    }
}

impl HalfOpen {
    fn rule(&self, trip: &Limit) -> Result<TrialRule> {
        let count = |key: &str, value: Option<u32>| {
            let value = value.unwrap_or(1);
            within(&format!("/half-open/{key}"), value, 1..=MAX_TRIAL)?;
            Ok::<u8, Error>(value as u8)
        };
        if self.permitted_calls.is_none() {
            return Ok(TrialRule::Concurrent {
                max_calls: count("max-calls", self.max_calls)?,
                successes: count("successes", self.successes)?,
            });
        }
        if self.max_calls.is_some() || self.successes.is_some() {
            return Err(Error::at(
                "/half-open/permitted-calls",
                "cannot stand beside max-calls and successes: keep one of the two forms",
            ));
        }
        if matches!(trip, Limit::Consecutive(_)) {
            return Err(Error::at(
                "/half-open/permitted-calls",
                "needs trip.failure-rate to judge the calls by; otherwise use max-calls and successes",
            ));
        }
        Ok(TrialRule::Sample { calls: count("permitted-calls", self.permitted_calls)? })
    }
}

impl Rates {
    /// Why so many calls of a window are too many, if they are.
    pub fn exceeded_in_window(&self, tally: Tally) -> Option<String> {
        if tally.total < self.minimum { None } else { self.exceeded(tally) }
    }

    /// Why so many calls are too many, if they are.
    pub fn exceeded(&self, tally: Tally) -> Option<String> {
        let Tally { total, failed, slow } = tally;
        let reached = |count: u32, percent: u32| u64::from(count) * 100 >= u64::from(total) * u64::from(percent);
        if reached(failed, self.failed) {
            return Some(format!("{failed} of {total} calls failed, which is {} % or more", self.failed));
        }
        let limit = self.slow.filter(|limit| reached(slow, *limit))?;
        Some(format!("{slow} of {total} calls were slow, which is {limit} % or more"))
    }
}

/// An error that names the key of a value that is too small or too large.
pub fn within<T: PartialOrd + Debug>(pointer: &str, value: T, range: RangeInclusive<T>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Error::at(pointer, format!("is from {:?} to {:?}, not {value:?}", range.start(), range.end())))
}
