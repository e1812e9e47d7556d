//! Write a Weir policy: a struct that is its configuration, and one method for each hook it wants.
//!
//! ```
//! use weir_sdk::prelude::*;
//!
//! /// Rejects calls that carry no bearer token.
//! #[derive(Deserialize, JsonSchema)]
//! struct RequireToken {
//!     /// Named in the answer.
//!     realm: String,
//! }
//!
//! #[policy(reads = ["authorization"])]
//! impl Policy for RequireToken {
//!     fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
//!         match exchange.bearer_token() {
//!             Some(_) => Ok(Verdict::Proceed),
//!             None => Ok(Verdict::reply(401, format!("token required for {}", self.realm))),
//!         }
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! `cargo build --target wasm32-wasip2 --release` makes a component of it; Weir loads it from its plugin directory.
//! The [`testing`] module runs a policy natively, in `cargo test`, against a fake host.

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
pub mod config;
mod error;
mod exchange;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod export;
pub mod host;
#[cfg(any(test, all(target_family = "wasm", feature = "allocator")))]
mod memory;
#[doc(hidden)]
pub mod policy;
mod slots;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod verdict;

pub use crate::policy::{BodyOf, Idle, Needs, Policy, Skip};
pub use error::{Error, Result};
pub use exchange::{
    Completion, EndpointId, Exchange, ExchangeKind, Failure, Fields, Outcome, Response, RouteId, ServiceId,
};
pub use host::endpoints::Endpoint;
pub use slots::Slots;
pub use verdict::{Amendment, Attempt, BodyVerdict, Decision, Edit, Refusal, Reply, Verdict};
pub use weir_sdk_macros::{Deserialize, JsonSchema, policy};

#[doc(hidden)]
pub use {schemars, serde, serde_json};

#[cfg(all(target_family = "wasm", feature = "allocator"))]
#[global_allocator]
static ALLOCATOR: memory::Shelved<std::alloc::System> = memory::Shelved::new(std::alloc::System);

/// Everything a policy usually needs.
pub mod prelude {
    pub use crate::config::{Kinds, Period};
    pub use crate::host::{cells, clock, crypto, endpoints, log, metrics, outbound, random, trace};
    pub use crate::{
        Amendment, Attempt, BodyOf, BodyVerdict, Completion, Decision, Deserialize, Endpoint, EndpointId, Error,
        Exchange, ExchangeKind, Failure, JsonSchema, Needs, Outcome, Policy, Refusal, Reply, Response, Result, RouteId,
        ServiceId, Skip, Verdict, policy,
    };
    pub use std::time::Duration;
}
