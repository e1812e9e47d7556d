//! The laws of brokers over a real Redis, and what is Redis's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use weir::broker::message::now;
use weir::broker::redis::Redis;
use weir::broker::{Broker, BrokerFailure, ChannelOptions, Consumption, Destination};
use weir_tests::broker_laws::kit::{
    ack, connected, ids, message, open, publish, publish_all, silence, subscription, take, take_ids, until,
};
use weir_tests::broker_laws::{Fixture, Has};
use weir_tests::servers::{self, Server};

struct Streams {
    server: Mutex<Server>,
    broker: Arc<Redis>,
    down: AtomicBool,
}

async fn streams() -> Streams {
    let server = servers::Redis::start().await;
    let broker = Redis::open("events", &server.url(), None, &Handle::current()).expect("a broker");
    let streams = Streams { server: Mutex::new(server), broker: Arc::new(broker), down: false.into() };
    connected(&*streams.broker).await;
    streams
}

impl Streams {}

impl Fixture for Streams {
    fn broker(&self) -> Arc<dyn Broker> {
        self.broker.clone()
    }

    fn destination(&self, name: &str) -> Destination {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let address = format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Destination { address, options: ChannelOptions { declare: true, ..ChannelOptions::default() } }
    }

    fn has(&self) -> Has {
        Has { priorities: false, ttl: false, dedup: false, ..Has::ALL }
    }

    async fn kill(&self) {
        self.server.lock().await.kill();
        self.down.store(true, Ordering::Relaxed);
    }

    async fn start(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            self.server.lock().await.restart().await;
        }
        connected(&*self.broker).await;
    }
}

weir_tests::broker_laws!(streams);

impl Streams {
    /// The first line of what the server says.
    async fn ask(&self, command: &str) -> String {
        let stream = TcpStream::connect(self.server.lock().await.address()).await.expect("a connection");
        let mut stream = BufReader::new(stream);
        stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("a question");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("an answer");
        assert!(!line.starts_with('-'), "{command}: {line}");
        line.trim_end().to_owned()
    }

    async fn until(&self, command: &str, answer: &str) {
        let mut last = String::new();
        let so = async {
            while last != answer {
                sleep(Duration::from_millis(50)).await;
                last = self.ask(command).await;
            }
        };
        if timeout(Duration::from_secs(60), so).await.is_err() {
            panic!("{command} says {last}, and not {answer}");
        }
    }

    async fn another_node(&self) -> Redis {
        let url = self.server.lock().await.url();
        let broker = Redis::open("events", &url, None, &Handle::current()).expect("a broker");
        until("a connection", async || broker.trouble().is_none()).await;
        broker
    }
}

