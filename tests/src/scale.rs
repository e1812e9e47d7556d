//! Scale: how long ten thousand services take to load and one endpoint to change, and what one more of each thing costs.
//!
//! What `cargo xtask scale` runs, against the built binary.

mod connections;
mod endpoint;
mod load;
mod memory;
mod node;
pub mod options;
pub mod shape;
mod table;

pub use table::Table;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::{self, Client};
use connections::Way;
use load::Load;
use node::{Files, Node};
use options::Options;
use shape::Shape;
use table::quantile;

/// A change begins this long after the one before it.
const CHANGE_EVERY: Duration = Duration::from_millis(250);
/// A change that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures everything; `say` is told how it goes.
pub async fn run(options: &Options, say: impl Fn(&str)) -> Result<Table> {
    let mut table = Table::default();
    let port = endpoint::start().await?;
    // Not among the addresses of the other services.
    let probes = [shape::address(0xf0_0000, port), shape::address(0xf0_0001, port)];
    let files = Files::write(&Shape::of(options.services).setup(port, probes[0]))?;
    let text = files.text()?;
    let size = format!("{} services, {:.1} MB of configuration", options.services, text.len() as f64 / 1e6);
    say(&size);
    // Compiles the plugins where they are not cached.
    files.check()?;
    table.row("weir check", files.check()?.as_secs_f64(), "s", None, size);
    let node = Node::start(&files).await?;
    table.row("from start to ready", node.ready_after.as_secs_f64(), "s", 2.0, "");
    table.add("resident then", node.resident().await? / MIB, "MiB");

    say("one endpoint changes");
    change(options, &files, &node, &text, probes, &mut table).await?;
    drop(node);

    say("idle connections");
    let files = Files::write(&Shape::of(1).setup(port, probes[0]))?;
    let count = options.connections;
    for (what, way, count, aim) in [
        ("idle connection that has sent nothing", Way::Nothing, count, Some(10.0)),
        ("idle HTTP/1.1 connection after a request", Way::Http1, count, Some(10.0)),
        ("idle HTTP/2 connection after a request", Way::Http2, count / 4, None),
    ] {
        let node = Node::start(&files).await?;
        if way == Way::Nothing {
            table.add("resident with one service", node.resident().await? / MIB, "MiB");
        }
        let [bytes, at_once] = connections::cost(&node, way, count).await?;
        let note = format!("over {count}; {:.1} KiB before it rests", at_once / KIB);
        table.row(what, bytes / KIB, "KiB", aim, note);
    }

    say("memory of services, endpoints and routes");
    let parts = memory::of_parts(options.services).await?;
    for (what, cost) in ["a service", "an endpoint", "a route"].into_iter().zip(parts) {
        table.row(
            format!("resident for {what}"),
            cost.bytes,
            "bytes",
            None,
            format!("bend {:.0} %", cost.bend * 100.0),
        );
    }
    say("memory of policies");
    for plugin in shape::PLUGINS {
        let cost = memory::of_instance(plugin).await?;
        let note = format!("bend {:.0} %", cost.bend * 100.0);
        table.row(format!("resident for an instance of {plugin}"), cost.bytes / KIB, "KiB", None, note);
    }
    Ok(table)
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// The only endpoint of one service in the middle changes again and again, under load.
async fn change(
    options: &Options,
    files: &Files,
    node: &Node,
    text: &str,
    probes: [SocketAddr; 2],
    table: &mut Table,
) -> Result<()> {
    let same = files.keep("same", text)?;
    let other = files.keep("other", &text.replace(&probes[0].to_string(), &probes[1].to_string()))?;
    let load = Load::start(node.address, options.rate).await?;
    let mut client = Client::http1(node.address).await?;
    tokio::time::sleep(2 * CHANGE_EVERY).await;
    load.take();
    let quiet_before = quiet(options, &load).await;
    let mut answered = Vec::new();
    for turn in 0..options.changes {
        let next = Instant::now() + CHANGE_EVERY;
        let (to, kept) = if turn % 2 == 0 { (probes[1], &other) } else { (probes[0], &same) };
        files.put(kept)?;
        answered.push(until_answered_by(&mut client, to).await?.as_secs_f64() * 1000.0);
        tokio::time::sleep_until(next.into()).await;
    }
    let changing = load.take();
    let quiet_after = quiet(options, &load).await;
    let failed = load.stop().await?;
    ensure!(failed == 0, "{failed} requests failed while an endpoint changed");

    let reloads = node.reloads();
    table.row("one endpoint: from rename to its first answer, median", quantile(&answered, 0.5), "ms", 10.0, "");
    table.add("  the slowest", quantile(&answered, 1.0), "ms");
    table.row(
        "  of which the reload itself, median",
        quantile(&reloads, 0.5),
        "ms",
        None,
        "5 ms more it waits for quiet",
    );
    table.add("  the slowest", quantile(&reloads, 1.0), "ms");
    let quiet: Vec<f64> = [quiet_before, quiet_after].concat();
    for (what, share) in [("p50", 0.5), ("p99.9", 0.999), ("the slowest", 1.0)] {
        let (during, quiet) = (quantile(&changing, share), quantile(&quiet, share));
        table.row(format!("latency meanwhile, {what}"), during, "ms", None, format!("{quiet:.2} in quiet"));
    }
    Ok(())
}

/// Latencies while nothing changes, for half as long as the changes take.
async fn quiet(options: &Options, load: &Load) -> Vec<f64> {
    tokio::time::sleep(CHANGE_EVERY * options.changes / 2).await;
    load.take()
}

/// Asks until the answer is from this endpoint; returns how long that took.
async fn until_answered_by(client: &mut Client, endpoint: SocketAddr) -> Result<Duration> {
    let (begun, wanted) = (Instant::now(), endpoint.to_string());
    loop {
        let response = client.send(client::get(shape::PROBE, "/")?).await?;
        let taken = begun.elapsed();
        ensure!(response.status == 200, "{response:?}");
        if response.body == wanted {
            return Ok(taken);
        }
        ensure!(taken < PATIENCE, "after {taken:?} it is still {}", response.text());
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}
