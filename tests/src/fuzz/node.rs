//! A node that is watched from both sides while a target sends it whatever it makes up.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::Shown;
use super::answers::{self, Answer};
use crate::client;
use crate::upstream::{Answer as Reaction, Behaviour, Received, Upstream};
use crate::weir::{Setup, Weir};

/// Nothing that a case waits for takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The target of the requests that show whether the node is well. No strategy makes it.
const CLEAN: &str = "/is-it-well?";

/// A node with one worker, in front of one upstream that keeps what arrives whole.
pub struct Watched {
    runtime: Runtime,
    weir: Weir,
    upstream: Upstream,
    seen: Arc<Mutex<Vec<Received>>>,
    /// Exchanges when the case began.
    counted: Cell<u64>,
    /// How often the service had got what is no HTTP by then.
    malformed: Cell<u64>,
    /// Ids of answers, for which there have to be records.
    answered: RefCell<HashSet<String>>,
    recorded: RefCell<HashSet<String>>,
}

/// How a caller behaves that is no HTTP client.
#[derive(Clone, Default, Debug)]
pub struct Script {
    pub bytes: Vec<u8>,
    /// Where the bytes are cut into segments, and whether there is a pause at each.
    pub cuts: Vec<(usize, bool)>,
    /// Leaves once all is sent, without a look at the answers.
    pub leaves: bool,
}

/// What one caller got.
#[derive(Debug)]
pub struct Got {
    pub answers: Vec<Answer>,
    /// What came after the answers: part of one, or a tunnel's bytes.
    pub rest: Vec<u8>,
    /// The node closed the connection,
    pub closed: bool,
    /// by a reset.
    pub reset: bool,
}

/// What came of a case besides the answers.
#[derive(Debug)]
pub struct Settled {
    pub exchanges: usize,
    pub seen: Vec<Received>,
}

impl Watched {
    /// `setup` gets the upstream's address, and a service and route for clean requests besides.
    pub fn start(reaction: fn(&Received) -> Reaction, setup: impl FnOnce(SocketAddr) -> Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let seen: Arc<Mutex<Vec<Received>>> = Arc::default();
        let keep = seen.clone();
        let behaviour = Behaviour::new(move |received| {
            keep.lock().unwrap_or_else(PoisonError::into_inner).push(received.clone());
            reaction(received)
        });
        let upstream = runtime.block_on(Upstream::start(behaviour)).expect("an upstream");
        let weir = setup(upstream.address()).workers(1).service("clean", &[upstream.address()]).start();
        Self {
            runtime,
            weir,
            upstream,
            seen,
            counted: Cell::default(),
            malformed: Cell::default(),
            answered: RefCell::default(),
            recorded: RefCell::default(),
        }
    }

    pub fn weir(&self) -> &Weir {
        &self.weir
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Says what a script says and reads what comes, until `enough` of the answers or until the node closes.
    pub async fn say(&self, script: &Script, methods: &[&str], enough: usize) -> Result<Got> {
        // Whatever a case before this has left behind is not this one's.
        self.counted.set(self.total());
        self.malformed.set(self.upstream.malformed_count());
        self.take_seen();
        let stream = TcpStream::connect(self.weir.address()).await?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        let send = async {
            let mut from = 0;
            for (cut, pause) in &script.cuts {
                let cut = (*cut).clamp(from, script.bytes.len());
                writer.write_all(&script.bytes[from..cut]).await?;
                from = cut;
                if *pause { tokio::time::sleep(Duration::from_millis(1)).await } else { tokio::task::yield_now().await }
            }
            writer.write_all(&script.bytes[from..]).await?;
            if script.leaves {
                return Ok(writer);
            }
            std::future::pending().await
        };
        let (mut got, mut closed, mut reset) = (Vec::new(), false, false);
        let receive = async {
            while !closed && answers::read(&got, methods, false)?.finals.len() < enough {
                let read = reader.read_buf(&mut got).await;
                closed = !matches!(read, Ok(1..));
                reset = read.is_err();
            }
            anyhow::Ok(())
        };
        // The node may close before all is sent, which is no error: what it answered counts.
        let both = async {
            tokio::pin!(receive);
            tokio::select! {
                received = &mut receive => received,
                sent = send => match sent {
                    std::io::Result::Ok(_) => Ok(()),
                    Err(_) => receive.await,
                },
            }
        };
        let ended = tokio::time::timeout(PATIENCE, both).await;
        ended.with_context(|| format!("the node neither answers nor closes; it said {:?}", Shown(got.clone())))??;
        let read = answers::read(&got, methods, closed)?;
        let rest = read.rest.to_vec();
        self.answered.borrow_mut().extend(read.finals.iter().filter_map(Answer::id));
        Ok(Got { answers: read.finals, rest, closed, reset })
    }

    /// A clean request is answered as ever, and all that was begun before it comes to its end: how many exchanges that
    /// were, and the requests that arrived whole. Afterwards the node is as it was, which is a law of its own.
    pub async fn settle(&self) -> Result<Settled> {
        // What came before it is accepted before it, and what the node has sent arrives before its like.
        self.is_well().await?;
        self.comes_to_rest().await?;
        self.is_well().await?;
        self.comes_to_rest().await?;
        let malformed = self.upstream.malformed_count() - self.malformed.get();
        ensure!(malformed == 0, "the service got what is no HTTP");
        let exchanges = self.total() - self.counted.get() - 2;
        // Now and then, so that they do not pile up.
        if self.answered.borrow().len() > 1000 {
            self.check_records().await?;
        }
        Ok(Settled { exchanges: usize::try_from(exchanges)?, seen: self.take_seen() })
    }

    fn take_seen(&self) -> Vec<Received> {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.retain(|request| request.target != CLEAN);
        seen
    }

    async fn is_well(&self) -> Result<()> {
        let answer = client::fetch(self.weir.address(), "clean", CLEAN).await.context("a clean request afterwards")?;
        ensure!(answer.status == 200 && answer.broken.is_none(), "a clean request afterwards: {answer:?}");
        Ok(())
    }

    async fn comes_to_rest(&self) -> Result<()> {
        let node = self.weir.node();
        let until = Instant::now() + PATIENCE;
        loop {
            let busy = (node.connections.load(Ordering::Acquire), node.active.load(Ordering::Acquire));
            if busy == (0, 0) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{busy:?} connections and exchanges are never let go");
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    }

    /// Each answer so far has left one record, and no record came twice.
    pub async fn check_records(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            for record in self.weir.take_records() {
                let id = record["id"].as_str().context("a record has an id")?.to_owned();
                ensure!(self.recorded.borrow_mut().insert(id), "a second record: {record}");
            }
            if self.answered.borrow().is_subset(&self.recorded.borrow()) {
                self.answered.borrow_mut().clear();
                return Ok(());
            }
            ensure!(Instant::now() < until, "an answer without a record");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many exchanges have ended.
    fn total(&self) -> u64 {
        let text = self.weir.node().telemetry.metrics.encode();
        let counts = text.lines().filter(|line| line.starts_with("weir_exchanges_total{"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Answer {
    /// By which the node's record can be found. What refuses bytes that are no request leaves no record.
    fn id(&self) -> Option<String> {
        self.text("x-request-id").map(str::to_owned)
    }
}
