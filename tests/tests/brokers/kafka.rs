//! The laws of brokers over librdkafka's mock of a cluster, which speaks Kafka's protocol in this process, and what is
//! Kafka's own.

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use weir::broker::kafka::Kafka;
use weir::broker::{Broker, BrokerFailure, ChannelOptions, Destination, Source};
use weir_tests::broker_laws::kit::{
    ack, connected, ids, message, open, publish, publish_all, silence, subscription, take, take_ids, until,
};
use weir_tests::broker_laws::{Fixture, Has};
use weir_tests::kafka_mock::KafkaMock;

struct Cluster {
    mock: KafkaMock,
    broker: Arc<Kafka>,
}

async fn cluster() -> Cluster {
    let mock = KafkaMock::start().await;
    let broker = Arc::new(Kafka::open("events", &mock.url(), None, &Handle::current()).expect("a broker"));
    let cluster = Cluster { mock, broker };
    connected(&*cluster.broker).await;
    cluster
}

impl Cluster {
    fn with_partitions(&self, name: &str, partitions: i32) -> Destination {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let address = format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.mock.make(&address, partitions);
        Destination { address, options: ChannelOptions { declare: true, ..ChannelOptions::default() } }
    }
}

impl Fixture for Cluster {
    fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    /// Of one partition: only within one is there an order.
    fn destination(&self, name: &str) -> Destination {
        self.with_partitions(name, 1)
    }

    fn has(&self) -> Has {
        Has {
            priorities: false,
            ttl: false,
            delays: false,
            max_length: false,
            shares: false,
            failures: false,
            dedup: false,
            ..Has::ALL
        }
    }

    /// Until it is noticed: an acknowledgement on its way meanwhile waits in librdkafka, and is heard when the mock is up.
    async fn kill(&self) {
        self.mock.kill().await;
        let noticed = async {
            while self.broker.trouble().is_none() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), noticed).await.expect("trouble");
    }

    async fn start(&self) {
        self.mock.revive().await;
        connected(&*self.broker).await;
    }
}

weir_tests::broker_laws!(cluster);

/// Only the messages that were not acknowledged, wherever they are among those that were.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_hold_whatever_becomes_of_the_messages_before_them() {
    let cluster = cluster().await;
    let to = cluster.destination("gaps");
    let what = subscription("gaps", &to);
    let mut source = open(&*cluster.broker, &what).await;
    publish_all(&*cluster.broker, &to, &ids("gaps", 30)).await;
    let mut kept = Vec::new();
    for number in 0..25 {
        let taken = take(&mut source).await;
        if [0, 1, 7, 19].contains(&number) {
            kept.push(taken);
        } else {
            ack(taken).await;
        }
    }
    let backlog = cluster.broker.backlog(&what).await.expect("a backlog");
    assert_eq!(backlog.messages, Some(9));
    assert!(backlog.oldest.is_some());
    drop((source, kept));
    let mut source = open(&*cluster.broker, &what).await;
    let wanted = [0, 1, 7, 19, 25, 26, 27, 28, 29].map(|number| format!("gaps-{number}"));
    assert_eq!(take_ids(&mut source, 9).await, wanted);
    silence(&mut source).await;
}

