//! The laws of brokers, over the embedded one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use weir::broker::embedded::Embedded;
use weir::broker::{Broker, ChannelOptions, Destination};
use weir_tests::broker_laws::{Fixture, Has};

/// The broker, and its directory until the end of the test.
struct Directory {
    path: tempfile::TempDir,
    broker: Mutex<Arc<Embedded>>,
    destinations: AtomicUsize,
}

async fn directory() -> impl Fixture {
    let path = tempfile::tempdir().unwrap();
    let broker = Arc::new(Embedded::open(path.path()).unwrap());
    Directory { path, broker: Mutex::new(broker), destinations: AtomicUsize::new(0) }
}

impl Directory {
    fn embedded(&self) -> Arc<Embedded> {
        Arc::clone(&self.broker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Fixture for Directory {
    fn broker(&self) -> Arc<dyn Broker> {
        self.embedded()
    }

    fn destination(&self, name: &str) -> Destination {
        let number = self.destinations.fetch_add(1, Ordering::Relaxed);
        Destination { address: format!("{name}-{number}"), options: ChannelOptions::default() }
    }

    fn has(&self) -> Has {
        Has::ALL
    }

    /// Closing does nothing that a crash does not: what is not on disk by then is gone, and the log is read when it is
    /// opened again.
    async fn kill(&self) {
        self.embedded().close();
    }

    async fn start(&self) {
        let mut broker = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        if broker.trouble().is_some() {
            *broker = Arc::new(Embedded::open(self.path.path()).unwrap());
        }
    }
}

weir_tests::broker_laws!(directory);
