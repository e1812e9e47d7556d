//! Ends a task whose peer takes nothing any more.
//!
//! hyper asks a body for more only when the peer has room for it. While the peer reads nothing, or opens no window of its
//! HTTP/2 stream, the body is not polled, and whatever watches the clock inside it sleeps. So the clock is watched around
//! hyper's task: what runs in it says by when something has to have moved, and the task is dropped if nothing has. That
//! closes an HTTP/1 connection, and resets an HTTP/2 stream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::{Sleep, sleep_until};

tokio::task_local! {
    static CURRENT: Rc<Leash>;
}

/// By when a task ends, unless somebody says otherwise before.
#[derive(Debug)]
pub struct Leash {
    /// How long a peer may take nothing of what it was given, where nothing else tells.
    patience: Option<Duration>,
    until: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
}

/// Runs a future that may be ended by its [`Leash`]; then there is no output, and the future has been dropped.
pub async fn leashed<F: Future>(patience: impl Into<Option<Duration>>, future: F) -> Option<F::Output> {
    let leash = Rc::new(Leash { patience: patience.into(), until: Cell::new(None), task: RefCell::default() });
    let mut future = pin!(future);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        // Before the future is polled: what is late by its own clock is to find out first, and may have something to say.
        let late = leash.until.get().is_some_and(|until| until <= Instant::now());
        leash.remember(context.waker());
        if let Poll::Ready(output) = CURRENT.sync_scope(leash.clone(), || future.as_mut().poll(context)) {
            return Poll::Ready(Some(output));
        }
        let Some(until) = leash.until.get() else { return Poll::Pending };
        if late && until <= Instant::now() {
            return Poll::Ready(None);
        }
        let until = until.into();
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        // One that fires too early is set anew then, which is seldom; each frame moves the instant.
        if timer.is_elapsed() || timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

impl Leash {
    /// Of the task that runs now.
    pub fn current() -> Option<Rc<Self>> {
        CURRENT.try_with(Rc::clone).ok()
    }

    fn remember(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn patient(&self) -> Option<Instant> {
        Some(Instant::now() + self.patience?)
    }

    /// Lets the task end unless the peer takes something in time. From within the task, or from outside.
    fn pull(&self) {
        self.until.set(self.patient());
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }
}

/// Something that a peer is to take. While it exists, the peer may not sleep over it; what comes after is not its matter.
#[derive(Debug)]
pub struct Owed(Option<Rc<Leash>>);

impl Owed {
    /// In the task that runs now; without a leash nothing watches.
    pub fn here() -> Self {
        Self(Leash::current())
    }

    /// The same, if something watches.
    pub fn watched() -> Option<Self> {
        Leash::current().map(|leash| Self(Some(leash)))
    }

    /// The peer was given something, and there may be a deadline.
    pub fn given(&self, deadline: Option<Instant>) {
        if let Some(leash) = &self.0 {
            leash.until.set(leash.patient().into_iter().chain(deadline).min());
        }
    }

    /// The peer has taken everything, and waits for more itself.
    pub fn taken(&self) {
        if let Some(leash) = &self.0 {
            leash.until.set(None);
        }
    }

    /// From outside the task: it is over, and the peer gets a last chance to take what is left.
    pub fn last(&self) {
        if let Some(leash) = &self.0 {
            leash.pull();
        }
    }

    /// Whether the peer has slept over it.
    pub fn is_late(&self) -> bool {
        let until = self.0.as_ref().and_then(|leash| leash.until.get());
        until.is_some_and(|until| until <= Instant::now())
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.taken();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const PATIENCE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_task_whose_peer_takes_nothing_ends() {
        let stuck = async {
            let owed = Owed::here();
            owed.given(None);
            pending::<()>().await;
        };
        assert_eq!(leashed(PATIENCE, stuck).await, None);
    }

    #[tokio::test]
    async fn a_task_that_owes_nothing_may_wait() {
        let idle = async {
            let owed = Owed::here();
            owed.given(None);
            drop(owed);
            tokio::time::sleep(PATIENCE * 5).await;
        };
        assert_eq!(leashed(PATIENCE, idle).await, Some(()));
    }

    #[tokio::test]
    async fn each_piece_gets_its_own_time_and_the_deadline_bounds_all() {
        let slow = |deadline: Option<Duration>| async move {
            let deadline = deadline.map(|left| Instant::now() + left);
            let owed = Owed::here();
            for _ in 0..10 {
                owed.given(deadline);
                tokio::time::sleep(PATIENCE / 4).await;
            }
        };
        assert_eq!(leashed(PATIENCE * 10, slow(None)).await, Some(()));
        assert_eq!(leashed(PATIENCE * 100, slow(Some(PATIENCE / 2))).await, None);
    }

    #[tokio::test]
    async fn what_is_late_by_its_own_clock_finds_out_first() {
        let own_clock = async {
            let owed = Owed::here();
            let deadline = Instant::now() + PATIENCE;
            owed.given(Some(deadline));
            tokio::time::sleep_until(deadline.into()).await;
            "says so"
        };
        assert_eq!(leashed(PATIENCE * 10, own_clock).await, Some("says so"));
    }

    #[tokio::test]
    async fn a_task_can_be_ended_from_outside() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let (tell, told) = tokio::sync::oneshot::channel();
                let task = tokio::task::spawn_local(leashed(PATIENCE, async {
                    let _ = tell.send(Owed::here());
                    pending::<()>().await;
                }));
                let owed = told.await.unwrap();
                tokio::time::sleep(PATIENCE * 2).await;
                assert!(!task.is_finished());
                owed.last();
                assert_eq!(task.await.unwrap(), None);
                assert!(owed.is_late());
            })
            .await;
    }
}
