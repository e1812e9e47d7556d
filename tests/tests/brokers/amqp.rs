//! The laws of brokers, and a few of its own, over a real RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use weir::broker::amqp::Amqp;
use weir::broker::message::now;
use weir::broker::{Broker, BrokerError, BrokerFailure, ChannelOptions, Consumption, Destination, Source, Taken};
use weir_tests::broker_laws::kit::{connected, message};
use weir_tests::broker_laws::{Fixture, Has};
use weir_tests::servers::{RabbitMq, Server};

const LONG: Duration = Duration::from_secs(60);
struct Rabbit {
    server: Mutex<Server>,
    broker: Arc<Amqp>,
    options: ChannelOptions,
    number: std::sync::atomic::AtomicU64,
}

impl Rabbit {
    async fn start(quorum: bool) -> Self {
        let server = RabbitMq::start().await;
        let broker = Amqp::open("test", &server.url(), None, &Handle::current()).expect("a URL");
        connected(&broker).await;
        let options = ChannelOptions { declare: true, quorum, ..Default::default() };
        Self { server: Mutex::new(server), broker: Arc::new(broker), options, number: Default::default() }
    }
}

impl Fixture for Rabbit {
    fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    fn destination(&self, name: &str) -> Destination {
        let number = self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Destination { address: format!("laws/{name}.{number}"), options: self.options.clone() }
    }

    fn has(&self) -> Has {
        Has {
            priorities: !self.options.quorum,
            delays: false,
            // An exchange keeps nothing: publishes are refused until somebody subscribes.
            retains: false,
            failures: false,
            // Acknowledgements are not answered, and are not on the disk at once.
            acks_survive: false,
            dedup: false,
            ..Has::ALL
        }
    }

    async fn kill(&self) {
        let mut server = self.server.lock().await;
        RabbitMq::write_down(&server).await;
        server.kill();
    }

    async fn start(&self) {
        let mut server = self.server.lock().await;
        if !server.runs() {
            server.restart().await;
            connected(&*self.broker).await;
        }
    }
}

mod classic {
    async fn rabbit() -> impl super::Fixture {
        super::Rabbit::start(false).await
    }

    weir_tests::broker_laws!(in one rabbit);
}

mod quorum {
    async fn rabbit() -> impl super::Fixture {
        super::Rabbit::start(true).await
    }

    weir_tests::broker_laws!(in one rabbit);
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("waited {LONG:?} for {what}"))
}

fn subscription(name: &str, from: &Destination) -> Consumption {
    Consumption { name: name.into(), from: from.clone(), prefetch: 10, dead_letter: None, dedup: None }
}

async fn publish(rabbit: &Rabbit, to: &Destination, id: &str) -> Result<(), BrokerError> {
    within("an answer", rabbit.broker.publish(to, &message(id))).await
}

async fn take(source: &mut Box<dyn Source>) -> Taken {
    within("a message", source.next()).await.expect("a message")
}

/// What RabbitMQ does its own way.
#[tokio::test(flavor = "multi_thread")]
async fn queues_and_exchanges_are_told_apart_and_errors_name_them() {
    let rabbit = &Rabbit::start(false).await;
    what_nobody_is_bound_to_is_refused_and_nothing_else_is(rabbit).await;
    a_queue_that_is_there_otherwise_is_named_with_the_difference(rabbit).await;
    a_missing_exchange_or_queue_is_named(rabbit).await;
    a_plain_name_is_a_queue_that_keeps_messages(rabbit).await;
    what_expires_goes_to_the_dead_letters(rabbit).await;
    a_server_without_room_refuses_publishes_and_takes_acknowledgements(rabbit).await;
}

/// Also where both are published to at once: a message that comes back is never taken for another.
async fn what_nobody_is_bound_to_is_refused_and_nothing_else_is(rabbit: &Rabbit) {
    let (bound, unbound) = (rabbit.destination("bound"), rabbit.destination("unbound"));
    let mut source = rabbit.broker.consume(&subscription("bound", &bound)).await.expect("a source");
    let publishes = (0..400).map(|number| {
        let to = if number % 2 == 0 { &bound } else { &unbound };
        async move { (number, publish(rabbit, to, &number.to_string()).await) }
    });
    let mut confirmed = std::collections::BTreeSet::new();
    for (number, answer) in futures_util::future::join_all(publishes).await {
        match answer {
            Ok(()) => _ = confirmed.insert(number.to_string()),
            Err(error) => {
                assert_eq!((number % 2, error.kind), (1, BrokerFailure::Refused), "{error}");
                assert!(error.message.contains(&format!("no queue is bound to {:?}", unbound.address)), "{error}");
            }
        }
    }
    assert_eq!(confirmed.len(), 200);
    for _ in 0..200 {
        let taken = take(&mut source).await;
        assert!(confirmed.remove(&taken.message.id), "{} was not confirmed, or came twice", taken.message.id);
        taken.receipt.ack().await.expect("an acknowledgement");
    }
}

