//! When an endpoint fails its caller is told as what, in one answer and one record.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_tests::client::{self, Client};
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream, closed_address};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

#[tokio::test]
async fn each_failure_of_an_endpoint_has_its_status_kind_and_record() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let failures = [
        ("one", Answer::reset(), 502, "reset"),
        ("one", Answer::close(), 502, "reset"),
        ("one", Answer::raw("this is not HTTP\r\n\r\n"), 502, "protocol"),
        ("one", Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), 502, "protocol"),
        ("one", Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"), 502, "protocol"),
        ("one", Answer::raw("HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n"), 502, "protocol"),
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
        for mut client in weir.clients().await? {
            let mut request = client::post(service, "/", "x")?;
            if status == 504 {
                request.headers_mut().insert("x-weir-timeout", "300ms".parse()?);
            }
            let response = client.send(request).await?;
            assert_eq!(
                (response.status.as_u16(), response.header("x-weir-error")),
                (status, Some(kind)),
                "{service} {answer:?}: {response:?}"
            );
            assert_eq!(response.json()?["error"], kind);
            assert_eq!(response.json()?["exchange"], response.header("x-request-id").unwrap());
            expected.push((status, kind));
        }
    }
    let records = weir.all_records().await?;
    assert_eq!(records.len(), expected.len());
    for (record, (status, kind)) in records.iter().zip(expected) {
        assert_eq!(
            (&record["outcome"], &record["status"], &record["error"]),
            (&"error".into(), &status.into(), &kind.into()),
            "{record}"
        );
        assert_eq!(record["attempts"].as_array().map(Vec::len), Some(1), "{record}");
        assert_eq!(record["attempts"][0]["failure"], kind);
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_502_connect() -> Result {
    let closed = closed_address()?;
    let weir = Setup::new()
        .service("one", &[closed])
        .service_with("two", &[closed], "http2", "")
        .service("empty", &[])
        .start();
    for mut client in weir.clients().await? {
        for service in ["one", "two"] {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::BAD_GATEWAY, Some("connect")));
            assert!(response.json()?["message"].as_str().unwrap().contains(&closed.to_string()), "{response:?}");
        }
        let response = client.send(client::get("empty", "/")?).await?;
        assert_eq!(
            (response.status, response.header("x-weir-error")),
            (StatusCode::SERVICE_UNAVAILABLE, Some("no-endpoint"))
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_speaks_the_other_protocol_is_502() -> Result {
    // An HTTP/1.1 server takes the preface for a bad request.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64]).await;
            let _ =
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            // To its end: a reset might come before the answer.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    });
    let weir = Setup::new().service_with("two", &[address], "http2", "").start();
    let response = client::fetch(weir.address(), "two", "/").await?;
    assert_eq!(
        (response.status, response.header("x-weir-error")),
        (StatusCode::BAD_GATEWAY, Some("protocol")),
        "{response:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_the_service_answers_is_never_an_error_of_the_proxy() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for status in [400, 404, 429, 500, 502, 503, 504, 599] {
        upstream.set(Reply::new(status).header("retry-after", "7").body("mine"));
        for service in ["one", "two"] {
            for mut client in weir.clients().await? {
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
async fn a_body_cut_short_is_seen_by_the_caller_and_recorded_once() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let whole = Reply::new(200).huge(100_000);
    let cuts = [
        whole.clone().truncate_after(50_000),
        whole.clone().chunked().truncate_after(50_000),
        whole.clone().reset_after(50_000),
        whole.chunked().reset_after(50_000),
    ];
    let mut count = 0;
    for reply in cuts {
        upstream.set(reply.clone());
        for service in ["one", "two"] {
            for mut client in weir.clients().await? {
                // Where the break comes together with the head, not even that is passed on.
                if let Ok(response) = client.send(client::get(service, "/")?).await {
                    assert_eq!(response.status, StatusCode::OK);
                    assert!(response.broken.is_some(), "{service} {reply:?}: {response:?}");
                    assert!(response.body.len() <= 50_000);
                }
                count += 1;
            }
        }
    }
    let records = weir.all_records().await?;
    assert_eq!(records.len(), count);
    for record in &records {
        assert_eq!(
            (&record["outcome"], &record["error"], &record["status"]),
            (&"truncated".into(), &"reset".into(), &200.into()),
            "{record}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_follows_an_answer_is_never_taken_for_another() -> Result {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let weir = Setup::new().workers(1).service("one", &[listener.local_addr()?]).start();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                    let answers = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
                    let _ = stream.write_all(answers.as_bytes()).await;
                }
            });
        }
    });
    for mut client in weir.clients().await? {
        for _ in 0..20 {
            let response = client.send(client::get("one", "/")?).await?;
            assert_eq!((response.status.as_u16(), &*response.text()), (200, "good"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_closes_idle_connections_costs_no_call() -> Result {
    let upstream = Upstream::start(Reply::new(200).close_silently()).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
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
    let records = weir.all_records().await?;
    assert!(records.iter().all(|record| { record["attempts"].as_array().is_some_and(|attempts| attempts.len() == 1) }));
    assert_eq!(records.len(), 90);
    Ok(())
}
