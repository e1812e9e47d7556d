//! Policies that make calls of their own. They do it in `tick`, and wait there: so each such policy ticks in one instance
//! for the node, on a thread of its own, where nobody waits for it.

mod caller;

use super::Policy;
use crate::chain::BoundPolicy;
use crate::config::CapabilityKind;
use crate::node::Node;
use crate::plugin::bindings::Hook;
pub use caller::Caller;
use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Whether a policy ticks on a thread of its own, and how often.
pub fn ticks_alone(policy: &Policy) -> Option<Duration> {
    let plugin = policy.plugin.as_ref().ok()?;
    let calls_out = plugin.asks.contains(&CapabilityKind::Outbound) && plugin.hooks.has(Hook::Tick);
    plugin.description.tick.filter(|_| calls_out)
}

/// Keeps one thread for each policy that calls out, until the node drains. A policy that is replaced or removed is stopped
/// in the middle of its call.
pub async fn supervise(node: Arc<Node>, mut drain: watch::Receiver<bool>) {
    let mut published = node.published();
    let mut running: HashMap<u64, Stop> = HashMap::new();
    loop {
        published.borrow_and_update();
        let snapshot = node.snapshot();
        let wanted: HashMap<u64, (&Arc<Policy>, Duration)> =
            snapshot.policies.values().filter_map(|policy| Some((policy.id, (policy, ticks_alone(policy)?)))).collect();
        running.retain(|id, _| wanted.contains_key(id));
        for (id, (policy, every)) in wanted {
            running.entry(id).or_insert_with(|| start(policy.clone(), every));
        }
        drop(snapshot);
        tokio::select! {
            _ = published.changed() => {}
            _ = drain.wait_for(|drain| *drain) => return,
        }
    }
}

/// Stops a policy's thread when it is dropped: `idle` where it waits for the next tick, `calling` where it waits for an
/// answer.
struct Stop {
    _idle: mpsc::Sender<()>,
    _calling: watch::Sender<()>,
}

fn start(policy: Arc<Policy>, every: Duration) -> Stop {
    let (idle, stopped) = mpsc::channel();
    let (calling, cancelled) = watch::channel(());
    let name = policy.name.clone();
    let run = move || {
        let caller = Caller::new(&policy.context, cancelled);
        let bound = BoundPolicy::calling_out(policy, caller);
        loop {
            bound.tick(Instant::now());
            if stopped.recv_timeout(every) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("weir-outbound".into()).spawn(run) {
        tracing::error!(policy = &*name, "no thread for its calls, so that it does not tick: {error}");
    }
    Stop { _idle: idle, _calling: calling }
}
