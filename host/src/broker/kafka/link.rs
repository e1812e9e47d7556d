//! Whether there is a cluster, and what its errors mean.

use crate::broker::{BrokerError, BrokerFailure};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, Producer, PurgeConfig};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the cluster is asked whether it lives where nothing looks wrong, and how long it may take to say so.
const ASK_EVERY: Duration = Duration::from_secs(30);
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Waits between questions while it is away: the first, and the longest. Each is jittered.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Why the cluster cannot be reached, if that is so.
pub type Trouble = Option<String>;

/// A client that only looks. It makes no topics by asking for them.
pub type Observer = BaseConsumer<Watching>;

/// Remembers what librdkafka complains about: the reason when the cluster is found to be away.
#[derive(Default)]
pub struct Watching(Mutex<Complaints>);

#[derive(Default)]
struct Complaints {
    is_new: bool,
    last: Option<String>,
}

impl ClientContext for Watching {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut complaints = self.lock();
        complaints.is_new = true;
        // "All brokers are down" is told after why, and says less.
        if complaints.last.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            complaints.last = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Watching {}

impl Watching {
    fn lock(&self) -> MutexGuard<'_, Complaints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that knows whether the cluster is there. It ends when it is told to, and the clients with it: that blocks.
pub struct Watcher {
    pub observer: Arc<Observer>,
    pub producer: FutureProducer<Quiet>,
    pub trouble: watch::Sender<Trouble>,
    pub stop: Arc<AtomicBool>,
}

impl Watcher {
    pub fn run(self) {
        let (mut asked, mut wait) = (None::<Instant>, FIRST_WAIT);
        let complaints = || self.observer.context().lock();
        while !self.stop.load(Ordering::Relaxed) {
            let is_down = self.trouble.borrow().is_some();
            // Serves what librdkafka has to say: complaints are remembered as they are told.
            let _ = self.observer.poll(if is_down { jittered(wait) } else { Duration::from_millis(100) });
            let is_suspect = std::mem::take(&mut complaints().is_new);
            if !is_down && !is_suspect && asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
                continue;
            }
            asked = Some(Instant::now());
            match self.observer.fetch_metadata(None, ANSWER_WITHIN) {
                Ok(_) => {
                    wait = FIRST_WAIT;
                    complaints().last = None;
                    if is_down {
                        self.trouble.send_replace(None);
                    }
                }
                Err(error) => {
                    wait = (wait * 2).min(LONGEST_WAIT);
                    let why = complaints().last.clone().unwrap_or_else(|| error.to_string());
                    self.trouble.send_replace(Some(why));
                    // Whoever waited for these was told that they are lost, and publishes them again.
                    self.producer.purge(PurgeConfig::default().queue());
                }
            }
        }
    }
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

/// For clients whose errors are told by their results.
#[derive(Clone)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Quiet {}

/// What all clients have in common. `url`: "kafka://host:port,host:port".
pub fn config(url: &str, credentials: Option<&(String, String)>) -> Option<ClientConfig> {
    let servers = url.strip_prefix("kafka://")?.trim_end_matches('/');
    if servers.is_empty() || servers.contains('/') {
        return None;
    }
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("client.id", "weir").set("socket.keepalive.enable", "true");
    config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "2000");
    if let Some((user, password)) = credentials {
        config.set("security.protocol", "sasl_plaintext").set("sasl.mechanism", "PLAIN");
        config.set("sasl.username", user).set("sasl.password", password);
    }
    Some(config)
}

/// What an error says about what was asked.
pub fn error(name: &str, error: &KafkaError) -> BrokerError {
    use BrokerFailure::{Full, Lost, Refused, TooLarge};
    use RDKafkaErrorCode as Code;
    let kind = match error.rdkafka_error_code() {
        Some(Code::QueueFull) => Full,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge) => TooLarge,
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::InvalidTopic
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::PolicyViolation
            | Code::InvalidRecord
            | Code::InvalidConfig
            | Code::InvalidReplicationFactor,
        ) => Refused,
        _ => Lost,
    };
    BrokerError::new(kind, format!("broker {name:?}: {error}"))
}
