//! Steady load at a fixed rate over a few routes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::shape;
use crate::client::{self, Client};

/// Connections, each with one request at a time.
const LANES: u32 = 8;

pub struct Load {
    stop: Arc<AtomicBool>,
    lanes: JoinSet<Result<()>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Since they were last taken, in milliseconds.
    latencies: Mutex<Vec<f64>>,
    failed: AtomicU64,
}

impl Load {
    /// `rate` requests a second in all.
    pub async fn start(address: SocketAddr, rate: u32) -> Result<Self> {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let every = Duration::from_secs(1) * LANES / rate;
        let mut lanes = JoinSet::new();
        for number in 0..LANES {
            let first = Instant::now() + every * number / LANES;
            let client = Client::http1(address).await?;
            lanes.spawn(lane(client, number, first, every, stop.clone(), seen.clone()));
        }
        Ok(Self { stop, lanes, seen })
    }

    /// The latencies since the last call, from when a request was due to the end of its answer.
    pub fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.seen.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how many requests failed.
    pub async fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(lane) = self.lanes.join_next().await {
            lane??;
        }
        Ok(self.seen.failed.load(Ordering::Relaxed))
    }
}

async fn lane(
    mut client: Client,
    number: u32,
    mut due: Instant,
    every: Duration,
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
) -> Result<()> {
    let host = shape::name(number);
    while !stop.load(Ordering::Relaxed) {
        // A late timer is this program's fault; a request that has to wait for the answer before it is not.
        let mut begun = due;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            begun = Instant::now();
        }
        due += every;
        let ok = client.send(client::get(&host, "/")?).await.is_ok_and(|response| response.status == 200);
        if !ok {
            seen.failed.fetch_add(1, Ordering::Relaxed);
        }
        let latency = begun.elapsed().as_secs_f64() * 1000.0;
        seen.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(latency);
    }
    Ok(())
}
