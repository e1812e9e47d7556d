//! The tables of which there is one: `[admin]`, `[plugins]`, `[node]`, `[retry-budget]`, `[log]`,
//! `[trace]`, `[limits]`.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::reader::{Fields, Value};
use super::rollback::{Rollback, rollback};
use super::show;
use super::values::{choice, duration, integer, name, path, size, socket_address, string, timeout, timeout_or_none};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// `[admin]`: where health, metrics and the state of the node are served.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Admin {
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)) }
    }
}

pub(super) fn admin(fields: &mut Fields<'_>) -> Option<Admin> {
    let default = Admin::default();
    Some(Admin { listen: fields.or("listen", default.listen, socket_address) })
}

/// `[plugins]`: where plugins are loaded from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plugins {
    /// Every `.wasm` file here is a plugin, named by its stem. A relative path starts at the
    /// working directory of the process, as on a command line, not at the configuration file.
    pub directory: PathBuf,
    /// Where compiled plugins are kept, so that a version is compiled once; `None`, or `"off"` in the file: nowhere. The
    /// default is the cache directory of the service or of the user.
    #[serde(serialize_with = "show::path_or_off")]
    pub cache: Option<PathBuf>,
    /// When a new version is taken back by itself; `None`, or `"off"` in the file: never.
    #[serde(serialize_with = "show::or_off")]
    pub rollback: Option<Rollback>,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("target/plugins"),
            cache: default_cache(|name| std::env::var_os(name)),
            rollback: Some(Rollback::default()),
        }
    }
}

/// `$CACHE_DIRECTORY` (systemd), `$XDG_CACHE_HOME/weir` or `$HOME/.cache/weir`.
pub(super) fn default_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // What is relative or empty does not count (XDG Base Directory Specification).
    let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // systemd makes the directory so that others can read it, and gives a list where there are several.
    let service =
        variable("CACHE_DIRECTORY").and_then(|list| std::env::split_paths(&list).find(|path| path.is_absolute()));
    service
        .map(|directory| directory.join("plugins"))
        .or_else(|| Some(directory("XDG_CACHE_HOME")?.join("weir")))
        .or_else(|| Some(directory("HOME")?.join(".cache/weir")))
}

pub(super) fn plugins(fields: &mut Fields<'_>) -> Option<Plugins> {
    let default = Plugins::default();
    let cache = |value: &Value<'_>| path(value).map(|path| (path.as_os_str() != "off").then_some(path));
    Some(Plugins {
        directory: fields.or("directory", default.directory, path),
        cache: fields.or("cache", default.cache, cache),
        rollback: fields.or("rollback", default.rollback, rollback),
    })
}

/// `[node]`: this process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Threads that serve exchanges, 1 to 255; by default one for each CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// How long exchanges in flight may take to end after SIGTERM. Zero does not wait.
    #[serde(serialize_with = "show::duration")]
    pub drain_timeout: Duration,
    /// The name of the node in logs and traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Default for Node {
    fn default() -> Self {
        Self { workers: None, drain_timeout: Duration::from_secs(10), name: None }
    }
}

pub(super) fn node(fields: &mut Fields<'_>) -> Option<Node> {
    let default = Node::default();
    Some(Node {
        workers: fields.optional("workers", integer(1..=255)),
        drain_timeout: fields.or("drain-timeout", default.drain_timeout, duration),
        name: fields.optional("name", name),
    })
}

/// `[retry-budget]`: how much of the node's traffic may be attempts 2 and up.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RetryBudget {
    /// Share of first attempts, 0 to 100.
    pub percent: u32,
    /// Retries per second that are allowed however little traffic there is.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

pub(super) fn retry_budget(fields: &mut Fields<'_>) -> Option<RetryBudget> {
    let default = RetryBudget::default();
    Some(RetryBudget {
        percent: fields.or("percent", default.percent, integer(0..=100)),
        min_per_second: fields.or("min-per-second", default.min_per_second, integer(0..=1_000_000)),
    })
}

/// `[log]`: what is written to the log.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Log {
    /// Which exchanges leave their line.
    pub exchanges: Exchanges,
    /// The least severe event of the host and of plugins that is written.
    pub level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exchanges {
    #[default]
    All,
    /// Those that failed.
    Errors,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    /// The word of the file, which is also what a `tracing` filter takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

pub(super) fn log(fields: &mut Fields<'_>) -> Option<Log> {
    let default = Log::default();
    let exchanges = choice(&[("all", Exchanges::All), ("errors", Exchanges::Errors), ("none", Exchanges::None)]);
    let level = choice(&[
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ]);
    Some(Log {
        exchanges: fields.or("exchanges", default.exchanges, exchanges),
        level: fields.or("level", default.level, level),
    })
}

/// `[trace]`: where spans go. When the queue is full, spans are lost rather than exchanges held up.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trace {
    /// OTLP over gRPC, such as `http://127.0.0.1:4317`. Without it no span is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Spans waiting to be sent, at most.
    pub queue: usize,
    /// Spans in one message, at most; no more than the queue holds.
    pub batch: usize,
    /// The longest that a span waits for a batch to fill.
    #[serde(serialize_with = "show::duration")]
    pub interval: Duration,
}

