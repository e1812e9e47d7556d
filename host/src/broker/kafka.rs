//! Kafka: a topic for each destination, a consumer group for each subscription.
//!
//! A publish returns when all replicas in sync have the message. What a group is done with is committed with the offset of
//! the first message that it is not done with, and a note of those after it: an acknowledgement that has returned holds,
//! whatever becomes of the messages before it. Priorities, limits of length and delays are not Kafka's; the host does the
//! last, as it does waits between attempts.

mod held;
mod link;
mod progress;
mod reader;
mod topics;
mod wire;

use super::{Backlog, Broker, BrokerError, BrokerFailure, Consumption, Destination, Message, Source, Taken};
use async_trait::async_trait;
use held::{Handed, Held};
use link::{ANSWER_WITHIN, Observer, Quiet, Trouble, Watcher, Watching};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::FutureProducer;
use rdkafka::topic_partition_list::TopicPartitionList;
use reader::{GroupConsumer, Member, Reader};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// The most messages that one source holds: what is said of them has to fit beside a committed offset.
const MOST_HELD: usize = 800;
/// Topics that are remembered to be there.
const MOST_TOPICS: usize = 10_000;

/// A Kafka cluster.
pub struct Kafka {
    shared: Arc<Shared>,
    producer: FutureProducer<Quiet>,
    runtime: Handle,
    stop: Arc<AtomicBool>,
}

struct Shared {
    name: String,
    config: ClientConfig,
    observer: Arc<Observer>,
    trouble: watch::Receiver<Trouble>,
    topics: Mutex<HashSet<String>>,
    /// Sources by subscription, as long as they live.
    sources: Mutex<HashMap<String, Vec<Weak<Held>>>>,
}

