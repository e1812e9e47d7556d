use weir_sdk::prelude::*;

/// How long to wait before the next attempt.
#[derive(Deserialize, JsonSchema, Debug, Clone, Copy)]
#[serde(tag = "kind")]
pub enum Backoff {
    /// Waits that grow with each attempt.
    Exponential {
        /// The wait before attempt 2.
        #[serde(default = "one_second")]
        initial: Period,
        /// No wait is longer.
        #[serde(default = "thirty_seconds")]
        max: Period,
        /// How many times longer each wait is than the one before.
        #[serde(default = "double")]
        #[schemars(range(min = 1, max = 100))]
        factor: f64,
        /// Full: evenly from 0 to the wait. Decorrelated: evenly from `initial` to three times the last wait.
        #[serde(default = "full")]
        jitter: Jitter,
    },
    /// The same wait each time.
    Fixed {
        delay: Period,
        /// Full: evenly from 0 to the delay.
        #[serde(default)]
        jitter: Jitter,
    },
    /// Any wait between two bounds.
    Random {
        min: Period,
        max: Period,
        /// Full: evenly from `min` to `max`. Decorrelated: evenly from `min` to three times the last wait.
        #[serde(default = "full")]
        jitter: Jitter,
    },
}

/// How chance changes a wait, so that callers who failed together do not all come back together.
#[derive(Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Default)]
pub enum Jitter {
    #[default]
    None,
    Full,
    Decorrelated,
}

fn one_second() -> Period {
    Period::from_secs(1)
}

fn thirty_seconds() -> Period {
    Period::from_secs(30)
}

fn double() -> f64 {
    2.0
}

fn full() -> Jitter {
    Jitter::Full
}

impl Default for Backoff {
    fn default() -> Self {
        Self::Exponential { initial: one_second(), max: thirty_seconds(), factor: double(), jitter: full() }
    }
}

impl Backoff {
    /// What the schema cannot say.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::Exponential { factor, .. } if !(1.0..=100.0).contains(&factor) => {
                Err(Error::at("/backoff/factor", "from 1 to 100"))
            }
            Self::Exponential { initial, max, .. } if initial > max => {
                Err(Error::at("/backoff/initial", "longer than max (30s if it is left out)"))
            }
            Self::Fixed { jitter: Jitter::Decorrelated, .. } => Err(Error::at(
                "/backoff/jitter",
                "decorrelated waits are not fixed: use kind = \"random\" with min and max",
            )),
            Self::Random { min, max, .. } if min > max => Err(Error::at("/backoff/min", "longer than max")),
            Self::Random { jitter: Jitter::None, .. } => Err(Error::at(
                "/backoff/jitter",
                "a random wait has jitter \"full\" or \"decorrelated\"; use kind = \"fixed\" for none",
            )),
            _ => Ok(()),
        }
    }

    /// The wait before the attempt that follows. Remembers it, for the next one may depend on it.
    pub fn wait(&self, exchange: &Exchange) -> Duration {
        let wait = match *self {
            Self::Exponential { initial, max, jitter: Jitter::Decorrelated, .. } => {
                decorrelated(*initial, *max, exchange)
            }
            Self::Exponential { initial, max, factor, jitter } => {
                let wait = grown(*initial, factor, exchange.attempt).min(*max);
                if jitter == Jitter::Full { between(Duration::ZERO, wait) } else { wait }
            }
            Self::Fixed { delay, jitter: Jitter::Full } => between(Duration::ZERO, *delay),
            Self::Fixed { delay, .. } => *delay,
            Self::Random { min, max, jitter: Jitter::Decorrelated } => decorrelated(*min, *max, exchange),
            Self::Random { min, max, .. } => between(*min, *max),
        };
        exchange.remember(nanos(wait));
        wait
    }
}

/// Saturates, so that no attempt is late enough to overflow it.
fn grown(initial: Duration, factor: f64, attempt: u32) -> Duration {
    let power = factor.powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX));
    Duration::from_nanos((nanos(initial) as f64 * power) as u64)
}

/// More waits than this are not drawn again: they have long become as long as they can.
const DRAWN: u32 = 32;

/// Evenly from `least` to three times the last wait (at first: to three times `least`), but not longer than `most`.
fn decorrelated(least: Duration, most: Duration, exchange: &Exchange) -> Duration {
    let next = |last: Duration| between(least, last.max(least).saturating_mul(3)).min(most);
    match exchange.memo() {
        // Each attempt to deliver a message is an exchange of its own, which remembers nothing. Waits that are drawn again
        // are as good as those that were: no message is told from another by them.
        0 => (1..exchange.attempt.min(DRAWN)).fold(next(Duration::ZERO), |last, _| next(last)),
        last => next(Duration::from_nanos(last)),
    }
}

fn between(least: Duration, most: Duration) -> Duration {
    let span = nanos(most.saturating_sub(least));
    least.saturating_add(Duration::from_nanos(random::below(span.saturating_add(1))))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
