//! When an endpoint fails, or a caller leaves, it is told as what it was, within the deadline, in exactly one record.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;
use weir_tests::client::{self, Client};
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream, closed_address};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

/// Long enough for whatever is waited for to happen, however slow the machine.
const SOON: Duration = Duration::from_secs(10);

/// One worker, so that records come in order; `one` speaks HTTP/1.1 with the upstream and `two` HTTP/2.
fn node(upstream: &Upstream, route: &str) -> Weir {
    let endpoints = [upstream.address()];
    Setup::new().workers(1).service_with("one", &endpoints, "http1", route).service_with("two", &endpoints, "http2", route).start()
}

async fn clients(weir: &Weir) -> anyhow::Result<[Client; 2]> {
    Ok([Client::http1(weir.address()).await?, Client::http2(weir.address()).await?])
}

/// The records of all exchanges so far but the one that this makes, which is last: so none is still to come.
async fn all_records(weir: &Weir) -> anyhow::Result<Vec<Value>> {
    client::fetch(weir.address(), "nobody", "/last").await?;
    assert_eq!(weir.records(1, |record| record["path"] == "/last").await.len(), 1);
    Ok(weir.records(0, |record| record["path"] != "/last").await)
}

/// Waits for something that happens soon.
async fn until(what: &str, happened: impl Fn() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < SOON, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn each_failure_of_an_endpoint_has_its_status_kind_and_record() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "timeout = \"500ms\"");
    let failures = [
        ("one", Answer::reset(), 502, "reset"),
        ("one", Answer::close(), 502, "reset"),
        ("one", Answer::raw("this is not HTTP\r\n\r\n"), 502, "protocol"),
        ("one", Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), 502, "protocol"),
        ("one", Answer::raw("HTTP/1.1 200 OK\r\na: "), 502, "reset"),
        ("one", Answer::hang(), 504, "timeout"),
        ("two", Answer::reset(), 502, "reset"),
        ("two", Answer::close(), 502, "reset"),
        ("two", Answer::refuse(), 502, "reset"),
        ("two", Answer::hang(), 504, "timeout"),
    ];
    let mut expected = Vec::new();
    for (service, answer, status, kind) in failures {
        upstream.set(answer.clone());
        for mut client in clients(&weir).await? {
            let response = client.send(client::post(service, "/", "x")?).await?;
            assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (status, Some(kind)), "{service} {answer:?}: {response:?}");
            assert_eq!(response.json()?["error"], kind);
            assert_eq!(response.json()?["exchange"], response.header("x-request-id").unwrap());
            expected.push((status, kind));
        }
    }
    let records = all_records(&weir).await?;
    assert_eq!(records.len(), expected.len());
    for (record, (status, kind)) in records.iter().zip(expected) {
        assert_eq!((&record["outcome"], &record["status"], &record["error"]), (&"error".into(), &status.into(), &kind.into()), "{record}");
        assert_eq!(record["attempts"].as_array().map(Vec::len), Some(1), "{record}");
        assert_eq!(record["attempts"][0]["failure"], kind);
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_502_connect() -> Result {
    let closed = closed_address()?;
    let weir = Setup::new().service("one", &[closed]).service_with("two", &[closed], "http2", "").service("empty", &[]).start();
    for mut client in clients(&weir).await? {
        for service in ["one", "two"] {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::BAD_GATEWAY, Some("connect")));
            assert!(response.json()?["message"].as_str().unwrap().contains(&closed.to_string()), "{response:?}");
        }
        let response = client.send(client::get("empty", "/")?).await?;
        assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::SERVICE_UNAVAILABLE, Some("no-endpoint")));
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_speaks_the_other_protocol_is_502() -> Result {
    // An HTTP/1.1 server takes the preface for a bad request.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            // To its end: a reset might come before the answer.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    });
    let weir = Setup::new().service_with("two", &[address], "http2", "").start();
    let response = client::fetch(weir.address(), "two", "/").await?;
    assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::BAD_GATEWAY, Some("protocol")), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn what_the_service_answers_is_never_an_error_of_the_proxy() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "");
    for status in [400, 404, 429, 500, 502, 503, 504, 599] {
        upstream.set(Reply::new(status).header("retry-after", "7").body("mine"));
        for service in ["one", "two"] {
            for mut client in clients(&weir).await? {
                let response = client.send(client::get(service, "/")?).await?;
                assert_eq!((response.status.as_u16(), &*response.text()), (status, "mine"));
                assert_eq!((response.header("retry-after"), response.header("x-weir-error")), (Some("7"), None));
            }
        }
    }
    assert_eq!(weir.records(32, |record| record["outcome"] == "ok").await.len(), 32);
    Ok(())
}

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
        for mut client in clients(&weir).await? {
            let mut request = client::get(service, "/")?;
            if let Some(asked) = asked {
                request.headers_mut().insert("x-weir-timeout", asked.parse()?);
            }
            let response = client.send(request).await?;
            assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::GATEWAY_TIMEOUT, Some("timeout")), "{service} {asked:?}");
            assert!(response.head_after >= Duration::from_millis(295) && response.head_after < SOON, "{service} {:?}", response.head_after);
            // The service is told what is left of it.
            let told: u64 = upstream.last().unwrap().header("x-weir-timeout").unwrap().trim_end_matches("ms").parse()?;
            assert!(told <= if service == "attempt" { 20_000 } else { 300 }, "{service} {asked:?}: {told}");
        }
    }
    until("the endpoint is let go each time", || upstream.abandoned_count() == 8).await;
    Ok(())
}

