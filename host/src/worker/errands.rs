//! Work that comes to a worker from elsewhere: deliveries, which arrive from brokers and not over a listener.

use super::Worker;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

type Task = Pin<Box<dyn Future<Output = ()>>>;
/// Made here, run on the worker's own thread.
type Errand = Box<dyn FnOnce(Rc<Worker>) -> Task + Send>;

/// A way to each worker. Who sends errands bounds how many there are at a time.
#[derive(Debug)]
pub struct Errands {
    workers: Box<[mpsc::UnboundedSender<Errand>]>,
    /// Until the worker takes its own.
    waiting: Mutex<Vec<Option<mpsc::UnboundedReceiver<Errand>>>>,
    turn: AtomicUsize,
}

impl Errands {
    pub fn new(workers: usize) -> Self {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let waiting = Mutex::new(receivers.into_iter().map(Some).collect());
        Self { workers: senders.into(), waiting, turn: AtomicUsize::new(0) }
    }

    /// Runs something on one worker, which take turns. `None`: the worker has ended, or panicked over it.
    pub async fn run<R, F>(&self, errand: impl FnOnce(Rc<Worker>) -> F + Send + 'static) -> Option<R>
    where
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let (done, result) = oneshot::channel();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1);
        let run = move |worker| {
            let work = errand(worker);
            Box::pin(async move { drop(done.send(work.await)) }) as Task
        };
        self.workers.get(turn)?.send(Box::new(run)).ok()?;
        result.await.ok()
    }

    fn of(&self, worker: usize) -> Option<mpsc::UnboundedReceiver<Errand>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).get_mut(worker)?.take()
    }
}

/// Runs the errands of a worker, until dropped.
pub async fn take(worker: Rc<Worker>) {
    let Some(mut errands) = worker.node.errands.of(worker.number) else { return };
    while let Some(errand) = errands.recv().await {
        tokio::task::spawn_local(errand(worker.clone()));
    }
}
