//! A soak: the real node under steady load while its plugins and its configuration change a thousand times.
//!
//! Phases take turns, so that what happens during changes is compared with the same load without any. `cargo xtask soak`
//! runs it in full, and a test with fewer rounds runs in CI: the laws are the same.

pub(crate) mod figures;
pub mod health;
mod judge;
mod load;
mod node;
pub mod options;
mod swaps;
mod timeline;

pub use figures::{Phase, Report};
pub use health::{Growth, Limits};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::guests::Chameleon;
use crate::upstream::{Behaviour, Upstream};
use figures::Run;
use judge::Judge;
use load::Load;
use node::Node;
use options::Options;
use swaps::Swaps;

/// A change begins this long after the one before it, or when that has taken effect.
const CHANGE_EVERY: Duration = Duration::from_millis(200);
/// So many cycles of all phases pass before the first samples count: caches and pools fill.
const WARM_UP: usize = 1;
/// Old generations are freed within this.
const FREED_WITHIN: Duration = Duration::from_secs(10);

/// Soaks a node; `say` is told how it goes. Broken laws of exchanges are in the report; what keeps the soak from going on
/// is an error.
pub async fn run(options: &Options, limits: Limits, say: impl Fn(&str)) -> Result<Report> {
    let _burners = options.busy.then(Burners::start);
    let chameleon = Arc::new(Chameleon::default());
    let bytes = chameleon.bytes(node::WORD).len();
    let upstreams = [Upstream::start(Behaviour::echo()).await?, Upstream::start(Behaviour::echo()).await?];
    let node = Node::start(upstreams.each_ref().map(Upstream::address), &chameleon).await?;
    let judge = Arc::new(Judge::new(node::WORD, node::TAG));
    let swaps = Swaps::new(&node, judge.clone(), chameleon).await?;
    let load = Load::start(node.address, judge.clone(), options.rate);
    say(&format!(
        "weir, process {}, listens on {}; {} requests a second",
        node.process_id(),
        node.address,
        options.rate
    ));

    let mut soak = Soak { node, swaps, load, judge, started: Instant::now(), runs: Vec::new(), samples: Vec::new() };
    if let Err(error) = soak.cycles(options, &say).await {
        soak.judge.breaks(&format!("{error:#}"));
    }
    say("the load stops, and weir with it");
    let judge = soak.judge.clone();
    let report = soak.end(limits, bytes).await.with_context(|| judge.broken().1.join("\n"))?;
    ensure!(upstreams.iter().all(|upstream| upstream.malformed_count() == 0), "an endpoint was sent what is not HTTP");
    Ok(report)
}

/// A soak in progress.
struct Soak {
    node: Node,
    swaps: Swaps,
    load: Load,
    judge: Arc<Judge>,
    started: Instant,
    runs: Vec<Run>,
    /// Of each quiet phase.
    samples: Vec<Vec<health::Sample>>,
}

impl Soak {
    async fn cycles(&mut self, options: &Options, say: &impl Fn(&str)) -> Result<()> {
        let length = Duration::from_secs(options.seconds);
        // Growth is told from two quiet phases after the warm-up, the last one included.
        let mut cycle = 0;
        while self.swaps.rounds < options.rounds || cycle <= WARM_UP {
            for phase in Phase::ALL {
                self.phase(phase, length, cycle, say).await?;
            }
            cycle += 1;
        }
        self.phase(Phase::Quiet, length, cycle, say).await
    }

    async fn phase(&mut self, phase: Phase, length: Duration, cycle: usize, say: &impl Fn(&str)) -> Result<()> {
        if phase == Phase::Cached {
            // Both versions may have been seen too long ago.
            for _ in 0..2 {
                self.swaps.next(&self.node, phase).await?;
            }
        }
        // What began in the phase before is none of this one's.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.load.take();
        let (begun, cpu, sent) = (Instant::now(), self.node.proc.cpu()?, self.judge.sent.load(Ordering::Relaxed));
        let (mut live_after, mut samples, mut changes) = (Vec::new(), Vec::new(), 0);
        while begun.elapsed() < length {
            let next = Instant::now() + CHANGE_EVERY;
            live_after.extend(self.swaps.next(&self.node, phase).await?);
            changes += 1;
            tokio::time::sleep_until(next.into()).await;
            samples.push(self.node.proc.sample(self.swaps.rounds)?);
        }
        let sent = self.judge.sent.load(Ordering::Relaxed).saturating_sub(sent).max(1);
        let cpu = self.node.proc.cpu()?.saturating_sub(cpu).div_f64(sent as f64);
        let run = Run::new(phase, live_after, self.load.take(), cpu);
        let last = samples.last().map_or(0, |sample| sample.rss_kib >> 10);
        let (seconds, rounds) = (self.started.elapsed().as_secs(), self.swaps.rounds);
        let changes = if phase == Phase::Quiet { 0 } else { changes };
        say(&format!(
            "{seconds:5} s  {:10} {changes:3} changes, {rounds:4} versions so far; {run}; RSS {last} MiB",
            phase.name()
        ));
        self.runs.push(run);
        if phase == Phase::Quiet && cycle >= WARM_UP {
            self.samples.push(samples);
        }
        Ok(())
    }

    /// Stops everything, and checks what must hold then.
    async fn end(self, limits: Limits, bytes: usize) -> Result<Report> {
        let Self { node, swaps, load, judge, runs, samples, .. } = self;
        load.stop().await?;
        let (rounds, bad_files) = (swaps.rounds, swaps.bad_files);
        drop(swaps);
        let until = Instant::now() + FREED_WITHIN;
        loop {
            let live = node.metric("weir_live_generations").await?;
            if live == 1.0 {
                break;
            }
            if Instant::now() > until {
                judge.breaks(&format!("{live} generations are in memory after the last exchange"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let dropped = node.metric("weir_log_lines_dropped_total{log=\"exchanges\"}").await?;
        let (requests, records) = (judge.sent.load(Ordering::Relaxed), node.stop().await?);
        if records as f64 + dropped != requests as f64 || dropped > 0.0 {
            judge.breaks(&format!("{requests} requests left {records} records, and {dropped} were dropped"));
        }
        let growth = health::growth(&samples, limits);
        for growth in growth.iter().filter(|growth| !growth.is_flat()) {
            let Growth { what, first, last, limit, .. } = growth;
            judge.breaks(&format!("{what} grew from {first} to {last}, more than {limit}"));
        }
        let refused = judge.refused.load(Ordering::Relaxed);
        Ok(Report { runs, growth, rounds, bad_files, requests, records, refused, bytes, broken: judge.broken() })
    }
}

/// Threads that keep every core busy.
struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let burn = |stop: Arc<AtomicBool>| {
            let work = AtomicU64::new(0);
            while !stop.load(Ordering::Relaxed) {
                work.fetch_add(1, Ordering::Relaxed);
            }
        };
        let threads = (0..cores)
            .map(|_| {
                std::thread::spawn({
                    let stop = stop.clone();
                    move || burn(stop)
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
