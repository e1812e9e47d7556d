//! The node's retry budget: how much of its traffic may be attempts 2 and up, over all workers and policies.
//!
//! When a service fails, every caller repeats, and the repeats are what keeps it down. So retries are held to a share of
//! the first attempts of the last ten seconds. A minimum for each second comes on top: with little traffic a share
//! would round to nothing.

use crate::clock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Seconds of traffic that the share is taken of, the current one included.
const WINDOW: usize = 10;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Counts first attempts without a lock. Retries, which are fewer, take turns.
#[derive(Debug)]
pub struct RetryBudget {
    /// Retries for each hundred first attempts.
    percent: AtomicU32,
    /// Retries in each second that need no first attempts.
    min_per_second: AtomicU32,
    /// First attempts by second: a ring, each slot a [`Tally`] in one word.
    attempts: [AtomicU64; WINDOW],
    retries: Mutex<Retries>,
}

/// How many first attempts there were in one second.
#[derive(Clone, Copy)]
struct Tally {
    second: u32,
    count: u32,
}

impl Tally {
    fn unpack(word: u64) -> Self {
        Self { second: (word >> 32) as u32, count: word as u32 }
    }

    fn pack(self) -> u64 {
        u64::from(self.second) << 32 | u64::from(self.count)
    }
}

/// The retries that were allowed.
#[derive(Debug, Default)]
struct Retries {
    /// The latest second in which one was asked for.
    second: u32,
    /// On account of the share, by second: a ring whose slots outside the window are 0.
    by_share: [u64; WINDOW],
    /// On account of the minimum, in `second`.
    by_minimum: u32,
}

impl RetryBudget {
    pub fn new(percent: u32, min_per_second: u32) -> Self {
        Self {
            percent: AtomicU32::new(percent),
            min_per_second: AtomicU32::new(min_per_second),
            attempts: Default::default(),
            retries: Mutex::default(),
        }
    }

    /// Changes what is allowed from now on. What was counted so far stays.
    pub fn set(&self, percent: u32, min_per_second: u32) {
        self.percent.store(percent, Ordering::Relaxed);
        self.min_per_second.store(min_per_second, Ordering::Relaxed);
    }

    /// Counts a first attempt.
    pub fn deposit(&self) {
        self.deposit_at(second());
    }

    /// Whether one more retry is allowed; if so, it is counted.
    pub fn withdraw(&self) -> bool {
        self.withdraw_at(second())
    }

    fn deposit_at(&self, second: u32) {
        let Some(slot) = self.attempts.get(second as usize % WINDOW) else {
            return;
        };
        // Relaxed: it is a statistic, and guards no other memory. The closure always answers, so this cannot fail.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let tally = Tally::unpack(word);
            // A thread that read the clock before the ring moved on counts for the later second.
            let next = if tally.second >= second {
                let count = tally.count.saturating_add(1);
                Tally { count, ..tally }
            } else {
                Tally { second, count: 1 }
            };
            Some(next.pack())
        });
    }

    fn withdraw_at(&self, second: u32) -> bool {
        let percent = u64::from(self.percent.load(Ordering::Relaxed));
        let min_per_second = self.min_per_second.load(Ordering::Relaxed);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries.advance(second);
        let second = retries.second;
        let attempts: u64 = self
            .attempts
            .iter()
            .map(|word| Tally::unpack(word.load(Ordering::Relaxed)))
            .filter(|tally| second.saturating_sub(tally.second) < WINDOW as u32)
            .map(|tally| u64::from(tally.count))
            .sum();
        let by_share: u64 = retries.by_share.iter().sum();
        if (by_share + 1) * 100 <= attempts * percent
            && let Some(slot) = retries.by_share.get_mut(second as usize % WINDOW)
        {
            *slot += 1;
            return true;
        }
        let allowed = retries.by_minimum < min_per_second;
        retries.by_minimum += u32::from(allowed);
        allowed
    }
}

impl Retries {
    /// Forgets what has left the window. A clock read before another thread's stays in that one's second.
    fn advance(&mut self, second: u32) {
        if second <= self.second {
            return;
        }
        let passed = (self.second + 1..=second).take(WINDOW);
        for slot in passed.map(|second| second as usize % WINDOW) {
            if let Some(slot) = self.by_share.get_mut(slot) {
                *slot = 0;
            }
        }
        self.second = second;
        self.by_minimum = 0;
    }
}

