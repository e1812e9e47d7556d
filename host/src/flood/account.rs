//! What a connection is still allowed.

use tokio::time::Instant;

/// Frames without content that a peer may send at once, and in each second from then on. All streams of a connection may
/// be cancelled together, several times over.
pub(super) const BURST: u32 = 10_000;
pub(super) const PER_SECOND: u32 = 1_000;

/// How many frames a peer may still send for nothing.
pub(super) struct Account {
    pub(super) left: u32,
    pub(super) filled: Instant,
}

impl Account {
    pub fn full() -> Self {
        Self { left: BURST, filled: Instant::now() }
    }

    pub fn add(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(BURST);
    }

    /// The clock is asked only where there is nothing left.
    pub fn take(&mut self, frames: u32) -> bool {
        if self.left < frames {
            let earned = self.filled.elapsed().as_secs_f64() * f64::from(PER_SECOND);
            self.filled = Instant::now();
            // Saturates.
            self.add(earned as u32);
        }
        let left = self.left.checked_sub(frames);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}
