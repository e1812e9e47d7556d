//! The work on one message that is held: an attempt to deliver it, and settling it with the broker.

use super::deliver::{Delivered, Order, Verdict, deliver};
use super::queue::Keyed;
use super::runner::Puller;
use super::settle::{Held, dead_letter};
use crate::node::Node;
use crate::snapshot::messages::Subscription;
use crate::telemetry::metrics::handles::{Event, MessageMetrics};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How often the broker is told that messages are still worked on. Well below any broker's patience.
pub const KEEP: Duration = Duration::from_secs(5);
/// Told when what a consumer said of a message is settled.
type Done = oneshot::Sender<()>;

/// What is left of a message that was worked on.
pub struct Finished {
    pub key: Option<String>,
    pub id: String,
    /// It is not done, and due again then.
    pub again: Option<(Held, Instant)>,
}

/// What it takes to work on one message.
pub struct Work {
    pub node: Arc<Node>,
    pub subscription: Arc<Subscription>,
    pub metrics: MessageMetrics,
}

impl Work {
    /// One attempt, and what follows from it.
    pub async fn deliver(
        &self,
        mut held: Held,
        taker: Option<Puller>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Finished {
        let order = Order {
            subscription: self.subscription.name.clone(),
            message: held.message.clone(),
            attempts: held.attempts,
            avoid: held.avoid,
            taker,
        };
        let delivered = self.node.errands.run(move |worker| deliver(worker, order));
        let mut delivered = std::pin::pin!(delivered);
        let delivered = loop {
            tokio::select! {
                delivered = &mut delivered => break delivered,
                () = tokio::time::sleep(KEEP) => held.receipt.keep().await,
            }
        };
        let left = || Verdict::Again { after: None, counts: false, avoid: None, why: "the worker has ended".into() };
        let Delivered { verdict, done } = delivered.unwrap_or_else(|| Delivered { verdict: left(), done: None });
        drop(place);
        match verdict {
            Verdict::Ack => self.ack(held, done).await,
            Verdict::Dead(reason) => {
                held.attempts += 1;
                held.dead = Some(reason);
                self.give_up(held, done).await
            }
            Verdict::Again { after, counts, avoid, .. } => {
                held.attempts += u32::from(counts);
                held.avoid = avoid;
                let after = after.unwrap_or_else(|| self.backoff(held.attempts));
                if counts {
                    self.metrics.count(Event::Retried);
                    held.receipt.failed(held.attempts, SystemTime::now() + after).await;
                }
                let _ = done.map(|done| done.send(()));
                held.again_after(after)
            }
        }
    }

    /// The message is done with.
    pub async fn ack(&self, held: Held, done: Option<Done>) -> Finished {
        let (key, id) = (held.key().map(str::to_owned), held.message.id.clone());
        match held.receipt.ack().await {
            Ok(()) => {
                self.metrics.count(Event::Acked);
                let _ = done.map(|done| done.send(()));
            }
            // It will come again.
            Err(error) => tracing::debug!(subscription = &*self.subscription.name, id, "not acknowledged: {error}"),
        }
        // Also where the broker does not know it is done with, and remembered as such.
        Finished { key, id, again: None }
    }

    /// Puts the message where dead letters go, and is done with it.
    pub async fn give_up(&self, held: Held, done: Option<Done>) -> Finished {
        let reason = held.dead.as_deref().unwrap_or_default();
        let Some(to) = &self.subscription.dead_letter else {
            tracing::warn!(subscription = &*self.subscription.name, id = held.message.id, reason, "message dropped");
            self.metrics.count(Event::Dropped);
            return self.ack(held, done).await;
        };
        let letter = dead_letter(&held, &self.subscription);
        match to.broker.client.publish(&to.destination, &letter).await {
            Ok(()) => {
                let name = &*self.subscription.name;
                tracing::warn!(
                    subscription = name,
                    id = held.message.id,
                    to = to.name,
                    reason,
                    "message dead-lettered"
                );
                self.metrics.count(Event::DeadLettered);
                self.ack(held, done).await
            }
            Err(error) => {
                let name = &*self.subscription.name;
                tracing::error!(subscription = name, id = held.message.id, to = to.name, "cannot dead-letter: {error}");
                held.again_after(Duration::from_secs(1))
            }
        }
    }

    /// The wait before the next attempt where no policy says: doubled each time, and half of it by chance.
    fn backoff(&self, attempts: u32) -> Duration {
        let backoff = self.subscription.config.backoff;
        let doubled = backoff.initial.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(backoff.max);
        rand::random_range(doubled / 2..=doubled)
    }
}

impl Held {
    fn again_after(self, after: Duration) -> Finished {
        let due = Instant::now() + after;
        Finished { key: None, id: self.message.id.clone(), again: Some((self, due)) }
    }
}
