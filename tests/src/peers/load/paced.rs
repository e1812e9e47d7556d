//! Requests at a fixed rate, whatever becomes of them.
//!
//! Latency counts from the instant at which a request should have been sent. A caller that waits for a slow answer sends the
//! next requests late, and if they counted from then, a stall would show in one of them only. Timers of the async runtime
//! are as coarse as a millisecond, so each connection has a thread that sleeps in the kernel.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::answer::{BUFFER, is_complete};
use super::{Asked, Tally};

pub const CONNECTIONS: u32 = 32;
const STACK: usize = 256 * 1024;
/// The requests of a turn are sent by this long after its end, and each is answered in this time, or they have failed. A
/// machine that others use as well may stand still for seconds.
const LATE: Duration = Duration::from_secs(10);

/// What a turn has come to.
#[derive(Debug, Default)]
pub struct Paced {
    /// Of the requests that succeeded, in nanoseconds, sorted.
    pub latencies: Vec<u64>,
    pub tally: Tally,
}

/// Connects, makes a request over each connection, tells `begin`, then sends `rate` requests a second.
pub async fn run(
    proxy: SocketAddr,
    asked: &Asked,
    rate: u32,
    length: Duration,
    begin: impl FnOnce() + Send + 'static,
) -> Result<Paced> {
    let request = asked.bytes();
    tokio::task::spawn_blocking(move || blocking(proxy, &request, rate, length, begin)).await?
}

fn blocking(proxy: SocketAddr, request: &[u8], rate: u32, length: Duration, begin: impl FnOnce()) -> Result<Paced> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(proxy)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LATE))?;
        let mut connection = Connection { stream, request, buffer: vec![0; BUFFER] };
        connection.call()?;
        connections.push(connection);
    }
    begin();
    // By then all threads wait for their first instant.
    let (start, between) = (Instant::now() + Duration::from_millis(20), Duration::from_secs(1) / rate);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, connection) in (0..).zip(connections) {
            let first = start + between * number;
            let pace = Pace { first, every: between * CONNECTIONS, end: start + length };
            let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || pace.keep(connection));
            threads.push(thread.context("cannot start a thread")?);
        }
        let mut all = Paced::default();
        for thread in threads {
            let paced = thread.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
            all.latencies.extend(paced.latencies);
            all.tally.merge(paced.tally);
        }
        all.latencies.sort_unstable();
        Ok(all)
    })
}

struct Connection<'a> {
    stream: TcpStream,
    request: &'a [u8],
    buffer: Vec<u8>,
}

impl Connection<'_> {
    fn call(&mut self) -> Result<()> {
        self.stream.write_all(self.request)?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]);
            let read = read.with_context(|| format!("no answer within {LATE:?}"))?;
            ensure!(read > 0, "the connection was closed before the end of an answer");
            filled += read;
            if is_complete(&self.buffer[..filled])? {
                return Ok(());
            }
        }
    }
}

/// When one connection sends.
#[derive(Clone, Copy)]
struct Pace {
    first: Instant,
    every: Duration,
    end: Instant,
}

impl Pace {
    fn keep(self, mut connection: Connection<'_>) -> Paced {
        // The kernel otherwise wakes a thread up to 50 µs late, so as to wake several together.
        let precise = rustix::thread::set_current_timer_slack(NonZero::new(1));
        let mut paced = Paced::default();
        if let Err(error) = precise {
            paced.tally.add(&Err(error.into()));
        }
        let mut due = self.first;
        while due < self.end && paced.tally.failed == 0 {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let result = self.in_time().and_then(|()| connection.call());
            if result.is_ok() {
                paced.latencies.push(due.elapsed().as_nanos() as u64);
            }
            paced.tally.add(&result);
            due += self.every;
        }
        paced
    }

    fn in_time(self) -> Result<()> {
        ensure!(Instant::now() < self.end + LATE, "requests could not be sent in time");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::peers::endpoints::BODY;
    use crate::upstream::{Answer, Behaviour, Reply, Upstream};

    /// Stands still once, with everything that it serves.
    fn stalls(length: Duration) -> Behaviour {
        let seen = AtomicU64::new(0);
        Behaviour::new(move |_| {
            if seen.fetch_add(1, Ordering::Relaxed) == 3 * u64::from(CONNECTIONS) {
                thread::sleep(length);
            }
            Answer::from(Reply::new(200).body(vec![b'x'; BODY]))
        })
    }

    #[tokio::test]
    async fn a_stall_shows_in_all_requests_that_were_due_in_it_not_only_in_those_under_way() -> Result<()> {
        let stall = Duration::from_millis(300);
        let upstream = Upstream::start(stalls(stall)).await?;
        let length = Duration::from_millis(800);
        let paced = run(upstream.address(), &Asked::new()?, 500, length, || {}).await?;
        assert_eq!(paced.tally.failed, 0, "{:?}", paced.tally);
        assert_eq!(paced.latencies.len(), 400);
        // 100 were due in its first 200 ms, but no more than 32 can be under way. A slow machine adds to them.
        let slow = paced.latencies.iter().filter(|latency| **latency > 100_000_000).count();
        assert!(slow >= 90, "{slow} of {} requests were slow", paced.latencies.len());
        Ok(())
    }
}
