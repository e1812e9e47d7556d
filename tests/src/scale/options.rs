//! What one can ask of a measurement of scale. The command and the program behind it read the same options.

use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Services, each with ten endpoints and a route
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub services: u32,
    /// How often one endpoint changes
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(5..=10_000))]
    pub changes: u32,
    /// Requests each second meanwhile
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub rate: u32,
    /// Idle connections; as many files have to be allowed (`ulimit -n`)
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub connections: u32,
}

impl Options {
    /// The same as one would write them.
    pub fn arguments(&self) -> Vec<String> {
        let Self { services, changes, rate, connections } = self;
        let numbers = format!("--services {services} --changes {changes} --rate {rate} --connections {connections}");
        numbers.split(' ').map(str::to_owned).collect()
    }
}