impl Default for Trace {
    fn default() -> Self {
        Self { otlp_endpoint: None, queue: 2048, batch: 512, interval: Duration::from_secs(1) }
    }
}

pub(super) fn trace(fields: &mut Fields<'_>) -> Option<Trace> {
    let default = Trace::default();
    let queue = fields.or("queue", default.queue, integer(1..=1_000_000));
    let trace = Trace {
        otlp_endpoint: fields.optional("otlp-endpoint", collector),
        queue,
        batch: fields.or("batch", default.batch.min(queue), integer(1..=1_000_000)),
        interval: fields.or("interval", default.interval, timeout),
    };
    if trace.batch > trace.queue {
        let message = format!("[trace] a batch of {} never fits the queue of {}", trace.batch, trace.queue);
        fields.reader.report(fields.at_key("batch"), message, "make the queue at least as long as the batch");
    }
    Some(trace)
}

/// `[limits]`: what peers may make the node hold. Each has a bound of its own, so none but
/// `stream-idle-timeout` can be turned off.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// Bytes of one request's or response's header section, 8 KiB to 16 MiB.
    pub max_header_bytes: usize,
    /// Fields of one header section.
    pub max_headers: usize,
    /// Bytes of a request target.
    pub max_target_bytes: usize,
    /// Open connections over all listeners.
    pub max_connections: usize,
    /// Concurrent HTTP/2 streams of one connection.
    pub max_streams: u32,
    /// Bytes of a request body kept so that an attempt can be repeated.
    pub max_body_buffer: usize,
    /// For a peer to send a complete header section.
    #[serde(serialize_with = "show::duration")]
    pub header_timeout: Duration,
    /// For a connection to carry nothing.
    #[serde(serialize_with = "show::duration")]
    pub idle_timeout: Duration,
    /// For a caller to take nothing of what it is sent.
    #[serde(serialize_with = "show::duration")]
    pub write_timeout: Duration,
    /// For an exchange, or a tunnel, in which no byte moves in either direction. `None`, written `"none"`: for ever.
    #[serde(serialize_with = "show::timeout")]
    pub stream_idle_timeout: Option<Duration>,
    /// Exchanges in progress on the node, streams and tunnels included; more are answered 503.
    pub max_pending: usize,
    /// Attempts of one exchange, whatever its policies decide.
    pub max_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            max_target_bytes: 8 * 1024,
            max_connections: 10_000,
            max_streams: 1024,
            max_body_buffer: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            stream_idle_timeout: Some(Duration::from_secs(5 * 60)),
            max_pending: 10_000,
            max_attempts: 10,
        }
    }
}

pub(super) fn limits(fields: &mut Fields<'_>) -> Option<Limits> {
    let default = Limits::default();
    Some(Limits {
        // hyper does not take a header buffer below 8 KiB.
        max_header_bytes: fields.or("max-header-bytes", default.max_header_bytes, size(8 * KIB..=16 * MIB)),
        max_headers: fields.or("max-headers", default.max_headers, integer(1..=10_000)),
        max_target_bytes: fields.or("max-target-bytes", default.max_target_bytes, size(1..=MIB)),
        max_connections: fields.or("max-connections", default.max_connections, integer(1..=1_000_000)),
        max_streams: fields.or("max-streams", default.max_streams, integer(1..=1_000_000)),
        max_body_buffer: fields.or("max-body-buffer", default.max_body_buffer, size(0..=GIB)),
        header_timeout: fields.or("header-timeout", default.header_timeout, timeout),
        idle_timeout: fields.or("idle-timeout", default.idle_timeout, timeout),
        write_timeout: fields.or("write-timeout", default.write_timeout, timeout),
        stream_idle_timeout: fields.or("stream-idle-timeout", default.stream_idle_timeout, timeout_or_none),
        max_pending: fields.or("max-pending", default.max_pending, integer(1..=1_000_000)),
        max_attempts: fields.or("max-attempts", default.max_attempts, integer(1..=1000)),
    })
}

fn collector(value: &Value<'_>) -> Option<String> {
    let url = string(value)?;
    let parsed = url.parse::<http::Uri>().ok();
    let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
    match scheme {
        Some("http" | "https") => Some(url),
        _ => value.fail(format!("{url:?} is not a URL"), "write it as in \"http://127.0.0.1:4317\""),
    }
}
