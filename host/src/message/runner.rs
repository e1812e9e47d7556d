//! A subscription at work: takes messages from its broker, has them delivered, and does with each what the verdict says.
//!
//! All that a message waits for, it waits for here: its turn, the time of its next attempt, a consumer that comes for it.
//! It holds no place among deliveries meanwhile, so that one bad message keeps nobody up. What is held is bounded by
//! `prefetch`: at that, nothing more is taken from the broker, which is what slows publishers down in the end.

use super::deliver::Pulled;
use super::queue::{Keyed, Queue};
use super::settle::Held;
use super::work::{Finished, KEEP, Work};
use crate::broker::{BrokerError, Source, Taken};
use crate::node::Node;
use crate::snapshot::messages::Subscription;
use crate::telemetry::metrics::handles::{BacklogMetrics, Event, MessageMetrics};
use futures_util::{StreamExt, stream};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// The waits between attempts to take from a broker that fails: the first and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Messages whose attempts, and those whose ids are remembered, in memory.
const REMEMBERED: usize = 100_000;
/// Consumers of one subscription that wait for a message at a time.
pub const MAX_PULLERS: usize = 1024;

/// A consumer that has come for a message.
pub type Puller = oneshot::Sender<Pulled>;

/// What a runner is told from outside.
pub struct Orders {
    /// The subscription as it is configured now. Closed: stop.
    pub subscription: watch::Receiver<Arc<Subscription>>,
    pub pullers: mpsc::Receiver<Puller>,
    /// Keeps the way open where no consumer uses it.
    pub _way: mpsc::Sender<Puller>,
}

pub struct Runner {
    node: Arc<Node>,
    subscription: Arc<Subscription>,
    metrics: MessageMetrics,
    backlog: BacklogMetrics,
    queue: Queue<Held>,
    /// The number of the source that messages come from: receipts of those before are void.
    source: u64,
    /// Messages that are worked on, to their end.
    busy: JoinSet<Finished>,
    /// For deliveries. What was delivered leaves its place before it is settled: a broker that is slow to hear of it holds up
    /// nothing else.
    places: Arc<Semaphore>,
    pullers: VecDeque<Puller>,
    /// Attempts at messages that failed, by their ids: a broker that gives one out again may not know.
    attempts: HashMap<String, u32>,
    /// Until when a message with that id would be the same again.
    acked: HashMap<String, Instant>,
}

/// Why a round of taking messages has ended.
enum Ended {
    Stopped,
    Lost(BrokerError),
}

impl Runner {
    pub fn new(node: Arc<Node>, subscription: Arc<Subscription>) -> Self {
        let metrics = subscription.metrics(&node.telemetry.metrics).1.clone();
        let backlog = node.telemetry.metrics.backlog(&subscription.name);
        let queue = Queue::new(subscription.config.ordered);
        let places = places(&subscription);
        Self {
            node,
            subscription,
            metrics,
            backlog,
            queue,
            source: 0,
            busy: JoinSet::new(),
            places,
            pullers: VecDeque::new(),
            attempts: HashMap::new(),
            acked: HashMap::new(),
        }
    }

    /// Works until it is told to stop, and then to the end of what is being delivered.
    pub async fn run(mut self, mut orders: Orders) {
        let mut wait = RECONNECT.0;
        // Ends with this.
        let mut watching = JoinSet::new();
        watching.spawn(watch_backlog(self.subscription.clone(), self.backlog.clone()));
        loop {
            self.subscription = orders.subscription.borrow_and_update().clone();
            let consumption = self.subscription.consumption.clone();
            let broker = self.subscription.channel.broker.clone();
            let lost = tokio::select! {
                consumed = broker.client.consume(&consumption) => match consumed {
                    Ok(mut source) => {
                        tracing::info!(subscription = &*self.subscription.name, broker = broker.config.name, "takes messages");
                        wait = RECONNECT.0;
                        self.subscription.takes(true);
                        let ended = self.take_from(&mut *source, &mut orders).await;
                        self.subscription.takes(false);
                        match ended {
                            Ended::Stopped => return self.end(source).await,
                            Ended::Lost(error) => error,
                        }
                    }
                    Err(error) => error,
                },
                () = stopped(&mut orders) => return,
            };
            tracing::warn!(
                subscription = &*self.subscription.name,
                broker = broker.config.name,
                "takes no messages: {lost}"
            );
            // What waits comes again from the broker, and so does what is being delivered, should that fail.
            self.source += 1;
            self.queue.clear();
            let pause = tokio::time::sleep(rand::random_range(wait / 2..=wait));
            wait = (wait * 2).min(RECONNECT.1);
            tokio::select! {
                () = pause => {}
                () = stopped(&mut orders) => return,
            }
        }
    }