impl Kafka {
    /// Connects in the background, and again whenever the connection breaks. `url`: "kafka://127.0.0.1:9092", or more
    /// than one address with commas between them.
    ///
    /// # Errors
    /// The URL is none, or no client can be made.
    pub fn open(
        name: &str,
        url: &str,
        credentials: Option<(String, String)>,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let config = link::config(url, credentials.as_ref())
            .ok_or_else(|| format!("broker {name:?}: write url as in \"kafka://127.0.0.1:9092,127.0.0.1:9093\""))?;
        let failed = |error: KafkaError| format!("broker {name:?}: {error}");
        let mut producing = config.clone();
        producing.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "1");
        // What the host does not wait for any more is given up too.
        producing.set("message.timeout.ms", "15000").set("queue.buffering.max.kbytes", "262144");
        // The limit is the broker's.
        producing.set("message.max.bytes", "200000000");
        let producer = FutureProducer::from_config_and_context(&producing, Quiet).map_err(failed)?;
        let observer = Observer::from_config_and_context(&config, Watching::default()).map_err(failed)?;
        let observer = Arc::new(observer);
        let (sender, trouble) = watch::channel(Some("not connected yet".to_owned()));
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            observer: Arc::clone(&observer),
            producer: producer.clone(),
            trouble: sender,
            stop: Arc::clone(&stop),
        };
        thread("kafka-watch", move || watcher.run()).map_err(|error| format!("broker {name:?}: {error}"))?;
        let shared = Shared {
            name: name.to_owned(),
            config,
            observer,
            trouble,
            topics: Mutex::default(),
            sources: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), producer, runtime: runtime.clone(), stop })
    }

    /// Fails at once where there is no cluster, and makes the topic where that is asked for.
    async fn ready(&self, to: &Destination) -> Result<(), BrokerError> {
        self.shared.reachable()?;
        if lock(&self.shared.topics).contains(&to.address) {
            return Ok(());
        }
        let (shared, producer) = (Arc::clone(&self.shared), self.producer.clone());
        let (to, runtime) = (to.clone(), self.runtime.clone());
        self.blocking(move || {
            if topics::partitions(&shared.name, &shared.observer, &to.address)?.is_empty() {
                if !to.options.declare {
                    let message = format!("broker {:?}: there is no topic {:?}", shared.name, to.address);
                    return Err(BrokerError::new(BrokerFailure::Refused, message));
                }
                topics::make(&shared.name, &shared.config, &producer, &runtime, &to)?;
            }
            let mut topics = lock(&shared.topics);
            if topics.len() >= MOST_TOPICS {
                topics.clear();
            }
            topics.insert(to.address);
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let ended = |_| Err(BrokerError::new(BrokerFailure::Lost, "the node is ending"));
        self.runtime.spawn_blocking(what).await.unwrap_or_else(ended)
    }
}

impl Shared {
    fn reachable(&self) -> Result<(), BrokerError> {
        match self.trouble.borrow().as_ref() {
            None => Ok(()),
            Some(why) => Err(BrokerError::new(BrokerFailure::Unreachable, format!("broker {:?}: {why}", self.name))),
        }
    }

    fn consumer<C: ConsumerContext>(
        &self,
        group: &str,
        context: C,
    ) -> Result<rdkafka::consumer::BaseConsumer<C>, BrokerError> {
        let mut config = self.config.clone();
        config.set("group.id", group).set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "earliest");
        // Others go on with their partitions while one is handed over.
        config.set("partition.assignment.strategy", "cooperative-sticky");
        // How long partitions lie idle whose node has died.
        config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "2000");
        // Of each partition, beyond what is held. One message may be larger than that.
        config.set("queued.max.messages.kbytes", "8192").set("receive.message.max.bytes", "300000000");
        rdkafka::consumer::BaseConsumer::from_config_and_context(&config, context)
            .map_err(|error| link::error(&self.name, &error))
    }

    fn sources(&self, group: &str) -> Vec<Arc<Held>> {
        lock(&self.sources).get(group).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    fn add_source(&self, group: &str, held: &Arc<Held>) {
        let mut sources = lock(&self.sources);
        sources.retain(|_, sources| {
            sources.retain(|held| held.strong_count() > 0);
            !sources.is_empty()
        });
        sources.entry(group.to_owned()).or_default().push(Arc::downgrade(held));
    }

    /// What all partitions hold beyond what the group is done with. Blocks.
    fn lag(&self, what: &Consumption) -> Result<u64, BrokerError> {
        let failed = |error: KafkaError| link::error(&self.name, &error);
        let topic = &what.from.address;
        let partitions = topics::partitions(&self.name, &self.observer, topic)?;
        if partitions.is_empty() {
            return Ok(0);
        }
        let mut list = TopicPartitionList::new();
        partitions.iter().for_each(|partition| _ = list.add_partition(topic, *partition));
        // It never joins the group: it only asks where that is.
        let asking = self.consumer(&what.name, Quiet)?;
        let committed = asking.committed_offsets(list, ANSWER_WITHIN).map_err(failed)?;
        let mut waiting = 0;
        for partition in committed.elements() {
            let (low, high) =
                self.observer.fetch_watermarks(topic, partition.partition(), ANSWER_WITHIN).map_err(failed)?;
            let undone = match reader::snapshot(&partition) {
                Some(snapshot) => snapshot.undone(low, high),
                None => high - low,
            };
            waiting += u64::try_from(undone).unwrap_or(0);
        }
        Ok(waiting)
    }
}

/// Whether a channel can be had like this.
///
/// # Errors
/// Its destination is no name of a topic.
pub fn check(destination: &Destination) -> Result<(), BrokerError> {
    let name = destination.address.as_str();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=249).contains(&name.len()) && !matches!(name, "." | "..") && name.bytes().all(is_name) {
        return Ok(());
    }
    let message = format!("{name:?} is no topic: 1 to 249 letters, digits, dots, underscores and hyphens");
    Err(BrokerError::new(BrokerFailure::Refused, message))
}

