//! The whole proxy beside others, on one machine at one time: CPU for a request, latency, memory, start.
//!
//! A machine that others use as well changes its speed by half from one second to the next. So all proxies run at once and
//! take short turns, and what counts are ratios within a round. The load and the services are one thread on one CPU, the
//! proxies have another to themselves.

mod endpoints;
pub(crate) mod figures;
pub mod floor;
mod lineup;
mod load;
mod machine;
pub mod options;
mod report;
mod running;

pub use report::{Measured, Report};

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::soak::health::Proc;
use endpoints::Endpoints;
use lineup::{LineUp, Proxy};
use load::{Asked, Load, Protocol, paced};
use machine::Placement;
use options::Options;
use report::{Noise, Paced, Turn};
use running::Running;

/// How often, and for how long each time.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub rounds: u16,
    /// Starts of each proxy that count; one more comes before them, in which weir compiles its plugins.
    pub starts: usize,
    /// Of load before each turn that does not count: connections open, caches fill.
    pub warm_up: Duration,
    /// Of a turn as fast as can be.
    pub turn: Duration,
    /// Of a turn at a fixed rate.
    pub paced: Duration,
}

impl Lengths {
    pub fn of(options: &Options) -> Self {
        let ms = Duration::from_millis;
        let lengths = if options.quick {
            Self { rounds: 3, starts: 3, warm_up: ms(100), turn: ms(700), paced: ms(1000) }
        } else {
            Self { rounds: 9, starts: 7, warm_up: ms(200), turn: ms(1000), paced: ms(2000) }
        };
        Self { rounds: options.rounds.unwrap_or(lengths.rounds), ..lengths }
    }
}

/// Measures; `say` is told how it goes. Failed requests are in the report; what keeps a turn from being measured is an error.
pub async fn run(options: &Options, lengths: Lengths, say: impl Fn(&str)) -> Result<Report> {
    let placement = Placement::find()?;
    placement.enter()?;
    machine::allow_files()?;
    let (directory, endpoints, asked) = (tempfile::tempdir()?, Endpoints::start().await?, Asked::new()?);
    let LineUp { proxies, versions, absent } = LineUp::find(options, directory.path(), &endpoints, &asked)?;
    absent.iter().for_each(|absent| say(absent));
    let machine = [machine::describe(), placement.describe()].into_iter().chain(machine::commit());
    let facts = machine.chain(versions).chain(absent).collect();

    let mut bench = Bench { contestants: Vec::new(), rate: options.rate, lengths, asked, placement, directory };
    for proxy in proxies {
        bench.start(proxy).await?;
    }
    for contestant in &mut bench.contestants {
        contestant.measured.idle_kib = contestant.memory()?;
    }
    let mut noise = Noise::default();
    for round in 0..lengths.rounds {
        noise.canary.push([placement.with_proxies(machine::canary)?, machine::canary()]);
        let protocols = [Protocol::Http1, Protocol::Http2];
        for protocol in protocols.into_iter().filter(|protocol| options.h2 || *protocol == Protocol::Http1) {
            bench.turns(round, protocol, &mut noise).await?;
        }
        bench.paced_turns(round).await?;
        say(&format!("round {} of {}: {}", round + 1, lengths.rounds, bench.progress()));
    }
    for contestant in &mut bench.contestants {
        contestant.measured.loaded_kib = contestant.memory()?;
    }
    let measured = bench.contestants.into_iter().map(|contestant| contestant.measured).collect();
    Ok(Report { facts, measured, noise, rate: options.rate, lengths })
}

/// The load alone, at any server that gives the expected answer: requests a second. To compare it with other generators.
pub async fn load(server: SocketAddr, h2: bool, length: Duration) -> Result<f64> {
    let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
    let mut load = Load::open(protocol, server, &Asked::new()?).await?;
    let begun = Instant::now();
    let tally = load.run(length).await?;
    ensure!(tally.failed == 0, "{} of {} requests failed: {:?}", tally.failed, tally.requests, tally.problem);
    Ok(tally.requests as f64 / begun.elapsed().as_secs_f64())
}

/// A bench in progress. The proxies end before their files are removed.
struct Bench {
    contestants: Vec<Contestant>,
    rate: u32,
    lengths: Lengths,
    asked: Asked,
    placement: Placement,
    directory: TempDir,
}

struct Contestant {
    proxy: Proxy,
    running: Running,
    measured: Measured,
}

