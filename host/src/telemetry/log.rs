//! The log of exchanges: records as JSON lines, on stdout.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::lines::Lines;
use super::record::Record;
use crate::config::Exchanges;

/// A worker hands its lines over when it has this many bytes.
const FLUSH_BYTES: usize = 16 * 1024;
/// A worker hands its lines over when the oldest is this old; see [`WorkerLog::flush_if_old`].
pub const FLUSH_AGE: Duration = Duration::from_millis(100);

/// Which records are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum LogMode {
    /// Every exchange.
    #[default]
    All,
    /// Exchanges that [failed](Record::failed).
    Errors,
    /// None.
    None,
}

impl From<Exchanges> for LogMode {
    fn from(exchanges: Exchanges) -> Self {
        match exchanges {
            Exchanges::All => Self::All,
            Exchanges::Errors => Self::Errors,
            Exchanges::None => Self::None,
        }
    }
}

/// Where records go. Cheap to clone; each worker makes itself a [`WorkerLog`].
#[derive(Clone, Debug)]
pub struct LogSink {
    lines: Lines,
    mode: Arc<AtomicU8>,
}

impl LogSink {
    /// Starts the thread that writes records to `output`; `dropped` counts the lines lost because
    /// the output could not keep up.
    ///
    /// Errors: the operating system refuses a thread.
    pub fn start(mode: LogMode, output: impl Write + Send + 'static, dropped: Counter) -> io::Result<Self> {
        let lines = Lines::start("weir-log", output, dropped)?;
        let mode = Arc::new(AtomicU8::new(mode as u8));
        Ok(Self { lines, mode })
    }

    /// Changes, from now on and for all workers, which records are logged.
    pub fn set_mode(&self, mode: LogMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// A buffer for one worker.
    pub fn worker(&self) -> WorkerLog {
        WorkerLog { sink: self.clone(), pending: Mutex::default() }
    }

    /// Waits until what workers have flushed is written, at most `limit`; see [`Lines::finish`].
    pub fn finish(&self, limit: Duration) -> bool {
        self.lines.finish(limit)
    }

    fn wants(&self, record: &Record) -> bool {
        let mode = self.mode.load(Ordering::Relaxed);
        mode == LogMode::All as u8 || (mode == LogMode::Errors as u8 && record.failed())
    }
}

/// One worker's buffer of lines, so that the queue to the writer is touched once per 16 KiB.
///
/// The mutex is never contended, as only one worker writes here; it lets the bodies and tasks that
/// hold a recording be `Send`.
#[derive(Debug)]
pub struct WorkerLog {
    sink: LogSink,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    lines: u64,
    /// When the first of these lines was written.
    since: Option<Instant>,
}

impl WorkerLog {
    /// Logs a record, if the mode wants it. `now` is when the exchange ended.
    pub fn write(&self, record: &Record, now: Instant) {
        if !self.sink.wants(record) {
            return;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.since.is_none() {
            pending.bytes.reserve(FLUSH_BYTES + 2 * 1024);
            pending.since = Some(now);
        }
        record.write_json(&mut pending.bytes);
        pending.lines += 1;
        if pending.bytes.len() >= FLUSH_BYTES {
            self.hand_over(&mut pending);
        }
    }

    /// Hands the lines over if the oldest is [`FLUSH_AGE`] old. A worker calls this on a timer.
    pub fn flush_if_old(&self, now: Instant) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |since: Instant| now.saturating_duration_since(since) >= FLUSH_AGE;
        if pending.since.is_some_and(old) {
            self.hand_over(&mut pending);
        }
    }

    /// Hands over whatever there is.
    pub fn flush(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.hand_over(&mut pending);
    }

