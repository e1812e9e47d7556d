//! The host of Weir: everything but the policies. See ARCHITECTURE.md for the way of one call through it.

pub mod admin;
pub mod app;
pub mod broker;
pub mod call;
pub mod cells;
pub mod chain;
pub mod clock;
pub mod config;
pub mod exchange;
pub mod flood;
pub mod keys;
pub mod leash;
pub mod listener;
pub mod names;
pub mod node;
pub mod outcome;
pub mod plugin;
pub mod reload;
pub mod response;
pub mod retry_budget;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod strict;
pub mod telemetry;
pub mod worker;
