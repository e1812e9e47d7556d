//! What only the embedded broker can be asked. What all brokers have to do is in `tests/src/broker_laws.rs`.

mod damage;
mod full;
mod limits;
mod stress;

use super::*;
use crate::broker::message::now;
use crate::broker::{ChannelOptions, Taken};
use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderMap;
use std::time::Duration;

/// Longer than anything takes that has to happen.
const LONG: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(500);

/// A directory that is gone with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-embedded-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn open(&self) -> Embedded {
        Embedded::open(&self.0).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn channel(options: ChannelOptions) -> Destination {
    Destination { address: "orders".into(), options }
}

fn to() -> Destination {
    channel(ChannelOptions::default())
}

fn subscription(name: &str) -> Consumption {
    Consumption { name: name.into(), from: to(), prefetch: 10_000, dead_letter: None, dedup: None }
}

fn message(id: impl Into<String>) -> Message {
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

async fn publish(broker: &Embedded, id: impl Into<String>) {
    broker.publish(&to(), &message(id)).await.unwrap();
}

/// Publishes these in their order, all at once.
async fn publish_all(broker: &Embedded, to: &Destination, messages: &[Message]) {
    let publishes = join_all(messages.iter().map(|message| broker.publish(to, message)));
    // Or the runtime makes some of them wait for the next turn.
    assert!(tokio::task::unconstrained(publishes).await.iter().all(Result::is_ok));
}

/// `0000`, `0001`, …
fn numbered(numbers: std::ops::Range<usize>) -> Vec<Message> {
    numbers.map(|number| message(format!("{number:04}"))).collect()
}

async fn take(source: &mut Box<dyn Source>) -> Taken {
    tokio::time::timeout(LONG, source.next()).await.expect("a message in time").expect("a message")
}

async fn take_ids(source: &mut Box<dyn Source>, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let taken = take(source).await;
        ids.push(taken.message.id.clone());
        taken.receipt.ack().await.unwrap();
    }
    ids
}

async fn silence(source: &mut Box<dyn Source>) {
    if let Ok(taken) = tokio::time::timeout(QUIET, source.next()).await {
        panic!("there should be nothing, but there is {:?}", taken.map(|taken| taken.message.id));
    }
}

/// Runs something on the writer's thread, between two transactions.
async fn on_writer<T: Send + 'static>(broker: &Embedded, work: impl FnOnce(&Store) -> T + Send + 'static) -> T {
    let (done, answer) = oneshot::channel();
    let test = move |store: &Store| _ = done.send(work(store));
    broker.shared.ask(Ask::Task(Task::Test(Box::new(test)))).unwrap();
    answer.await.unwrap()
}

/// Keeps the writer from writing until it is told to go on.
async fn hold(broker: &Embedded) -> std::sync::mpsc::Sender<()> {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (held, holds) = oneshot::channel();
    let work = move |_: &Store| {
        let _ = held.send(());
        let _ = wait.recv();
    };
    broker.shared.ask(Ask::Task(Task::Test(Box::new(work)))).unwrap();
    holds.await.unwrap();
    go
}

async fn rows(broker: &Embedded, table: &'static str) -> i64 {
    on_writer(broker, move |store| store.number(&format!("SELECT count(*) FROM {table}"))).await
}

/// Waits until nothing is left on disk.
async fn until_empty(broker: &Embedded) {
    let empty = async {
        while rows(broker, "message").await + rows(broker, "entry").await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, empty).await.expect("nothing is left");
}

#[tokio::test]
async fn what_gathers_is_one_commit() {
    let directory = Directory::new("group");
    let broker = directory.open();
    publish(&broker, "first").await;
    let before = broker.commits();
    let go = hold(&broker).await;
    let (to, messages) = (to(), numbered(0..500));
    let publishes = publish_all(&broker, &to, &messages);
    let release = async { go.send(()).unwrap() };
    // In its first turn each publish asks, and then the writer is let go.
    tokio::join!(publishes, release);
    assert_eq!(broker.commits() - before, 1, "500 publishes wait for one sync");
    let mut source = broker.consume(&subscription("all")).await.unwrap();
    let mut receipts = Vec::new();
    for _ in 0..501 {
        receipts.push(take(&mut source).await.receipt);
    }
    let before = broker.commits();
    let go = hold(&broker).await;
    let acks = tokio::task::unconstrained(join_all(receipts.into_iter().map(|receipt| receipt.ack())));
    let (acks, ()) = tokio::join!(acks, async { go.send(()).unwrap() });
    assert!(acks.iter().all(Result::is_ok));
    assert_eq!(broker.commits() - before, 1, "and so do acknowledgements");
    until_empty(&broker).await;
}

#[tokio::test]
async fn a_directory_is_for_one_process_at_a_time() {
    let directory = Directory::new("twice");
    let broker = directory.open();
    let error = Embedded::open(&directory.0).unwrap_err();
    assert!(error.contains("in use by another process") && error.contains(directory.0.to_str().unwrap()), "{error}");
    drop(broker);
    publish(&directory.open(), "free again").await;
}

#[tokio::test]
async fn a_source_does_not_keep_the_directory() {
    let directory = Directory::new("source");
    let broker = directory.open();
    publish(&broker, "held").await;
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let held = take(&mut source).await;
    drop(broker);
    let broker = directory.open();
    assert_eq!(source.next().await.map(|_| ()).unwrap_err().kind, BrokerFailure::Lost);
    assert_eq!(held.receipt.ack().await.unwrap_err().kind, BrokerFailure::Unreachable);
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    assert_eq!(take_ids(&mut source, 1).await, ["held"]);
}

#[tokio::test]
async fn counts_are_the_same_after_reopening() {
    let directory = Directory::new("counts");
    let broker = directory.open();
    drop(broker.consume(&subscription("one")).await.unwrap());
    for number in 0..5 {
        publish(&broker, number.to_string()).await;
    }
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    take_ids(&mut source, 2).await;
    drop(broker);
    let broker = directory.open();
    let backlog = broker.backlog(&subscription("one")).await.unwrap();
    assert_eq!(backlog.messages, Some(3));
    assert!(backlog.oldest.is_some_and(|oldest| oldest < LONG), "{:?}", backlog.oldest);
    assert_eq!(broker.backlog(&subscription("nobody")).await.unwrap(), Backlog { messages: Some(0), oldest: None });
    let full = channel(ChannelOptions { max_length: Some(3), ..ChannelOptions::default() });
    let error = broker.publish(&full, &message("more")).await.unwrap_err();
    assert_eq!(error.kind, BrokerFailure::Full);
    assert!(error.message.contains("\"orders\"") && error.message.contains("it may have 3"), "{error}");
}

/// A lease from before may not mean a message from after.
#[tokio::test]
async fn a_void_receipt_settles_nothing() {
    let directory = Directory::new("void");
    let broker = directory.open();
    publish(&broker, "first").await;
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let void = take(&mut source).await;
    drop(source);
    let mut source = broker.consume(&subscription("one")).await.unwrap();
    let held = take(&mut source).await;
    let error = void.receipt.ack().await.unwrap_err();
    assert!(error.message.contains("\"first\"") && error.message.contains("\"one\""), "{error}");
    drop(held);
    assert_eq!(take_ids(&mut source, 1).await, ["first"]);
    until_empty(&broker).await;
}
