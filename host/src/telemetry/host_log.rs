//! The host's own log: events as JSON lines, on stderr.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields};
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::Lines;
use crate::config::Level;

/// The environment variable that overrides the level of the host's own log, in the syntax of
/// tracing's `EnvFilter`: `debug`, or `weir=debug,h2=info`.
pub const LEVEL_VARIABLE: &str = "WEIR_LOG";

/// The filter of the process's log, if a configuration may change it. There is one log, as there is one stderr.
static FILTER: OnceLock<Filter> = OnceLock::new();

type Filter = Handle<EnvFilter, tracing_subscriber::fmt::Formatter<JsonFields, Format<Json>, HostLogWriter>>;

/// Changes the level from now on. Not where [`LEVEL_VARIABLE`] sets it, nor before [`HostLog::start`].
pub fn set_level(level: Level) {
    if let Some(Err(error)) = FILTER.get().map(|filter| filter.reload(filter_of(level))) {
        tracing::error!("the level of the log stays as it is: {error}");
    }
}

/// Libraries are held to warnings. Clients of brokers are silent: what happens to a connection Weir tells itself, and they would
/// tell what is in messages.
fn filter_of(level: Level) -> EnvFilter {
    let others = if level == Level::Error { Level::Error } else { Level::Warn };
    EnvFilter::new(format!("{},lapin=off,async_nats=off,weir={}", others.as_str(), level.as_str()))
}

/// The host's own log; lines still queued are written when it is dropped, if stderr takes them
/// within a second.
#[derive(Debug)]
pub struct HostLog(Lines);

impl HostLog {
    /// Starts the host's own log as JSON on stderr, for the whole process.
    ///
    /// `level` is for Weir itself, until [`set_level`] sets another; libraries are held to warnings.
    /// [`LEVEL_VARIABLE`] overrides both. A stuck stderr loses lines, counted by `dropped`, and holds nobody up.
    ///
    /// Errors: the variable cannot be read as a filter, the operating system refuses a thread, or
    /// the process has such a log already.
    pub fn start(level: Level, dropped: Counter) -> Result<Self, HostLogError> {
        let fixed = match std::env::var(LEVEL_VARIABLE) {
            Ok(filter) => Some(EnvFilter::try_new(&filter).map_err(|source| HostLogError::Filter { filter, source })?),
            Err(_) => None,
        };
        let lines = Lines::start("weir-host-log", io::stderr(), dropped)?;
        let is_fixed = fixed.is_some();
        let (subscriber, filter) = subscriber(fixed.unwrap_or_else(|| filter_of(level)), lines.clone());
        subscriber.try_init().map_err(|error| HostLogError::Twice(error.to_string()))?;
        if !is_fixed {
            // A second log was refused just now.
            let _ = FILTER.set(filter);
        }
        Ok(Self(lines))
    }
}

impl Drop for HostLog {
    fn drop(&mut self) {
        self.0.finish(Duration::from_secs(1));
    }
}

fn subscriber(filter: EnvFilter, lines: Lines) -> (impl SubscriberInitExt, Filter) {
    let builder = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(HostLogWriter(lines))
        .with_filter_reloading();
    let filter = builder.reload_handle();
    (builder.finish(), filter)
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
        let (subscriber, _filter) = subscriber(filter_of(Level::Info), lines.clone());
        let _current = subscriber.set_default();
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
