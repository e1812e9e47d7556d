//! Traffic while things change: each exchange is marked by two policies of the chameleon, on its way there and back, so
//! that a version that is not whole shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::client::{self, Client, Response};
use crate::weir::Weir;

/// The versions that marked an answer, in the order of the marks: on the request by `a` and `b`, as the service saw it,
/// and on the response by `b` and `a`.
pub fn versions(response: &Response) -> Vec<String> {
    let request = response.json().map(|json| json["headers"].clone()).unwrap_or_default();
    let request = request.as_array().into_iter().flatten().filter(|field| field[0] == "x-version");
    let request = request.filter_map(|field| field[1].as_str().map(str::to_owned));
    let of_response = response.headers.get_all("x-version").iter().filter_map(|value| value.to_str().ok());
    request.chain(of_response.map(str::to_owned)).collect()
}

/// All the marks that one version leaves.
pub fn marks(word: &str) -> Vec<String> {
    ["a", "b", "b", "a"].map(|name| format!("{name}:{word}")).to_vec()
}

pub async fn call(client: &mut Client) -> Result<Response> {
    client.send(client::get("service", "/")?).await
}

/// Waits until a new exchange on a live connection runs with this version.
pub async fn until_live(weir: &Weir, client: &mut Client, word: &str) -> Result<()> {
    let client = tokio::sync::Mutex::new(client);
    weir.until(&format!("version {word} is live"), async || {
        let response = call(*client.lock().await).await.expect("no exchange fails");
        assert_eq!(response.status, 200, "{response:?}");
        versions(&response) == marks(word)
    })
    .await;
    Ok(())
}

/// Traffic on live and on fresh connections, until it is stopped; each answer is that of one version, whole.
pub fn start(weir: &Weir) -> Traffic {
    let address = weir.address();
    Traffic::of(4, |number, tally| async move {
        let connect = async || if number == 0 { Client::http2(address).await } else { Client::http1(address).await };
        let mut client = connect().await?;
        while tally.goes_on() {
            if number == 3 {
                client = connect().await?;
            }
            let response = call(&mut client).await?;
            anyhow::ensure!(response.status == 200 && response.broken.is_none(), "{response:?}");
            let versions = versions(&response);
            let word = versions.first().and_then(|mark| mark.strip_prefix("a:")).unwrap_or_default();
            anyhow::ensure!(versions == marks(word), "a mixture of versions: {versions:?}");
            tally.answered();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    })
}

/// Tasks that make exchanges until they are stopped.
pub struct Traffic {
    tally: Tally,
    tasks: Vec<JoinHandle<Result<()>>>,
}

/// What the tasks look at before each exchange, and count answers with.
#[derive(Clone, Default)]
pub struct Tally {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Tally {
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

impl Traffic {
    /// So many tasks, each of which is given its number.
    pub fn of<F>(tasks: usize, task: impl Fn(usize, Tally) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let tally = Tally::default();
        let tasks = (0..tasks).map(|number| tokio::spawn(task(number, tally.clone()))).collect();
        Self { tally, tasks }
    }

    fn count(&self) -> u64 {
        self.tally.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more exchanges were answered, or a task has failed.
    pub async fn more(&self, count: u64) {
        let until = self.count() + count;
        while self.count() < until && !self.tasks.iter().any(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops, and returns how many exchanges were answered.
    pub async fn stop(self) -> Result<u64> {
        self.tally.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(self.tally.answered.load(Ordering::Relaxed))
    }
}
