//! What a bench has shown, and the tables that show it, in Markdown.

use std::fmt::{self, Formatter};
use std::time::Duration;

use super::Lengths;
use super::figures::{Spread, difference, median, percentile, ratio};
use super::lineup::{FLOOR, NGINX, REFERENCES, WEIR_EMPTY};
use super::load::{Protocol, Tally, paced};

/// One turn as fast as can be.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// CPU time of the proxy for a request, in microseconds.
    pub cpu: f64,
    /// Requests a second.
    pub rate: f64,
    /// Of one CPU, that the proxy used.
    pub share: f64,
}

/// One turn at a fixed rate.
#[derive(Debug)]
pub struct Paced {
    /// In nanoseconds, sorted.
    pub latencies: Vec<u64>,
    /// CPU time of the proxy for a request, in microseconds.
    pub cpu: f64,
}

impl Paced {
    /// In microseconds.
    fn latency(&self, share: f64) -> f64 {
        percentile(&self.latencies, share).unwrap_or_default() as f64 / 1000.0
    }
}

/// What one proxy has shown. Turns of the same place in these lists are of the same round.
#[derive(Debug, Default)]
pub struct Measured {
    pub name: String,
    pub starts: Vec<Duration>,
    pub http1: Vec<Turn>,
    pub http2: Vec<Turn>,
    pub paced: Vec<Paced>,
    /// Resident memory before and after all load.
    pub idle_kib: u64,
    pub loaded_kib: u64,
    pub tally: Tally,
}

impl Measured {
    fn turns(&self, protocol: Protocol) -> &[Turn] {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
    }

    fn cpu(&self, protocol: Protocol) -> Vec<f64> {
        self.turns(protocol).iter().map(|turn| turn.cpu).collect()
    }

    fn latencies(&self, share: f64) -> Vec<f64> {
        self.paced.iter().map(|turn| turn.latency(share)).collect()
    }
}

/// How quiet the machine was.
#[derive(Debug, Default)]
pub struct Noise {
    /// How long the same work took before each round, on the CPU of the proxies and on that of the load.
    pub canary: Vec<[Duration; 2]>,
    /// CPUs that other programs kept busy, for each turn.
    pub others: Vec<f64>,
}

#[derive(Debug)]
pub struct Report {
    /// The machine, the programs, and what is not there.
    pub facts: Vec<String>,
    pub measured: Vec<Measured>,
    pub noise: Noise,
    /// Requests a second where latency was measured.
    pub rate: u32,
    pub lengths: Lengths,
}

impl Report {
    pub fn failed(&self) -> u64 {
        self.measured.iter().map(|measured| measured.tally.failed).sum()
    }