fn consumers(of: &Consumption) -> String {
    let (stream, group) = (&of.from.address, &of.name);
    format!(r#"EVAL "return #redis.call('XINFO', 'CONSUMERS', KEYS[1], KEYS[2])" 2 {stream} {group}"#)
}

fn pending(of: &Consumption) -> String {
    let (stream, group) = (&of.from.address, &of.name);
    format!(r#"EVAL "return redis.call('XPENDING', KEYS[1], KEYS[2])[1]" 2 {stream} {group}"#)
}

/// With retention and without.
#[tokio::test(flavor = "multi_thread")]
async fn trimming_drops_what_all_have_had_and_never_what_is_pending() {
    let streams = streams().await;
    for retention in [None, Some(Duration::from_millis(300))] {
        let mut to = streams.destination("trimmed");
        to.options.retention = retention;
        let (one, two) = (subscription("one", &to), subscription("two", &to));
        let mut first = open(&*streams.broker, &one).await;
        drop(open(&*streams.broker, &two).await);
        publish_all(&*streams.broker, &to, &ids("trimmed", 300)).await;
        take_ids(&mut first, 200).await;
        let held = take(&mut first).await;
        take_ids(&mut first, 99).await;
        // The second group has read nothing yet.
        sleep(Duration::from_secs(3)).await;
        let mut second = open(&*streams.broker, &two).await;
        assert_eq!(take_ids(&mut second, 300).await, ids("trimmed", 300));
        streams.until(&format!("XLEN {}", to.address), ":100").await;
        sleep(Duration::from_secs(3)).await;
        drop(first);
        let mut first = open(&*streams.broker, &one).await;
        let again = take(&mut first).await;
        assert_eq!(again.message, held.message);
        ack(again).await;
        streams.until(&format!("XLEN {}", to.address), ":0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_subscribes_to_is_kept_as_long_as_the_channel_says() {
    let streams = streams().await;
    let (kept, mut short) = (streams.destination("kept"), streams.destination("short"));
    short.options.retention = Some(Duration::from_millis(200));
    publish_all(&*streams.broker, &kept, &ids("kept", 3)).await;
    publish_all(&*streams.broker, &short, &ids("short", 3)).await;
    streams.until(&format!("XLEN {}", short.address), ":0").await;
    assert_eq!(streams.ask(&format!("XLEN {}", kept.address)).await, ":3");
}

/// The limit counts what waits, and not what lies behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_long_does_not_make_its_channel_full() {
    let streams = streams().await;
    let mut to = streams.destination("long");
    to.options.max_length = Some(5);
    let mut source = open(&*streams.broker, &subscription("long", &to)).await;
    publish(&*streams.broker, &to, &message("long")).await;
    let _held = take(&mut source).await;
    for id in ids("short", 50) {
        publish(&*streams.broker, &to, &message(&id)).await;
        assert_eq!(take_ids(&mut source, 1).await, [id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_held_is_taken_over() {
    let streams = streams().await;
    let to = streams.destination("dead");
    let what = subscription("dead", &to);
    let made = format!("XGROUP CREATE {} {} 0 MKSTREAM", to.address, what.name);
    streams.ask(&made).await;
    publish(&*streams.broker, &to, &message("orphan")).await;
    let (stream, group) = (&to.address, &what.name);
    streams.ask(&format!("XREADGROUP GROUP {group} dead STREAMS {stream} >")).await;
    let mut source = open(&*streams.broker, &what).await;
    silence(&mut source).await;
    // A minute later.
    let script = "local id = redis.call('XPENDING', KEYS[1], KEYS[2])[2]; \
        redis.call('XCLAIM', KEYS[1], KEYS[2], 'dead', 0, id, 'IDLE', 61000, 'JUSTID'); return 1";
    streams.ask(&format!(r#"EVAL "{script}" 2 {stream} {group}"#)).await;
    let taken = take(&mut source).await;
    assert_eq!((taken.message.id.as_str(), taken.attempts), ("orphan", 0));
    ack(taken).await;
    streams.until(&pending(&what), ":0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_what_somebody_else_has_is_none() {
    let streams = streams().await;
    let to = streams.destination("stolen");
    let what = subscription("stolen", &to);
    let mut source = open(&*streams.broker, &what).await;
    publish(&*streams.broker, &to, &message("stolen")).await;
    let taken = take(&mut source).await;
    let script = "local id = redis.call('XPENDING', KEYS[1], KEYS[2])[2]; \
        redis.call('XCLAIM', KEYS[1], KEYS[2], 'thief', 0, id, 'JUSTID'); return 1";
    streams.ask(&format!(r#"EVAL "{script}" 2 {} {}"#, to.address, what.name)).await;
    let error = taken.receipt.ack().await.expect_err("it is not ours");
    assert_eq!(error.kind, BrokerFailure::Lost, "{error}");
}

/// Nothing is lost and nothing comes twice, however many nodes look whether it is due.
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_message_comes_once_whoever_moves_it() {
    let streams = streams().await;
    let to = streams.destination("due");
    let what = subscription("due", &to);
    let nodes = [streams.another_node().await, streams.another_node().await];
    let wanted = ids("due", 300);
    for (number, id) in wanted.iter().enumerate() {
        let mut delayed = message(id);
        delayed.due = Some(now() + Duration::from_millis(300 + number as u64 * 5));
        publish(&nodes[number % 2], &to, &delayed).await;
    }
    let mut source = open(&*streams.broker, &what).await;
    let mut came = take_ids(&mut source, 300).await;
    silence(&mut source).await;
    came.sort();
    let mut wanted = wanted;
    wanted.sort();
    assert_eq!(came, wanted);
}

/// And it is one node's at a time.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_releases_another_may_have() {
    let streams = streams().await;
    let to = streams.destination("handed-on");
    let what = subscription("handed-on", &to);
    let node = streams.another_node().await;
    let mut one = open(&*streams.broker, &what).await;
    publish(&*streams.broker, &to, &message("handed-on")).await;
    let taken = take(&mut one).await;
    let mut two = open(&node, &what).await;
    taken.receipt.release().await;
    // The first may be quicker, but not for ever.
    let handed_on = async {
        loop {
            tokio::select! {
                taken = one.next() => taken.expect("a message").receipt.release().await,
                taken = two.next() => break taken.expect("a message"),
            }
        }
    };
    let taken = timeout(Duration::from_secs(60), handed_on).await.expect("the other node");
    assert_eq!(taken.message.id, "handed-on");
    silence(&mut one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_have_nothing_are_deleted_and_others_are_not() {
    let streams = streams().await;
    let to = streams.destination("consumers");
    let what = subscription("consumers", &to);
    for _ in 0..5 {
        drop(open(&*streams.broker, &what).await);
    }
    streams.until(&consumers(&what), ":0").await;
    let mut source = open(&*streams.broker, &what).await;
    publish(&*streams.broker, &to, &message("held")).await;
    let _taken = take(&mut source).await;
    drop(source);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(streams.ask(&pending(&what)).await, ":1");
    let mut source = open(&*streams.broker, &what).await;
    assert_eq!(take_ids(&mut source, 1).await, ["held"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_refuses_and_takes_again() {
    let streams = streams().await;
    let mut to = streams.destination("memory");
    let what = subscription("memory", &to);
    let mut source = open(&*streams.broker, &what).await;
    publish(&*streams.broker, &to, &message("before")).await;
    streams.ask("CONFIG SET maxmemory 1").await;
    for max_length in [None, Some(100)] {
        to.options.max_length = max_length;
        let error = streams.broker.publish(&to, &message("no room")).await.expect_err("a refusal");
        assert_eq!(error.kind, BrokerFailure::Full, "{error}");
    }
    // What is there can be worked on.
    assert_eq!(take_ids(&mut source, 1).await, ["before"]);
    streams.ask("CONFIG SET maxmemory 0").await;
    publish(&*streams.broker, &to, &message("after")).await;
    assert_eq!(take_ids(&mut source, 1).await, ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_not_to_be_made_is_refused() {
    let streams = streams().await;
    let mut to = streams.destination("undeclared");
    to.options.declare = false;
    for max_length in [None, Some(1)] {
        to.options.max_length = max_length;
        let error = streams.broker.publish(&to, &message("a")).await.expect_err("a refusal");
        assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
    }
    let error = streams.broker.consume(&subscription("a", &to)).await.map(|_| ()).expect_err("a refusal");
    assert_eq!(error.kind, BrokerFailure::Refused, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told() {
    let streams = streams().await;
    streams.ask("CONFIG SET requirepass right").await;
    let url = streams.server.lock().await.url();
    let open = |password: &str| {
        let credentials = Some(("default".to_owned(), password.to_owned()));
        Redis::open("events", &url, credentials, &Handle::current()).expect("a broker")
    };
    let (right, wrong) = (open("right"), open("wrong"));
    until("a connection", async || right.trouble().is_none()).await;
    until("the reason", async || wrong.trouble().is_some_and(|why| why.contains("uthentication"))).await;
    assert!(Redis::open("events", "127.0.0.1", None, &Handle::current()).is_err());
}
