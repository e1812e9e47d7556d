//! A listening socket with its connections: accepts, counts, and stops all of them together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// A number that only the server changes and tests read.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds one and returns the number before.
    pub(super) fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    accepted: Arc<Count>,
    open: Arc<Count>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address` and runs `serve` for each connection, which it numbers from 0.
    pub(super) async fn start<F>(
        address: SocketAddr,
        serve: impl Fn(TcpStream, u64) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(Count::default());
        let open = Arc::new(Count::default());
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn({
            let (accepted, open, stop) = (accepted.clone(), open.clone(), stop.clone());
            async move {
                // Dropping the set ends its connections, so that an aborted server leaves none behind.
                let mut connections = JoinSet::new();
                loop {
                    let stream = tokio::select! {
                        () = stop.notified() => break,
                        accepted = listener.accept() => accepted,
                        Some(_) = connections.join_next() => continue,
                    };
                    let Ok((stream, _)) = stream else { continue };
                    let _ = stream.set_nodelay(true);
                    let open = Open::new(open.clone());
                    let connection = serve(stream, accepted.add());
                    connections.spawn(async move {
                        connection.await;
                        drop(open);
                    });
                }
                drop(listener);
                connections.shutdown().await;
            }
        });
        Ok(Self { address, accepted, open, stop, task })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    pub(super) fn open(&self) -> u64 {
        self.open.get()
    }

    pub(super) async fn stop(mut self) {
        self.stop.notify_one();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connection as open while it lives, however it ends.
struct Open(Arc<Count>);

impl Open {
    fn new(count: Arc<Count>) -> Self {
        count.add();
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.subtract();
    }
}
