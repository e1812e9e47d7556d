//! `cargo xtask demo`: the proxy, three flaky services and some traffic, with what to try.

mod http;
mod process;
mod traffic;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cargo::Workspace;
use crate::wasm;
use process::Processes;
use traffic::Traffic;

/// The addresses are those of config.toml.
pub const PROXY: SocketAddr = local(15001);
const ADMIN: SocketAddr = local(9900);

struct Sample {
    name: &'static str,
    port: u16,
    arguments: &'static [&'static str],
}

const SAMPLES: [Sample; 5] = [
    Sample { name: "user-service", port: 3201, arguments: &["--flaky", "0.1"] },
    Sample { name: "user-service", port: 3202, arguments: &["--flaky", "0.1", "--slow", "20"] },
    Sample { name: "order-service", port: 3301, arguments: &["--flaky", "0.2"] },
    Sample { name: "payment-service", port: 3401, arguments: &["--flaky", "0.1", "--resets", "0.05"] },
    // Takes each message at the third attempt.
    Sample { name: "notification-service", port: 3501, arguments: &["--fails-messages", "2"] },
];

const READY_WITHIN: Duration = Duration::from_secs(60);
const STATUS_EVERY: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const WHAT_TO_TRY: &str = r#"
Weir is running. In another terminal, try:

  http_proxy=http://127.0.0.1:15001 curl -i http://user-service/users/1
  http_proxy=http://127.0.0.1:15001 curl -i http://order-service/orders/7
  http_proxy=http://127.0.0.1:15001 curl -i -d '{"order":"7"}' http://payment-service/payments

  curl -d '{"order":"7"}' http://127.0.0.1:15001/v1/publish/order.created

  curl http://127.0.0.1:9900/services     endpoints, load, breakers (also /plugins /config /metrics)
  curl http://127.0.0.1:9900/channels     what became of the messages
  tail -f LOG

Change what happens while it runs:

  In config.toml, change "v1" under [policy.marker] and save: the next answers carry the new value.
  Edit plugins/headers/src/lib.rs, then run `cargo xtask plugins`: the next calls run your code.
  Drop any policy of yours as a .wasm file into target/plugins.
"#;

pub fn run(workspace: &Workspace, duration: Option<Duration>) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    require_free_ports()?;
    wasm::build_plugins(workspace)?;
    workspace.cargo(&["build", "--workspace", "--bins"])?;
    let log = prepare(workspace)?;
    ensure!(!stop.load(Ordering::Relaxed), "interrupted");

    let mut processes = Processes::default();
    start(workspace, &mut processes, &log)?;
    await_ready(&mut processes, &stop).with_context(|| format!("weir's log is {}", log.display()))?;
    println!("{}", WHAT_TO_TRY.replace("LOG", &workspace.shown(&log).to_string()));

    let traffic = Traffic::start();
    let died = watch(&traffic, &mut processes, &stop, duration);
    let report = traffic.stop();
    let (retried, messages) = (retries(), settled_messages());
    processes.stop();
    println!("\nIn all: {report}{}", shown(retried));
    println!("Messages: {messages}");
    died?;
    ensure!(report.ok() > 0, "no request succeeded; weir's log is {}", log.display());
    Ok(())
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Before anything is built: a port that another program holds is said at once.
fn require_free_ports() -> Result<()> {
    let named = SAMPLES.iter().map(|sample| (sample.name, local(sample.port)));
    for (name, address) in named.chain([("weir's proxy", PROXY), ("weir's admin pages", ADMIN)]) {
        TcpListener::bind(address)
            .with_context(|| format!("{name} needs {address}: end the program that listens there (another demo?)"))?;
    }
    Ok(())
}

/// Makes the keys and an empty log; returns the log.
fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    let status = process::command(workspace, "demo-keys").arg("keys").status();
    ensure!(status.context("cannot start demo-keys")?.success(), "demo-keys made no keys");
    let directory = workspace.output("demo");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    // What another demo has left would be counted with this one's.
    match fs::remove_dir_all(directory.join("events")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("cannot remove old messages"),
        _ => Ok(directory.join("weir.log")),
    }
}

fn start(workspace: &Workspace, processes: &mut Processes, log: &PathBuf) -> Result<()> {
    for sample in &SAMPLES {
        let mut service = process::command(workspace, "sample-service");
        service
            .args(["--name", sample.name, "--port", &sample.port.to_string()])
            .args(sample.arguments)
            .stdout(Stdio::null());
        processes.start(&format!("{} on port {}", sample.name, sample.port), service)?;
    }
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut weir = process::command(workspace, "weir");
    weir.args(["run", "--config", "config.toml"]).stdout(output.try_clone()?).stderr(output);
    processes.start("weir", weir)
}

/// Waits until the proxy says that it is ready.
fn await_ready(processes: &mut Processes, stop: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < READY_WITHIN {
        processes.require_alive()?;
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        if http::get(ADMIN, "/readyz").is_ok_and(|response| response.status == 200) {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    bail!("weir was not ready after {} s", READY_WITHIN.as_secs())
}

/// Prints a line now and then until the time is up or a signal came; fails when a process ends by itself.
fn watch(traffic: &Traffic, processes: &mut Processes, stop: &AtomicBool, duration: Option<Duration>) -> Result<()> {
    let started = Instant::now();
    let mut shown_at = started;
    while !stop.load(Ordering::Relaxed) && duration.is_none_or(|duration| started.elapsed() < duration) {
        processes.require_alive()?;
        if shown_at.elapsed() >= STATUS_EVERY {
            shown_at = Instant::now();
            println!("{:4} s  {}{}", started.elapsed().as_secs(), traffic.report(), shown(retries()));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// How many attempts beyond the first the proxy counts, if it says.
fn retries() -> Option<u64> {
    let metrics = http::get(ADMIN, "/metrics").ok()?;
    let samples = metrics.body.lines().filter(|line| line.starts_with("weir_retries_total"));
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Some(values.sum::<f64>() as u64)
}

/// What became of the messages, once all that were published are acknowledged, or after a while.
fn settled_messages() -> String {
    const WITHIN: Duration = Duration::from_secs(10);
    let started = Instant::now();
    loop {
        let [published, delivered, acked] =
            [("publish", "confirmed"), ("delivery", "delivered"), ("delivery", "acked")]
                .map(|(kind, event)| messages(kind, event));
        if acked == published || started.elapsed() > WITHIN {
            return format!(
                "{published} orders published, {delivered} attempts to notify, of which 2 of 3 fail, {acked} notified"
            );
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn messages(kind: &str, event: &str) -> u64 {
    let series = format!("weir_messages_total{{kind=\"{kind}\",route=\"order.created\",event=\"{event}\"}} ");
    let metrics = http::get(ADMIN, "/metrics").map(|metrics| metrics.body).unwrap_or_default();
    let counted = metrics.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse::<f64>().ok());
    counted.unwrap_or(0.0) as u64
}

fn shown(retries: Option<u64>) -> String {
    retries.map(|retries| format!(", retried {retries}")).unwrap_or_default()
}
