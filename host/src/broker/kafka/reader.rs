//! The thread behind a source: keeps its place in the group, takes messages while there is room for them, and commits.

use super::held::{Commit, Held};
use super::link::{self, Trouble};
use super::progress::Snapshot;
use super::wire;
use crate::broker::{BrokerError, BrokerFailure};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long the thread sleeps where nothing wakes it.
const SLEEP: Duration = Duration::from_millis(100);
/// How long to learn where a group is.
const COMMITTED_WITHIN: Duration = Duration::from_secs(10);
/// Commits that fail are tried again every so often, for so long. librdkafka itself waits for a coordinator before that.
const RETRY_EVERY: Duration = Duration::from_millis(200);
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Events and messages that are served before the rest has its turn.
const AT_ONCE: usize = 64;

pub type GroupConsumer = BaseConsumer<Member>;

/// What librdkafka calls while the thread polls.
pub struct Member {
    pub name: String,
    pub topic: String,
    pub held: Arc<Held>,
}

impl ClientContext for Member {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, topic = self.topic, "kafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, topic = self.topic, "kafka");
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            // With what it says about messages after the offset, which librdkafka does not ask for.
            Rebalance::Assign(partitions) => {
                match consumer.committed_offsets((*partitions).clone(), COMMITTED_WITHIN) {
                    Ok(committed) => {
                        for partition in committed.elements() {
                            self.held.assign(partition.partition(), snapshot(&partition));
                        }
                    }
                    Err(error) => self.held.fail(link::error(&self.name, &error)),
                }
            }
            Rebalance::Revoke(partitions) => {
                let partitions: Vec<_> = partitions.elements().iter().map(TopicPartitionListElem::partition).collect();
                if !consumer.assignment_lost() {
                    self.commit(consumer, Some(&partitions));
                }
                self.held.revoke(partitions);
            }
            Rebalance::Error(error) => self.held.fail(link::error(&self.name, error)),
        }
    }
}

impl Member {
    /// Of these partitions, or of all. Blocks: the crate has no other way to learn of the end of a commit.
    fn commit(&self, consumer: &GroupConsumer, of: Option<&[i32]>) {
        let commits = self.held.begin_commit(of);
        let Some(offsets) = self.offsets(&commits) else { return };
        let Err(error) = consumer.commit(&offsets, CommitMode::Sync) else { return self.held.committed(commits) };
        tracing::debug!(%error, topic = self.topic, "kafka commit failed");
        self.held.not_committed(commits);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OffsetMetadataTooLarge) {
            self.held.without_text();
        }
        let error = link::error(&self.name, &error);
        if error.kind == BrokerFailure::Refused {
            self.held.fail(error);
        }
    }

    /// Nothing for nothing.
    fn offsets(&self, commits: &[Commit]) -> Option<TopicPartitionList> {
        let mut offsets = TopicPartitionList::with_capacity(commits.len());
        for Commit { partition, text, said } in commits {
            let mut added = offsets.add_partition(&self.topic, *partition);
            added.set_metadata(text);
            added.set_offset(Offset::Offset(said.start)).ok()?;
        }
        (!commits.is_empty()).then_some(offsets)
    }
}

/// What a group has committed of a partition, if it has.
pub fn snapshot(partition: &TopicPartitionListElem<'_>) -> Option<Snapshot> {
    let Offset::Offset(offset) = partition.offset() else { return None };
    // The crate panics where others have committed bytes that are no text. They say nothing to us.
    let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| partition.metadata().to_owned()));
    Some(Snapshot::read(offset, &text.unwrap_or_default()))
}

pub struct Reader {
    pub name: String,
    pub topic: String,
    pub consumer: Arc<GroupConsumer>,
    pub held: Arc<Held>,
    pub prefetch: usize,
    pub woken: Receiver<()>,
    pub trouble: watch::Receiver<Trouble>,
}

impl Reader {
    pub fn run(self) {
        let mut queues = HashMap::new();
        let mut tried = Instant::now();
        let why = loop {
            if self.held.is_stopped() {
                break BrokerError::new(BrokerFailure::Lost, "the source was dropped");
            }
            if let Some(error) = self.held.failure() {
                break error;
            }
            if let Some(why) = self.trouble.borrow().as_ref() {
                break BrokerError::new(BrokerFailure::Lost, format!("broker {:?}: {why}", self.name));
            }
            self.serve();
            self.split(&mut queues);
            let more = self.take(&queues);
            match self.held.failing_for() {
                Some(failing) if failing > RETRY_FOR => {
                    break BrokerError::new(BrokerFailure::Lost, format!("broker {:?}: commits fail", self.name));
                }
                Some(_) if tried.elapsed() < RETRY_EVERY => {}
                _ => {
                    tried = Instant::now();
                    self.consumer.context().commit(&self.consumer, None);
                }
            }
            if !more {
                let _ = self.woken.recv_timeout(SLEEP);
            }
        };
        if self.trouble.borrow().is_none() {
            self.consumer.context().commit(&self.consumer, None);
        }
        self.held.end(why);
        // The last that holds the consumer closes it, and so leaves the group.
        drop(queues);
    }

    /// Rebalances and the ends of commits, and complaints.
    fn serve(&self) {
        for _ in 0..AT_ONCE {
            match self.consumer.poll(Duration::ZERO) {
                // Its queue was not split off yet.
                Some(Ok(message)) => self.came(&message),
                Some(Err(error)) => self.complain(&error),
                // There may be more, as an event that is served is none here. The next turn is soon.
                None => break,
            }
        }
    }

    fn complain(&self, error: &KafkaError) {
        let told = link::error(&self.name, error);
        if told.kind == BrokerFailure::Refused || matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            self.held.fail(told);
        }
    }

    /// Each partition has a queue of its own, which is left alone when there is no room: so nothing has to be paused, which
    /// would throw away what was fetched, and the group sees this member polling all the time.
    fn split(&self, queues: &mut HashMap<i32, PartitionQueue<Member>>) {
        let partitions = self.held.partitions();
        queues.retain(|partition, _| partitions.contains(partition));
        for partition in partitions {
            if !queues.contains_key(&partition)
                && let Some(mut queue) = self.consumer.split_partition_queue(&self.topic, partition)
            {
                let held = Arc::clone(&self.held);
                queue.set_nonempty_callback(move || held.wake());
                queues.insert(partition, queue);
            }
        }
    }

    /// True if there may be more.
    fn take(&self, queues: &HashMap<i32, PartitionQueue<Member>>) -> bool {
        let mut room = self.prefetch.saturating_sub(self.held.len()).min(AT_ONCE);
        let mut more = false;
        // In turns, so that no partition waits for another.
        loop {
            let before = room;
            for queue in queues.values() {
                if room == 0 {
                    return more;
                }
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        self.came(&message);
                        room -= 1;
                        more = true;
                    }
                    Some(Err(error)) => self.complain(&error),
                    None => {}
                }
            }
            if room == before {
                return more;
            }
        }
    }

    fn came(&self, message: &BorrowedMessage<'_>) {
        let time = message.timestamp().to_millis().unwrap_or_default();
        self.held.came(message.partition(), message.offset(), time, wire::message(message));
    }
}
