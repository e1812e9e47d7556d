//! What a process takes of the machine, as `/proc` tells it, and whether that grows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// What a process takes at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many versions had gone live by then.
    pub round: usize,
    pub rss_kib: u64,
    pub files: u64,
    pub sockets: u64,
    /// Without jemalloc's, of which it begins up to four when it comes to it.
    pub threads: u64,
}

/// How much each may grow from the first quiet phase after the warm-up to the last.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rss_kib: u64,
    pub files: u64,
    /// Connections to endpoints stay open for a while after the moments in which many were needed.
    pub sockets: u64,
    pub threads: u64,
}

/// One of these over the whole run.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    pub what: &'static str,
    pub first: u64,
    pub last: u64,
    /// Each hundred rounds, by least squares.
    pub slope: f64,
    pub limit: u64,
}

impl Growth {
    pub fn is_flat(&self) -> bool {
        self.last <= self.first + self.limit
    }
}

#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Proc {
    pub fn new(process: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{process}")))
    }

    pub fn sample(&self, round: usize) -> Result<Sample> {
        let status = fs::read_to_string(self.0.join("status")).context("the process is gone")?;
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let first = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            first.with_context(|| format!("/proc says nothing of {key}"))
        };
        let (mut files, mut sockets) = (0, 0);
        for fd in fs::read_dir(self.0.join("fd"))?.flatten() {
            let is_socket =
                fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            *if is_socket { &mut sockets } else { &mut files } += 1;
        }
        let threads = fs::read_dir(self.0.join("task"))?.flatten().filter(|thread| !is_allocators(&thread.path()));
        Ok(Sample { round, rss_kib: number("VmRSS")?, files, sockets, threads: threads.count() as u64 })
    }

    /// CPU time so far, of all threads, in steps of 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(self.0.join("stat")).context("the process is gone")?;
        // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it (proc(5)).
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

fn is_allocators(thread: &Path) -> bool {
    fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == "jemalloc_bg_thd")
}

/// Compares the samples of quiet phases: there nothing is compiled, and the load is the same.
pub fn growth(phases: &[Vec<Sample>], limits: Limits) -> Vec<Growth> {
    let all: Vec<Sample> = phases.iter().flatten().copied().collect();
    let of = |what, get: fn(&Sample) -> u64, limit| {
        let middle = |phase: Option<&Vec<Sample>>| {
            let mut values: Vec<u64> = phase.into_iter().flatten().map(get).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let points = all.iter().map(|sample| (sample.round as f64, get(sample) as f64)).collect::<Vec<_>>();
        Growth {
            what,
            first: middle(phases.first()),
            last: middle(phases.last()),
            slope: 100.0 * slope(&points),
            limit,
        }
    };
    vec![
        of("RSS in KiB", |sample| sample.rss_kib, limits.rss_kib),
        of("open files", |sample| sample.files, limits.files),
        of("sockets", |sample| sample.sockets, limits.sockets),
        of("threads", |sample| sample.threads, limits.threads),
    ]
}

/// The slope of the straight line that fits best.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (xy, xx) = points
        .iter()
        .fold((0.0, 0.0), |(xy, xx), point| (xy + (point.0 - x) * (point.1 - y), xx + (point.0 - x) * (point.0 - x)));
    if xx == 0.0 { 0.0 } else { xy / xx }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_not_flat() {
        let limits = Limits { rss_kib: 10, files: 1, sockets: 1, threads: 0 };
        let phase = |round: usize, rss_kib: u64| vec![Sample { round, rss_kib, files: 5, sockets: 5, threads: 3 }; 3];
        let flat = |phases: &[Vec<Sample>]| growth(phases, limits).iter().all(Growth::is_flat);
        assert!(flat(&[phase(0, 100), phase(50, 300), phase(100, 110)]));
        assert!(!flat(&[phase(0, 100), phase(50, 105), phase(100, 111)]));
        let leak = growth(&[phase(0, 100), phase(100, 300)], limits);
        assert!((leak[0].slope - 200.0).abs() < 0.1, "{leak:?}");
    }

    #[test]
    fn a_process_knows_what_it_takes() -> Result<()> {
        let own = Proc::new(std::process::id());
        let sample = own.sample(0)?;
        assert!(sample.rss_kib > 1000 && sample.files > 2 && sample.threads > 0, "{sample:?}");
        let _ = own.cpu()?;
        Ok(())
    }
}
