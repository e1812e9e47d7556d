//! What nobody asks for and has to happen: delayed messages come into their stream when they are due, and what every group
//! has had is dropped. Every node does it for the streams it uses; the server does each step at once, so that two are no harm.

use super::link::Link;
use super::place::Left;
use super::{due_key, scripts};
use crate::broker::Destination;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

const EVERY: Duration = Duration::from_secs(1);
/// Never more often than this, however many messages are due.
const AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// A stream that nobody here has used for so long, and where nothing is due, is somebody else's.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The streams that this node uses: those of the configuration, and for a while those of the one before.
#[derive(Default)]
pub struct Streams {
    used: Mutex<HashMap<Destination, Arc<Used>>>,
    /// A message was published that is due sooner or later.
    pub delayed: Notify,
}

/// A source has one of these, and so keeps its stream in use.
pub struct Used {
    last: Mutex<Instant>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Arc<Used>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn uses(&self, destination: &Destination) -> Arc<Used> {
        let mut streams = self.lock();
        if let Some(used) = streams.get(destination) {
            *used.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Arc::clone(used);
        }
        let used = Arc::new(Used { last: Mutex::new(Instant::now()) });
        streams.insert(destination.clone(), Arc::clone(&used));
        used
    }

    fn all(&self) -> Vec<Destination> {
        self.lock().keys().cloned().collect()
    }

    fn forget_if_unused(&self, destination: &Destination) {
        let mut streams = self.lock();
        let unused = |used: &Arc<Used>| {
            let last = *used.last.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::strong_count(used) == 1 && last.elapsed() > FORGET_AFTER
        };
        if streams.get(destination).is_some_and(unused) {
            streams.remove(destination);
        }
    }
}

pub async fn run(link: Arc<Link>, streams: Arc<Streams>, left: Arc<Left>) {
    loop {
        if let Err(error) = left.leave(&link).await {
            tracing::debug!(%error, "messages not given back to redis yet");
        }
        let mut next = Instant::now() + EVERY;
        for destination in streams.all() {
            match look_after(&link, &destination).await {
                Some(Some(wait)) => next = next.min(Instant::now() + wait),
                Some(None) => streams.forget_if_unused(&destination),
                None => {}
            }
        }
        sleep(AT_MOST_EVERY).await;
        let _ = timeout_at(next, streams.delayed.notified()).await;
    }
}

/// How long it is until the stream's next message is due, if there is one; nothing if the server did not say.
async fn look_after(link: &Link, destination: &Destination) -> Option<Option<Duration>> {
    let mut connection = link.connection().ok()?;
    let mut script = scripts::UPKEEP.key(&destination.address);
    let retention =
        destination.options.retention.map_or(-1, |kept| i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
    script.key(due_key(&destination.address)).arg(retention);
    match script.invoke_async::<i64>(&mut connection).await {
        Ok(wait) => Some(u64::try_from(wait).ok().map(Duration::from_millis)),
        Err(error) => {
            let error = link.error(&error);
            tracing::debug!(stream = destination.address, %error, "redis stream not looked after");
            None
        }
    }
}
