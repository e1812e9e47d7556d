//! When bytes last moved in an exchange, in either direction, and for how long none may.

use crate::clock;
use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Noted with each piece of a body, and looked at only when a timer that runs anyway fires: a piece costs no timer,
/// and hardly a look at the clock.
#[derive(Debug)]
pub struct Progress {
    last: Cell<Instant>,
    /// `None`: for ever.
    limit: Option<Duration>,
}

/// Why something was not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The time that it had has passed.
    Deadline,
    /// Nothing has moved for this long.
    Idle(Duration),
}

impl Progress {
    pub fn new(limit: Option<Duration>) -> Self {
        Self { last: Cell::new(clock::recent()), limit }
    }

    pub fn moved(&self) {
        if self.limit.is_some() {
            self.last.set(clock::recent());
        }
    }

    /// The first thing that would be late, and when, as far as can be told now.
    pub fn next(&self, deadline: Option<Instant>) -> Option<(Instant, Late)> {
        // Rather late than early.
        let idle = self.limit.map(|limit| (self.last.get() + clock::TICK + limit, Late::Idle(limit)));
        let deadline = deadline.map(|deadline| (deadline, Late::Deadline));
        deadline.into_iter().chain(idle).min_by_key(|(when, _)| *when)
    }

    /// Waits for something, as long as bytes move and there is time.
    pub async fn within<F: Future>(&self, deadline: Option<Instant>, future: F) -> Result<F::Output, Late> {
        let mut future = pin!(future);
        loop {
            let Some((when, late)) = self.next(deadline) else { return Ok(future.await) };
            match timeout_at(when.into(), future.as_mut()).await {
                Ok(output) => return Ok(output),
                // Unless something has moved since.
                Err(_) if self.next(deadline) == Some((when, late)) => return Err(late),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::sleep;

    const LIMIT: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn what_stands_still_is_late() {
        assert_eq!(Progress::new(Some(LIMIT)).within(None, pending::<()>()).await, Err(Late::Idle(LIMIT)));
    }

    #[tokio::test]
    async fn what_moves_may_take_longer_but_not_beyond_its_deadline() {
        let slow = |deadline: Option<Duration>| async move {
            let progress = Progress::new(Some(LIMIT));
            let moving = async {
                for _ in 0..10 {
                    sleep(LIMIT / 8).await;
                    progress.moved();
                }
            };
            progress.within(deadline.map(|left| Instant::now() + left), moving).await
        };
        assert_eq!(slow(None).await, Ok(()));
        assert_eq!(slow(Some(LIMIT / 2)).await, Err(Late::Deadline));
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_late() {
        assert_eq!(Progress::new(None).within(None, sleep(LIMIT)).await, Ok(()));
        assert_eq!(Progress::new(None).next(None), None);
    }
}
