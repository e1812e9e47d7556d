//! One thread that writes lines to one output, so that no worker ever waits for a pipe or a disk.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

/// Most chunks that wait for the output. With chunks of about 16 KiB that is 2 MiB; a chunk is
/// larger only by the one line that filled it.
pub const MAX_WAITING: usize = 128;

/// How often [`Lines::finish`] looks for room in a full queue.
const FINISH_POLL: Duration = Duration::from_millis(5);

/// Hands lines to the thread that writes them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Message>,
    dropped: Counter,
}

enum Message {
    /// Whole lines, and how many.
    Chunk { bytes: Vec<u8>, lines: u64 },
    /// Acknowledge that everything before this is written.
    Flush(SyncSender<()>),
}

impl Lines {
    /// Starts the thread `name`, which writes to `output`. `dropped` counts lines that were lost.
    ///
    /// Errors: the operating system refuses a thread.
    pub fn start(name: &str, output: impl Write + Send + 'static, dropped: Counter) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(MAX_WAITING);
        let lost = dropped.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || write_all(output, &waiting, &lost))?;
        Ok(Self { queue, dropped })
    }

    /// Queues `lines` whole lines, or drops and counts them when the output cannot keep up.
    /// Never waits.
    pub fn send(&self, bytes: Vec<u8>, lines: u64) {
        let chunk = Message::Chunk { bytes, lines };
        if self.queue.try_send(chunk).is_err() {
            self.dropped.inc_by(lines);
        }
    }

    /// Waits until everything sent so far is written, but not longer than `limit`. Blocks the
    /// thread: for the end of the process. Returns whether all was written.
    pub fn finish(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut flush = Message::Flush(done);
        loop {
            match self.queue.try_send(flush) {
                Ok(()) => break,
                Err(TrySendError::Full(again)) if Instant::now() < end => flush = again,
                Err(_) => return false,
            }
            thread::sleep(FINISH_POLL);
        }
        let left = end.saturating_duration_since(Instant::now());
        written.recv_timeout(left).is_ok()
    }
}

/// Writes until every [`Lines`] is gone. An output that fails (a closed pipe, a full disk) costs
/// the lines of that moment and is tried again with the next.
fn write_all(mut output: impl Write, waiting: &Receiver<Message>, dropped: &Counter) {
    for message in waiting {
        match message {
            Message::Chunk { bytes, lines } => {
                if output.write_all(&bytes).is_err() {
                    dropped.inc_by(lines);
                }
            }
            Message::Flush(done) => {
                // Whether the flush or the acknowledgement fails, nobody is left to be told.
                let _flushed = output.flush();
                let _awaited = done.try_send(());
            }
        }
    }
}
