//! Random interleavings of two instances, against a breaker that is written as plainly as can be: no packing, no shared
//! numbers, one thread.

use super::*;

/// Milliseconds, from here on.
const OPEN_FOR: u64 = 1_000;

#[derive(Clone, Copy)]
enum Dialect {
    Consecutive(usize),
    /// The calls a window holds, or the time it covers.
    Rate {
        percent: usize,
        calls: usize,
        span: u64,
        minimum: usize,
    },
}

#[derive(Clone, Copy)]
enum Trials {
    Concurrent { max: usize, successes: usize },
    Permitted(usize),
}

#[derive(Debug)]
enum Phase {
    Closed(Vec<(u64, bool)>),
    Open(u64),
    HalfOpen { pending: usize, results: Vec<bool>, last: u64 },
}

struct Model {
    dialect: Dialect,
    trials: Trials,
    phase: Phase,
    /// Rises whenever what is in flight no longer counts.
    age: u64,
    told: Vec<Told>,
}

impl Model {
    fn become_(&mut self, phase: Phase) {
        self.told.push(match phase {
            Phase::Closed(_) => Told::Closed,
            Phase::Open(_) => Told::Open,
            Phase::HalfOpen { .. } => Told::HalfOpen,
        });
        self.phase = phase;
        self.age += 1;
    }

    /// The age that an attempt belongs to. `None`: it is refused.
    fn attempt(&mut self, now: u64) -> Option<u64> {
        match &mut self.phase {
            Phase::Closed(_) => {}
            Phase::Open(until) if now < *until => return None,
            Phase::Open(_) => self.become_(Phase::HalfOpen { pending: 1, results: Vec::new(), last: now }),
            Phase::HalfOpen { pending, results, last } => {
                let full = match self.trials {
                    Trials::Concurrent { max, .. } => *pending == max,
                    Trials::Permitted(calls) => *pending + results.len() == calls,
                };
                if !full {
                    *pending += 1;
                    *last = now;
                } else if now - *last > 60_000 {
                    self.phase = Phase::HalfOpen { pending: 1, results: Vec::new(), last: now };
                    self.age += 1;
                } else {
                    return None;
                }
            }
        }
        Some(self.age)
    }

    fn outcome(&mut self, age: u64, failed: Option<bool>, now: u64) {
        if age != self.age {
            return;
        }
        match (&mut self.phase, failed) {
            (Phase::HalfOpen { pending, .. }, None) => *pending -= 1,
            (Phase::HalfOpen { pending, results, .. }, Some(failed)) => {
                *pending -= 1;
                results.push(failed);
                let bad = results.iter().filter(|failed| **failed).count();
                let works = match (self.trials, self.dialect) {
                    (Trials::Concurrent { .. }, _) if failed => Some(false),
                    (Trials::Concurrent { successes, .. }, _) => (results.len() == successes).then_some(true),
                    (Trials::Permitted(calls), Dialect::Rate { percent, .. }) => {
                        (results.len() == calls).then_some(bad * 100 < percent * calls)
                    }
                    (Trials::Permitted(_), Dialect::Consecutive(_)) => unreachable!(),
                };
                match works {
                    Some(true) => self.become_(Phase::Closed(Vec::new())),
                    Some(false) => self.become_(Phase::Open(now + OPEN_FOR)),
                    None => {}
                }
            }
            (Phase::Closed(results), Some(failed)) => {
                results.push((now, failed));
                let opens = match self.dialect {
                    Dialect::Consecutive(limit) => {
                        results.iter().rev().take_while(|(_, failed)| *failed).count() == limit
                    }
                    Dialect::Rate { percent, calls, span, minimum } => {
                        let seen: Vec<bool> = results
                            .iter()
                            .rev()
                            .take(calls)
                            .filter(|(at, _)| now - at < span)
                            .map(|(_, failed)| *failed)
                            .collect();
                        let bad = seen.iter().filter(|failed| **failed).count();
                        seen.len() >= minimum && bad * 100 >= percent * seen.len()
                    }
                };
                if opens {
                    self.become_(Phase::Open(now + OPEN_FOR));
                }
            }
            (Phase::Closed(_), None) => {}
            (Phase::Open(_), _) => unreachable!("no attempt belongs to an open breaker"),
        }
    }
}

