//! What a source has of its partitions, shared by its thread, librdkafka's callbacks and the receipts.

use super::progress::{Arrival, LONGEST_TEXT, Progress, Snapshot};
use crate::broker::{BrokerError, BrokerFailure, Message, Receipt};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

pub type Acked = Result<(), BrokerError>;

/// A message on its way to whoever asks for the next.
pub struct Handed {
    pub message: Message,
    pub receipt: Box<KafkaReceipt>,
}

pub struct Held {
    state: Mutex<State>,
    wake: SyncSender<()>,
}

struct State {
    partitions: HashMap<i32, Partition>,
    /// Tells a partition from the same one before it was taken away.
    epoch: u64,
    /// `None`: the source has ended.
    messages: Option<mpsc::Sender<Handed>>,
    /// Why it has to.
    failure: Option<BrokerError>,
    longest_text: usize,
    /// Commits have failed since then.
    failing: Option<Instant>,
}

struct Partition {
    epoch: u64,
    progress: Progress,
    /// Acknowledgements that were not committed yet, and who waits for them.
    waiting: Vec<(i64, oneshot::Sender<Acked>)>,
    /// Something was acknowledged since the last commit began.
    is_dirty: bool,
}

/// What is to be committed of one partition.
pub struct Commit {
    pub partition: i32,
    pub text: String,
    pub said: Snapshot,
}

impl Held {
    pub fn new(messages: mpsc::Sender<Handed>, wake: SyncSender<()>) -> Self {
        let state = State {
            partitions: HashMap::new(),
            epoch: 0,
            messages: Some(messages),
            failure: None,
            longest_text: LONGEST_TEXT,
            failing: None,
        };
        Self { state: Mutex::new(state), wake }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wake(&self) {
        // Full: it is awake, or will be.
        let _ = self.wake.try_send(());
    }

    /// The source has nobody to give messages to any more.
    pub fn stop(&self) {
        self.lock().messages = None;
        self.wake();
    }

    pub fn is_stopped(&self) -> bool {
        self.lock().messages.is_none()
    }

    /// The source cannot go on.
    pub fn fail(&self, error: BrokerError) {
        self.lock().failure.get_or_insert(error);
        self.wake();
    }

    pub fn failure(&self) -> Option<BrokerError> {
        self.lock().failure.clone()
    }

    /// The source has ended: all receipts are void.
    pub fn end(&self, error: BrokerError) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        state.messages = None;
        state.partitions.clear();
    }

    pub fn assign(&self, partition: i32, from: Option<Snapshot>) {
        let mut state = self.lock();
        state.epoch += 1;
        let partition_state = Partition {
            epoch: state.epoch,
            progress: from.map_or_else(Progress::default, Progress::after),
            waiting: Vec::new(),
            is_dirty: false,
        };
        state.partitions.insert(partition, partition_state);
    }

    /// Their receipts are void, and who waits is told so.
    pub fn revoke(&self, partitions: impl IntoIterator<Item = i32>) {
        let mut state = self.lock();
        for partition in partitions {
            state.partitions.remove(&partition);
        }
    }

    pub fn partitions(&self) -> Vec<i32> {
        self.lock().partitions.keys().copied().collect()
    }

    /// Messages that were handed out, or wait for somebody to take them.
    pub fn len(&self) -> usize {
        self.lock().partitions.values().map(|partition| partition.progress.here()).sum()
    }

    /// When the broker took the oldest of them, in milliseconds since 1970.
    pub fn oldest(&self) -> Option<i64> {
        self.lock().partitions.values().filter_map(|partition| partition.progress.oldest()).min()
    }

    /// A message came, at a time of the broker's.
    pub fn came(self: &Arc<Self>, partition: i32, offset: i64, time: i64, message: Message) {
        let mut state = self.lock();
        let epoch = state.epoch + 1;
        let Some(at) = state.partitions.get_mut(&partition) else { return };
        let arrival = at.progress.came(offset, time);
        if arrival == Arrival::Done {
            return;
        }
        if arrival == Arrival::Anew {
            tracing::warn!(partition, offset, "kafka partition begins again");
            at.waiting.clear();
            at.epoch = epoch;
        }
        let receipt = self.receipt(partition, at.epoch, offset, message.clone());
        if arrival == Arrival::Anew {
            state.epoch = epoch;
        }
        drop(state);
        self.hand_out(message, receipt);
    }

