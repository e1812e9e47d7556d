//! Messages through the whole node.

mod bad_input;
mod crash;
mod deliver;
mod disk_full;
mod every_broker;
mod grpc;
mod policies;
mod publish;
mod pull;
