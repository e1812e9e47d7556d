//! What a policy can take from its node is bounded: time, memory, and what it asks of the host.

use std::time::Duration;

use weir_tests::client::{self, Client};
use weir_tests::process::resident;
use weir_tests::raw::Raw;
use weir_tests::rogue::{Case, HOOKS, call, node};
use weir_tests::upstream::Upstream;

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test]
async fn a_guest_that_asks_for_everything_gets_no_more_than_its_share() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases = ["print", "flood"].map(|deed| Case { hook: "on-request", deed, on_error: "skip" });
    let weir = node(&cases, &upstream, 1).start();
    for case in &cases {
        for _ in 0..3 {
            let response = Client::http1(weir.address()).await?.send(call(case, true)?).await?;
            assert_eq!(response.status, 200, "{}: {response:?}", case.name());
            assert_eq!(Client::http1(weir.address()).await?.send(call(case, false)?).await?.status, 200);
        }
    }
    let services = weir.page("/services").await;
    assert!(services.to_string().len() < 8 << 20, "the pages stay readable: {} bytes", services.to_string().len());
    assert!(weir.metric("weir_cells").await.unwrap_or(0.0) <= 100_000.0 * 2.0);
    Ok(())
}

#[tokio::test]
async fn a_caller_that_leaves_while_a_hook_runs_does_no_harm() -> Result {
    let upstream = Upstream::start(200).await?;
    let cases: Vec<Case> = HOOKS
        .into_iter()
        .filter(|hook| *hook != "on-endpoints")
        .flat_map(|hook| ["reject", "skip"].map(|on_error| Case { hook, deed: "loop", on_error }))
        .collect();
    let weir = node(&cases, &upstream, 1).start();
    for case in &cases {
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send(format!("POST / HTTP/1.1\r\nhost: {}\r\nx-rogue: now\r\ncontent-length: 4\r\n\r\nbody", case.name()))
            .await?;
        // The hook runs for 100 ms of CPU time.
        tokio::time::sleep(Duration::from_millis(30)).await;
        raw.reset()?;
    }
    for case in &cases {
        let response = Client::http1(weir.address()).await?.send(call(case, false)?).await?;
        assert_eq!(response.status, 200, "{}: {response:?}", case.name());
    }
    let records = weir.records(cases.len() * 2, |record| record["service"] == "service").await;
    assert_eq!(records.len(), cases.len() * 2, "each exchange leaves one record");
    Ok(())
}

#[tokio::test]
async fn a_deadline_that_passes_while_a_hook_runs_is_a_timeout() -> Result {
    let upstream = Upstream::start(200).await?;
    let case = Case { hook: "on-request", deed: "loop", on_error: "skip" };
    let weir = node(&[case], &upstream, 1).start();
    let mut client = Client::http1(weir.address()).await?;
    let mut request = call(&case, true)?;
    request.headers_mut().insert("x-weir-timeout", "1ms".parse()?);
    let response = client.send(request).await?;
    assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (504, Some("timeout")), "{response:?}");
    assert_eq!(client.send(call(&case, false)?).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_retry_that_would_wait_for_ever_is_not_waited_for() -> Result {
    let upstream = Upstream::start(503).await?;
    let case = Case { hook: "on-outcome", deed: "out-of-range", on_error: "skip" };
    let weir = node(&[case], &upstream, 1).start();
    let mut request = client::get(&case.name(), "/")?;
    request.headers_mut().insert("x-rogue", "now".parse()?);
    let response = Client::http1(weir.address()).await?.send(request).await?;
    assert_eq!(
        (response.status.as_u16(), response.header("x-weir-error")),
        (503, None),
        "the service's own: {response:?}"
    );
    assert_eq!(upstream.request_count(), 1);
    Ok(())
}

#[tokio::test]
async fn memory_bombs_leave_no_memory_behind() -> Result {
    let upstream = Upstream::start(200).await?;
    let case = Case { hook: "on-request", deed: "memory", on_error: "skip" };
    let weir = node(&[case], &upstream, 1).start();
    let mut client = Client::http1(weir.address()).await?;
    let mut bomb = async || {
        assert_eq!(client.send(call(&case, true)?).await?.status, 200);
        anyhow::Ok(())
    };
    bomb().await?;
    let before = resident();
    for _ in 0..100 {
        bomb().await?;
    }
    // 100 instances of 16 MiB; other tests of this file run at the same time.
    let grown = resident().saturating_sub(before);
    assert!(grown < 800 << 20, "{} MiB more", grown >> 20);
    assert_eq!(weir.traps().await, 101);
    Ok(())
}