#[tokio::test]
async fn a_body_cut_short_is_seen_by_the_caller_and_recorded_once() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "");
    let whole = Reply::new(200).huge(100_000);
    let cuts = [whole.clone().truncate_after(50_000), whole.clone().chunked().truncate_after(50_000), whole.clone().reset_after(50_000), whole.chunked().reset_after(50_000)];
    let mut count = 0;
    for reply in cuts {
        upstream.set(reply.clone());
        for service in ["one", "two"] {
            for mut client in clients(&weir).await? {
                let response = client.send(client::get(service, "/")?).await?;
                assert_eq!(response.status, StatusCode::OK);
                assert!(response.broken.is_some(), "{service} {reply:?}: {response:?}");
                assert!(response.body.len() <= 50_000);
                count += 1;
            }
        }
    }
    let records = all_records(&weir).await?;
    assert_eq!(records.len(), count);
    for record in &records {
        assert_eq!((&record["outcome"], &record["error"], &record["status"]), (&"truncated".into(), &"reset".into(), &200.into()), "{record}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_stalls_is_let_go_at_the_deadline() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(100_000).stall_after(1_000)).await?;
    let weir = node(&upstream, "timeout = \"400ms\"");
    for service in ["one", "two"] {
        for mut client in clients(&weir).await? {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!((response.status, response.body.len()), (StatusCode::OK, 1_000));
            assert!(response.broken.is_some(), "{response:?}");
            assert!(response.end_after >= Duration::from_millis(395) && response.end_after < SOON, "{:?}", response.end_after);
        }
    }
    until("the endpoint is let go each time", || upstream.abandoned_count() == 4).await;
    let records = all_records(&weir).await?;
    assert_eq!(records.len(), 4);
    assert!(records.iter().all(|record| record["outcome"] == "truncated" && record["error"] == "timeout"), "{records:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_exchange_along() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "timeout = \"none\"");
    let waits = [Answer::hang(), Reply::new(200).huge(100_000).stall_after(1_000).into(), Reply::new(200).huge(100_000).chunked().stall_after(1_000).into()];
    let mut left = 0;
    for answer in waits {
        upstream.set(answer.clone());
        for service in ["one", "two"] {
            for mut client in clients(&weir).await? {
                let before = upstream.request_count();
                let request = client::post(service, "/", "x")?;
                let call = tokio::spawn(async move {
                    let response = client.open(request).await;
                    // Until it is aborted: the caller has what there is, and waits for the rest.
                    std::future::pending::<()>().await;
                    drop((client, response));
                });
                until("the request arrives", || upstream.request_count() > before).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                call.abort();
                left += 1;
                until(&format!("the endpoint is left by {service}, {answer:?}"), || upstream.abandoned_count() == left).await;
            }
        }
    }
    let records = all_records(&weir).await?;
    assert_eq!(records.len() as u64, left);
    assert!(records.iter().all(|record| record["outcome"] == "client-left"), "{records:#?}");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_closes_idle_connections_costs_no_call() -> Result {
    let upstream = Upstream::start(Reply::new(200).close_silently()).await?;
    let weir = node(&upstream, "");
    let mut client = Client::http1(weir.address()).await?;
    for service in ["one", "two"] {
        for _ in 0..30 {
            assert_eq!(client.send(client::get(service, "/")?).await?.status, 200, "{service}");
        }
    }
    upstream.set(Behaviour::from(Reply::new(200).announce_close()));
    for _ in 0..30 {
        assert_eq!(client.send(client::post("one", "/", "x")?).await?.status, 200);
    }
    let records = all_records(&weir).await?;
    assert!(records.iter().all(|record| record["attempts"].as_array().is_some_and(|attempts| attempts.len() == 1)));
    assert_eq!(records.len(), 90);
    Ok(())
}