/// Whole seconds of the node's clock; they last for 136 years.
fn second() -> u32 {
    u32::try_from(clock::at(clock::recent()) / NANOS_PER_SECOND).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use std::sync::Arc;

    fn granted(budget: &RetryBudget, asked: usize, second: u32) -> usize {
        (0..asked).filter(|_| budget.withdraw_at(second)).count()
    }

    #[test]
    fn a_fresh_node_retries_by_the_minimum() {
        let budget = RetryBudget::new(20, 10);
        assert_eq!(granted(&budget, 100, 0), 10);
        assert_eq!(granted(&budget, 100, 1), 10);
    }

    #[test]
    fn zero_and_zero_is_no_retry_at_all() {
        let budget = RetryBudget::new(0, 0);
        for second in 0..30 {
            (0..1000).for_each(|_| budget.deposit_at(second));
            assert_eq!(granted(&budget, 1000, second), 0);
        }
    }

    #[test]
    fn retries_are_held_to_their_share_of_the_attempts() {
        let budget = RetryBudget::new(20, 0);
        (0..1000).for_each(|_| budget.deposit_at(7));
        assert_eq!(granted(&budget, 1000, 7), 200);
        (0..4).for_each(|_| budget.deposit_at(8));
        assert_eq!(granted(&budget, 10, 8), 0, "a share never rounds up");
        budget.deposit_at(8);
        assert_eq!(granted(&budget, 10, 8), 1);
    }

    #[test]
    fn attempts_count_for_ten_seconds() {
        let budget = RetryBudget::new(100, 0);
        (0..5).for_each(|_| budget.deposit_at(100));
        assert!(budget.withdraw_at(109));
        assert!(!budget.withdraw_at(110));
    }

    #[test]
    fn what_was_used_is_forgotten_with_what_was_earned() {
        let budget = RetryBudget::new(100, 0);
        for second in (0..10).chain([13, 35]) {
            (0..5).for_each(|_| budget.deposit_at(second));
            assert_eq!(granted(&budget, 100, second), 5, "in second {second}");
        }
    }

    #[test]
    fn a_reload_holds_from_the_next_retry_on() {
        let budget = RetryBudget::new(0, 0);
        (0..10).for_each(|_| budget.deposit_at(3));
        assert!(!budget.withdraw_at(3));
        budget.set(50, 1);
        assert_eq!(granted(&budget, 10, 3), 6);
        budget.set(0, 0);
        assert_eq!(granted(&budget, 10, 4), 0);
    }

    #[test]
    fn a_late_thread_gains_nothing() {
        let budget = RetryBudget::new(0, 2);
        assert_eq!(granted(&budget, 5, 50), 2);
        assert_eq!(granted(&budget, 5, 49), 0);
        budget.set(100, 0);
        budget.deposit_at(60);
        budget.deposit_at(50);
        assert_eq!(granted(&budget, 5, 60), 2, "they share a slot, and the later second keeps it");
    }

    /// Over ten seconds there are never more than the minimum of each, and the share of the attempts of those seconds
    /// and of the window before the first.
    #[test]
    fn any_window_keeps_to_the_budget() {
        let mut rng = rand::rng();
        for _ in 0..200 {
            let (percent, minimum) = (rng.random_range(0..=100), rng.random_range(0..5));
            let budget = RetryBudget::new(percent, minimum);
            let (mut attempts, mut retries) = (Vec::new(), Vec::new());
            for second in 0..60 {
                let arrived = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..50) };
                (0..arrived).for_each(|_| budget.deposit_at(second));
                attempts.push(arrived);
                retries.push(granted(&budget, rng.random_range(0..40), second));
            }
            for end in WINDOW..=60 {
                let allowed_for: usize = attempts[end.saturating_sub(2 * WINDOW - 1)..end].iter().sum();
                let allowed = allowed_for * percent as usize / 100 + WINDOW * minimum as usize;
                let used: usize = retries[end - WINDOW..end].iter().sum();
                assert!(used <= allowed, "{used} of {allowed}");
            }
        }
    }

    #[test]
    fn workers_share_one_budget() {
        let budget = Arc::new(RetryBudget::new(10, 5));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let budget = budget.clone();
                std::thread::spawn(move || {
                    (0..1000).for_each(|_| budget.deposit_at(5));
                    granted(&budget, 1000, 5)
                })
            })
            .collect();
        let used: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(used + granted(&budget, 1000, 5), 4 * 1000 / 10 + 5);
    }
}
