//! What one can ask of the bench. The command and the program behind it read the same options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// How often each proxy has its turn; 9, or 3 with --quick
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// About a minute: fewer rounds, shorter turns, and less to rely on
    #[arg(long)]
    pub quick: bool,
    /// Also by HTTP/2 (prior knowledge) to the proxy and to the services
    #[arg(long)]
    pub h2: bool,
    /// Also with each of the five policies alone
    #[arg(long)]
    pub each: bool,
    /// Requests each second where latency is measured
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(32..=20_000))]
    pub rate: u32,
    /// Only these proxies, as in "floor,nginx,weir-five"
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Where envoy is, if not in PATH
    #[arg(long, value_name = "PATH")]
    pub envoy: Option<PathBuf>,
    /// Another build of weir to measure beside this one
    #[arg(long, value_name = "PATH")]
    pub against: Option<PathBuf>,
    /// Also write the tables to this file
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl Options {
    /// The same as one would write them; paths hold in any directory.
    pub fn arguments(&self) -> Vec<OsString> {
        let Self { rounds, quick, h2, each, rate, only, envoy, against, output } = self;
        let mut arguments: Vec<OsString> = vec!["--rate".into(), rate.to_string().into()];
        if let Some(rounds) = rounds {
            arguments.extend(["--rounds".into(), rounds.to_string().into()]);
        }
        for (flag, is_set) in [("--quick", quick), ("--h2", h2), ("--each", each)] {
            arguments.extend(is_set.then(|| flag.into()));
        }
        if !only.is_empty() {
            arguments.extend(["--only".into(), only.join(",").into()]);
        }
        for (flag, path) in [("--envoy", envoy), ("--against", against), ("--output", output)] {
            if let Some(path) = path {
                arguments.extend([flag.into(), std::path::absolute(path).unwrap_or_else(|_| path.clone()).into()]);
            }
        }
        arguments
    }
}