    fn receipt(self: &Arc<Self>, partition: i32, epoch: u64, offset: i64, message: Message) -> Box<KafkaReceipt> {
        Box::new(KafkaReceipt { held: Arc::clone(self), partition, epoch, offset, message: Some(message) })
    }

    fn hand_out(&self, message: Message, receipt: Box<KafkaReceipt>) {
        let Some(messages) = self.lock().messages.clone() else { return receipt.forget() };
        match messages.try_reserve() {
            Ok(place) => place.send(Handed { message, receipt }),
            Err(error) => {
                receipt.forget();
                self.fail(BrokerError::new(BrokerFailure::Lost, format!("more messages came than asked for: {error}")));
            }
        }
    }

    fn done(&self, receipt: &KafkaReceipt) -> Result<oneshot::Receiver<Acked>, BrokerError> {
        let mut state = self.lock();
        let at = state.partitions.get_mut(&receipt.partition).filter(|at| at.epoch == receipt.epoch);
        let Some(at) = at.filter(|at| at.progress.is_here(receipt.offset)) else { return Err(taken_away()) };
        at.progress.done(receipt.offset);
        at.is_dirty = true;
        let (sender, receiver) = oneshot::channel();
        at.waiting.push((receipt.offset, sender));
        Ok(receiver)
    }

    /// False: it is void.
    pub fn is_here(&self, receipt: &KafkaReceipt) -> bool {
        let state = self.lock();
        let at = state.partitions.get(&receipt.partition).filter(|at| at.epoch == receipt.epoch);
        at.is_some_and(|at| at.progress.is_here(receipt.offset))
    }

    /// What is to be committed now, of these partitions or of all.
    pub fn begin_commit(&self, of: Option<&[i32]>) -> Vec<Commit> {
        let mut state = self.lock();
        let longest = state.longest_text;
        let wanted = |partition: &i32| of.is_none_or(|of| of.contains(partition));
        let dirty = state.partitions.iter_mut().filter(|(partition, at)| wanted(partition) && at.is_dirty);
        let commit = dirty.filter_map(|(partition, at)| {
            let (text, said) = at.progress.snapshot()?.text(longest);
            at.is_dirty = false;
            Some(Commit { partition: *partition, text, said })
        });
        commit.collect()
    }

    /// Who waited for these knows that they never come again.
    pub fn committed(&self, commits: Vec<Commit>) {
        let mut state = self.lock();
        state.failing = None;
        for Commit { partition, said, .. } in commits {
            let Some(at) = state.partitions.get_mut(&partition) else { continue };
            for (_, waits) in at.waiting.extract_if(.., |(offset, _)| said.is_done(*offset)) {
                let _ = waits.send(Ok(()));
            }
        }
    }

    /// They are tried again.
    pub fn not_committed(&self, commits: Vec<Commit>) {
        let mut state = self.lock();
        state.failing.get_or_insert_with(Instant::now);
        for Commit { partition, .. } in commits {
            if let Some(at) = state.partitions.get_mut(&partition) {
                at.is_dirty = true;
            }
        }
    }

    pub fn failing_for(&self) -> Option<Duration> {
        self.lock().failing.map(|since| since.elapsed())
    }

    /// The broker takes no texts of that length: acknowledgements wait for those before them from now on.
    pub fn without_text(&self) {
        self.lock().longest_text = 0;
    }
}

fn taken_away() -> BrokerError {
    BrokerError::new(BrokerFailure::Lost, "the partition was taken away, and the message is somebody else's")
}

pub struct KafkaReceipt {
    held: Arc<Held>,
    partition: i32,
    epoch: u64,
    offset: i64,
    /// To hand it out again. `None`: all is said.
    message: Option<Message>,
}

#[async_trait]
impl Receipt for KafkaReceipt {
    /// Returns when the broker has it: at once or with the next commit, whatever becomes of messages before it.
    async fn ack(mut self: Box<Self>) -> Acked {
        let committed = self.held.done(&self)?;
        self.message = None;
        self.held.wake();
        committed.await.unwrap_or_else(|_| Err(taken_away()))
    }

    /// It can only come from this source: the partition is this node's.
    async fn release(self: Box<Self>) {}
}

impl KafkaReceipt {
    fn forget(mut self: Box<Self>) {
        self.message = None;
    }
}

impl Drop for KafkaReceipt {
    fn drop(&mut self) {
        let Some(message) = self.message.take() else { return };
        if self.held.is_here(self) {
            let receipt = self.held.receipt(self.partition, self.epoch, self.offset, message.clone());
            self.held.hand_out(message, receipt);
        }
    }
}
