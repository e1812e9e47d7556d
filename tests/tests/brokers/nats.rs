//! The laws of brokers, and a few of its own, over a real NATS with JetStream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use weir::broker::nats::Nats as NatsBroker;
use weir::broker::{Broker, BrokerError, BrokerFailure, ChannelOptions, Consumption, Destination, Source, Taken};
use weir_tests::broker_laws::kit::{connected, message};
use weir_tests::broker_laws::{Fixture, Has};
use weir_tests::servers::{Nats, Server};

const LONG: Duration = Duration::from_secs(60);

struct JetStream {
    server: Mutex<Server>,
    broker: Arc<NatsBroker>,
    /// Of the channels.
    retention: Option<Duration>,
    number: AtomicU64,
}

impl JetStream {
    async fn start(retention: Option<Duration>) -> Self {
        let server = Nats::start().await;
        let broker = NatsBroker::open("test", &server.url(), None, &Handle::current()).expect("a URL");
        connected(&broker).await;
        Self { server: Mutex::new(server), broker: Arc::new(broker), retention, number: AtomicU64::new(0) }
    }
}

impl Fixture for JetStream {
    fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    fn destination(&self, name: &str) -> Destination {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let options = ChannelOptions { declare: true, retention: self.retention, ..Default::default() };
        Destination { address: format!("laws.{name}.{number}"), options }
    }

    fn has(&self) -> Has {
        Has {
            priorities: false,
            ttl: false,
            delays: false,
            // What is kept for a time is kept, acknowledged or not, and fills the channel.
            max_length: self.retention.is_none(),
            retains: self.retention.is_some(),
            failures: false,
            // The server answers them before they are on the disk.
            acks_survive: false,
            dedup: false,
            ..Has::ALL
        }
    }

    async fn kill(&self) {
        self.server.lock().await.kill();
    }

    async fn start(&self) {
        let mut server = self.server.lock().await;
        if !server.runs() {
            server.restart().await;
            connected(&*self.broker).await;
        }
    }
}

mod kept_until_acknowledged {
    async fn jetstream() -> impl super::Fixture {
        super::JetStream::start(None).await
    }

    weir_tests::broker_laws!(jetstream);
}

mod kept_for_a_time {
    async fn jetstream() -> impl super::Fixture {
        super::JetStream::start(Some(std::time::Duration::from_secs(3600))).await
    }

    weir_tests::broker_laws!(jetstream);
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("waited {LONG:?} for {what}"))
}

fn subscription(name: &str, from: &Destination) -> Consumption {
    Consumption { name: name.into(), from: from.clone(), prefetch: 10, dead_letter: None, dedup: None }
}

async fn publish(jetstream: &JetStream, to: &Destination, id: &str) -> Result<(), BrokerError> {
    within("an answer", jetstream.broker.publish(to, &message(id))).await
}

async fn take(source: &mut Box<dyn Source>) -> Taken {
    within("a message", source.next()).await.expect("a message")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_would_keep_is_refused_and_not_confirmed() {
    let jetstream = JetStream::start(None).await;
    let to = jetstream.destination("nobody");
    let error = publish(&jetstream, &to, "early").await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    assert!(error.message.contains("nobody has subscribed"), "{error}");
    let mut source = jetstream.broker.consume(&subscription("first", &to)).await.expect("a source");
    publish(&jetstream, &to, "later").await.expect("a confirm");
    assert_eq!(take(&mut source).await.message.id, "later");

    let undeclared = Destination { address: "no.such.stream".into(), options: ChannelOptions::default() };
    let refused = publish(&jetstream, &undeclared, "lost").await.expect_err("a refusal");
    let missing = jetstream.broker.consume(&subscription("x", &undeclared)).await.map(|_| ()).expect_err("a refusal");
    for error in [refused, missing] {
        assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
        assert!(error.message.contains("no stream keeps \"no.such.stream\""), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_came_already_is_confirmed_and_not_kept_again() {
    let jetstream = JetStream::start(None).await;
    let to = jetstream.destination("same");
    let mut source = jetstream.broker.consume(&subscription("same", &to)).await.expect("a source");
    for id in ["same", "same", "other"] {
        publish(&jetstream, &to, id).await.expect("a confirm");
    }
    for id in ["same", "other"] {
        let taken = take(&mut source).await;
        assert_eq!(taken.message.id, id);
        taken.receipt.ack().await.expect("an acknowledgement");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_its_channel_where_it_may_and_says_where_not() {
    let jetstream = JetStream::start(Some(Duration::from_secs(3600))).await;
    let mut to = jetstream.destination("changed");
    for id in ["a", "b", "c"] {
        publish(&jetstream, &to, id).await.expect("a confirm");
    }
    to.options.max_length = Some(3);
    let error = publish(&jetstream, &to, "d").await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Full, "{error}");
    to.options.retention = None;
    let error = publish(&jetstream, &to, "d").await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    assert!(error.message.contains("laws_changed_0") && error.message.contains("retention"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_server_takes_is_too_large() {
    let jetstream = JetStream::start(None).await;
    let to = jetstream.destination("large");
    let _source = jetstream.broker.consume(&subscription("large", &to)).await.expect("a source");
    let mut large = message("large");
    large.body = Bytes::from(vec![0; 9_000_000]);
    let error = within("an answer", jetstream.broker.publish(&to, &large)).await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::TooLarge, "{error}");
}

/// Two nodes with one subscription have a prefetch each, and what one holds comes to the other when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_held_goes_to_another_at_once() {
    let jetstream = JetStream::start(None).await;
    let to = jetstream.destination("hand-over");
    let what = Consumption { prefetch: 3, ..subscription("hand-over", &to) };
    let mut one = jetstream.broker.consume(&what).await.expect("a source");
    let mut two = jetstream.broker.consume(&what).await.expect("a source");
    for number in 0..6 {
        publish(&jetstream, &to, &number.to_string()).await.expect("a confirm");
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        first.push(take(&mut one).await);
        second.push(take(&mut two).await);
    }
    let held: BTreeSet<_> = first.iter().map(|taken| taken.message.id.clone()).collect();
    drop(one);
    for taken in second {
        taken.receipt.ack().await.expect("an acknowledgement");
    }
    let begun = std::time::Instant::now();
    let mut came = BTreeSet::new();
    for _ in 0..3 {
        let taken = take(&mut two).await;
        assert_eq!(taken.attempts, 1);
        came.insert(taken.message.id.clone());
        taken.receipt.ack().await.expect("an acknowledgement");
    }
    assert_eq!(came, held);
    assert!(begun.elapsed() < Duration::from_secs(25), "not only when the server has waited for long enough");
    let void = first.pop().expect("three").receipt.ack().await.expect_err("a void receipt");
    assert_eq!(void.kind, BrokerFailure::Lost);
}
