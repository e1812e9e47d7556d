//! A process without file descriptors: it waits for them, says so, and blames nobody.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use weir_tests::client::{self, Client};
use weir_tests::process::{Process, written};
use weir_tests::soak::health::Proc;
use weir_tests::upstream::Upstream;
use weir_tests::weir::Setup;

type Result<T = ()> = anyhow::Result<T>;

const DESCRIPTORS: u64 = 80;

/// Lets a running process have no more than so many file descriptors.
fn limit(process: u32, descriptors: u64) -> Result {
    let limit = format!("--nofile={descriptors}:{descriptors}");
    let status = std::process::Command::new("prlimit").args(["--pid", &process.to_string(), &limit]).status()?;
    anyhow::ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

#[tokio::test]
async fn a_node_without_descriptors_waits_for_them_and_goes_on() -> Result {
    let upstream = Upstream::start(200).await?;
    let breaker = "{ scope = \"endpoint\", trip = { consecutive-failures = 1 }, open-for = \"1h\" }";
    let setup = Setup::new()
        .workers(1)
        .policy("breaker", "circuit-breaker", breaker)
        .toml("[chain]\nguarded = [\"breaker\"]")
        .service_with("service", &[upstream.address()], "http1", "chain = \"guarded\"")
        .service_with("other", &[upstream.address()], "http2", "chain = \"guarded\"");
    let (_directory, config) = written(&setup)?;
    let process = Process::start(&config, Stdio::null())?;
    let (address, _) = process.addresses().await?;
    let id = process.child.id();
    limit(id, DESCRIPTORS)?;

    // Two that were there before. Nothing upstream yet: each will need a descriptor.
    let mut early = [Client::http1(address).await?, Client::http2(address).await?];
    for client in &mut early {
        assert_eq!(client.send(client::get("nobody", "/")?).await?.status, 404);
    }
    let mut held = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        held.push(TcpStream::connect(address).await?);
    }
    process.logged("the lack", |line| line["message"].to_string().contains("cannot accept")).await;

    // It is told for what it is, and the endpoint is not to blame.
    for client in &mut early {
        for service in ["service", "other"] {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!(
                (response.status.as_u16(), response.header("x-weir-error")),
                (503, Some("overload")),
                "{response:?}"
            );
            assert!(
                response.text().contains("file descriptors") || response.text().contains("open files"),
                "{}",
                response.text()
            );
        }
    }
    // It waits, and does not turn in circles.
    let (spent, begun) = (Proc::new(id), Instant::now());
    let before = spent.cpu()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let share = (spent.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.3, "{share} of a CPU for nothing");

    // They come back.
    drop(held);
    let until = Instant::now() + Duration::from_secs(20);
    for client in &mut early {
        for service in ["service", "other"] {
            loop {
                let status = client.send(client::get(service, "/")?).await?.status;
                if status == 200 {
                    break;
                }
                assert!(status == 503 && Instant::now() < until, "{service}: {status}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert_eq!(client::fetch(address, "service", "/").await?.status, 200);
    Ok(())
}
