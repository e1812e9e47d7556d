//! Laws through the whole proxy. One program for all: each would otherwise be linked with the proxy by itself. What measures
//! its own process has a program of its own, beside this directory.

mod backoff;
mod balance;
mod bodies;
mod breaker;
mod cache;
mod capabilities;
mod check;
mod deadline;
mod errors;
mod exhaustion;
mod grpc;
mod guests;
mod headers;
mod http;
mod limits;
mod malformed;
mod mint;
mod node;
mod outbound;
mod peers;
mod process;
mod reload;
mod reload_config;
mod reload_listeners;
mod retry;
mod rollback;
mod routes;
mod shortcut;
mod streaming;
mod tokens;
mod trace;
mod upgrade;
mod upstream;