#[async_trait]
impl Broker for Kafka {
    async fn publish(&self, to: &Destination, message: &Message) -> Result<(), BrokerError> {
        self.ready(to).await?;
        let failed = |error: &KafkaError| link::error(&self.shared.name, error);
        let lost =
            || BrokerError::new(BrokerFailure::Lost, format!("broker {:?}: the connection broke", self.shared.name));
        let delivery =
            self.producer.send_result(wire::record(&to.address, message)).map_err(|(error, _)| failed(&error))?;
        let mut trouble = self.shared.trouble.clone();
        tokio::select! {
            delivered = delivery => match delivered {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((error, _))) => {
                    let error = failed(&error);
                    if error.kind == BrokerFailure::Refused {
                        // It may have been deleted, and is looked for the next time.
                        lock(&self.shared.topics).remove(&to.address);
                    }
                    Err(error)
                }
                Err(_) => Err(lost()),
            },
            _ = trouble.wait_for(Option::is_some) => Err(lost()),
        }
    }

    async fn consume(&self, what: &Consumption) -> Result<Box<dyn Source>, BrokerError> {
        self.ready(&what.from).await?;
        let prefetch = usize::try_from(what.prefetch).unwrap_or(MOST_HELD).clamp(1, MOST_HELD);
        // As many as may be held, and what comes before a partition's queue is split off.
        let (sender, messages) = mpsc::channel(2 * MOST_HELD);
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let held = Arc::new(Held::new(sender, wake));
        let (name, topic) = (self.shared.name.clone(), what.from.address.clone());
        let member = Member { name: name.clone(), topic: topic.clone(), held: Arc::clone(&held) };
        let mut consumer: GroupConsumer = self.shared.consumer(&what.name, member)?;
        let woken_by = Arc::clone(&held);
        consumer.set_nonempty_callback(move || woken_by.wake());
        consumer.subscribe(&[&topic]).map_err(|error| link::error(&name, &error))?;
        self.shared.add_source(&what.name, &held);
        let trouble = self.shared.trouble.clone();
        let consumer = Arc::new(consumer);
        let reader = Reader { name, topic, consumer, held: Arc::clone(&held), prefetch, woken, trouble };
        // Ends when the source is dropped, as soon as the group knows.
        thread("kafka-read", move || reader.run())
            .map_err(|error| BrokerError::new(BrokerFailure::Refused, format!("no thread: {error}")))?;
        Ok(Box::new(KafkaSource { messages, held }))
    }

    async fn backlog(&self, what: &Consumption) -> Result<Backlog, BrokerError> {
        self.shared.reachable()?;
        let oldest = self.shared.sources(&what.name).iter().filter_map(|held| held.oldest()).min();
        let oldest = oldest.and_then(|millis| u64::try_from(millis).ok()).and_then(super::message::at);
        let (shared, what) = (Arc::clone(&self.shared), what.clone());
        let messages = self.blocking(move || shared.lag(&what)).await?;
        let age = |since| SystemTime::now().duration_since(since).unwrap_or(Duration::ZERO);
        Ok(Backlog { messages: Some(messages), oldest: oldest.map(age) })
    }

    fn trouble(&self) -> Option<String> {
        self.shared.trouble.borrow().clone()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("name", &self.shared.name)
            .field("trouble", &self.trouble())
            .finish_non_exhaustive()
    }
}

struct KafkaSource {
    messages: mpsc::Receiver<Handed>,
    held: Arc<Held>,
}

#[async_trait]
impl Source for KafkaSource {
    async fn next(&mut self) -> Result<Taken, BrokerError> {
        loop {
            let handed = self.messages.recv().await;
            if let Some(error) = self.held.failure() {
                return Err(error);
            }
            match handed {
                None => return Err(BrokerError::new(BrokerFailure::Lost, "the source has ended")),
                // Its partition may have been taken away meanwhile.
                Some(Handed { receipt, .. }) if !self.held.is_here(&receipt) => {}
                Some(Handed { message, receipt }) => return Ok(Taken { message, attempts: 0, receipt }),
            }
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.held.stop();
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// librdkafka's calls block, and its clients when they are dropped.
fn thread(name: &str, what: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(what).map(|_| ())
}
