//! State that all instances of one policy share: atomic, bounded, and older than any generation of the plugin.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MAX_CELLS: usize = 100_000;
const MAX_NAME: usize = 200;
const MAX_VALUES: usize = 10_000;
const MAX_VALUE: usize = 64 * 1024;
const MAX_WINDOW: u32 = 65_536;
const STEPS: u64 = 10;

/// The cells of every policy, by the policy's name. They outlive reloads because nothing in a snapshot owns them.
#[derive(Debug, Default)]
pub struct CellStore {
    policies: Mutex<HashMap<String, Arc<Cells>>>,
}

impl CellStore {
    pub fn of_policy(&self, policy: &str) -> Arc<Cells> {
        lock(&self.policies).entry(policy.to_owned()).or_default().clone()
    }

    /// Forgets the cells of policies that the configuration no longer has.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.policies).retain(|policy, _| keep(policy));
    }

    /// How many cells there are, for the metrics.
    pub fn count(&self) -> usize {
        lock(&self.policies).values().map(|cells| lock(&cells.cells).len()).sum()
    }
}

/// The cells of one policy.
#[derive(Debug, Default)]
pub struct Cells {
    cells: Mutex<HashMap<(String, Kind), Arc<Cell>>>,
    values: Mutex<Values>,
}

/// What a cell is. Floats by their bits, so that a kind can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Word,
    CountWindow(u32),
    TimeWindow(u64),
    Bucket { rate: u64, burst: u64 },
}

#[derive(Debug)]
pub enum Cell {
    Word(AtomicU64),
    CountWindow(Mutex<CountWindow>),
    TimeWindow(Mutex<TimeWindow>),
    Bucket(Mutex<Bucket>),
}

/// How many results a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub total: u32,
    pub failed: u32,
    pub slow: u32,
}

impl Cells {
    /// Opens a cell, which is made if it is new. `now` in nanoseconds.
    pub fn open(&self, name: &str, kind: Kind, now: u64) -> Result<Arc<Cell>, String> {
        if name.len() > MAX_NAME {
            return Err(format!("the name of a cell is at most {MAX_NAME} bytes long, not {}", name.len()));
        }
        let mut cells = lock(&self.cells);
        let key = (name.to_owned(), kind);
        if let Some(cell) = cells.get(&key) {
            return Ok(cell.clone());
        }
        if cells.len() >= MAX_CELLS {
            return Err(format!("a policy has at most {MAX_CELLS} cells"));
        }
        let cell = Arc::new(Cell::new(kind, now)?);
        cells.insert(key, cell.clone());
        Ok(cell)
    }

    pub fn get(&self, key: &str, now: u64) -> Option<Vec<u8>> {
        let values = lock(&self.values);
        let (value, until) = values.by_key.get(key)?;
        (*until > now).then(|| value.clone())
    }

    pub fn put(&self, key: String, value: Vec<u8>, until: u64) -> Result<(), String> {
        if value.len() > MAX_VALUE || key.len() > MAX_NAME {
            return Err(format!("a value is at most {MAX_VALUE} bytes long and its key {MAX_NAME}"));
        }
        lock(&self.values).put(key, value, until);
        Ok(())
    }
}

impl Cell {
    fn new(kind: Kind, now: u64) -> Result<Self, String> {
        Ok(match kind {
            Kind::Word => Self::Word(AtomicU64::new(0)),
            Kind::CountWindow(size @ 1..=MAX_WINDOW) => {
                Self::CountWindow(Mutex::new(CountWindow { size, results: VecDeque::new(), tally: Tally::default() }))
            }
            Kind::CountWindow(size) => return Err(format!("a window holds 1 to {MAX_WINDOW} results, not {size}")),
            Kind::TimeWindow(span) if span < STEPS => return Err("a window's span is at least 10 ns".into()),
            Kind::TimeWindow(span) => Self::TimeWindow(Mutex::new(TimeWindow {
                step: span / STEPS,
                steps: [(u64::MAX, Tally::default()); STEPS as usize],
            })),
            Kind::Bucket { rate, burst } => {
                let (rate, burst) = (f64::from_bits(rate), f64::from_bits(burst));
                if !(rate.is_finite() && burst.is_finite() && rate >= 0.0 && burst >= 0.0) {
                    return Err(format!(
                        "a bucket's rate and burst are finite and not negative, not {rate} and {burst}"
                    ));
                }
                Self::Bucket(Mutex::new(Bucket { rate, burst, tokens: burst, filled: now }))
            }
        })
    }

    /// The word, or `None` if the cell is something else.
    pub fn word(&self) -> Option<&AtomicU64> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    /// Counts one result in a window. `None` if the cell is no window.
    pub fn record(&self, failed: bool, slow: bool, now: u64) -> Option<Tally> {
        match self {
            Self::CountWindow(window) => Some(lock(window).record(failed, slow)),
            Self::TimeWindow(window) => Some(lock(window).record(failed, slow, now)),
            Self::Word(_) | Self::Bucket(_) => None,
        }
    }

    /// Empties a window, or sets a word to 0.
    pub fn clear(&self) {
        match self {
            Self::Word(word) => word.store(0, Ordering::SeqCst),
            Self::CountWindow(window) => lock(window).clear(),
            Self::TimeWindow(window) => lock(window).steps = [(u64::MAX, Tally::default()); STEPS as usize],
            Self::Bucket(_) => {}
        }
    }

    /// Takes tokens from a bucket. `None` if the cell is no bucket.
    pub fn take(&self, tokens: f64, now: u64) -> Option<bool> {
        if let Self::Bucket(bucket) = self { Some(lock(bucket).take(tokens, now)) } else { None }
    }
}

