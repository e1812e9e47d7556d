//! From a section of the configuration to a broker.

use super::amqp::{self, Amqp};
use super::embedded::Embedded;
use super::kafka::{self, Kafka};
use super::nats::{self, Nats};
use super::redis::Redis;
use super::{Broker, BrokerError, BrokerFailure, Destination};
use crate::config::{self, BrokerKind};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Opens a broker. One that is reached over the network is connected to in the background, for as long as it takes.
///
/// # Errors
/// What is wrong, and what to do.
pub fn open(config: &config::Broker, control: &Handle) -> Result<Arc<dyn Broker>, String> {
    let (name, url) = (config.name.as_str(), config.url.as_deref().unwrap_or_default());
    let credentials = credentials(config)?;
    Ok(match config.kind {
        BrokerKind::Embedded => {
            let directory = config.directory.as_deref().unwrap_or(Path::new(""));
            Arc::new(Embedded::open(directory)?)
        }
        BrokerKind::Amqp => Arc::new(Amqp::open(name, url, credentials, control)?),
        BrokerKind::Nats => Arc::new(Nats::open(name, url, credentials, control)?),
        BrokerKind::Redis => Arc::new(Redis::open(name, url, credentials, control)?),
        BrokerKind::Kafka => Arc::new(Kafka::open(name, url, credentials, control)?),
    })
}

/// What a channel asks for that brokers of a kind do not have: the key, and what to do.
pub fn cannot(kind: BrokerKind, to: &Destination) -> Option<(&'static str, String)> {
    use BrokerKind::{Amqp, Embedded, Kafka, Nats, Redis};
    let options = &to.options;
    if options.max_priority > 0 && !matches!(kind, Embedded | Amqp) {
        return Some(("/max-priority", "only embedded and AMQP brokers have priorities: remove max-priority".into()));
    }
    if options.quorum && kind != Amqp {
        return Some(("/quorum", "only AMQP brokers have quorum queues: remove quorum".into()));
    }
    if options.quorum && options.max_priority > 0 {
        return Some(("/quorum", "quorum queues have no priorities: remove max-priority or quorum".into()));
    }
    if options.max_length.is_some() && kind == Kafka {
        return Some(("/max-length", "Kafka bounds topics by time and bytes only: remove max-length".into()));
    }
    let checked = match kind {
        Amqp => amqp::check(to),
        Nats => nats::check(to),
        Kafka => kafka::check(to),
        Embedded | Redis if to.address.is_empty() => Err(BrokerError::new(BrokerFailure::Refused, "it is empty")),
        Embedded | Redis => Ok(()),
    };
    checked.err().map(|error| ("/destination", error.message))
}

/// User and password.
///
/// # Errors
/// The file of the password cannot be read.
pub fn credentials(config: &config::Broker) -> Result<Option<(String, String)>, String> {
    let Some(user) = config.user.clone() else { return Ok(None) };
    let password = match &config.password_file {
        None => String::new(),
        Some(file) => {
            let read = std::fs::read_to_string(file);
            read.map_err(|error| format!("password-file {}: cannot be read: {error}", file.display()))?
        }
    };
    Ok(Some((user, password.trim_end().to_owned())))
}
