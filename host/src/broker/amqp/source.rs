//! Messages of a queue.

use super::super::{BrokerError, BrokerFailure, Consumption, Receipt, Source, Taken};
use super::place::Place;
use super::session::Session;
use super::{convert, failure};
use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Acker, Consumer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How many messages this node has of each queue and has not acknowledged: a number for each source that is there.
#[derive(Debug, Default)]
pub struct Held(Mutex<Vec<(ShortString, Weak<AtomicU64>)>>);

impl Held {
    /// Of all sources of a queue.
    pub fn of(&self, queue: &ShortString) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.iter().filter(|(of, _)| of == queue).filter_map(|(_, count)| count.upgrade());
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn new_count(&self, queue: ShortString) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|(_, count)| count.strong_count() > 0);
        counts.push((queue, Arc::downgrade(&count)));
        count
    }
}

/// A consumer of a queue, with an AMQP channel to itself: what it holds goes back when that ends.
pub struct Queue {
    name: ShortString,
    quorum: bool,
    /// No more than the prefetch.
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    /// Why there are no more, once that is so.
    end: Arc<OnceLock<BrokerError>>,
    held: Arc<AtomicU64>,
    pump: AbortHandle,
    runtime: Handle,
}

impl Queue {
    pub async fn open(
        session: &Session,
        what: &Consumption,
        held: &Held,
        runtime: &Handle,
    ) -> Result<Self, BrokerError> {
        let place = Place::of(&what.from)?;
        let name = place.queue(&what.name)?;
        let channel = session.channel().await?;
        if what.from.options.declare {
            place.subscribe(&channel, what).await?;
        }
        let about = |error| failure(&error, &format!("queue {:?}", name.as_str()));
        // Zero would be any number.
        let prefetch = u16::try_from(what.prefetch).unwrap_or(u16::MAX).max(1);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(about)?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(name.clone(), "".into(), options, FieldTable::default());
        let consumer = consumer.await.map_err(about)?;

        let held = held.new_count(name.clone());
        let end = Arc::new(OnceLock::new());
        let (sender, deliveries) = mpsc::unbounded_channel();
        let pump = pump(consumer, sender, held.clone(), end.clone(), name.clone());
        // The AMQP channel ends with the task, and with it all it has handed out.
        let pump = runtime.spawn(async move {
            pump.await;
            drop(channel);
        });
        let (quorum, runtime) = (what.from.options.quorum, runtime.clone());
        Ok(Self { name, quorum, deliveries, end, held, pump: pump.abort_handle(), runtime })
    }
}

/// Counts what comes before anybody asks for it.
async fn pump(
    mut consumer: Consumer,
    deliveries: mpsc::UnboundedSender<Delivery>,
    held: Arc<AtomicU64>,
    end: Arc<OnceLock<BrokerError>>,
    name: ShortString,
) {
    let about = format!("queue {:?}", name.as_str());
    let why = loop {
        match consumer.next().await {
            Some(Ok(delivery)) => {
                held.fetch_add(1, Ordering::Relaxed);
                if deliveries.send(delivery).is_err() {
                    return;
                }
            }
            Some(Err(error)) => break failure(&error, &about),
            None => break BrokerError::new(BrokerFailure::Lost, format!("{about}: it was deleted, or its node ended")),
        }
    };
    // Known before the deliveries end.
    let _ = end.set(why);
}

#[async_trait]
impl Source for Queue {
    async fn next(&mut self) -> Result<Taken, BrokerError> {
        let Some(delivery) = self.deliveries.recv().await else {
            let lost = || BrokerError::new(BrokerFailure::Lost, format!("queue {:?} has ended", self.name.as_str()));
            return Err(self.end.get().cloned().unwrap_or_else(lost));
        };
        // Classic queues count nothing.
        let attempts = if self.quorum { convert::deliveries(&delivery.properties) } else { 0 };
        let receipt = Open {
            acker: Some(delivery.acker),
            name: self.name.clone(),
            held: Arc::downgrade(&self.held),
            runtime: self.runtime.clone(),
        };
        let message = convert::message(&delivery.properties, delivery.data.into());
        Ok(Taken { message, attempts, receipt: Box::new(receipt) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// A delivery that the server waits to hear about.
struct Open {
    acker: Option<Acker>,
    name: ShortString,
    held: Weak<AtomicU64>,
    runtime: Handle,
}

impl Open {
    fn take(&mut self) -> Option<Acker> {
        let acker = self.acker.take()?;
        if let Some(held) = self.held.upgrade() {
            held.fetch_sub(1, Ordering::Relaxed);
        }
        Some(acker)
    }
}

#[async_trait]
impl Receipt for Open {
    async fn ack(mut self: Box<Self>) -> Result<(), BrokerError> {
        let about = format!("acknowledgement to queue {:?}", self.name.as_str());
        let Some(acker) = self.take() else { return Ok(()) };
        match acker.ack(BasicAckOptions::default()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BrokerError::new(BrokerFailure::Lost, format!("{about}: its source has ended"))),
            Err(error) => Err(failure(&error, &about)),
        }
    }

    async fn release(mut self: Box<Self>) {
        if let Some(acker) = self.take() {
            give_back(acker).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Or it would count towards the prefetch for as long as the source lives.
        if let Some(acker) = self.take().filter(Acker::usable) {
            self.runtime.spawn(give_back(acker));
        }
    }
}

/// If that fails the AMQP channel has ended, and the message is back already.
async fn give_back(acker: Acker) {
    let _ = acker.nack(BasicNackOptions { requeue: true, ..Default::default() }).await;
}
