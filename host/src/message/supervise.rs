//! Keeps a runner for each subscription of the snapshot.

use super::runner::{MAX_PULLERS, Orders, Runner};
use crate::node::Node;
use crate::snapshot::messages::Subscription;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A subscription that is at work. It ends, with what it has begun, when this is dropped.
struct Running {
    subscription: Arc<Subscription>,
    tell: watch::Sender<Arc<Subscription>>,
    task: JoinHandle<()>,
}

/// Follows the node's snapshots until it drains, and then waits for deliveries to end.
pub async fn supervise(node: Arc<Node>, mut drain: watch::Receiver<bool>) {
    let mut published = node.published();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        follow(&node, &mut running);
        tokio::select! {
            changed = published.changed() => if changed.is_err() { break },
            _ = drain.wait_for(|drain| *drain) => break,
        }
    }
    let tasks: Vec<_> = running.into_values().map(|Running { task, .. }| task).collect();
    for task in tasks {
        drop(task.await);
    }
}

fn follow(node: &Arc<Node>, running: &mut BTreeMap<String, Running>) {
    let snapshot = node.snapshot();
    let wanted = &snapshot.messages.subscriptions;
    running.retain(|name, _| {
        let stays = wanted.contains_key(name);
        if !stays {
            node.desk.close(name);
        }
        stays
    });
    for (name, subscription) in wanted {
        let known = running.remove(name);
        let now = match known {
            Some(known) if known.subscription.continues(subscription) => {
                known.tell.send_replace(subscription.clone());
                Running { subscription: subscription.clone(), ..known }
            }
            // What the one before has begun ends first, so that order is kept and nothing is delivered twice.
            known => begin(node, subscription, known.map(|Running { task, .. }| task)),
        };
        running.insert(name.clone(), now);
    }
}

fn begin(node: &Arc<Node>, subscription: &Arc<Subscription>, before: Option<JoinHandle<()>>) -> Running {
    let (tell, told) = watch::channel(subscription.clone());
    let (way, pullers) = mpsc::channel(MAX_PULLERS);
    node.desk.close(&subscription.name);
    if subscription.is_pulled() {
        node.desk.open(subscription.name.clone(), way.clone());
    }
    let runner = Runner::new(node.clone(), subscription.clone());
    let orders = Orders { subscription: told, pullers, _way: way };
    let task = tokio::spawn(async move {
        if let Some(before) = before {
            drop(before.await);
        }
        runner.run(orders).await;
    });
    Running { subscription: subscription.clone(), tell, task }
}
