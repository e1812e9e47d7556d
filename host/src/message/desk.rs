//! Where consumers that come for their messages are received, on whichever worker they come: ways to the subscriptions,
//! and the messages that are out.

use super::deliver::Settled;
use super::draft::new_id;
use super::runner::Puller;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

#[derive(Debug, Default)]
pub struct Desk {
    /// By name of the subscription.
    ways: RwLock<HashMap<Arc<str>, mpsc::Sender<Puller>>>,
    /// Messages that are with a consumer, by the id of the delivery. Who waits for the word is gone when the time for it
    /// has passed.
    out: Mutex<HashMap<String, oneshot::Sender<Settled>>>,
}

impl Desk {
    /// The way to a subscription, if there is one by that name whose consumers come for their messages.
    pub fn way(&self, subscription: &str) -> Option<mpsc::Sender<Puller>> {
        self.ways.read().unwrap_or_else(PoisonError::into_inner).get(subscription).cloned()
    }

    pub fn open(&self, subscription: Arc<str>, way: mpsc::Sender<Puller>) {
        self.ways.write().unwrap_or_else(PoisonError::into_inner).insert(subscription, way);
    }

    pub fn close(&self, subscription: &str) {
        self.ways.write().unwrap_or_else(PoisonError::into_inner).remove(subscription);
    }

    /// A message has gone out. Returns the id by which its consumer names it.
    pub fn hand_out(&self, settle: oneshot::Sender<Settled>) -> String {
        let id = new_id();
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for any more: looked for now and then, so that they never outnumber the others.
        if out.len() >= 64 && out.len().is_power_of_two() {
            out.retain(|_, settle| !settle.is_closed());
        }
        out.insert(id.clone(), settle);
        id
    }

    /// A consumer says what became of a message. Returns whether anybody still waits for it, and then when it was settled.
    pub async fn settle(&self, id: &str, status: u16, after: Option<std::time::Duration>) -> bool {
        let settle = self.out.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let Some(settle) = settle else { return false };
        let (done, settled) = oneshot::channel();
        settle.send(Settled { status, after, done }).is_ok() && settled.await.is_ok()
    }
}