/// xorshift64*, so that a failure repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Plays one random history on both, and returns what was told and how often what was tried.
fn play(config: &Value, dialect: Dialect, trials: Trials, seed: u64) -> Vec<Told> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model { dialect, trials, phase: Phase::Closed(Vec::new()), age: 0, told: Vec::new() };
    let mut policies = [breaker(config.clone()), another(config.clone())];
    let mut running: Vec<(usize, Call, u64)> = Vec::new();
    // Bad and good times of the service take turns.
    let mut badness = 10;
    for step in 0..400 {
        let now = policies[0].host(|host| host.now) / 1_000_000;
        match chance.below(100) {
            0..45 => {
                // The plugin measures the age of a permit in seconds; between is anyone's guess.
                if matches!(model.phase, Phase::HalfOpen { last, .. } if (60_000..=63_000).contains(&(now - last))) {
                    continue;
                }
                let instance = chance.below(2) as usize;
                let call = admitted(&policies[instance]);
                let expected = model.attempt(now);
                assert_eq!(call.is_some(), expected.is_some(), "seed {seed}, step {step}: {:?}", model.phase);
                running.extend(call.zip(expected).map(|(call, age)| (instance, call, age)));
            }
            45..88 if !running.is_empty() => {
                let (instance, call, age) = running.swap_remove(chance.below(running.len() as u64) as usize);
                let bad = chance.below(100) < badness;
                let (answer, failed) = match (chance.below(10), bad) {
                    (0, _) => (Answer::failure(Failure::Cancelled), None),
                    (1, _) => (Answer::failure(Failure::Rejected), None),
                    (2, true) => (Answer::failure(Failure::Connect), Some(true)),
                    (3, true) => (slow(ok()), Some(true)),
                    (_, true) => (failed(), Some(true)),
                    (_, false) => (ok(), Some(false)),
                };
                end(&policies[instance], &call, answer);
                model.outcome(age, failed, now);
            }
            88..94 => wait(&policies[0], chance.below(300)),
            94..96 => wait(&policies[0], OPEN_FOR),
            96 => wait(&policies[0], 61_500),
            97 => badness = [5, 30, 95][chance.below(3) as usize],
            98 if !running.is_empty() => drop(running.swap_remove(chance.below(running.len() as u64) as usize)),
            99 => policies[chance.below(2) as usize] = another(config.clone()),
            _ => {}
        }
        assert_eq!(told(&policies[0]), model.told, "seed {seed}, step {step}");
    }
    model.told
}

#[test]
fn any_interleaving_of_two_instances_does_what_a_plain_breaker_does() {
    let rate = |calls, span| Dialect::Rate { percent: 50, calls, span, minimum: 4 };
    let trips = [
        (json!({ "consecutive-failures": 3 }), Dialect::Consecutive(3)),
        (json!({ "failure-rate": 50, "window-calls": 8, "minimum-calls": 4 }), rate(8, u64::MAX)),
        (json!({ "failure-rate": 50, "window": "2s", "minimum-calls": 4 }), rate(usize::MAX, 2_000)),
    ];
    let half_open = [
        (json!({ "max-calls": 1, "successes": 1 }), Trials::Concurrent { max: 1, successes: 1 }),
        (json!({ "max-calls": 3, "successes": 2 }), Trials::Concurrent { max: 3, successes: 2 }),
        (json!({ "permitted-calls": 4 }), Trials::Permitted(4)),
    ];
    for (trip, dialect) in &trips {
        for (trials_config, trials) in &half_open {
            if matches!((dialect, trials), (Dialect::Consecutive(_), Trials::Permitted(_))) {
                continue;
            }
            let config = json!({ "trip": trip, "half-open": trials_config, "open-for": "1s", "slow-call": "500ms" });
            let told: Vec<Told> = (1..=200).flat_map(|seed| play(&config, *dialect, *trials, seed)).collect();
            for state in [Told::Open, Told::HalfOpen, Told::Closed] {
                let times = told.iter().filter(|told| **told == state).count();
                assert!(times > 100, "{state:?} was reached {times} times only by {config}");
            }
        }
    }
}
