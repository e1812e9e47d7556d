//! What is measured piece by piece: scenarios by name, which `cargo xtask micro` times and `cargo xtask count` counts.

pub mod head;
pub mod life;
pub mod node;
pub mod request;
pub mod rig;
pub mod scenario;
pub mod token;
