//! The figures of a soak, and the table that shows them.

use std::fmt;
use std::time::Duration;

use super::health::Growth;

/// What happens during one phase of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: what the others are compared with.
    Quiet,
    /// Two versions in turn, both known.
    Cached,
    /// Versions that nobody has seen.
    Cold,
    /// The configuration alone.
    Config,
    /// Files that are no plugins, and plugins that do harm.
    Bad,
}

impl Phase {
    pub const ALL: [Self; 5] = [Self::Quiet, Self::Cached, Self::Cold, Self::Config, Self::Bad];

    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Cached => "cached",
            Self::Cold => "cold",
            Self::Config => "config",
            Self::Bad => "bad files",
        }
    }
}

/// What one phase has shown.
#[derive(Debug)]
pub struct Run {
    pub phase: Phase,
    /// From each change to the first answer that shows it.
    pub live_after: Vec<Duration>,
    /// Of all requests on the main route, in microseconds, sorted.
    latencies: Vec<u32>,
    /// CPU time of the node for each request, reloads included.
    pub cpu: Duration,
}

impl Run {
    pub fn new(phase: Phase, live_after: Vec<Duration>, mut latencies: Vec<u32>, cpu: Duration) -> Self {
        latencies.sort_unstable();
        Self { phase, live_after, latencies, cpu }
    }

    pub fn requests(&self) -> usize {
        self.latencies.len()
    }

    /// The latency that this share of the requests did not exceed, in milliseconds.
    pub fn latency(&self, share: f64) -> f64 {
        f64::from(quantile(&self.latencies, share).unwrap_or_default()) / 1000.0
    }
}

/// In a line while the soak goes on.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.2} p99.9 {:.2} ms", self.latency(0.5), self.latency(0.999))?;
        let mut live_after = self.live_after.clone();
        live_after.sort_unstable();
        match quantile(&live_after, 0.5) {
            Some(middle) => write!(f, ", live after {:.1} ms", middle.as_secs_f64() * 1000.0),
            None => Ok(()),
        }
    }
}

/// What a whole soak has shown.
#[derive(Debug)]
pub struct Report {
    pub runs: Vec<Run>,
    pub growth: Vec<Growth>,
    /// Versions of the plugin that went live.
    pub rounds: usize,
    pub bad_files: usize,
    pub requests: u64,
    pub records: u64,
    /// Requests that were refused, as they should be, while a policy that must not be skipped had gone bad.
    pub refused: u64,
    /// Size of the plugin.
    pub bytes: usize,
    /// How often a law was broken, and the first times in words.
    pub broken: (u64, Vec<String>),
}

/// Of sorted values, by nearest rank.
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5).unwrap_or_default()
}

impl Report {
    fn runs(&self, phase: Phase) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.phase == phase)
    }

    /// By how much the slowest request of a thousand is slower than in the quiet phases before and after; median over
    /// phases.
    fn worse(&self, phase: Phase) -> f64 {
        let is_quiet = |run: &&Run| run.phase == Phase::Quiet;
        let difference = |(at, run): (usize, &Run)| {
            let (earlier, later) = self.runs.split_at_checked(at)?;
            let around = [earlier.iter().rev().find(is_quiet)?, later.iter().find(is_quiet)?];
            let [before, after] = around.map(|run| run.latency(0.999));
            (run.phase == phase).then(|| run.latency(0.999) - (before + after) / 2.0)
        };
        median(self.runs.iter().enumerate().filter_map(difference))
    }

    fn changes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "From rename to the first answer that shows it, on a kept connection, under load; ms")?;
        writeln!(f, "{:22}{:>9}{:>9}{:>9}{:>9}", "", "count", "median", "p99", "max")?;
        for (phase, limit) in [(Phase::Cold, Some(250.0)), (Phase::Cached, Some(20.0)), (Phase::Config, None)] {
            let mut all: Vec<Duration> = self.runs(phase).flat_map(|run| run.live_after.iter().copied()).collect();
            all.sort_unstable();
            let ms = |share| quantile(&all, share).map_or(0.0, |time: Duration| time.as_secs_f64() * 1000.0);
            let (count, middle) = (all.len(), ms(0.5));
            write!(f, "{:22}{count:>9}{middle:>9.1}{:>9.1}{:>9.1}", phase.name(), ms(0.99), ms(1.0))?;
            match limit {
                Some(limit) => writeln!(f, "   aim {limit} ms: {}", met(middle <= limit))?,
                None => writeln!(f)?,
            }
        }
        writeln!(f, "The plugin has {} bytes.\n", self.bytes)
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Latency on the main route, ms, and CPU of the node for a request, µs; medians over phases")?;
        let titles = ["requests", "p50", "p99", "p99.9", "CPU", "p99.9 against quiet"];
        let [requests, p50, p99, p999, cpu, against] = titles;
        writeln!(f, "{:22}{requests:>9}{p50:>9}{p99:>9}{p999:>9}{cpu:>9}   {against}", "")?;
        for phase in Phase::ALL {
            let requests: usize = self.runs(phase).map(Run::requests).sum();
            let at = |share| median(self.runs(phase).map(|run| run.latency(share)));
            let cpu = median(self.runs(phase).map(|run| run.cpu.as_secs_f64() * 1e6));
            let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
            write!(f, "{:22}{requests:>9}{p50:>9.2}{p99:>9.2}{p999:>9.2}{cpu:>9.0}", phase.name())?;
            match phase {
                Phase::Quiet => writeln!(f)?,
                Phase::Bad => writeln!(f, "   {:+.2}", self.worse(phase))?,
                _ => {
                    let worse = self.worse(phase);
                    writeln!(f, "   {worse:+.2}, aim +5 ms: {}", met(worse <= 5.0))?;
                }
            }
        }
        writeln!(f)
    }

    fn growths(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "In quiet phases{:>16}{:>9}{:>18}{:>9}", "first", "last", "per 100 rounds", "limit")?;
        for growth in &self.growth {
            let Growth { what, first, last, slope, limit } = growth;
            let flat = if growth.is_flat() { "flat" } else { "GROWS" };
            writeln!(f, "{what:22}{first:>9}{last:>9}{slope:>+18.1}{:>+9}   {flat}", *limit)?;
        }
        writeln!(f)
    }
}

fn met(is: bool) -> &'static str {
    if is { "met" } else { "missed" }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, bad_files, requests, records, refused, broken: (broken, examples), .. } = self;
        self.changes(f)?;
        self.latencies(f)?;
        self.growths(f)?;
        writeln!(f, "{rounds} versions went live, {bad_files} bad files came")?;
        writeln!(f, "{requests} requests, {records} records, {refused} refused while a policy that guards was bad")?;
        match broken {
            0 => write!(f, "No request failed, no law was broken"),
            _ => write!(f, "BROKEN {broken} times, first:\n  {}", examples.join("\n  ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<u32> = (1..=1000).collect();
        assert_eq!(quantile(&values, 0.5), Some(500));
        assert_eq!(quantile(&values, 0.999), Some(999));
        assert_eq!(quantile(&values, 1.0), Some(1000));
        assert_eq!(quantile(&[7], 0.5), Some(7));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }
}
