//! An exchange ends at its deadline, or when its caller leaves, and lets its endpoint go.

use std::time::Duration;

use http::StatusCode;
use weir_tests::client;
use weir_tests::raw::Raw;
use weir_tests::upstream::{Answer, Reply, Upstream};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

/// Long enough for whatever is waited for to happen, however slow the machine.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_deadline_is_kept_and_callers_can_only_shorten_it() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let endpoints = [upstream.address()];
    let setup = Setup::new()
        .service_with("patient", &endpoints, "http1", "timeout = \"20s\"")
        .service_with("hasty", &endpoints, "http1", "timeout = \"300ms\"")
        .service_with("attempt", &endpoints, "http1", "timeout = \"20s\"\nattempt-timeout = \"300ms\"");
    let weir = setup.start();
    for (service, asked) in [("patient", Some("300")), ("hasty", None), ("hasty", Some("20000")), ("attempt", None)] {
        for mut client in weir.clients().await? {
            let mut request = client::get(service, "/")?;
            if let Some(asked) = asked {
                request.headers_mut().insert("x-weir-timeout", asked.parse()?);
            }
            let response = client.send(request).await?;
            assert_eq!(
                (response.status, response.header("x-weir-error")),
                (StatusCode::GATEWAY_TIMEOUT, Some("timeout")),
                "{service} {asked:?}"
            );
            assert!(
                response.head_after >= Duration::from_millis(295) && response.head_after < SOON,
                "{service} {:?}",
                response.head_after
            );
            // The service is told what is left of it.
            let told: u64 =
                upstream.last().unwrap().header("x-weir-timeout").unwrap().trim_end_matches("ms").parse()?;
            assert!(told <= if service == "attempt" { 20_000 } else { 300 }, "{service} {asked:?}: {told}");
        }
    }
    weir.until("the endpoint is let go each time", async || upstream.abandoned_count() == 8).await;
    Ok(())
}

#[tokio::test]
async fn a_body_that_stalls_is_let_go_at_the_deadline() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(100_000).stall_after(1_000)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"1s\"").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!((response.status, response.body.len()), (StatusCode::OK, 1_000));
            assert!(response.broken.is_some(), "{response:?}");
            assert!(
                response.end_after >= Duration::from_millis(995) && response.end_after < SOON,
                "{:?}",
                response.end_after
            );
        }
    }
    weir.until("the endpoint is let go each time", async || upstream.abandoned_count() == 4).await;
    let records = weir.all_records().await?;
    assert_eq!(records.len(), 4);
    assert!(
        records.iter().all(|record| record["outcome"] == "truncated" && record["error"] == "timeout"),
        "{records:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_caller_that_reads_nothing_is_let_go_at_the_deadline() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(1 << 30)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"1s\"").start();
    for (count, service) in [(2, "one"), (4, "two")] {
        let mut held = Vec::new();
        for mut client in weir.clients().await? {
            let response = client.open(client::get(service, "/")?).await?;
            held.push((client, response));
        }
        weir.until("the endpoint is let go", async || upstream.abandoned_count() == count).await;
        if let [_, over_http2] = &mut held[..] {
            // The connection is good for others: only the stream was reset.
            let response = over_http2.0.send(client::get("none", "/")?).await?;
            assert_eq!(response.status, 404);
        }
    }
    let records = weir.all_records().await?;
    let records: Vec<_> = records.iter().filter(|record| record["service"].is_string()).collect();
    assert_eq!(records.len(), 4);
    assert!(
        records.iter().all(|record| record["outcome"] == "truncated" && record["error"] == "timeout"),
        "{records:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_caller_that_stalls_its_upload_gets_504_at_the_deadline() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"500ms\"").start();
    for (count, service) in [(1, "one"), (2, "two")] {
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send(format!("POST / HTTP/1.1\r\nhost: {service}\r\ncontent-length: 10\r\n\r\nhalf")).await?;
        let response = raw.read_response().await?;
        assert_eq!((response.status, response.header("x-weir-error")), (504, Some("timeout")), "{response:?}");
        weir.until("the endpoint is let go", async || upstream.abandoned_count() == count).await;
        // What comes later is the rest of a body, and no request.
        raw.send("GET / HTTP/1.1\r\nhost: one\r\n\r\n").await.ok();
        raw.read_to_end().await?;
        assert_eq!(upstream.request_count(), count);
    }
    let records = weir.all_records().await?;
    assert_eq!(records.len(), 2, "{records:#?}");
    assert!(records.iter().all(|record| record["outcome"] == "error" && record["error"] == "timeout"), "{records:#?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_exchange_along() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").start();
    let waits = [
        Answer::hang(),
        Reply::new(200).huge(100_000).stall_after(1_000).into(),
        Reply::new(200).huge(100_000).chunked().stall_after(1_000).into(),
    ];
    let mut left = 0;
    for answer in waits {
        upstream.set(answer.clone());
        for service in ["one", "two"] {
            for mut client in weir.clients().await? {
                let before = upstream.request_count();
                let request = client::post(service, "/", "x")?;
                let call = tokio::spawn(async move {
                    let response = client.open(request).await;
                    // Until it is aborted: the caller has what there is, and waits for the rest.
                    std::future::pending::<()>().await;
                    drop((client, response));
                });
                weir.until("the request arrives", async || upstream.request_count() > before).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                call.abort();
                left += 1;
                weir.until(&format!("the endpoint is left by {service}, {answer:?}"), async || {
                    upstream.abandoned_count() == left
                })
                .await;
            }
        }
    }
    let records = weir.all_records().await?;
    assert_eq!(records.len() as u64, left);
    assert!(records.iter().all(|record| record["outcome"] == "client-left"), "{records:#?}");
    Ok(())
}