    fn hand_over(&self, pending: &mut Pending) {
        let Pending { bytes, lines, .. } = std::mem::take(pending);
        if lines > 0 {
            self.sink.lines.send(bytes, lines);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {

    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::SystemTime;

    use http::HeaderValue;
    use serde_json::Value;

    use super::*;
    use crate::telemetry::lines::MAX_WAITING;
    use crate::telemetry::record::{End, Kind};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output {
        fn lines(&self) -> Vec<Value> {
            let bytes = self.0.lock().unwrap();
            let lines = bytes.split_inclusive(|byte| *byte == b'\n');
            lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
        }
    }

    /// An output that takes nothing until its gate is dropped.
    struct Stuck {
        gate: Receiver<()>,
        output: Output,
    }

    impl Stuck {
        fn new(output: &Output) -> (Self, Sender<()>) {
            let (open, gate) = channel();
            let output = output.clone();
            (Self { gate, output }, open)
        }
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _opened = self.gate.recv();
            self.output.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(end: End) -> Record {
        let id = HeaderValue::from_static("a-1");
        let mut record = Record::new(Kind::Call, id, SystemTime::UNIX_EPOCH);
        record.end = end;
        record
    }

    #[test]
    fn every_line_arrives_whole_and_in_order() {
        let (output, dropped) = (Output::default(), Counter::default());
        let sink = LogSink::start(LogMode::All, output.clone(), dropped.clone()).unwrap();
        let worker = sink.worker();
        for number in 0..1_000 {
            let mut record = record(End::Ok);
            record.request_bytes = number;
            worker.write(&record, Instant::now());
        }
        drop(worker);
        assert!(sink.finish(PATIENCE));
        let numbers: Vec<u64> = output.lines().iter().map(|line| line["request_bytes"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn lines_that_an_output_cannot_take_are_dropped_and_counted() {
        let (output, dropped) = (Output::default(), Counter::default());
        let (stuck, gate) = Stuck::new(&output);
        let sink = LogSink::start(LogMode::All, stuck, dropped.clone()).unwrap();
        let worker = sink.worker();
        let total = 4 * MAX_WAITING as u64;
        for _ in 0..total {
            worker.write(&record(End::Ok), Instant::now());
            worker.flush();
        }
        // One chunk is in the stuck write, at most; MAX_WAITING wait.
        let lost = dropped.get();
        let kept = total - lost;
        assert!((MAX_WAITING as u64..=MAX_WAITING as u64 + 1).contains(&kept), "{kept}");
        drop(gate);
        assert!(sink.finish(PATIENCE));
        assert_eq!(output.lines().len() as u64, kept);
        assert_eq!(dropped.get(), lost);
    }

    #[test]
    fn the_end_does_not_wait_for_a_stuck_output() {
        let (stuck, _gate) = Stuck::new(&Output::default());
        let sink = LogSink::start(LogMode::All, stuck, Counter::default()).unwrap();
        let worker = sink.worker();
        for _ in 0..2 * MAX_WAITING {
            worker.write(&record(End::Ok), Instant::now());
            worker.flush();
        }
        assert!(!sink.finish(Duration::from_millis(20)));
    }

    #[test]
    fn a_broken_output_costs_lines_and_counts_them() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dropped = Counter::default();
        let sink = LogSink::start(LogMode::All, Broken, dropped.clone()).unwrap();
        let worker = sink.worker();
        for _ in 0..3 {
            worker.write(&record(End::Ok), Instant::now());
        }
        worker.flush();
        assert!(sink.finish(PATIENCE));
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn lines_wait_no_longer_than_their_age() {
        let output = Output::default();
        let sink = LogSink::start(LogMode::All, output.clone(), Counter::default()).unwrap();
        let worker = sink.worker();
        let now = Instant::now();
        worker.write(&record(End::Ok), now);
        worker.flush_if_old(now + FLUSH_AGE - Duration::from_nanos(1));
        assert!(sink.finish(PATIENCE));
        assert_eq!(output.lines().len(), 0);
        worker.flush_if_old(now + FLUSH_AGE);
        assert!(sink.finish(PATIENCE));
        assert_eq!(output.lines().len(), 1);
    }

    #[test]
    fn the_mode_chooses_the_records() {
        for (mode, expected) in [(LogMode::All, 2), (LogMode::Errors, 1), (LogMode::None, 0)] {
            let output = Output::default();
            let sink = LogSink::start(LogMode::None, output.clone(), Counter::default()).unwrap();
            let worker = sink.worker();
            sink.set_mode(mode);
            worker.write(&record(End::Ok), Instant::now());
            worker.write(&record(End::Truncated), Instant::now());
            worker.flush();
            assert!(sink.finish(PATIENCE));
            assert_eq!(output.lines().len(), expected, "{mode:?}");
        }
    }
}