    /// The first failure in words.
    pub fn problem(&self) -> String {
        let first = self.measured.iter().find_map(|of| Some(format!("{}: {}", of.name, of.tally.problem.as_ref()?)));
        first.unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.name == name)
    }

    fn closed_loop(&self, f: &mut Formatter<'_>, protocol: Protocol) -> fmt::Result {
        let rows: Vec<&Measured> = self.measured.iter().filter(|of| !of.turns(protocol).is_empty()).collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(f, "### {}\n", protocol.describe())?;
        let reference =
            |name: &&str| rows.iter().find(|of| of.name == **name).map(|of| (of.name.as_str(), of.cpu(protocol)));
        let references: Vec<(&str, Vec<f64>)> = REFERENCES.iter().filter_map(reference).collect();
        let empty = references.iter().find(|(name, _)| *name == WEIR_EMPTY).map(|(_, cpu)| cpu);
        let mut head = vec!["proxy".to_owned(), "CPU µs/request: median (quartiles)".into(), "least".into()];
        head.extend(references.iter().map(|(name, _)| format!("÷ {name}")));
        head.extend(empty.map(|_| format!("− {WEIR_EMPTY}, µs")));
        head.extend(["requests/s", "busy"].map(String::from));
        table(
            f,
            &head,
            rows.iter().map(|of| {
                let cpu = of.cpu(protocol);
                let Spread { least, lower_quartile, median: middle, upper_quartile, .. } = Spread::of(cpu.clone());
                let mut row = vec![
                    of.name.clone(),
                    format!("{middle:.1} ({lower_quartile:.1}–{upper_quartile:.1})"),
                    format!("{least:.1}"),
                ];
                row.extend(references.iter().map(|(_, reference)| format!("{:.2}", ratio(&cpu, reference))));
                row.extend(empty.map(|empty| format!("{:+.1}", difference(&cpu, empty))));
                let turns = of.turns(protocol);
                row.push(format!("{:.0}", median(turns.iter().map(|turn| turn.rate))));
                row.push(format!("{:.2}", median(turns.iter().map(|turn| turn.share))));
                row
            }),
        )
    }

    fn fixed_rate(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "### HTTP/1.1 at {} requests a second, {} connections; latency from when each was due\n",
            self.rate,
            paced::CONNECTIONS
        )?;
        let reference = self.find(NGINX).or(self.find(FLOOR));
        let mut head: Vec<String> = ["proxy", "p50 µs", "p99 µs", "p99.9 µs"].map(String::from).into();
        head.extend(reference.into_iter().flat_map(|of| ["p50", "p99"].map(|what| format!("{what} ÷ {}", of.name))));
        head.push("CPU µs/request".into());
        table(
            f,
            &head,
            self.measured.iter().map(|of| {
                let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(|share| of.latencies(share));
                let mut row = vec![of.name.clone()];
                row.extend([&half, &most, &nearly_all].map(|own| format!("{:.0}", median(own.iter().copied()))));
                let compared = |reference: &Measured| {
                    [(&half, 0.5), (&most, 0.99)].map(|(own, share)| ratio(own, &reference.latencies(share)))
                };
                row.extend(reference.into_iter().flat_map(compared).map(|ratio| format!("{ratio:.2}")));
                row.push(format!("{:.1}", median(of.paced.iter().map(|turn| turn.cpu))));
                row
            }),
        )
    }

    fn memory_and_start(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "### Memory, and from start to the first answer\n")?;
        let head = ["proxy", "RSS MiB idle", "after load", "start ms: median (least–most)", "requests", "failed"];
        table(
            f,
            &head.map(String::from),
            self.measured.iter().map(|of| {
                let starts = Spread::of(of.starts.iter().map(|start| start.as_secs_f64() * 1000.0));
                let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
                vec![
                    of.name.clone(),
                    mib(of.idle_kib),
                    mib(of.loaded_kib),
                    format!("{:.0} ({:.0}–{:.0})", starts.median, starts.least, starts.most),
                    of.tally.requests.to_string(),
                    of.tally.failed.to_string(),
                ]
            }),
        )
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |cpu: usize| {
            let times = Spread::of(self.canary.iter().map(|times| times[cpu].as_secs_f64() * 1000.0));
            format!("{:.1} to {:.1} ms, median {:.1}", times.least, times.most, times.median)
        };
        let others = Spread::of(self.others.iter().copied());
        write!(
            f,
            "Noise: the same work took {} on the CPU of the proxies and {} on that of the load. Other programs kept {:.2} \
             CPUs busy (median of turns; at most {:.2}).",
            of(0),
            of(1),
            others.median,
            others.most
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for fact in &self.facts {
            writeln!(f, "- {fact}")?;
        }
        let Lengths { rounds, turn, paced, .. } = self.lengths;
        writeln!(
            f,
            "\nGET with a bearer token, answered with 1 KiB. {rounds} rounds of turns of {turn:?} ({paced:?} at the fixed \
             rate), all proxies running. All figures are medians over rounds, also the ratios and differences within a round, and \
             the percentiles of a round. *busy* is the share of its CPU that the proxy used: well below 1, the load was the \
             limit, or other programs were.\n\n{}\n",
            self.noise
        )?;
        self.closed_loop(f, Protocol::Http1)?;
        self.closed_loop(f, Protocol::Http2)?;
        self.fixed_rate(f)?;
        self.memory_and_start(f)
    }
}

/// The first column is text, the others are numbers.
fn table(f: &mut Formatter<'_>, head: &[String], rows: impl Iterator<Item = Vec<String>>) -> fmt::Result {
    writeln!(f, "| {} |", head.join(" | "))?;
    writeln!(f, "|---|{}", "---:|".repeat(head.len() - 1))?;
    for row in rows {
        writeln!(f, "| {} |", row.join(" | "))?;
    }
    writeln!(f)
}
