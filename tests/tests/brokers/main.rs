//! Brokers of every kind by the laws of `broker_laws.rs`, and what is their own.

mod amqp;
mod embedded;
mod kafka;
mod nats;
mod redis;
mod servers;
