//! How many messages a node takes, and how long they are on their way, over brokers of each kind side by side.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::options::Options;
use super::{CHANNEL, embedded, setup};
use crate::client::{Client, request};
use crate::peers::figures::{median, percentile, ratio};
use crate::process::{Process, written};
use crate::servers::{Nats, RabbitMq, Redis, Server};
use crate::upstream::{Answer, Behaviour, Reply, Upstream};

/// What was measured of one broker, a value for each round.
#[derive(Default)]
struct Measured {
    /// Confirmed messages a second.
    rate: Vec<f64>,
    /// Milliseconds from asking to the confirmation, while as much as possible is published.
    publish: Vec<[f64; 2]>,
    /// Milliseconds from asking to the consumer, at a fixed rate.
    way: Vec<[f64; 2]>,
}

/// A broker to be measured.
struct Broker {
    name: &'static str,
    keys: String,
    _directory: Option<TempDir>,
    _server: Option<Server>,
}

impl Broker {
    fn embedded() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let keys = embedded(&directory.path().join("events"));
        Ok(Self { name: "embedded", keys, _directory: Some(directory), _server: None })
    }

    fn server(name: &'static str, kind: &str, server: Server) -> Self {
        let keys = format!("kind = \"{kind}\"\nurl = \"{}\"", server.url());
        Self { name, keys, _directory: None, _server: Some(server) }
    }
}

/// Measures all, and prints a table.
///
/// # Errors
/// A server or the node does not start, or a publish is refused.
pub async fn run(options: &Options) -> Result<()> {
    let brokers = [
        Broker::embedded()?,
        Broker::server("RabbitMQ", "amqp", RabbitMq::start().await),
        Broker::server("NATS JetStream", "nats", Nats::start().await),
        Broker::server("Redis Streams", "redis", Redis::start().await),
    ];
    let mut measured: Vec<Measured> = brokers.iter().map(|_| Measured::default()).collect();
    for round in 1..=options.rounds {
        for (broker, measured) in brokers.iter().zip(&mut measured) {
            eprintln!("round {round}: {}", broker.name);
            measure(broker, measured, options).await.with_context(|| broker.name)?;
        }
    }
    print(&brokers, &measured, options);
    Ok(())
}

async fn measure(broker: &Broker, measured: &mut Measured, options: &Options) -> Result<()> {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let consumer = Upstream::start(Behaviour::new(move |received| {
        let _ = arrived.send((received.body.clone(), Instant::now()));
        Answer::from(Reply::new(200))
    }))
    .await?;
    let setup = setup(&broker.keys, consumer.address(), "timeout = \"30s\"", "concurrency = 64")
        .toml("[log]\nexchanges = \"none\"");
    let (_kept, config) = written(&setup)?;
    let mut node = Process::start(&config, Stdio::null())?;
    let (address, _) = node.addresses().await?;
    while super::publish(address, "first", &[]).await?.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    arrivals.recv().await;

    let begun = Instant::now();
    let until = begun + Duration::from_secs(options.seconds);
    let publishers: Vec<_> =
        (0..options.publishers).map(|_| tokio::spawn(publish_until(address, until, options.bytes))).collect();
    let mut took = Vec::new();
    for publisher in publishers {
        took.extend(publisher.await??);
    }
    measured.rate.push(took.len() as f64 / begun.elapsed().as_secs_f64());
    measured.publish.push(middle_and_tail(took.clone()));
    for _ in 0..took.len() {
        tokio::time::timeout(Duration::from_secs(120), arrivals.recv()).await.context("not all were delivered")?;
    }
    measured.way.push(middle_and_tail(ways(address, &mut arrivals, options).await?));
    // Politely: a build that takes notes for the next one writes them when it ends.
    node.terminate()?;
    node.exit_code().await?;
    Ok(())
}

/// Publishes one message after the other; how long each took, in milliseconds.
async fn publish_until(node: SocketAddr, until: Instant, bytes: usize) -> Result<Vec<f64>> {
    let (mut client, mut took, body) = (Client::http1(node).await?, Vec::new(), vec![b'x'; bytes]);
    while Instant::now() < until {
        let begun = Instant::now();
        let answer = client.send(post(node, body.clone())?).await?;
        ensure!(answer.status == 200, "{answer:?}");
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}

/// Publishes at a fixed rate; how long each message was on its way to the consumer, in milliseconds. It counts from the moment
/// at which it was to be published, so that one that holds up others counts for them too.
async fn ways(
    node: SocketAddr,
    arrivals: &mut mpsc::UnboundedReceiver<(bytes::Bytes, Instant)>,
    options: &Options,
) -> Result<Vec<f64>> {
    let count = u64::from(options.rate) * options.seconds;
    let mut ticks = interval(Duration::from_secs(1) / options.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    // What the node before has not acknowledged comes again, and is none of these.
    let round: u64 = rand::random();
    let (mut due, mut publishes) = (Vec::new(), Vec::new());
    for number in 0..count {
        due.push(Instant::from(ticks.tick().await));
        let mut body = [round.to_le_bytes(), number.to_le_bytes()].concat();
        body.resize(options.bytes.max(16), 0);
        publishes.push(tokio::spawn(async move { Client::http1(node).await?.send(post(node, body)?).await }));
    }
    for publish in publishes {
        let answer = publish.await??;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let mut ways = Vec::new();
    while (ways.len() as u64) < count {
        let arrival = tokio::time::timeout(Duration::from_secs(60), arrivals.recv()).await?;
        let (body, at) = arrival.context("the consumer is there")?;
        let (marks, _) = body.as_chunks::<8>();
        if let [of_round, number, ..] = marks
            && u64::from_le_bytes(*of_round) == round
        {
            ways.push((at - due[u64::from_le_bytes(*number) as usize]).as_secs_f64() * 1000.0);
        }
    }
    Ok(ways)
}

fn post(node: SocketAddr, body: Vec<u8>) -> Result<http::Request<crate::client::Body>> {
    request(http::Method::POST, &node.to_string(), &format!("/v1/publish/{CHANNEL}"), body)
}

fn middle_and_tail(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|share| percentile(&values, share).unwrap_or_default())
}

fn print(brokers: &[Broker], measured: &[Measured], options: &Options) {
    let Options { rounds, seconds, publishers, bytes, rate } = options;
    println!(
        "\n{bytes} bytes a message; {publishers} publishers as fast as they can; on the way at {rate} a second; \
         medians of {rounds} rounds of {seconds} s\n"
    );
    println!("| broker | confirmed a second | ÷ embedded | publish p50, p99 ms | on the way p50, p99 ms |");
    println!("|---|---:|---:|---:|---:|");
    for (broker, of) in brokers.iter().zip(measured) {
        let column = |values: &[[f64; 2]], at: usize| median(values.iter().map(|pair| pair[at]));
        println!(
            "| {} | {:.0} | {:.2} | {:.1}, {:.1} | {:.1}, {:.1} |",
            broker.name,
            median(of.rate.iter().copied()),
            ratio(&of.rate, &measured[0].rate),
            column(&of.publish, 0),
            column(&of.publish, 1),
            column(&of.way, 0),
            column(&of.way, 1),
        );
    }
}
