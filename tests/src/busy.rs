//! A node with a connection so busy that its worker hands streams to the other.

use std::net::SocketAddr;

use anyhow::Result;
use futures_util::future::try_join_all;
use http::Request;
use tokio::task::JoinSet;

use crate::client::{self, Body, Client, Response};
use crate::upstream::{Answer, Upstream};
use crate::weir::{Setup, Weir};

pub const WORKERS: usize = 2;

/// Sums of what each worker has counted, by their numbers.
pub async fn counted(weir: &Weir, metric: &str, workers: usize) -> Vec<f64> {
    let mut counts = Vec::new();
    for worker in 0..workers {
        counts.push(weir.metric(&format!("weir_{metric}_total{{worker=\"{worker}\"}}")).await.unwrap());
    }
    counts
}

/// Streams that ran on another worker than that of their connection.
pub async fn taken_over(weir: &Weir) -> f64 {
    counted(weir, "worker_streams_taken_over", WORKERS).await.into_iter().sum()
}

/// Stops the node as SIGTERM does, and returns all its records.
pub async fn stop(weir: Weir) -> Result<Vec<serde_json::Value>> {
    Ok(tokio::task::spawn_blocking(move || weir.stop()).await?)
}

/// The services `one`, by HTTP/1.1, and `two`, by HTTP/2, at an upstream, and `hang`, which never answers.
pub async fn setup(upstream: SocketAddr, route: &str) -> Result<(Setup, Upstream)> {
    let hang = Upstream::start(Answer::hang()).await?;
    let setup = Setup::in_front_of(upstream, route).workers(WORKERS);
    Ok((setup.service_with("hang", &[hang.address()], "http2", "timeout = \"none\""), hang))
}

/// A connection with so many streams in progress that every second one that comes and stays runs elsewhere.
pub struct Busy {
    client: Client,
    _hanging: JoinSet<Result<Response>>,
}

impl Busy {
    pub async fn new(weir: &Weir, hang: &Upstream) -> Result<Self> {
        let client = Client::http2(weir.address()).await?;
        let (mut hanging, mut begun) = (JoinSet::new(), hang.request_count());
        while !is_busy(weir) {
            let mut client = client.another().unwrap();
            hanging.spawn(async move { client.send(client::get("hang", "/")?).await });
            begun += 1;
            weir.until("it hangs", async || hang.request_count() == begun).await;
        }
        Ok(Self { client, _hanging: hanging })
    }

    pub fn another(&self) -> Client {
        self.client.another().unwrap()
    }

    /// Sends requests at once, and reads what is answered.
    pub async fn send(&self, requests: impl IntoIterator<Item = Result<Request<Body>>>) -> Result<Vec<Response>> {
        let sent = requests.into_iter().map(|request| {
            let mut client = self.another();
            async move { client.send(request?).await }
        });
        try_join_all(sent).await
    }
}

/// Whether one worker is as far ahead of the other as a worker may be that does little.
pub fn is_busy(weir: &Weir) -> bool {
    let [one, other] = [0, 1].map(|worker| weir.node().seats[worker].busy());
    one.abs_diff(other) >= 100
}
