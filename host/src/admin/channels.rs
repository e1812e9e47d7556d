//! `/channels`: brokers, channels and subscriptions, and how they are.

use super::Admin;
use crate::broker::Backlog;
use crate::snapshot::messages::{Channel, OpenBroker, Subscription};
use crate::telemetry::metrics::handles::{Event, MessageMetrics};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// For a broker to say what waits.
const PATIENCE: Duration = Duration::from_secs(1);

impl Admin {
    pub(super) async fn channels(&self) -> Value {
        let messages = self.node.snapshot().messages.clone();
        let subscriptions = join_all(messages.subscriptions.values().map(|known| self.subscription(known))).await;
        json!({
            "brokers": messages.brokers.values().map(|broker| shown(broker)).collect::<Vec<_>>(),
            "channels": messages.channels.values().map(|channel| self.channel(channel)).collect::<Vec<_>>(),
            "subscriptions": subscriptions,
        })
    }

    fn channel(&self, channel: &Channel) -> Value {
        let (_, metrics) = channel.metrics(&self.node.telemetry.metrics);
        json!({
            "name": &*channel.name,
            "broker": channel.broker.config.name,
            "destination": channel.destination.address,
            "messages": counts(metrics, &[Event::Published, Event::Confirmed]),
        })
    }

    async fn subscription(&self, subscription: &Subscription) -> Value {
        const EVENTS: [Event; 7] = [
            Event::Delivered,
            Event::Acked,
            Event::Retried,
            Event::DeadLettered,
            Event::Dropped,
            Event::Expired,
            Event::Duplicate,
        ];
        let (_, metrics) = subscription.metrics(&self.node.telemetry.metrics);
        let backlog = subscription.channel.broker.client.backlog(&subscription.consumption);
        let (backlog, error) = match timeout(PATIENCE, backlog).await {
            Ok(Ok(backlog)) => (backlog, None),
            Ok(Err(error)) => (Backlog::default(), Some(error.message)),
            Err(_) => (Backlog::default(), Some(format!("the broker did not say within {PATIENCE:?}"))),
        };
        json!({
            "name": &*subscription.name,
            "channel": &*subscription.channel.name,
            // None: consumers come for their messages.
            "service": subscription.config.service,
            "takes-messages": subscription.is_taking(),
            "held": self.node.telemetry.metrics.backlog(&subscription.name).held.get(),
            "backlog": backlog.messages,
            "oldest-seconds": backlog.oldest.map(|age| age.as_secs()),
            "error": error,
            "messages": counts(metrics, &EVENTS),
        })
    }
}

fn shown(broker: &OpenBroker) -> Value {
    let trouble = broker.client.trouble();
    json!({
        "name": broker.config.name,
        "kind": broker.config.kind,
        "state": if trouble.is_none() { "ok" } else { "down" },
        "error": trouble,
    })
}

fn counts(metrics: &MessageMetrics, events: &[Event]) -> Map<String, Value> {
    events.iter().map(|event| (event.as_str().to_owned(), json!(metrics.so_far(*event)))).collect()
}
