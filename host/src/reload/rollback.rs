//! Rollback: a new version that fails too often gives its place back to the one before it.
//!
//! Failures are what costs an instance: traps, overrun limits, answers that break the contract. They are counted from the
//! moment the version serves, over all policies of the plugin and all workers.

use super::Reloader;
use super::inbox::Bell;
use crate::config::Rollback;
use crate::plugin::directory::Candidate;
use crate::plugin::history::Why;
use crate::plugin::{Plugin, Policy};
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A share of fewer calls says nothing.
const MIN_CALLS: u64 = 50;

/// The versions that are watched, by plugin.
#[derive(Debug, Default)]
pub struct Trials(BTreeMap<String, Trial>);

/// A version that has not served for long.
#[derive(Debug)]
pub struct Trial {
    plugin: Arc<Plugin>,
    since: Instant,
    /// What was counted before: calls by policy, and failures.
    calls: BTreeMap<Arc<str>, u64>,
    failures: u64,
    /// It was put back itself: there is nothing better to try.
    is_last: bool,
}

impl Trials {
    /// A version has begun to serve, which ends the trial of the one before it.
    pub fn begin(&mut self, trial: Trial, bell: Bell) {
        self.end(&trial.plugin.name);
        trial.plugin.alarm.set(move || bell.failure());
        self.0.insert(trial.plugin.name.to_string(), trial);
    }

    /// The digest of a version that has failed already, and not often enough to be judged.
    pub fn doubtful(&self, name: &str) -> Option<String> {
        let trial = self.0.get(name).filter(|trial| !trial.is_last)?;
        let has_failed = trial.plugin.traps.load(Ordering::Acquire) > trial.failures;
        has_failed.then(|| trial.plugin.digest.to_string())
    }

    pub fn end(&mut self, name: &str) {
        if let Some(trial) = self.0.remove(name) {
            trial.plugin.alarm.clear();
        }
    }
}

impl Trial {
    /// To be made before the version serves.
    fn new(plugin: &Arc<Plugin>, metrics: &Metrics) -> Self {
        let failures = plugin.traps.load(Ordering::Acquire);
        Self { plugin: plugin.clone(), since: Instant::now(), calls: metrics.hook_calls(), failures, is_last: false }
    }

    /// How the version failed, if it failed too often.
    fn verdict(&self, rules: &Rollback, snapshot: &Snapshot, metrics: &Metrics) -> Option<String> {
        let failures = self.plugin.traps.load(Ordering::Acquire).saturating_sub(self.failures);
        let counted = metrics.hook_calls();
        let since_then = |policy: &Arc<Policy>| {
            let of = |counts: &BTreeMap<Arc<str>, u64>| counts.get(&policy.name).copied().unwrap_or(0);
            // Fewer than before: the policy was away for a while, and its metrics with it.
            of(&counted).checked_sub(of(&self.calls)).unwrap_or_else(|| of(&counted))
        };
        let is_of_plugin =
            |policy: &&Arc<Policy>| policy.plugin.as_ref().is_ok_and(|plugin| plugin.name == self.plugin.name);
        let calls: u64 = snapshot.policies.values().filter(is_of_plugin).map(since_then).sum();
        rules.is_exceeded(failures, calls).then(|| {
            let passed = Duration::from_millis(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX));
            // Where no instance could be made there was no call.
            let calls = calls.max(failures);
            format!("{failures} of {calls} calls failed in {}", humantime::format_duration(passed))
        })
    }
}

impl Rollback {
    fn is_exceeded(&self, failures: u64, calls: u64) -> bool {
        let share = failures.saturating_mul(100) > calls.saturating_mul(u64::from(self.percent));
        failures > self.failures || (calls >= MIN_CALLS && share)
    }
}

impl Reloader {
    /// For versions that are about to replace others.
    pub(super) fn trials_of(&self, candidates: &[Candidate]) -> Vec<Trial> {
        let replaces =
            |candidate: &&Candidate| self.directory.file(&candidate.name).is_some_and(|file| file.serving.is_some());
        let metrics = &self.node.telemetry.metrics;
        candidates.iter().filter(replaces).map(|candidate| Trial::new(&candidate.plugin, metrics)).collect()
    }

    /// Takes back what has failed too often, and lets go of what has served long enough.
    pub(super) fn judge(&mut self) {
        if self.trials.0.is_empty() {
            return;
        }
        let snapshot = self.node.snapshot();
        let Some(rules) = &snapshot.config.plugins.rollback else {
            return std::mem::take(&mut self.trials).0.into_values().for_each(|trial| trial.plugin.alarm.clear());
        };
        let metrics = self.node.telemetry.metrics.clone();
        let mut ended = Vec::new();
        for (name, trial) in &self.trials.0 {
            if trial.since.elapsed() >= rules.within {
                ended.push((name.clone(), None));
            } else if let Some(why) = trial.verdict(rules, &snapshot, &metrics) {
                ended.push((name.clone(), Some(why)));
            }
        }
        for (name, why) in ended {
            let is_last = self.trials.0.get(&name).is_some_and(|trial| trial.is_last);
            self.trials.end(&name);
            match why {
                None => {}
                Some(why) if is_last => {
                    tracing::error!(plugin = name, "the version that was put back fails too and stays in use: {why}");
                }
                Some(why) => self.roll_back(&name, &why),
            }
        }
    }

    fn roll_back(&mut self, name: &str, why: &str) {
        let Some(bad) = self.directory.file(name).and_then(|file| file.serving.clone()) else { return };
        let earlier = self.directory.file(name).and_then(|file| file.history.earlier().next().cloned());
        let Some(plugin) = earlier else { return };
        let snapshot = self.node.snapshot();
        let metrics = &self.node.telemetry.metrics;
        let mut trial = Trial::new(&plugin, metrics);
        trial.is_last = true;
        let candidate = Candidate { name: name.to_owned(), plugin };
        match self.attempt(snapshot.config.clone(), std::slice::from_ref(&candidate)) {
            Ok(generation) => {
                metrics.rollback(&bad.name, "ok");
                let (from, to) = (&*bad.digest, &*candidate.plugin.digest);
                tracing::error!(plugin = name, generation, from, to, "plugin rolled back: {why}");
                self.directory.accept(&candidate, Why::RolledBack(why.to_owned()), generation);
                self.trials.begin(trial, self.inbox.bell());
            }
            Err(problems) => {
                metrics.rollback(&bad.name, "refused");
                let why = format!(
                    "{why}, but it stays: the version before it does not fit the configuration: {}",
                    super::list(&problems)
                );
                tracing::error!(plugin = name, digest = bad.digest, "plugin not rolled back: {why}");
                self.directory.refuse(name, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_or_a_share_of_enough_calls_is_too_much() {
        let rules = Rollback { failures: 10, percent: 5, ..Rollback::default() };
        for (failures, calls, exceeded) in [
            (0, 0, false),
            (10, 11, false),
            (10, 1_000_000, false),
            (11, 1_000_000, true),
            (11, 0, true),
            (2, MIN_CALLS - 1, false),
            (10, MIN_CALLS - 1, false),
            (3, MIN_CALLS, true),
            (5, 100, false),
            (6, 100, true),
        ] {
            assert_eq!(rules.is_exceeded(failures, calls), exceeded, "{failures} of {calls}");
        }
        let count_alone = Rollback { percent: 100, ..rules };
        assert!(!count_alone.is_exceeded(10, MIN_CALLS) && count_alone.is_exceeded(11, MIN_CALLS));
    }
}
