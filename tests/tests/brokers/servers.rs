//! The servers that other tests start are there, and come back with what they had.

use std::path::Path;
use weir_tests::servers::{Nats, RabbitMq, Redis, Server};

async fn comes_back(mut server: Server) {
    let (address, directory) = (server.address(), server.directory().to_owned());
    server.kill();
    assert!(std::net::TcpStream::connect(address).is_err(), "something else answers at {address}");
    server.restart().await;
    assert_eq!(server.address(), address);
    let written = |directory: &Path| std::fs::read_dir(directory).is_ok_and(|mut files| files.next().is_some());
    assert!(written(&directory));
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err(), "{address} answers after its end");
    assert!(!directory.exists());
}

#[tokio::test]
async fn nats_is_ready_once_started_and_after_a_kill() {
    comes_back(Nats::start().await).await;
}

#[tokio::test]
async fn redis_is_ready_once_started_and_after_a_kill() {
    comes_back(Redis::start().await).await;
}

#[tokio::test]
async fn two_rabbitmqs_are_ready_at_once_and_after_a_kill() {
    let (one, two) = tokio::join!(RabbitMq::start(), RabbitMq::start());
    tokio::join!(comes_back(one), comes_back(two));
}