impl Bench {
    /// Starts a proxy again and again; the last one stays.
    async fn start(&mut self, proxy: Proxy) -> Result<()> {
        let again = async || Running::start(&proxy, &self.asked, self.placement, self.directory.path()).await;
        let mut running = again().await?;
        let mut measured = Measured { name: proxy.name.clone(), ..Measured::default() };
        for _ in 0..self.lengths.starts {
            drop(running);
            running = again().await?;
            measured.starts.push(running.ready_after);
        }
        self.contestants.push(Contestant { proxy, running, measured });
        Ok(())
    }

    /// There and back again by turns: what drifts meets all alike.
    fn order(&mut self, round: u16) -> Vec<&mut Contestant> {
        let mut order: Vec<&mut Contestant> = self.contestants.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }

    async fn turns(&mut self, round: u16, protocol: Protocol, noise: &mut Noise) -> Result<()> {
        let (lengths, asked) = (self.lengths, self.asked.clone());
        for contestant in self.order(round) {
            let address = match protocol {
                Protocol::Http1 => contestant.proxy.http1,
                Protocol::Http2 => match contestant.proxy.http2 {
                    Some(address) => address,
                    None => continue,
                },
            };
            let turn = contestant.turn(protocol, address, &asked, lengths, noise).await;
            turn.with_context(|| format!("{}, {}", contestant.proxy.name, protocol.describe()))?;
        }
        Ok(())
    }

    async fn paced_turns(&mut self, round: u16) -> Result<()> {
        let (length, rate, asked) = (self.lengths.paced, self.rate, self.asked.clone());
        for contestant in self.order(round) {
            let turn = contestant.paced_turn(&asked, rate, length).await;
            turn.with_context(|| format!("{}, {rate} requests a second", contestant.proxy.name))?;
        }
        Ok(())
    }

    fn progress(&self) -> String {
        let last = |contestant: &Contestant| {
            let turn = contestant.measured.http1.last()?;
            Some(format!("{} {:.1} µs", contestant.proxy.name, turn.cpu))
        };
        self.contestants.iter().filter_map(last).collect::<Vec<_>>().join(", ")
    }
}

impl Contestant {
    async fn turn(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
        asked: &Asked,
        lengths: Lengths,
        noise: &mut Noise,
    ) -> Result<()> {
        let (process, own) = (self.running.process_id(), std::process::id());
        let mut load = Load::open(protocol, address, asked).await?;
        let warm_up = load.run(lengths.warm_up).await?;
        self.measured.tally.merge(warm_up);

        let before = (machine::cpu_time(process)?, machine::cpu_time(own)?, machine::busy()?);
        let begun = Instant::now();
        let tally = load.run(lengths.turn).await?;
        let length = begun.elapsed().as_secs_f64();
        let after = (machine::cpu_time(process)?, machine::cpu_time(own)?, machine::busy()?);

        let answered = tally.requests - tally.failed;
        ensure!(answered > 0, "no answer in a turn: {}", tally.problem.unwrap_or_default());
        let (cpu, own) = (seconds(before.0, after.0), seconds(before.1, after.1));
        let turn = Turn { cpu: cpu * 1e6 / answered as f64, rate: answered as f64 / length, share: cpu / length };
        noise.others.push((after.2.saturating_sub(before.2).as_secs_f64() - cpu - own).max(0.0) / length);
        match protocol {
            Protocol::Http1 => &mut self.measured.http1,
            Protocol::Http2 => &mut self.measured.http2,
        }
        .push(turn);
        self.measured.tally.merge(tally);
        Ok(())
    }

    async fn paced_turn(&mut self, asked: &Asked, rate: u32, length: Duration) -> Result<()> {
        let process = self.running.process_id();
        let (tell, told) = tokio::sync::oneshot::channel();
        let begin = move || drop(tell.send(machine::cpu_time(process)));
        let turn = paced::run(self.proxy.http1, asked, rate, length, begin).await?;
        let cpu = seconds(told.await??, machine::cpu_time(process)?);
        ensure!(!turn.latencies.is_empty(), "no answer in a turn: {}", turn.tally.problem.unwrap_or_default());
        let cpu = cpu * 1e6 / turn.latencies.len() as f64;
        self.measured.paced.push(Paced { latencies: turn.latencies, cpu });
        self.measured.tally.merge(turn.tally);
        Ok(())
    }

    fn memory(&self) -> Result<u64> {
        let sample = Proc::new(self.running.process_id()).sample(0);
        Ok(sample.with_context(|| format!("{} has ended", self.proxy.name))?.rss_kib)
    }
}

/// Between two readings in nanoseconds.
fn seconds(before: u64, after: u64) -> f64 {
    Duration::from_nanos(after.saturating_sub(before)).as_secs_f64()
}
