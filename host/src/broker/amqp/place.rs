//! Where messages go, and what is declared there.

use super::super::{BrokerError, BrokerFailure, ChannelOptions, Consumption, Destination};
use super::failure;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

/// Redeliveries after which RabbitMQ gives a message up. The host counts attempts, but RabbitMQ 4 stops at 20 by itself.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// An exchange and a routing key. Without an exchange, the key is the name of a queue.
#[derive(Debug)]
pub struct Place {
    pub exchange: ShortString,
    pub key: ShortString,
}

impl Place {
    pub fn of(destination: &Destination) -> Result<Self, BrokerError> {
        let Destination { address, options } = destination;
        let refused = |why: &str| Err(BrokerError::new(BrokerFailure::Refused, format!("{address:?}: {why}")));
        if options.quorum && options.max_priority > 0 {
            return refused("quorum queues have no priorities: leave out quorum or max-priority");
        }
        if options.retention.is_some() {
            return refused("RabbitMQ keeps messages in queues of subscriptions alone: leave out retention");
        }
        let (exchange, key) = address.split_once('/').unwrap_or(("", address));
        if exchange.is_empty() && key.is_empty() {
            return refused("no queue is named: write exchange/routing-key, or a queue's name");
        }
        Ok(Self { exchange: short(exchange)?, key: short(key)? })
    }

    /// The queue of a subscription.
    pub fn queue(&self, subscription: &str) -> Result<ShortString, BrokerError> {
        // Nothing can be bound to the default exchange: there the queue is what the address names.
        if self.exchange.as_str().is_empty() { Ok(self.key.clone()) } else { short(subscription) }
    }

    /// Makes what a publish needs. Who subscribes makes the queues, but for the default exchange.
    pub async fn declare(&self, channel: &Channel, options: &ChannelOptions) -> Result<(), BrokerError> {
        if self.exchange.as_str().is_empty() {
            return declare_queue(channel, &self.key, arguments(options)).await;
        }
        let about = format!("exchange {:?}", self.exchange.as_str());
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declared =
            channel.exchange_declare(self.exchange.clone(), ExchangeKind::Topic, options, FieldTable::default());
        declared.await.map_err(|error| failure(&error, &about))
    }

    /// Makes what a subscription needs.
    pub async fn subscribe(&self, channel: &Channel, what: &Consumption) -> Result<(), BrokerError> {
        self.declare(channel, &what.from.options).await?;
        if self.exchange.as_str().is_empty() {
            // Publishers declare the same queue and know no dead letters: it cannot have any.
            return Ok(());
        }
        let mut arguments = arguments(&what.from.options);
        if let Some(destination) = &what.dead_letter {
            let dead = Self::of(destination)?;
            if destination.options.declare {
                dead.declare(channel, &destination.options).await?;
            }
            set(&mut arguments, "x-dead-letter-exchange", text(dead.exchange.as_str()));
            set(&mut arguments, "x-dead-letter-routing-key", text(dead.key.as_str()));
        }
        let queue = self.queue(&what.name)?;
        declare_queue(channel, &queue, arguments).await?;
        let about = format!("binding of queue {:?} to {:?}", queue.as_str(), what.from.address);
        let (exchange, key) = (self.exchange.clone(), self.key.clone());
        let bound = channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
        bound.await.map_err(|error| failure(&error, &about))
    }
}

async fn declare_queue(channel: &Channel, queue: &ShortString, arguments: FieldTable) -> Result<(), BrokerError> {
    let declared = channel.queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments).await;
    declared.map(|_| ()).map_err(|error| failure(&error, &format!("queue {:?}", queue.as_str())))
}

/// Of a queue. The channel's `ttl` is none of them, as messages may outlive it that say so: each says it itself.
fn arguments(options: &ChannelOptions) -> FieldTable {
    let mut arguments = FieldTable::default();
    if options.quorum {
        set(&mut arguments, "x-queue-type", text("quorum"));
        set(&mut arguments, "x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT));
    }
    if let Some(max) = options.max_length {
        set(&mut arguments, "x-max-length", AMQPValue::LongLongInt(max.try_into().unwrap_or(i64::MAX)));
        // By default the oldest are dropped.
        set(&mut arguments, "x-overflow", text("reject-publish"));
    }
    if options.max_priority > 0 {
        set(&mut arguments, "x-max-priority", AMQPValue::LongInt(options.max_priority.into()));
    }
    arguments
}

fn set(arguments: &mut FieldTable, name: &'static str, value: AMQPValue) {
    arguments.insert(name.into(), value);
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Names have at most 255 bytes.
fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name)
        .map_err(|_| BrokerError::new(BrokerFailure::Refused, format!("{name:?} is longer than 255 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(address: &str) -> Destination {
        Destination { address: address.into(), options: ChannelOptions::default() }
    }

    #[test]
    fn an_address_is_an_exchange_and_a_key_or_a_queue() {
        for (address, exchange, key, queue) in [
            ("orders/created", "orders", "created", "billing"),
            ("orders/created/eu", "orders", "created/eu", "billing"),
            ("orders/", "orders", "", "billing"),
            ("orders", "", "orders", "orders"),
            ("/orders", "", "orders", "orders"),
        ] {
            let place = Place::of(&destination(address)).unwrap();
            assert_eq!((place.exchange.as_str(), place.key.as_str()), (exchange, key), "{address}");
            assert_eq!(place.queue("billing").unwrap().as_str(), queue, "{address}");
        }
    }

    #[test]
    fn what_rabbitmq_lacks_is_refused_by_name() {
        let refused = |destination: &Destination| Place::of(destination).unwrap_err().message;
        assert!(refused(&destination("/")).contains("no queue is named"));
        assert!(refused(&destination(&format!("e/{}", "k".repeat(256)))).contains("255 bytes"));
        let mut orders = destination("orders/created");
        orders.options.max_priority = 3;
        assert!(Place::of(&orders).is_ok());
        orders.options.quorum = true;
        assert!(refused(&orders).contains("max-priority"));
        orders.options = ChannelOptions { retention: Some(std::time::Duration::from_secs(1)), ..Default::default() };
        assert!(refused(&orders).contains("retention"));
    }
}