impl Tally {
    fn add(&mut self, failed: bool, slow: bool) {
        self.total += 1;
        self.failed += u32::from(failed);
        self.slow += u32::from(slow);
    }
}

#[derive(Debug)]
pub struct CountWindow {
    size: u32,
    results: VecDeque<(bool, bool)>,
    tally: Tally,
}

impl CountWindow {
    fn record(&mut self, failed: bool, slow: bool) -> Tally {
        if self.results.len() >= self.size as usize
            && let Some((failed, slow)) = self.results.pop_front()
        {
            self.tally.total -= 1;
            self.tally.failed -= u32::from(failed);
            self.tally.slow -= u32::from(slow);
        }
        self.results.push_back((failed, slow));
        self.tally.add(failed, slow);
        self.tally
    }

    fn clear(&mut self) {
        self.results.clear();
        self.tally = Tally::default();
    }
}

#[derive(Debug)]
pub struct TimeWindow {
    /// Nanoseconds.
    step: u64,
    /// Each with the number of the step it counts, so that an old round is told from the current one.
    steps: [(u64, Tally); STEPS as usize],
}

impl TimeWindow {
    fn record(&mut self, failed: bool, slow: bool, now: u64) -> Tally {
        let current = now / self.step;
        if let Some((number, tally)) = self.steps.get_mut((current % STEPS) as usize) {
            if *number != current {
                (*number, *tally) = (current, Tally::default());
            }
            tally.add(failed, slow);
        }
        let oldest = current.saturating_sub(STEPS - 1);
        self.steps.iter().filter(|(number, _)| (oldest..=current).contains(number)).fold(
            Tally::default(),
            |sum, (_, step)| Tally {
                total: sum.total + step.total,
                failed: sum.failed + step.failed,
                slow: sum.slow + step.slow,
            },
        )
    }
}

#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: u64,
}

impl Bucket {
    fn take(&mut self, tokens: f64, now: u64) -> bool {
        let elapsed = now.saturating_sub(self.filled) as f64 / 1e9;
        self.tokens = (self.tokens + self.rate * elapsed).min(self.burst);
        self.filled = now;
        // Not `<`, so that a NaN from a guest takes nothing.
        let enough = tokens >= 0.0 && self.tokens >= tokens;
        if enough {
            self.tokens -= tokens;
        }
        enough
    }
}

#[derive(Debug, Default)]
struct Values {
    by_key: HashMap<String, (Vec<u8>, u64)>,
    by_expiry: BTreeSet<(u64, String)>,
}

impl Values {
    fn put(&mut self, key: String, value: Vec<u8>, until: u64) {
        if let Some((_, before)) = self.by_key.insert(key.clone(), (value, until)) {
            self.by_expiry.remove(&(before, key.clone()));
        }
        self.by_expiry.insert((until, key));
        while self.by_key.len() > MAX_VALUES
            && let Some((_, first)) = self.by_expiry.pop_first()
        {
            self.by_key.remove(&first);
        }
    }
}

/// A panic while the lock was held cannot leave this data in a state worth refusing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_same_name_and_kind_is_the_same_cell() {
        let store = CellStore::default();
        let a = store.of_policy("p").open("c", Kind::Word, 0).unwrap();
        let b = store.of_policy("p").open("c", Kind::Word, 0).unwrap();
        let other = store.of_policy("q").open("c", Kind::Word, 0).unwrap();
        a.word().unwrap().fetch_add(1, Ordering::SeqCst);
        assert_eq!(b.word().unwrap().load(Ordering::SeqCst), 1);
        assert_eq!(other.word().unwrap().load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_count_window_forgets_the_oldest() {
        let cell = Cell::new(Kind::CountWindow(3), 0).unwrap();
        for (failed, slow) in [(true, false), (true, true), (false, false)] {
            cell.record(failed, slow, 0);
        }
        assert_eq!(cell.record(false, false, 0), Some(Tally { total: 3, failed: 1, slow: 1 }));
        assert_eq!(cell.record(false, false, 0), Some(Tally { total: 3, failed: 0, slow: 0 }));
    }

    #[test]
    fn a_time_window_forgets_what_is_older_than_its_span() {
        let cell = Cell::new(Kind::TimeWindow(10 * SECOND), 0).unwrap();
        cell.record(true, false, 0);
        assert_eq!(cell.record(false, false, 9 * SECOND).unwrap().failed, 1);
        assert_eq!(cell.record(false, false, 10 * SECOND), Some(Tally { total: 2, failed: 0, slow: 0 }));
        assert_eq!(cell.record(false, false, 1000 * SECOND).unwrap().total, 1);
    }

    #[test]
    fn a_bucket_refills_evenly_and_takes_nothing_for_nan() {
        let cell = Cell::new(Kind::Bucket { rate: 2f64.to_bits(), burst: 4f64.to_bits() }, 0).unwrap();
        assert_eq!((0..5).filter(|_| cell.take(1.0, 0).unwrap()).count(), 4);
        assert_eq!(cell.take(f64::NAN, SECOND), Some(false));
        assert_eq!((0..5).filter(|_| cell.take(1.0, SECOND).unwrap()).count(), 2);
    }

    #[test]
    fn values_expire_and_their_number_is_bounded() {
        let cells = Cells::default();
        cells.put("a".into(), b"1".to_vec(), 5).unwrap();
        assert_eq!((cells.get("a", 4), cells.get("a", 5)), (Some(b"1".to_vec()), None));
        for i in 0..MAX_VALUES as u64 + 10 {
            cells.put(format!("k{i}"), Vec::new(), 100 + i).unwrap();
        }
        assert_eq!(lock(&cells.values).by_key.len(), MAX_VALUES);
        assert!(cells.get("k10", 0).is_some() && cells.get("a", 0).is_none());
    }
}