    async fn take_from(&mut self, source: &mut dyn Source, orders: &mut Orders) -> Ended {
        let mut keep = tokio::time::interval(KEEP);
        loop {
            self.start();
            let held = self.queue.len() + self.busy.len();
            self.backlog.held.set(i64::try_from(held).unwrap_or(i64::MAX));
            let has_room = held < self.subscription.consumption.prefetch as usize;
            // Where there is no place for it, it is not waited for.
            let due = self.queue.due().filter(|_| self.has_place());
            let free = self.places.clone();
            tokio::select! {
                taken = source.next(), if has_room => match taken {
                    Ok(taken) => self.admit(taken),
                    Err(error) => return Ended::Lost(error),
                },
                Some(finished) = self.busy.join_next() => self.finished(finished.ok()),
                () = sleep_until(due), if due.is_some() => {}
                _ = free.acquire(), if self.queue.is_ready() && !self.subscription.is_pulled() => {}
                puller = orders.pullers.recv(), if self.pullers.len() < MAX_PULLERS => match puller {
                    Some(puller) => self.pullers.push_back(puller),
                    None => return Ended::Stopped,
                },
                changed = orders.subscription.changed() => match changed {
                    Ok(()) => {
                        self.subscription = orders.subscription.borrow_and_update().clone();
                        self.places = places(&self.subscription);
                    }
                    Err(_) => return Ended::Stopped,
                },
                _ = keep.tick() => self.keep().await,
            }
        }
    }

    /// A message has come.
    fn admit(&mut self, taken: Taken) {
        let Taken { message, attempts, receipt } = taken;
        let attempts = attempts.max(self.attempts.get(&message.id).copied().unwrap_or(0));
        let delay = message.delay(SystemTime::now());
        let due = Some(delay).filter(|delay| !delay.is_zero()).map(|delay| Instant::now() + delay);
        self.queue.add(Held { message, attempts, receipt, source: self.source, avoid: None, dead: None }, due);
    }

    /// Starts as many deliveries as there may be.
    fn start(&mut self) {
        let now = Instant::now();
        self.pullers.retain(|puller| !puller.is_closed());
        loop {
            let Some(held) = self.has_place().then(|| self.queue.take(now)).flatten() else { return };
            let is_known = self.acked.get(&held.message.id).is_some_and(|until| *until > now);
            let done_with = match held.message.is_expired(SystemTime::now()) {
                true => Some(Event::Expired),
                false => is_known.then_some(Event::Duplicate),
            };
            let work = Work {
                node: self.node.clone(),
                subscription: self.subscription.clone(),
                metrics: self.metrics.clone(),
            };
            match done_with {
                Some(why) => {
                    self.metrics.count(why);
                    self.busy.spawn(async move { work.ack(held, None).await });
                }
                None if held.dead.is_some() => drop(self.busy.spawn(async move { work.give_up(held, None).await })),
                None => {
                    let (taker, place) = match self.subscription.is_pulled() {
                        true => (self.pullers.pop_front(), None),
                        false => (None, self.places.clone().try_acquire_owned().ok()),
                    };
                    self.busy.spawn(async move { work.deliver(held, taker, place).await });
                }
            }
        }
    }

    /// Whether another delivery may begin.
    fn has_place(&self) -> bool {
        match self.subscription.is_pulled() {
            true => !self.pullers.is_empty(),
            false => self.places.available_permits() > 0,
        }
    }

    fn finished(&mut self, finished: Option<Finished>) {
        // A task that panicked has given its message back by dropping it.
        let Some(Finished { key, id, again }) = finished else { return };
        match again {
            Some((held, due)) => {
                if held.attempts > 0 && self.attempts.len() < REMEMBERED {
                    self.attempts.insert(id, held.attempts);
                }
                match held.source == self.source {
                    true => self.queue.again(held, due),
                    false => self.queue.done(held.key()),
                }
            }
            None => {
                self.attempts.remove(&id);
                if let Some(window) = self.subscription.config.dedup {
                    if self.acked.len() >= REMEMBERED {
                        let now = Instant::now();
                        self.acked.retain(|_, until| *until > now);
                    }
                    if self.acked.len() < REMEMBERED {
                        self.acked.insert(id, Instant::now() + window);
                    }
                }
                self.queue.done(key.as_deref());
            }
        }
    }

    /// Tells the broker that what is held is not forgotten; as far as it can be told soon, since nothing begins meanwhile.
    async fn keep(&self) {
        const AT_A_TIME: usize = 64;
        let all = stream::iter(self.queue.iter()).for_each_concurrent(AT_A_TIME, |held| held.receipt.keep());
        drop(tokio::time::timeout(Duration::from_secs(1), all).await);
    }

    /// Lets deliveries end, and gives the rest back.
    async fn end(mut self, source: Box<dyn Source>) {
        for held in self.queue.clear() {
            held.receipt.release().await;
        }
        while let Some(finished) = self.busy.join_next().await {
            if let Ok(Finished { again: Some((held, _)), .. }) = finished {
                held.receipt.release().await;
            }
        }
        drop(source);
    }
}

fn places(subscription: &Subscription) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(subscription.config.concurrency as usize))
}

/// Keeps an eye on what waits at the broker.
async fn watch_backlog(subscription: Arc<Subscription>, metrics: BacklogMetrics) {
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    loop {
        if let Ok(backlog) = subscription.channel.broker.client.backlog(&subscription.consumption).await {
            metrics.waiting.set(gauge(backlog.messages.unwrap_or(0)));
            metrics.oldest.set(gauge(backlog.oldest.unwrap_or_default().as_secs()));
        }
        tokio::time::sleep(KEEP).await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Returns when there is nothing more to do.
async fn stopped(orders: &mut Orders) {
    while orders.subscription.changed().await.is_ok() {}
}
