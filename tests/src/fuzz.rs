//! Property tests that go on as long as they are told to, each case from a seed that repeats it.
//!
//! A target is a strategy, which makes cases, and a law, which has to hold for each of them. It runs for
//! `WEIR_FUZZ_SECONDS` (8 if that is not set: the share of one target of every test run) from a random seed, so that each
//! run looks where none has looked before. A case that breaks its law is made smaller and smaller while it still does,
//! and is shown with its seed. What was found once is kept as a case in the target's file, since a seed means another
//! case as soon as the strategy changes.
//!
//! `proptest` makes and shrinks the cases: it runs on stable, its strategies shrink by themselves within what they may
//! make, and it is kept well. Its own loop counts cases and not time, and is not used.

pub mod answers;
pub mod http1;
pub mod node;
pub mod parrot;
pub mod reading;
pub mod toml;

use std::env;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// How long a target runs where nothing else is said.
const SECONDS: f64 = 8.0;
/// How long the search for a smaller case may take, in milliseconds and in tries.
const SHRINK_MILLIS: u32 = 60_000;
const SHRINK_TRIES: u32 = 20_000;

/// Tries the law on one case after another until the time is over. `target` is how the file of the test is called
/// without `fuzz_`, for the line that says how to repeat a case.
///
/// # Panics
/// The law was broken: the message has the smallest case that breaks it, and its seed.
pub fn fuzz<S: Strategy>(target: &str, strategy: &S, law: impl Fn(&S::Value) -> anyhow::Result<()>) {
    let seconds = variable("WEIR_FUZZ_SECONDS").unwrap_or(SECONDS);
    let first = variable::<u64>("WEIR_FUZZ_SEED").unwrap_or_else(rand::random);
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut cases = 0;
    while cases == 0 || Instant::now() < until {
        let seed = first.wrapping_add(cases);
        if let Err(broken) = try_case(strategy, seed, &law) {
            panic!("{broken}\nrepeat it by: cargo xtask fuzz {target} --seed {seed} --for 0s");
        }
        cases += 1;
    }
    println!("fuzz {target}: {cases} cases from seed {first}");
}

/// Tries the law on a case that was found before.
///
/// # Panics
/// The law was broken.
pub fn again<C: fmt::Debug>(case: &C, law: impl Fn(&C) -> anyhow::Result<()>) {
    if let Err(error) = law(case) {
        panic!("{error:#}\nthe case: {case:?}");
    }
}

fn try_case<S: Strategy>(strategy: &S, seed: u64, law: impl Fn(&S::Value) -> anyhow::Result<()>) -> Result<(), String> {
    let config = Config {
        failure_persistence: None,
        max_shrink_time: SHRINK_MILLIS,
        max_shrink_iters: SHRINK_TRIES,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let case = strategy.new_tree(&mut runner).map_err(|reason| format!("the strategy makes no case: {reason}"))?;
    let test = |case| law(&case).map_err(|error| TestCaseError::fail(format!("{error:#}")));
    match runner.run_one(case, test) {
        Ok(_) => Ok(()),
        Err(TestError::Fail(reason, case)) => Err(format!("{reason}\nthe smallest case that was found: {case:?}")),
        Err(TestError::Abort(reason)) => Err(format!("the strategy gave up: {reason}")),
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    let Ok(value) = value.parse() else { panic!("{name}={value:?} is not a number") };
    Some(value)
}

/// A file of the repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Bytes as one reads them in a message: many equal ones in a row are counted.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown(pub Vec<u8>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ROW: usize = 16;
        f.write_str("b\"")?;
        for row in self.0.chunk_by(|one, other| one == other) {
            match row.get(ROW) {
                Some(_) => write!(f, "\" {} times b\"{}\" b\"", row.len(), row[..1].escape_ascii())?,
                None => write!(f, "{}", row.escape_ascii())?,
            }
        }
        f.write_str("\"")
    }
}
