//! Bodies arrive as they were sent, with what comes before and after them.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use weir_tests::client::{self, Body, Response};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Behaviour, Reply, Upstream, pattern};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

fn with_trailers(pieces: &'static [&'static str], trailers: HeaderMap) -> Body {
    let data = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
    let frames = stream::iter(data.chain([Frame::trailers(trailers)])).map(Ok::<_, Infallible>);
    StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync()
}

#[tokio::test]
async fn trailers_pass_both_ways() -> Result {
    let reply = Reply::new(200).header("trailer", "x-sum").body("answer").trailer("x-sum", "7");
    let upstream = Upstream::start(reply).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let trailers = HeaderMap::from_iter([("x-digest".parse()?, "9".parse()?)]);
            let request =
                Request::post(format!("http://{service}/")).header("te", "trailers").header("trailer", "x-digest");
            let response = client.send(request.body(with_trailers(&["a", "b"], trailers))?).await?;
            let arrived = upstream.last().unwrap();
            assert_eq!(
                (&arrived.body[..], &*arrived.trailers),
                (&b"ab"[..], &[("x-digest".to_owned(), Bytes::from("9"))][..]),
                "{service}"
            );
            assert_eq!(
                (&*response.text(), response.trailers.get("x-sum").map(|sum| sum.as_bytes())),
                ("answer", Some(&b"7"[..])),
                "{service}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn trailers_that_nobody_announced_reach_callers_by_http2() -> Result {
    let upstream = Upstream::start(Reply::new(200).body("answer").trailer("x-sum", "7")).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let request = Request::get(format!("http://{service}/")).header("te", "trailers");
            let response = client.send(request.body(client::full(""))?).await?;
            // HTTP/1.1 may leave out what `trailer` did not announce (RFC 9110, section 6.5.1), and hyper does.
            let expected = usize::from(response.version == Version::HTTP_2);
            assert_eq!(
                (&*response.text(), response.trailers.len()),
                ("answer", expected),
                "{service} {:?}",
                response.version
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_body_larger_than_the_replay_buffer_passes_but_is_sent_once() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let retry =
        "{ max-attempts = 3, backoff = { kind = \"fixed\", delay = \"1ms\" }, retry-on = { statuses = [503] } }";
    let setup = Setup::new()
        .toml("[limits]\nmax-body-buffer = \"4KiB\"\n[chain]\nc = [\"retry\"]")
        .service_with("one", &[upstream.address()], "http1", "chain = \"c\"")
        .service_with("two", &[upstream.address()], "http2", "chain = \"c\"")
        .policy("retry", "retry", retry);
    let weir = setup.start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            for (length, status, sent) in [(4 * 1024, 200, 2), (4 * 1024 + 1, 503, 1), (3_000_000, 503, 1)] {
                upstream.set(Behaviour::mirror());
                let put = |body| client::request(Method::PUT, service, "/", body);
                let response = client.send(put(pattern(0, length))?).await?;
                assert!(response.status == 200 && response.body == pattern(0, length), "{response:?}");
                upstream.forget();
                upstream.set(Behaviour::mirror().fail_first(1, 503));
                let response = client.send(put(pattern(0, length))?).await?;
                assert_eq!((response.status.as_u16(), upstream.request_count()), (status, sent), "{service} {length}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_is_told_to() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let mut raw = Raw::connect(weir.address()).await?;
    for service in ["one", "two"] {
        raw.send(format!("POST / HTTP/1.1\r\nhost: {service}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"))
            .await?;
        assert_eq!(raw.read_response().await?.status, 100);
        raw.send("hello").await?;
        let response = raw.read_response().await?;
        assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
        assert_eq!(upstream.last().unwrap().header("expect"), None);
    }
    // A caller whose call goes nowhere is not asked for its body.
    raw.send("POST / HTTP/1.1\r\nhost: nobody\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await?;
    assert_eq!(raw.read_response().await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn interim_answers_do_not_disturb_the_final_one() -> Result {
    let upstream =
        Upstream::start(Reply::new(200).interim(103, "link", "</style.css>").interim(102, "a", "b").body("final"))
            .await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!((response.status, &*response.text()), (StatusCode::OK, "final"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_leave_the_connection_usable() -> Result {
    let upstream = Upstream::start(Behaviour::new(|request| match request.path() {
        "/204" => 204.into(),
        "/304" => Reply::new(304).header("etag", "\"1\"").into(),
        _ => Reply::new(200).body("a body").into(),
    }))
    .await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            for (method, path, status, length) in [
                (Method::HEAD, "/", 200, Some("6")),
                (Method::GET, "/204", 204, None),
                (Method::GET, "/304", 304, None),
                (Method::HEAD, "/304", 304, None),
                (Method::DELETE, "/204", 204, None),
            ] {
                let response = client.send(client::request(method.clone(), service, path, "")?).await?;
                assert_eq!(
                    (response.status.as_u16(), response.header("content-length"), &*response.text()),
                    (status, length, ""),
                    "{service} {method} {path}"
                );
            }
            assert_eq!(client.send(client::get(service, "/")?).await?.text(), "a body");
        }
    }
    assert_eq!(weir.records(24, |record| record["outcome"] == "ok").await.len(), 24);
    Ok(())
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_every_framing() -> Result {
    const LENGTH: usize = 2_000_000;
    let whole = Reply::new(200).huge(LENGTH as u64);
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for reply in [
        whole.clone(),
        whole.clone().chunked(),
        whole.clone().until_close(),
        whole.trickle(100_000, Duration::from_millis(2)),
    ] {
        upstream.set(reply.clone());
        for service in ["one", "two"] {
            for mut client in weir.clients().await? {
                let response: Response = client.send(client::get(service, "/")?).await?;
                assert!(
                    response.broken.is_none() && response.body == pattern(0, LENGTH),
                    "{service} {reply:?}: {response:?}"
                );
            }
        }
    }
    Ok(())
}
