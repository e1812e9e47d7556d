//! The same laws through the whole node, over every kind of broker.

use anyhow::Result;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::Mutex;
use weir_tests::kafka_mock::KafkaMock;
use weir_tests::messages::{CHANNEL, Consumer, DEAD, embedded, next, publish, settle, setup};
use weir_tests::servers::{Nats, RabbitMq, Redis, Server};
use weir_tests::upstream::Received;
use weir_tests::weir::{Setup, Weir};

/// A broker, and how a node reaches it.
enum Broker {
    Embedded { directory: PathBuf, _all: TempDir },
    Server(&'static str, Box<Mutex<Server>>),
    Mock(KafkaMock),
}

impl Broker {
    async fn embedded() -> Self {
        let all = tempfile::tempdir().expect("a directory");
        Self::Embedded { directory: all.path().join("events"), _all: all }
    }

    async fn amqp() -> Self {
        Self::Server("amqp", Box::new(Mutex::new(RabbitMq::start().await)))
    }

    async fn nats() -> Self {
        Self::Server("nats", Box::new(Mutex::new(Nats::start().await)))
    }

    async fn redis() -> Self {
        Self::Server("redis", Box::new(Mutex::new(Redis::start().await)))
    }

    /// librdkafka's mock of a cluster, which cannot make topics when it is asked to.
    async fn kafka() -> Self {
        let mock = KafkaMock::start().await;
        ["weir.orders", "weir.dead"].iter().for_each(|topic| mock.make(topic, 3));
        Self::Mock(mock)
    }

    async fn keys(&self) -> String {
        match self {
            Self::Embedded { directory, .. } => embedded(directory),
            Self::Mock(mock) => format!("kind = \"kafka\"\nurl = \"{}\"", mock.url()),
            Self::Server(kind, server) => format!("kind = \"{kind}\"\nurl = \"{}\"", server.lock().await.url()),
        }
    }

    /// A node in front of it that takes messages.
    async fn node(&self, consumer: &Consumer, subscription: &str) -> Weir {
        let node = self.setup(consumer, subscription).await.start();
        self.is_ready(&node).await;
        node
    }

    async fn setup(&self, consumer: &Consumer, subscription: &str) -> Setup {
        setup(&self.keys().await, consumer.address(), "", subscription)
    }

