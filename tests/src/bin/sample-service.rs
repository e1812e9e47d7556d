//! A small JSON service for the demo that fails and dawdles as often as it is told to.
//!
//! One binary plays all roles: every instance serves every collection, and says its name and port in each answer,
//! so that one can see which endpoint answered.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use weir_tests::upstream::{Answer, Behaviour, Received, Reply, Upstream};

/// Serves `GET /{collection}/{id}` and `POST /{collection}` as JSON, and `GET /health`
#[derive(Parser)]
struct Options {
    /// Named in every answer
    #[arg(long)]
    name: String,
    /// On 127.0.0.1; HTTP/1.1 and HTTP/2 with prior knowledge
    #[arg(long)]
    port: u16,
    /// Share of the requests that get 503, from 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    flaky: f64,
    /// Share of the requests whose connection is reset, from 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    resets: f64,
    /// How often each message that is delivered gets 503 before it is accepted
    #[arg(long, default_value_t = 0)]
    fails_messages: u32,
    /// Milliseconds before every answer
    #[arg(long, default_value_t = 0)]
    slow: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let name = options.name.clone();
    let (failures, unready) = (options.fails_messages, unavailable(&options.name));
    let deliveries: Mutex<HashMap<String, u32>> = Mutex::default();
    let behaviour = Behaviour::new(move |request| match request.header("x-weir-message-id") {
        Some(id) if fails(&deliveries, id, failures) => unready.clone().into(),
        _ => answer(&name, address.port(), request),
    })
    .fail_randomly(options.flaky, unavailable(&options.name))
    .fail_randomly(options.resets, Answer::reset())
    .delayed(Duration::from_millis(options.slow));
    let upstream = Upstream::listen(address, behaviour).await;
    let upstream = upstream.with_context(|| format!("{} cannot listen on {address}", options.name))?;
    println!("{} listens on {}", options.name, upstream.address());

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    upstream.stop().await;
    Ok(())
}

/// Whether this delivery of a message is one of those that fail.
fn fails(deliveries: &Mutex<HashMap<String, u32>>, id: &str, failures: u32) -> bool {
    let mut deliveries = deliveries.lock().unwrap_or_else(PoisonError::into_inner);
    let so_far = deliveries.entry(id.to_owned()).or_default();
    *so_far += 1;
    let fails = *so_far <= failures;
    if !fails {
        deliveries.remove(id);
    }
    fails
}

fn answer(name: &str, port: u16, request: &Received) -> Answer {
    let answered_by = format!("{name}:{port}");
    let segments: Vec<&str> = request.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let reply = match (request.method.as_str(), segments.as_slice()) {
        ("GET", ["health"]) => Reply::new(200).json(&json!({ "status": "ok" })),
        ("GET", [collection, id]) => Reply::new(200).json(&item(collection, id, &answered_by)),
        ("POST", [collection]) => create(collection, request, &answered_by),
        ("GET" | "POST", _) => problem(404, &format!("no {} {}", request.method, request.path())),
        _ => problem(405, "only GET and POST").header("allow", "GET, POST"),
    };
    reply.header("x-served-by", answered_by).into()
}

fn item(collection: &str, id: &str, answered_by: &str) -> Value {
    match collection {
        "users" => json!({ "id": id, "name": format!("User {id}"), "answered-by": answered_by }),
        "orders" => json!({ "id": id, "user": "1", "total": "42.00", "answered-by": answered_by }),
        "payments" => {
            json!({ "id": id, "order": "1", "state": "captured", "answered-by": answered_by })
        }
        _ => json!({ "id": id, "kind": collection, "answered-by": answered_by }),
    }
}

fn create(collection: &str, request: &Received, answered_by: &str) -> Reply {
    match serde_json::from_slice::<Value>(&request.body) {
        Ok(given) => {
            // Unique enough for a demo: the same content gets the same id.
            let id = request.body.iter().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
            let created = json!({ "id": id.to_string(), "given": given, "answered-by": answered_by });
            Reply::new(201).header("location", format!("/{collection}/{id}")).json(&created)
        }
        Err(error) => problem(400, &format!("the body is not JSON: {error}")),
    }
}

fn unavailable(name: &str) -> Reply {
    problem(503, &format!("{name} is having a bad moment"))
}

fn problem(status: u16, message: &str) -> Reply {
    Reply::new(status).json(&json!({ "error": message }))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a number from 0 to 1".to_owned())
}
