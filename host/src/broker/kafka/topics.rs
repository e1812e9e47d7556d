//! Topics: whether they are there, and how they are made.

use super::link::{self, ANSWER_WITHIN, Observer, Quiet};
use crate::broker::{BrokerError, BrokerFailure, Destination};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, Producer};

/// The numbers of its partitions; nothing if there is no such topic. Blocks.
pub fn partitions(name: &str, observer: &Observer, topic: &str) -> Result<Vec<i32>, BrokerError> {
    let metadata = observer.fetch_metadata(Some(topic), ANSWER_WITHIN).map_err(|error| link::error(name, &error))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(Vec::new()) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(Vec::new()),
        Some(error) => Err(link::error(name, &KafkaError::MetadataFetch(error))),
    }
}

/// Makes the topic, with as many partitions and replicas as the cluster makes when it is not told. Blocks.
pub fn make(
    name: &str,
    config: &ClientConfig,
    producer: &FutureProducer<Quiet>,
    runtime: &tokio::runtime::Handle,
    to: &Destination,
) -> Result<(), BrokerError> {
    let failed = |error: KafkaError| link::error(name, &error);
    let retention = to.options.retention.map(|kept| kept.as_millis().to_string());
    let mut topic = NewTopic::new(&to.address, -1, TopicReplication::Fixed(-1));
    if let Some(retention) = &retention {
        topic = topic.set("retention.ms", retention);
    }
    let admin: AdminClient<Quiet> =
        rdkafka::config::FromClientConfigAndContext::from_config_and_context(config, Quiet).map_err(failed)?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).operation_timeout(Some(ANSWER_WITHIN));
    let made = runtime.block_on(admin.create_topics([&topic], &options));
    let made = made.map(|made| made.into_iter().next());
    match made {
        Ok(Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => Ok(()),
        // Clusters that cannot be asked to may make it when a producer asks about it.
        Ok(None | Some(Err((_, RDKafkaErrorCode::UnsupportedFeature)))) | Err(KafkaError::AdminOp(_)) => {
            producer.client().fetch_metadata(Some(&to.address), ANSWER_WITHIN).map(|_| ()).map_err(failed)
        }
        Ok(Some(Err((_, error)))) => {
            let message = format!("broker {name:?}: topic {:?} cannot be made: {error}", to.address);
            Err(BrokerError::new(BrokerFailure::Refused, message))
        }
        Err(error) => Err(failed(error)),
    }
}
