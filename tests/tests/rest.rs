//! HTTP/1 connections that wait for their next request keep their socket alone. Nobody notices.

use std::time::Duration;

use weir_tests::raw::Raw;
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::Setup;

type Result<T = ()> = anyhow::Result<T>;

/// Longer than a connection does nothing before it rests.
const LONG: Duration = Duration::from_millis(2600);

const REQUEST: &str = "GET /a HTTP/1.1\r\nhost: service\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rested_serves_on() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::new().service("service", &[upstream.address()]).start();
    let mut raw = Raw::connect(weir.address()).await?;
    for _ in 0..3 {
        raw.send(REQUEST).await?;
        assert_eq!(raw.read_response().await?.status, 200);
        tokio::time::sleep(LONG).await;
    }
    // What is malformed is so after a rest, too; and what looks like HTTP/2 is no longer a question.
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    assert_eq!(raw.read_response().await?.status, 400);
    assert!(raw.closes_within(LONG).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_within_a_head_or_a_body_is_no_rest() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::new().service("service", &[upstream.address()]).start();
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send(REQUEST).await?;
    assert_eq!(raw.read_response().await?.status, 200);
    let parts = ["POST / HTTP/1.1\r\nho", "st: service\r\ncontent-length: 6\r\n\r\n", "abc", "def"];
    for part in parts {
        tokio::time::sleep(LONG).await;
        raw.send(part).await?;
    }
    assert_eq!(raw.read_response().await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rests_ends_when_it_is_idle_for_too_long_and_when_its_listener_drains() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let setup = Setup::new().service("service", &[upstream.address()]);
    for idle_timeout in ["4s", "30s"] {
        let weir = setup.clone().toml(&format!("[limits]\nidle-timeout = \"{idle_timeout}\"")).start();
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send(REQUEST).await?;
        assert_eq!(raw.read_response().await?.status, 200);
        tokio::time::sleep(LONG).await;
        if idle_timeout == "30s" {
            tokio::task::spawn_blocking(move || weir.stop()).await?;
        }
        assert!(raw.closes_within(Duration::from_secs(20)).await, "{idle_timeout}");
    }
    Ok(())
}
