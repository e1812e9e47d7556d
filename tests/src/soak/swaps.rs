//! The changes of a soak: each is made, and watched until it shows on a kept connection.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::figures::Phase;
use super::judge::{Judge, Target, seen};
use super::load::exchange;
use super::node::{GUARD, Node, PLUGIN};
use crate::client::Client;
use crate::guests::{Chameleon, write_in_place};

/// A change that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Makes changes one after the other.
pub struct Swaps {
    judge: Arc<Judge>,
    chameleon: Arc<Chameleon>,
    /// Asks all the time while a change is under way.
    client: Client,
    /// Versions of the plugins that went live.
    pub rounds: usize,
    pub bad_files: usize,
    configs: usize,
    /// Versions that nobody has seen.
    fresh: usize,
}

/// Files that go wrong, in turn.
#[derive(Clone, Copy, Debug)]
enum Bad {
    Noise,
    Empty,
    CoreModule,
    TooLarge,
    /// Half is there, and later the rest.
    HalfWritten,
    DescribeTraps,
    DescribeLoops,
    ConfigureRefuses,
    ConfigureTraps,
    /// These two go live, and then fail every exchange.
    Crashes,
    Spins,
}

const BAD: [Bad; 11] = [
    Bad::Noise,
    Bad::Crashes,
    Bad::Empty,
    Bad::HalfWritten,
    Bad::Spins,
    Bad::CoreModule,
    Bad::DescribeTraps,
    Bad::TooLarge,
    Bad::ConfigureRefuses,
    Bad::DescribeLoops,
    Bad::ConfigureTraps,
];

impl Swaps {
    pub async fn new(node: &Node, judge: Arc<Judge>, chameleon: Arc<Chameleon>) -> Result<Self> {
        let client = Client::http1(node.address).await?;
        Ok(Self { judge, chameleon, client, rounds: 0, bad_files: 0, configs: 0, fresh: 0 })
    }

    /// Makes one change as the phase wants it, and returns how long it took to show where that is measured.
    pub async fn next(&mut self, node: &Node, phase: Phase) -> Result<Option<Duration>> {
        match phase {
            Phase::Quiet => Ok(None),
            Phase::Cached => {
                let word = if self.judge.words.latest() == "v1" { "v0" } else { "v1" };
                self.swap(node, PLUGIN, word).await.map(Some)
            }
            Phase::Cold => {
                let word = self.fresh_word("cold");
                self.swap(node, PLUGIN, &word).await.map(Some)
            }
            Phase::Config => self.reconfigure(node).await.map(Some),
            Phase::Bad => self.bad_file(node).await.map(|()| None),
        }
    }

    /// A good version goes live.
    pub async fn swap(&mut self, node: &Node, plugin: &str, word: &str) -> Result<Duration> {
        let (target, timeline) = match plugin {
            GUARD => (Target::Strict, &self.judge.guards),
            _ => (Target::Main, &self.judge.words),
        };
        let bytes = self.chameleon.bytes(word);
        timeline.announce(word);
        node.rename(plugin, &bytes)?;
        let taken = until_seen(&mut self.client, &self.judge, target, |(live, _)| live == word).await?;
        timeline.settle();
        self.rounds += 1;
        Ok(taken)
    }

    async fn reconfigure(&mut self, node: &Node) -> Result<Duration> {
        self.configs += 1;
        let tag = self.configs.to_string();
        self.judge.tags.announce(&tag);
        node.reconfigure(self.configs)?;
        let taken = until_seen(&mut self.client, &self.judge, Target::Main, |(_, live)| *live == tag).await?;
        self.judge.tags.settle();
        Ok(taken)
    }

    /// A bad file comes, is noticed, and is replaced by a good one.
    async fn bad_file(&mut self, node: &Node) -> Result<()> {
        let Some(bad) = BAD.get(self.bad_files % BAD.len()).copied() else { return Ok(()) };
        self.bad_files += 1;
        if let Bad::Crashes | Bad::Spins = bad {
            return self.go_bad(node, if matches!(bad, Bad::Crashes) { "crash" } else { "spin" }).await;
        }
        let good = self.fresh_word("good");
        let whole = self.chameleon.bytes(&good);
        let half = whole.get(..whole.len() / 2).unwrap_or_default();
        let failed = self.failures(node).await?;
        if let Bad::HalfWritten = bad {
            self.judge.words.announce(&good);
            write_in_place(&node.place(PLUGIN), half);
            self.until_refused(node, failed).await?;
            // The other half, as from a slow copy.
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(node.place(PLUGIN))?;
            file.write_all(whole.get(half.len()..).unwrap_or_default())?;
            drop(file);
            until_seen(&mut self.client, &self.judge, Target::Main, |(live, _)| *live == good).await?;
            self.judge.words.settle();
            self.rounds += 1;
            return Ok(());
        }
        let bytes = match bad {
            // Different each time, as is what comes in a broken transfer.
            Bad::Noise => whole.iter().enumerate().map(|(at, byte)| byte ^ (at * self.bad_files) as u8).collect(),
            Bad::CoreModule => b"\0asm\x01\0\0\0".to_vec(),
            Bad::TooLarge => vec![b'x'; 17 << 20],
            Bad::DescribeTraps => self.chameleon.bytes("trap"),
            Bad::DescribeLoops => self.chameleon.bytes("loop"),
            Bad::ConfigureRefuses => self.chameleon.bytes("refuse"),
            Bad::ConfigureTraps => self.chameleon.bytes("broken"),
            Bad::Empty | Bad::HalfWritten | Bad::Crashes | Bad::Spins => Vec::new(),
        };
        node.rename(PLUGIN, &bytes)?;
        self.until_refused(node, failed).await?;
        self.swap(node, PLUGIN, &good).await.map(drop)
    }

    /// The guard goes bad, which costs exchanges where it may not be skipped; then it becomes good again.
    async fn go_bad(&mut self, node: &Node, how: &str) -> Result<()> {
        let word = self.fresh_word(how);
        let refused = self.refused();
        self.judge.guards.announce(&word);
        node.rename(GUARD, &self.chameleon.bytes(&word))?;
        let until = Instant::now() + PATIENCE;
        while self.refused() == refused {
            ensure!(Instant::now() < until, "{GUARD} {word} has done no harm after {PATIENCE:?}");
            exchange(&mut self.client, Target::Strict, &self.judge).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let good = self.fresh_word("good");
        self.swap(node, GUARD, &good).await.map(drop)
    }

    fn fresh_word(&mut self, kind: &str) -> String {
        self.fresh += 1;
        format!("{kind}-{}", self.fresh)
    }

    fn refused(&self) -> u64 {
        self.judge.refused.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn failures(&self, node: &Node) -> Result<f64> {
        node.metric("weir_reloads_total{what=\"plugin\",result=\"failed\"}").await
    }

    async fn until_refused(&self, node: &Node, before: f64) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.failures(node).await? <= before {
            ensure!(Instant::now() < until, "bad file {} was not refused after {PATIENCE:?}", self.bad_files);
            tokio::time::sleep(10 * LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// Asks until the answer is of the wanted version and configuration; returns how long that took.
async fn until_seen(
    client: &mut Client,
    judge: &Judge,
    target: Target,
    wanted: impl Fn(&(String, String)) -> bool,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let response = exchange(client, target, judge).await;
        let taken = begun.elapsed();
        if response.as_ref().and_then(seen).is_some_and(|seen| wanted(&seen)) {
            return Ok(taken);
        }
        ensure!(!client.is_closed(), "a kept connection was closed");
        ensure!(taken < PATIENCE, "a change does not show after {PATIENCE:?}; the last answer: {response:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
