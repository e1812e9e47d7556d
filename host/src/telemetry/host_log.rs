//! The host's own log: events as JSON lines, on stderr.

use std::io::{self, Write};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::Lines;

/// The environment variable that overrides the level of the host's own log, in the syntax of
/// tracing's `EnvFilter`: `debug`, or `weir=debug,h2=info`.
pub const LEVEL_VARIABLE: &str = "WEIR_LOG";

/// The host's own log; lines still queued are written when it is dropped, if stderr takes them
/// within a second.
#[derive(Debug)]
pub struct HostLog(Lines);

impl HostLog {
    /// Starts the host's own log as JSON on stderr, for the whole process.
    ///
    /// `level` is for Weir itself; libraries are held to warnings. [`LEVEL_VARIABLE`] overrides
    /// both. A stuck stderr loses lines, counted by `dropped`, and holds nobody up.
    ///
    /// Errors: the variable cannot be read as a filter, the operating system refuses a thread, or
    /// the process has such a log already.
    pub fn start(level: LevelFilter, dropped: Counter) -> Result<Self, HostLogError> {
        let filter = match std::env::var(LEVEL_VARIABLE) {
            Ok(filter) => EnvFilter::try_new(&filter).map_err(|source| HostLogError::Filter { filter, source })?,
            Err(_) => EnvFilter::new(format!("{},weir={level}", level.min(LevelFilter::WARN))),
        };
        let lines = Lines::start("weir-host-log", io::stderr(), dropped)?;
        subscriber(filter, lines.clone()).try_init().map_err(|error| HostLogError::Twice(error.to_string()))?;
        Ok(Self(lines))
    }
}

impl Drop for HostLog {
    fn drop(&mut self) {
        self.0.finish(Duration::from_secs(1));
    }
}

fn subscriber(filter: EnvFilter, lines: Lines) -> impl SubscriberInitExt {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(HostLogWriter(lines))
        .finish()
}

/// Why the host's own log could not start.
#[derive(Debug)]
pub enum HostLogError {
    /// `WEIR_LOG` is not a filter.
    Filter {
        /// Its value.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// No thread.
    Thread(io::Error),
    /// Another log is set up already.
    Twice(String),
}

impl From<io::Error> for HostLogError {
    fn from(error: io::Error) -> Self {
        Self::Thread(error)
    }
}

impl std::fmt::Display for HostLogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filter { filter, source } => write!(
                f,
                "{LEVEL_VARIABLE}={filter:?} is no filter ({source}); write a level such as `debug`, \
                 or `weir=debug,h2=info`"
            ),
            Self::Thread(error) => write!(f, "no thread for the log: {error}"),
            Self::Twice(error) => write!(f, "the log is set up already: {error}"),
        }
    }
}

impl std::error::Error for HostLogError {}

/// Makes each event one chunk; the formatter writes an event in one go.
struct HostLogWriter(Lines);

impl<'a> MakeWriter<'a> for HostLogWriter {
    type Writer = &'a HostLogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &HostLogWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.send(event.to_vec(), 1);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {

    use std::sync::mpsc::{Sender, channel};

    use serde_json::Value;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Output(Sender<Vec<u8>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn events_are_json_lines() {
        let (written, output) = channel();
        let lines = Lines::start("test-log", Output(written), Counter::default()).unwrap();
        let _current = subscriber(EnvFilter::new("info"), lines.clone()).set_default();
        tracing::info!(plugin = "a\n\"b", "loaded");
        tracing::debug!("too much detail");
        assert!(lines.finish(PATIENCE));
        let bytes: Vec<u8> = output.try_iter().flatten().collect();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 1);
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&event["message"], &event["plugin"]), (&"loaded".into(), &"a\n\"b".into()));
    }
}