/// A second node takes some of the partitions, and the first has all again when it goes.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_change_hands_lose_nothing_and_repeat_nothing_acknowledged() {
    let cluster = cluster().await;
    let to = cluster.with_partitions("moves", 6);
    let what = subscription("moves", &to);
    let mut one = open(&*cluster.broker, &what).await;
    let all = ids("moves", 600);
    for id in &all {
        let mut message = message(id);
        message.key = Some(id.clone());
        publish(&*cluster.broker, &to, &message).await;
    }
    let mut acked = BTreeSet::new();
    let mut acknowledge = async |source: &mut Box<dyn Source>, count: usize| {
        for _ in 0..count {
            let taken = take(source).await;
            let id = taken.message.id.clone();
            assert!(!acked.contains(&id), "{id} was acknowledged");
            // Void if its partition went away meanwhile: it comes again then.
            if taken.receipt.ack().await.is_ok() {
                acked.insert(id);
            }
        }
        acked.len()
    };
    acknowledge(&mut one, 100).await;
    let held = [take(&mut one).await, take(&mut one).await];
    let mut two = open(&*cluster.broker, &what).await;
    // Its first messages are there once the group has let it in.
    let mut done = acknowledge(&mut two, 50).await;
    done = done.max(acknowledge(&mut one, 50).await);
    drop((two, held));
    while done < all.len() {
        done = acknowledge(&mut one, 1).await;
    }
    silence(&mut one).await;
    let backlog = cluster.broker.backlog(&what).await.expect("a backlog");
    assert_eq!((backlog.messages, backlog.oldest), (Some(0), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_key_stay_in_their_order() {
    let cluster = cluster().await;
    let to = cluster.with_partitions("keys", 4);
    let mut source = open(&*cluster.broker, &subscription("keys", &to)).await;
    for number in 0..100 {
        let mut message = message(format!("{:02}", number));
        message.key = Some(format!("key {}", number % 5));
        publish(&*cluster.broker, &to, &message).await;
    }
    let mut last = [const { String::new() }; 5];
    for _ in 0..100 {
        let taken = take(&mut source).await;
        let key = taken.message.key.clone().expect("a key");
        let last = &mut last[key["key ".len()..].parse::<usize>().expect("a number")];
        assert!(*last < taken.message.id);
        *last = taken.message.id.clone();
        ack(taken).await;
    }
}

/// Errors that pass are librdkafka's, and no message is there twice because of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_gets_over_is_nobodys_trouble() {
    use RDKafkaRespErr::*;
    let cluster = cluster().await;
    let to = cluster.destination("passing");
    let what = subscription("passing", &to);
    let mut source = open(&*cluster.broker, &what).await;
    publish(&*cluster.broker, &to, &message("first")).await;
    cluster
        .mock
        .ask(|mock| {
            let produce = [RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS];
            mock.request_errors(RDKafkaApiKey::Produce, &produce);
            let commit = [RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 2];
            mock.request_errors(RDKafkaApiKey::OffsetCommit, &commit);
        })
        .await;
    publish(&*cluster.broker, &to, &message("second")).await;
    assert_eq!(take_ids(&mut source, 2).await, ["first", "second"]);
    drop(source);
    let mut source = open(&*cluster.broker, &what).await;
    silence(&mut source).await;
    until("nothing to do", async || cluster.broker.backlog(&what).await.expect("a backlog").messages == Some(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_does_not_take_is_told() {
    let cluster = cluster().await;
    let to = cluster.destination("large");
    publish(&*cluster.broker, &to, &message("small")).await;
    let too_large = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE];
    cluster.mock.ask(move |mock| mock.request_errors(RDKafkaApiKey::Produce, &too_large)).await;
    let error = cluster.broker.publish(&to, &message("large")).await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::TooLarge, "{error}");
    publish(&*cluster.broker, &to, &message("small again")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_made_or_refused_as_its_channel_says() {
    let cluster = cluster().await;
    let options = ChannelOptions::default();
    let mut to = Destination { address: "undeclared".to_owned(), options };
    let error = cluster.broker.publish(&to, &message("a")).await.expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    assert!(error.message.contains("undeclared"), "{error}");
    let error = cluster.broker.consume(&subscription("a", &to)).await.map(|_| ()).expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    to.options.declare = true;
    publish(&*cluster.broker, &to, &message("a")).await;
    let mut source = open(&*cluster.broker, &subscription("a", &to)).await;
    assert_eq!(take_ids(&mut source, 1).await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_none_is_refused() {
    for url in ["127.0.0.1:9092", "kafka://", "kafka://a:1/b", "redis://a"] {
        assert!(Kafka::open("events", url, None, &Handle::current()).is_err(), "{url}");
    }
    let nobody = Kafka::open("events", "kafka://127.0.0.1:1", None, &Handle::current()).expect("a broker");
    until("the reason", async || nobody.trouble().is_some_and(|why| why.contains("127.0.0.1:1"))).await;
}
