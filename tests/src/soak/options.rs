//! What one can ask of a soak. The command and the program behind it read the same options.

use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many versions of the plugin go live before it ends
    #[arg(long, default_value_t = 1000)]
    pub rounds: usize,
    /// Requests each second, over kept and fresh HTTP/1.1 connections and one HTTP/2 connection
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub rate: u32,
    /// Length of each phase (quiet, cached, cold, configuration, bad files)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Also keep every core busy with something else, at normal priority
    #[arg(long)]
    pub busy: bool,
}

impl Options {
    /// The same as one would write them.
    pub fn arguments(&self) -> Vec<String> {
        let Self { rounds, rate, seconds, busy } = self;
        let numbers = format!("--rounds {rounds} --rate {rate} --seconds {seconds}");
        numbers.split(' ').chain(busy.then_some("--busy")).map(str::to_owned).collect()
    }
}
