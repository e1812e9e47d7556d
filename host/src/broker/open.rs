//! From a section of the configuration to a broker.

use super::Broker;
use super::amqp::Amqp;
use super::embedded::Embedded;
use super::kafka::Kafka;
use super::nats::Nats;
use super::redis::Redis;
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

/// User and password.
fn credentials(config: &config::Broker) -> Result<Option<(String, String)>, String> {
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
