//! What the reload thread waits for: changes of files, failures of new versions, and commands.

use super::command::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// A burst of changes is one change: wait until it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(5);
/// But no longer than this: a directory in which something is always written must not keep changes from taking effect.
const BURST: Duration = Duration::from_millis(100);
/// Look anyway this often: not every file system tells.
pub const LOOK: Duration = Duration::from_secs(2);
/// Commands that wait, and a place for each of the other events.
const PLACES: usize = 16;

/// Why the reload thread woke.
#[derive(Debug)]
pub enum Event {
    /// Files may have changed.
    Files,
    /// A version that is new has failed a call.
    Failure,
    Command(Command),
}

/// Wakes the reload thread. Never waits for it.
#[derive(Debug, Clone)]
pub struct Bell(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sender: SyncSender<Event>,
    /// Whether the event is on its way already: once is enough.
    files: AtomicBool,
    failure: AtomicBool,
}

impl Bell {
    pub fn files(&self) {
        self.once(&self.0.files, Event::Files);
    }

    pub fn failure(&self) {
        self.once(&self.0.failure, Event::Failure);
    }

    /// Returns false if too many commands wait, or nobody takes any more.
    pub fn command(&self, command: Command) -> bool {
        self.0.sender.try_send(Event::Command(command)).is_ok()
    }

    fn once(&self, sent: &AtomicBool, event: Event) {
        if !sent.swap(true, Ordering::AcqRel) && self.0.sender.try_send(event).is_err() {
            // The thread has enough to wake it, and looks at everything now and then.
            sent.store(false, Ordering::Release);
        }
    }
}

/// The other end.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Event>,
    bell: Bell,
    /// Since when files have been changing.
    burst: Option<Instant>,
    look_at: Instant,
}

impl Default for Inbox {
    fn default() -> Self {
        let (sender, receiver) = sync_channel(PLACES);
        let bell = Bell(Arc::new(Shared { sender, files: AtomicBool::default(), failure: AtomicBool::default() }));
        Self { receiver, bell, burst: None, look_at: Instant::now() + LOOK }
    }
}

impl Inbox {
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Waits for the next event. Changes of files are told at the end of their burst, and now and then anyway; everything
    /// else at once.
    pub fn next(&mut self) -> Event {
        loop {
            let now = Instant::now();
            let until = self.burst.map_or(self.look_at, |since| (now + QUIET).min(since + BURST));
            let event = self.receiver.recv_timeout(until.saturating_duration_since(now));
            match event {
                Ok(Event::Files) => {
                    self.bell.0.files.store(false, Ordering::Release);
                    self.burst.get_or_insert_with(Instant::now);
                }
                Ok(Event::Failure) => {
                    // Before anyone counts: a failure after this rings again.
                    self.bell.0.failure.store(false, Ordering::Release);
                    return Event::Failure;
                }
                Ok(command) => return command,
                Err(_) => {
                    self.burst = None;
                    self.look_at = Instant::now() + LOOK;
                    return Event::Files;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::command::Action;

    fn command() -> Command {
        Command::new("x", Action::Pin).0
    }

    #[test]
    fn a_failure_and_a_command_do_not_wait_for_the_end_of_a_burst() {
        let mut inbox = Inbox::default();
        let bell = inbox.bell();
        bell.files();
        bell.failure();
        assert!(bell.command(command()));
        assert!(matches!(inbox.next(), Event::Failure));
        assert!(matches!(inbox.next(), Event::Command(_)));
        assert!(matches!(inbox.next(), Event::Files), "the burst is not forgotten");
    }

    #[test]
    fn events_are_told_again_once_they_were_taken() {
        let mut inbox = Inbox::default();
        let bell = inbox.bell();
        for _ in 0..3 {
            (0..100).for_each(|_| bell.failure());
            assert!(matches!(inbox.next(), Event::Failure));
            assert!(inbox.receiver.try_recv().is_err(), "a hundred failures wake once");
        }
    }

    #[test]
    fn commands_have_a_bound_and_what_found_no_place_comes_later() {
        let mut inbox = Inbox::default();
        let bell = inbox.bell();
        assert_eq!((0..100).filter(|_| bell.command(command())).count(), PLACES);
        bell.failure();
        (0..PLACES).for_each(|_| assert!(matches!(inbox.next(), Event::Command(_))));
        bell.failure();
        assert!(matches!(inbox.next(), Event::Failure));
    }
}
