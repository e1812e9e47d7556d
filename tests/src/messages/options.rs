//! What `cargo xtask messages` can be told; shared with the program behind it.

use clap::Args;

/// How much is measured.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Rounds, in each of which every broker has its turn
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Publishers at a time
    #[arg(long, default_value_t = 64)]
    pub publishers: usize,
    /// Bytes of each message
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
    /// Messages a second where it is measured how long they take
    #[arg(long, default_value_t = 200)]
    pub rate: u32,
}

impl Options {
    pub fn arguments(&self) -> Vec<String> {
        let Self { rounds, seconds, publishers, bytes, rate } = self;
        let pairs = [
            ("--rounds", rounds.to_string()),
            ("--seconds", seconds.to_string()),
            ("--publishers", publishers.to_string()),
            ("--bytes", bytes.to_string()),
            ("--rate", rate.to_string()),
        ];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}
