//! Steady load at a fixed rate: requests begin when they are due, however long the answers before them take.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::judge::{Judge, Target};
use crate::client::{self, Client, Response};

/// Connections that are kept; each carries one request at a time.
const KEPT: u32 = 6;

/// How a request gets there. Of 10 requests 6 go over kept connections, 2 over fresh ones, and 2 over one of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Kept,
    Fresh,
    Http2,
}

/// Load until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    lanes: JoinSet<Result<()>>,
    lanes_shared: Arc<Shared>,
}

/// What all requests share.
pub struct Shared {
    address: SocketAddr,
    judge: Arc<Judge>,
    /// Of exchanges on the main route since they were last taken, in microseconds.
    latencies: Mutex<Vec<u32>>,
}

impl Load {
    /// `rate` requests a second in all.
    pub fn start(address: SocketAddr, judge: Arc<Judge>, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared { address, judge, latencies: Mutex::default() });
        let mut lanes = JoinSet::new();
        let kept = std::iter::repeat_n((Way::Kept, 10 * KEPT / 6), KEPT as usize);
        for (number, (way, share)) in kept.chain([(Way::Fresh, 5), (Way::Http2, 5)]).enumerate() {
            let every = Duration::from_secs(1) * share / rate;
            // Lanes do not all begin at the same instant.
            let first = Instant::now() + every * number as u32 / (KEPT + 2);
            lanes.spawn(lane(shared.clone(), way, first, every, stop.clone()));
        }
        Self { stop, lanes, lanes_shared: shared }
    }

    /// The latencies since the last call, from when a request was due to the end of its answer, in microseconds.
    pub fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.lanes_shared.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets what has begun end.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(lane) = self.lanes.join_next().await {
            lane??;
        }
        Ok(())
    }
}

async fn lane(shared: Arc<Shared>, way: Way, first: Instant, every: Duration, stop: Arc<AtomicBool>) -> Result<()> {
    let mut client = shared.connect(way).await?;
    let mut open = JoinSet::new();
    let mut due = first;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A late timer is this program's fault; a request that has to wait for the answer before it is not.
        let begun = if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            Instant::now()
        } else {
            due
        };
        due += every;
        let target = match number % 10 {
            3 => Target::Strict,
            7 => Target::Lenient,
            _ => Target::Main,
        };
        if way == Way::Kept {
            shared.exchange(&mut client, target, begun).await;
            if client.is_closed() {
                shared.judge.breaks("a kept connection was closed");
                client = shared.connect(way).await?;
            }
            continue;
        }
        let another = client.another();
        let shared = shared.clone();
        open.spawn(async move {
            match another {
                Some(mut client) => shared.exchange(&mut client, target, begun).await,
                None => match shared.connect(way).await {
                    Ok(mut client) => shared.exchange(&mut client, target, begun).await,
                    Err(error) => shared.judge.breaks(&format!("no connection: {error:#}")),
                },
            }
        });
        while open.try_join_next().is_some() {}
    }
    while open.join_next().await.is_some() {}
    Ok(())
}

impl Shared {
    async fn connect(&self, way: Way) -> Result<Client> {
        let connected = match way {
            Way::Kept | Way::Fresh => Client::http1(self.address).await,
            Way::Http2 => Client::http2(self.address).await,
        };
        connected.context("the node takes no connection")
    }

    async fn exchange(&self, client: &mut Client, target: Target, begun: Instant) {
        exchange(client, target, &self.judge).await;
        if target == Target::Main {
            let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            self.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(micros);
        }
    }
}

/// One exchange, judged.
pub async fn exchange(client: &mut Client, target: Target, judge: &Judge) -> Option<Response> {
    let request = client::get(target.host(), "/").ok()?;
    let begun = judge.begin();
    let response = client.send(request).await;
    judge.end(target, begun, &response);
    response.ok()
}
