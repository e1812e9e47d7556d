//! The proxy is killed, again and again: nothing that it has confirmed is lost.

use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weir_tests::messages::{Consumer, embedded, publish, setup};
use weir_tests::process::{Process, written};
use weir_tests::servers::RabbitMq;

/// How often the proxy is killed, by SIGKILL and at random moments of publishing and delivering.
const KILLS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_loses_nothing_confirmed_with_the_embedded_broker() -> Result<()> {
    let directory = tempfile::tempdir()?;
    killed(&embedded(directory.path())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_loses_nothing_confirmed_with_rabbitmq() -> Result<()> {
    let server = RabbitMq::start().await;
    killed(&format!("kind = \"amqp\"\nurl = \"{}\"", server.url())).await
}

async fn killed(broker: &str) -> Result<()> {
    // Slow enough for deliveries to be under way whenever it is killed.
    let consumer = Consumer::start(|_| 200).await?;
    let setup = setup(broker, consumer.address(), "", "concurrency = 4\nmax-attempts = 1000");
    let (_kept, config) = written(&setup)?;
    let (confirmed, next) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicU64::new(0)));
    for _ in 0..KILLS {
        let node = Process::start(&config, Stdio::null())?;
        let (address, _) = node.addresses().await?;
        // The moments are those of work.
        wait_for_confirmation(address).await?;
        let publishers: Vec<_> =
            (0..4).map(|_| tokio::spawn(publisher(address, confirmed.clone(), next.clone()))).collect();
        let moment = rand::random_range(1..120);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        // `Process` kills it.
        drop(node);
        for publisher in publishers {
            publisher.await?;
        }
    }
    let confirmed = confirmed.lock().unwrap().clone();
    assert!(confirmed.len() > 2 * KILLS, "{} publishes were confirmed", confirmed.len());
    let _node = Process::start(&config, Stdio::null())?;
    let until = Instant::now() + Duration::from_secs(120);
    let missing = loop {
        let delivered: BTreeSet<String> = consumer.bodies().into_iter().collect();
        let missing: Vec<_> = confirmed.difference(&delivered).cloned().collect();
        if missing.is_empty() || Instant::now() > until {
            break missing;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(missing.is_empty(), "{} of {} confirmed messages were lost: {missing:?}", missing.len(), confirmed.len());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    consumer.bodies().into_iter().for_each(|body| *times.entry(body).or_default() += 1);
    let duplicates: usize = times.values().map(|times| times - 1).sum();
    println!("{} messages confirmed over {KILLS} kills, none lost, {duplicates} delivered once more", confirmed.len());
    Ok(())
}

/// Publishes one message after the other, until the proxy is gone.
async fn publisher(node: SocketAddr, confirmed: Arc<Mutex<BTreeSet<String>>>, next: Arc<AtomicU64>) {
    loop {
        let body = next.fetch_add(1, Ordering::Relaxed).to_string();
        match publish(node, body.clone(), &[]).await {
            Ok(answer) if answer.status == 200 => drop(confirmed.lock().unwrap().insert(body)),
            // Where the broker is another process: it is not connected to yet, or its queue is not there yet.
            Ok(answer) if [502, 503].contains(&answer.status.as_u16()) => {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => return,
        }
    }
}

/// A broker that is another process is not connected to at once.
async fn wait_for_confirmation(node: SocketAddr) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while publish(node, "hello", &[]).await?.status != 200 {
        anyhow::ensure!(Instant::now() < until, "no publish is confirmed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
