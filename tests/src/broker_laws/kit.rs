//! What laws have in common.

use super::Fixture;
use bytes::Bytes;
use http::HeaderMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use weir::broker::message::now;
use weir::broker::{Broker, Consumption, Destination, Message, Source, Taken};

/// Longer than anything takes that has to happen.
pub const LONG: Duration = Duration::from_secs(150);
/// How long nothing has to happen for it to be believed.
pub const QUIET: Duration = Duration::from_millis(700);

pub fn message(id: impl Into<String>) -> Message {
    Message {
        id: id.into(),
        key: None,
        headers: HeaderMap::new(),
        priority: 0,
        published: now(),
        expires: None,
        due: None,
        body: Bytes::from_static(b"body"),
    }
}

/// Ids `prefix-0`, `prefix-1`, …
pub fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// A subscription that nobody has had before.
pub fn subscription(name: &str, from: &Destination) -> Consumption {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{name}-{}-{number}", std::process::id());
    Consumption { name, from: from.clone(), prefetch: 1000, dead_letter: None, dedup: None }
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LONG:?} for {what}"),
    }
}

/// Waits until a broker is connected to its server.
pub async fn connected(broker: &dyn Broker) {
    const LONGEST: Duration = Duration::from_secs(60);
    let up = async {
        while broker.trouble().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONGEST, up).await.expect("a connection");
}

/// Waits until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub async fn open(broker: &dyn Broker, what: &Consumption) -> Box<dyn Source> {
    within("a source", broker.consume(what)).await.expect("a source")
}

pub async fn publish(broker: &dyn Broker, to: &Destination, message: &Message) {
    within("the confirm", broker.publish(to, message)).await.expect("a confirm");
}

pub async fn publish_all(broker: &dyn Broker, to: &Destination, ids: &[String]) {
    for id in ids {
        publish(broker, to, &message(id)).await;
    }
}

pub async fn take(source: &mut Box<dyn Source>) -> Taken {
    within("a message", source.next()).await.expect("a message, not the end of the source")
}

pub async fn ack(taken: Taken) {
    within("the acknowledgement", taken.receipt.ack()).await.expect("an acknowledgement");
}

/// The ids of so many messages, in their order, each acknowledged.
pub async fn take_ids(source: &mut Box<dyn Source>, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let taken = take(source).await;
        ids.push(taken.message.id.clone());
        ack(taken).await;
    }
    ids
}

/// Nothing comes, for as long as is believable.
pub async fn silence(source: &mut Box<dyn Source>) {
    if let Ok(taken) = tokio::time::timeout(QUIET, source.next()).await {
        panic!("there should be no message, but there is {:?}", taken.map(|taken| taken.message.id));
    }
}

/// A source that is opened again when it ends, as the host does.
pub struct Reopened<'a, F> {
    fixture: &'a F,
    what: Consumption,
    source: Option<Box<dyn Source>>,
}

impl<'a, F: Fixture> Reopened<'a, F> {
    pub fn new(fixture: &'a F, what: Consumption) -> Self {
        Self { fixture, what, source: None }
    }

    pub async fn next(&mut self) -> Taken {
        loop {
            match &mut self.source {
                None => match self.fixture.broker().consume(&self.what).await {
                    Ok(source) => self.source = Some(source),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                Some(source) => match source.next().await {
                    Ok(taken) => return taken,
                    Err(_) => self.source = None,
                },
            }
        }
    }

    /// Acknowledges messages until all of these were there, and then until nothing comes any more. All that came.
    pub async fn drain(&mut self, wanted: &BTreeSet<String>) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let all = async {
            while !wanted.is_subset(&seen) {
                let taken = self.next().await;
                seen.insert(taken.message.id.clone());
                // It may be void when the server was restarted; the message then comes again.
                let _ = taken.receipt.ack().await;
            }
        };
        if tokio::time::timeout(LONG, all).await.is_err() {
            let missing: Vec<_> = wanted.difference(&seen).take(10).collect();
            panic!("{} of {} never came, such as {missing:?}", wanted.difference(&seen).count(), wanted.len());
        }
        while let Ok(taken) = tokio::time::timeout(QUIET, self.next()).await {
            seen.insert(taken.message.id.clone());
            let _ = taken.receipt.ack().await;
        }
        seen
    }
}