async fn a_queue_that_is_there_otherwise_is_named_with_the_difference(rabbit: &Rabbit) {
    let mut to = rabbit.destination("conflict");
    drop(rabbit.broker.consume(&subscription("conflict", &to)).await.expect("a source"));
    to.options.max_length = Some(5);
    let error = rabbit.broker.consume(&subscription("conflict", &to)).await.map(|_| ()).expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    for part in ["queue \"conflict\"", "x-max-length", "set the channel up the same"] {
        assert!(error.message.contains(part), "{error}");
    }
}

async fn a_missing_exchange_or_queue_is_named(rabbit: &Rabbit) {
    let to = Destination { address: "no-such-exchange/key".into(), options: ChannelOptions::default() };
    let error = publish(rabbit, &to, "lost").await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    assert!(error.message.contains("no-such-exchange"), "{error}");
    let what = subscription("no-such-queue", &to);
    let refused = rabbit.broker.consume(&what).await.map(|_| ()).expect_err("a refusal");
    let unknown = rabbit.broker.backlog(&what).await.expect_err("a refusal");
    for error in [refused, unknown] {
        assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
        assert!(error.message.contains("no-such-queue"), "{error}");
    }
}

async fn a_plain_name_is_a_queue_that_keeps_messages(rabbit: &Rabbit) {
    let to = Destination { address: "plain".into(), options: rabbit.options.clone() };
    publish(rabbit, &to, "early").await.expect("a confirm");
    let mut source = rabbit.broker.consume(&subscription("whatever", &to)).await.expect("a source");
    let taken = take(&mut source).await;
    assert_eq!(taken.message.id, "early");
    taken.receipt.ack().await.expect("an acknowledgement");
}

async fn what_expires_goes_to_the_dead_letters(rabbit: &Rabbit) {
    let to = rabbit.destination("dying");
    let dead = Destination { address: "dead-letters".into(), options: rabbit.options.clone() };
    let what = Consumption { dead_letter: Some(dead.clone()), ..subscription("dying", &to) };
    drop(rabbit.broker.consume(&what).await.expect("a source"));
    let mut dying = message("dying");
    dying.headers = HeaderMap::new();
    dying.expires = Some(now() + Duration::from_millis(200));
    within("a confirm", rabbit.broker.publish(&to, &dying)).await.expect("a confirm");
    let mut source = rabbit.broker.consume(&subscription("dead", &dead)).await.expect("a source");
    let taken = take(&mut source).await;
    assert_eq!(taken.message.id, "dying");
    assert_eq!(taken.message.headers.get("x-first-death-reason").unwrap(), "expired");
    taken.receipt.ack().await.expect("an acknowledgement");
}

async fn a_server_without_room_refuses_publishes_and_takes_acknowledgements(rabbit: &Rabbit) {
    let to = rabbit.destination("room");
    let what = subscription("room", &to);
    let mut source = rabbit.broker.consume(&what).await.expect("a source");
    publish(rabbit, &to, "before").await.expect("a confirm");
    let server = rabbit.server.lock().await;
    RabbitMq::eval(&server, "vm_memory_monitor:set_vm_memory_high_watermark(0.0).").await;
    // The server says so to who publishes; that publish is held up.
    let held_up = tokio::spawn({
        let (broker, to) = (rabbit.broker.clone(), to.clone());
        async move { broker.publish(&to, &message("held up")).await }
    });
    within("trouble", async {
        while rabbit.broker.trouble().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let error = publish(rabbit, &to, "refused").await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Full, "{error}");
    assert!(error.message.contains("memory"), "{error}");
    take(&mut source).await.receipt.ack().await.expect("an acknowledgement");
    within("an empty queue", async {
        while rabbit.broker.backlog(&what).await.expect("a backlog").messages != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    RabbitMq::eval(&server, "vm_memory_monitor:set_vm_memory_high_watermark(0.9).").await;
    within("the confirm", held_up).await.expect("no panic").expect("a confirm");
    let taken = take(&mut source).await;
    assert_eq!(taken.message.id, "held up");
}
