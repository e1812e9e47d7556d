//! A worker's thread: it follows the node from snapshot to snapshot, and drains when the node does.

use crate::listener::spread;
use crate::node::Node;
use crate::worker::{Worker, errands};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::LocalSet;

/// Starts a worker that serves what the node has published, until `drain` says stop.
pub fn spawn(node: Arc<Node>, number: usize, drain: watch::Receiver<bool>) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("weir-worker-{number}")).spawn(move || work(&runtime, node, number, drain))
}

fn work(runtime: &Runtime, node: Arc<Node>, number: usize, mut drain: watch::Receiver<bool>) {
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let worker = Worker::new(node.clone(), number);
        tokio::task::spawn_local(spread::take(worker.clone()));
        tokio::task::spawn_local(errands::take(worker.clone()));
        tokio::select! {
            () = snapshots(&worker) => {}
            () = housekeeping(&worker) => {}
            () = ticks(&worker) => {}
            _ = drain.wait_for(|drain| *drain) => {}
        }
        worker.listeners.drain();
        let until = Instant::now() + node.snapshot().config.node.drain_timeout;
        while worker.is_busy() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
            worker.tick(Instant::now());
        }
        worker.telemetry.log.flush();
    });
    // What is left is dropped with the set: its exchanges leave their records.
    drop(local);
}

/// Takes up each snapshot at once: exchanges may wait at a listener that is new, and an idle worker frees old instances.
async fn snapshots(worker: &Rc<Worker>) {
    let mut published = worker.node.published();
    loop {
        worker.current();
        if published.changed().await.is_err() {
            return;
        }
    }
}

async fn housekeeping(worker: &Worker) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        worker.tick(Instant::now());
    }
}

async fn ticks(worker: &Rc<Worker>) {
    loop {
        // Nobody waits for a tick where no policy has one.
        let pause = if worker.has_ticking_policies() { 10 } else { 1000 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        worker.tick_policies(Instant::now());
    }
}
