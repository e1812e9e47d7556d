//! What the tests share: services that misbehave on demand, clients, raw sockets and keys.

pub mod asking;
pub mod bench;
pub mod broker_laws;
pub mod busy;
pub mod client;
pub mod frames;
pub mod fuzz;
pub mod guests;
pub mod kafka_mock;
pub mod keys;
pub mod messages;
pub mod peers;
pub mod process;
pub mod raw;
pub mod retrying;
pub mod rogue;
pub mod scale;
pub mod servers;
pub mod soak;
pub mod traffic;
pub mod upstream;
pub mod weir;
