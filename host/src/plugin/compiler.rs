//! Work that cannot be stopped, such as compilation, on threads that need not be waited for.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// After so long a compilation is given up.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The most compilations that go on while nobody waits for them.
const MAX_LEFT: usize = 4;
/// Stack of a compiler's thread, in bytes: what the main thread has.
const STACK: usize = 8 * 1024 * 1024;

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoResult {
    /// Ask again later.
    #[error("it is still being compiled")]
    NotYet,
    #[error("compiling it took longer than {0:?}: it is too large or too complex")]
    TooSlow(Duration),
    /// Ask again later.
    #[error(
        "{MAX_LEFT} compilations that take too long are still going on; this one begins when one of them has ended"
    )]
    Busy,
    #[error("the compiler panicked")]
    Panicked,
    #[error("cannot start a thread to compile it: {0}")]
    Thread(String),
}

/// The jobs in progress, by key.
#[derive(Debug)]
pub struct Compiler<T> {
    jobs: Mutex<HashMap<String, Arc<Job<T>>>>,
    limit: Duration,
}

#[derive(Debug)]
struct Job<T> {
    begun: Instant,
    progress: Mutex<Progress<T>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Progress<T> {
    result: Option<Result<T, NoResult>>,
    waiting: usize,
}

impl<T: Clone + Send + 'static> Compiler<T> {
    pub fn new(limit: Duration) -> Self {
        Self { jobs: Mutex::default(), limit }
    }

    /// The result of this work, or of the work that already goes on under this key. Waits until the job is as old as
    /// `patience`; whoever asks again later gets the result, if it has ended within the limit. The thread has the priority
    /// of the one that asks.
    ///
    /// # Errors
    /// There is no result, or not yet.
    pub fn run(&self, key: &str, patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, NoResult> {
        let job = self.join(key, work)?;
        let left = patience.min(self.limit).saturating_sub(job.begun.elapsed());
        let waited = job.ended.wait_timeout_while(job.progress(), left, |progress| progress.result.is_none());
        let (mut progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        progress.waiting -= 1;
        let result = progress.result.clone();
        drop(progress);
        match result {
            Some(result) => {
                self.jobs().retain(|_, other| !Arc::ptr_eq(other, &job));
                result
            }
            None if job.begun.elapsed() >= self.limit => Err(NoResult::TooSlow(self.limit)),
            None => Err(NoResult::NotYet),
        }
    }

    /// The job of this key, begun if there is none. It counts as waited for.
    fn join(&self, key: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<Arc<Job<T>>, NoResult> {
        let mut jobs = self.jobs();
        // Results that nobody came for.
        jobs.retain(|_, job| job.begun.elapsed() < 2 * self.limit || !job.has_ended());
        if let Some(job) = jobs.get(key) {
            job.progress().waiting += 1;
            return Ok(job.clone());
        }
        if jobs.values().filter(|job| job.is_left()).count() >= MAX_LEFT {
            return Err(NoResult::Busy);
        }
        let job = Arc::new(Job {
            begun: Instant::now(),
            progress: Mutex::new(Progress { result: None, waiting: 1 }),
            ended: Condvar::new(),
        });
        let thread = std::thread::Builder::new().name("weir-compile".into()).stack_size(STACK);
        let (of_thread, limit) = (job.clone(), self.limit);
        thread
            .spawn(move || {
                let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| NoResult::Panicked);
                // Somebody may have been told so already.
                let result = if of_thread.begun.elapsed() < limit { result } else { Err(NoResult::TooSlow(limit)) };
                of_thread.progress().result = Some(result);
                of_thread.ended.notify_all();
            })
            .map_err(|error| NoResult::Thread(error.to_string()))?;
        jobs.insert(key.to_owned(), job.clone());
        Ok(job)
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job<T>>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Job<T> {
    fn has_ended(&self) -> bool {
        self.progress().result.is_some()
    }

    fn is_left(&self) -> bool {
        let progress = self.progress();
        progress.result.is_none() && progress.waiting == 0
    }

    fn progress(&self) -> MutexGuard<'_, Progress<T>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    const NO_TIME: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    /// Work that goes on until it is told its result.
    fn endless() -> (Sender<u32>, impl FnOnce() -> u32 + Send + 'static) {
        let (sender, receiver) = channel();
        (sender, move || receiver.recv().unwrap_or(0))
    }

    #[test]
    fn who_does_not_wait_gets_the_result_by_asking_again() {
        let compiler = Compiler::new(LONG);
        let (end, work) = endless();
        assert_eq!(compiler.run("a", NO_TIME, work), Err(NoResult::NotYet));
        end.send(7).unwrap();
        assert_eq!(compiler.run("a", LONG, || unreachable!("it has begun already")), Ok(7));
        assert_eq!(compiler.run("a", LONG, || 8), Ok(8), "a result is given once");
    }

    #[test]
    fn work_beyond_the_limit_is_given_up_and_its_late_result_is_not_used() {
        let compiler = Compiler::new(Duration::from_millis(20));
        let (end, work) = endless();
        let begun = Instant::now();
        assert_eq!(compiler.run("a", LONG, work), Err(NoResult::TooSlow(Duration::from_millis(20))));
        assert!(begun.elapsed() < LONG);
        end.send(7).unwrap();
        while compiler.jobs().values().any(|job| !job.has_ended()) {
            std::thread::yield_now();
        }
        let (_end, work) = endless();
        assert!(matches!(compiler.run("a", LONG, work), Err(NoResult::TooSlow(_))));
    }

    #[test]
    fn only_so_many_are_left_to_themselves() {
        let compiler = Compiler::new(LONG);
        let mut ends = Vec::new();
        for key in 0..MAX_LEFT {
            let (end, work) = endless();
            assert_eq!(compiler.run(&key.to_string(), NO_TIME, work), Err(NoResult::NotYet));
            ends.push(end);
        }
        assert_eq!(compiler.run("more", LONG, || 1), Err(NoResult::Busy));
        ends[0].send(7).unwrap();
        while compiler.jobs()["0"].is_left() {
            std::thread::yield_now();
        }
        assert_eq!(compiler.run("more", LONG, || 1), Ok(1));
        assert_eq!(compiler.run("0", LONG, || 1), Ok(7), "and its result is kept");
    }

    #[test]
    fn a_panic_is_an_error_of_that_work_alone() {
        let compiler = Compiler::new(LONG);
        assert_eq!(compiler.run("a", LONG, || -> u32 { panic!("as the compiler might") }), Err(NoResult::Panicked));
        assert_eq!(compiler.run("a", LONG, || 1), Ok(1));
    }

    #[test]
    fn two_who_ask_for_the_same_share_the_work() {
        let compiler = Compiler::new(LONG);
        let (end, work) = endless();
        assert_eq!(compiler.run("a", NO_TIME, work), Err(NoResult::NotYet));
        std::thread::scope(|scope| {
            let asked = [(), ()].map(|()| scope.spawn(|| compiler.run("a", LONG, || 0)));
            while compiler.jobs()["a"].progress().waiting < 2 {
                std::thread::yield_now();
            }
            end.send(7).unwrap();
            asked.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(7)));
        });
    }
}
