//! While a version is new, its failures are told to whoever may take it back.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rings for failures while it is set. A worker that rings never waits.
#[derive(Default)]
pub struct Alarm {
    set: AtomicBool,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Alarm {
    /// Rings this bell from now on; the first that was ever set, since there is one listener in a process.
    pub fn set(&self, bell: impl Fn() + Send + Sync + 'static) {
        self.bell.get_or_init(|| Box::new(bell));
        self.set.store(true, Ordering::Release);
    }

    pub fn clear(&self) {
        self.set.store(false, Ordering::Release);
    }

    pub fn ring(&self) {
        if self.set.load(Ordering::Acquire)
            && let Some(bell) = self.bell.get()
        {
            bell();
        }
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Alarm").field(&self.set).finish()
    }
}