    /// Waits until both subscriptions are at the broker: what is published before may have nobody to go to.
    async fn is_ready(&self, node: &Weir) {
        let is_ready = async || {
            let page = node.page("/channels").await;
            let subscriptions = page["subscriptions"].as_array().expect("a list");
            subscriptions.iter().all(|known| known["error"].is_null() && known["takes-messages"] == true)
        };
        let until = Instant::now() + Duration::from_secs(60);
        while !is_ready().await {
            assert!(Instant::now() < until, "{}", node.page("/channels").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The server dies, and is there again after a while. The embedded broker dies with its node only.
    async fn dies_for(&self, time: Duration) {
        match self {
            Self::Embedded { .. } => {}
            Self::Server(kind, server) => {
                let mut server = server.lock().await;
                if *kind == "amqp" {
                    RabbitMq::write_down(&server).await;
                }
                server.kill();
                tokio::time::sleep(time).await;
                server.restart().await;
            }
            Self::Mock(mock) => {
                mock.kill().await;
                tokio::time::sleep(time).await;
                mock.revive().await;
            }
        }
    }
}

/// Publishes until the broker has it, as a publisher does that wants to be sure.
async fn surely(node: &Weir, body: &str, key: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let answer =
            publish(node.address(), body.to_owned(), &[("x-weir-key", key), ("idempotency-key", body)]).await?;
        if answer.status == 200 {
            return Ok(());
        }
        assert!([502, 503, 504].contains(&answer.status.as_u16()) && Instant::now() < until, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_all(consumer: &Consumer, wanted: &BTreeSet<String>) {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let seen: BTreeSet<String> = consumer.bodies().into_iter().collect();
        let missing: Vec<_> = wanted.difference(&seen).collect();
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{} of {} are missing: {missing:?}", missing.len(), wanted.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn confirmed_is_delivered(broker: &Broker) -> Result<()> {
    let consumer = Consumer::start(|_| 200).await?;
    let node = broker.node(&consumer, "concurrency = 8").await;
    let wanted: BTreeSet<String> = (0..200).map(|number| number.to_string()).collect();
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let address = node.address();
            tokio::spawn(async move {
                for number in (publisher..200).step_by(4) {
                    let fields = [("x-weir-key", "k"), ("x-tenant", "t"), ("content-type", "text/plain")];
                    let answer = publish(address, number.to_string(), &fields).await?;
                    anyhow::ensure!(answer.status == 200, "{answer:?}");
                }
                Ok(())
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await??;
    }
    until_all(&consumer, &wanted).await;
    let seen = consumer.seen().remove(0);
    let fields = ["x-weir-key", "x-tenant", "content-type", "x-weir-attempt"].map(|name| seen.header(name));
    assert_eq!(fields, [Some("k"), Some("t"), Some("text/plain"), Some("1")]);
    Ok(())
}

async fn poison_is_dead_lettered_and_blocks_nothing(broker: &Broker) -> Result<()> {
    let consumer = Consumer::start(|seen| if seen.body == "poison" { 500 } else { 200 }).await?;
    let keys = "max-attempts = 3\nbackoff = { initial = \"500ms\", max = \"500ms\" }";
    let node = broker.node(&consumer, keys).await;
    surely(&node, "poison", "a").await?;
    consumer.until(1).await;
    let wanted: BTreeSet<String> = (0..10).map(|number| number.to_string()).collect();
    for number in &wanted {
        surely(&node, number, number).await?;
    }
    until_all(&consumer, &wanted).await;
    let poisons = |consumer: &Consumer| consumer.bodies().iter().filter(|body| *body == "poison").count();
    let dead = next(node.address(), DEAD).await?;
    assert_eq!((dead.text().as_str(), dead.header("x-weir-dead-letter-attempts")), ("poison", Some("3")), "{dead:?}");
    assert!(dead.header("x-weir-dead-letter-reason").unwrap().contains("answered 500"), "{dead:?}");
    assert_eq!(dead.header("x-weir-dead-letter-channel"), Some(CHANNEL));
    assert_eq!(settle(node.address(), &dead, "ack", &[]).await?.status, 204);
    assert_eq!(poisons(&consumer), 3);
    Ok(())
}

async fn a_consumer_that_comes_back_gets_all_in_key_order(broker: &Broker) -> Result<()> {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = is_up.clone();
    let consumer = Consumer::start(move |_| if up.load(Ordering::Relaxed) { 200 } else { 503 }).await?;
    let node = broker.node(&consumer, "max-attempts = 1000\nordered = true\nconcurrency = 8").await;
    for number in 0..60 {
        surely(&node, &number.to_string(), &format!("k{}", number % 5)).await?;
    }
    consumer.until(30).await;
    let before = consumer.seen().len();
    is_up.store(true, Ordering::Relaxed);
    let wanted: BTreeSet<String> = (0..60).map(|number| number.to_string()).collect();
    let delivered =
        |seen: &[Received]| seen.iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect();
    let until = Instant::now() + Duration::from_secs(60);
    let seen = loop {
        let seen = consumer.seen().split_off(before);
        let bodies: BTreeSet<String> = delivered(&seen);
        if bodies == wanted {
            break seen;
        }
        assert!(Instant::now() < until, "{bodies:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut by_key: HashMap<String, Vec<u32>> = HashMap::new();
    for seen in seen {
        let number = std::str::from_utf8(&seen.body)?.parse()?;
        by_key.entry(seen.header("x-weir-key").unwrap().to_owned()).or_default().push(number);
    }
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    Ok(())
}

async fn a_broker_that_dies_loses_nothing_confirmed(broker: &Broker) -> Result<()> {
    let consumer = Consumer::start(|_| 200).await?;
    let node = Arc::new(broker.node(&consumer, "concurrency = 4\nmax-attempts = 1000").await);
    let stop = Arc::new(AtomicBool::new(false));
    let (publishing, stopped) = (node.clone(), stop.clone());
    let publisher = tokio::spawn(async move {
        let mut confirmed = BTreeSet::new();
        let mut refused = 0;
        while !stopped.load(Ordering::Relaxed) {
            let body = (confirmed.len() + refused).to_string();
            let answer = publish(publishing.address(), body.clone(), &[("x-weir-timeout", "2s")]).await?;
            match answer.status.as_u16() {
                200 => drop(confirmed.insert(body)),
                502..=504 => {
                    refused += 1;
                    anyhow::ensure!(answer.end_after < Duration::from_secs(20), "within the deadline: {answer:?}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                _ => anyhow::bail!("{answer:?}"),
            }
        }
        Ok((confirmed, refused))
    });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        broker.dies_for(Duration::from_millis(300)).await;
    }
    // Until it is taken up again.
    surely(&node, "last", "k").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut confirmed, refused) = publisher.await??;
    confirmed.insert("last".to_owned());
    until_all(&consumer, &confirmed).await;
    let delivered = consumer.bodies().len();
    println!("{} confirmed, {refused} refused, {delivered} delivered", confirmed.len());
    Ok(())
}

macro_rules! over {
    ($($broker:ident)*) => { $(
        mod $broker {
            use super::Broker;

            /// One broker for all: some take long to start.
            #[tokio::test(flavor = "multi_thread")]
            async fn confirmed_is_delivered() -> anyhow::Result<()> {
                super::confirmed_is_delivered(&Broker::$broker().await).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn poison_is_dead_lettered_and_blocks_nothing() -> anyhow::Result<()> {
                super::poison_is_dead_lettered_and_blocks_nothing(&Broker::$broker().await).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_consumer_that_comes_back_gets_all_in_key_order() -> anyhow::Result<()> {
                super::a_consumer_that_comes_back_gets_all_in_key_order(&Broker::$broker().await).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_broker_that_dies_loses_nothing_confirmed() -> anyhow::Result<()> {
                super::a_broker_that_dies_loses_nothing_confirmed(&Broker::$broker().await).await
            }
        }
    )* };
}

over! { embedded amqp nats redis kafka }
