//! The helpers keep their word: what other tests build on is checked here without a proxy between.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::StatusCode;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use weir_tests::client::{self, Client, EchoClient, websocket};
use weir_tests::keys::{RsaKey, jwks};
use weir_tests::raw::{self, Raw};
use weir_tests::upstream::{
    Answer, Behaviour, EchoRequest, GrpcUpstream, Reply, Upstream, WebSocketUpstream, closed_address, pattern,
};

type Result = anyhow::Result<()>;

const SOON: Duration = Duration::from_secs(10);

/// A client of each protocol.
async fn clients(upstream: &Upstream) -> anyhow::Result<[Client; 2]> {
    Ok([Client::http1(upstream.address()).await?, Client::http2(upstream.address()).await?])
}

/// Waits for something that happens soon.
async fn until(happened: impl Fn() -> bool) -> Result {
    let wait = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(SOON, wait).await?)
}

#[tokio::test]
async fn both_protocols_share_a_port_and_requests_are_recorded() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    for (connection, mut client) in (0_u64..).zip(clients(&upstream).await?) {
        for _ in 0..2 {
            let mut request = client::post("user-service", "/users?x=1", "hello")?;
            request.headers_mut().insert("x-marker", "m".parse()?);
            let response = client.send(request).await?;
            assert_eq!(response.status, StatusCode::OK);
            assert_eq!(response.json()?["body-length"], 5);
            assert_eq!(response.json()?["connection"], connection);
        }
        let last = upstream.last().unwrap();
        assert_eq!((last.method.as_str(), last.target.as_str(), last.path()), ("POST", "/users?x=1", "/users"));
        assert_eq!(last.authority.as_deref(), Some("user-service"));
        assert_eq!(last.header("X-Marker"), Some("m"));
        assert_eq!(last.body, "hello");
    }
    assert_eq!((upstream.request_count(), upstream.connection_count()), (4, 2));
    upstream.forget();
    assert_eq!((upstream.request_count(), upstream.requests().len()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn failures_are_scripted_and_swapped_live() -> Result {
    let upstream = Upstream::start(Behaviour::from(200).fail_first(2, 503)).await?;
    for mut client in clients(&upstream).await? {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(client.send(client::get("s", "/")?).await?.status.as_u16());
        }
        assert_eq!(statuses, [503, 503, 200]);
        upstream.set(404);
        assert_eq!(client.send(client::get("s", "/")?).await?.status, 404);
        upstream.set(Behaviour::from(200).fail_randomly(1.0, 500));
        assert_eq!(client.send(client::get("s", "/")?).await?.status, 500);
        upstream.set(Behaviour::from(200).fail_first(2, 503));
    }
    Ok(())
}

#[tokio::test]
async fn bodies_arrive_whole_in_every_framing_and_pace() -> Result {
    const LENGTH: usize = 300_000;
    let upstream = Upstream::start(200).await?;
    let replies = [
        Reply::new(200).huge(LENGTH as u64),
        Reply::new(200).huge(LENGTH as u64).chunked(),
        Reply::new(200).body(pattern(0, LENGTH)).trickle(100_000, Duration::from_millis(1)),
        Reply::new(200).huge(LENGTH as u64).trailer("x-sum", "7"),
        Reply::new(200).huge(LENGTH as u64).until_close(),
    ];
    for reply in replies {
        upstream.set(reply.clone());
        for mut client in clients(&upstream).await? {
            let response = client.send(client::get("s", "/")?).await?;
            assert_eq!(response.broken, None);
            assert!(response.body == pattern(0, LENGTH), "{reply:?} over {:?}", response.version);
        }
    }
    Ok(())
}

#[tokio::test]
async fn trailers_and_interim_responses_are_sent() -> Result {
    let reply = Reply::new(200).interim(103, "link", "</style.css>").body("x").trailer("x-sum", "7");
    let upstream = Upstream::start(reply).await?;
    for mut client in clients(&upstream).await? {
        let response = client.send(client::get("s", "/")?).await?;
        assert_eq!(response.trailers["x-sum"], "7");
        if response.version == http::Version::HTTP_11 {
            assert_eq!(response.interim.len(), 1);
            assert_eq!(response.interim[0].0, 103);
            assert_eq!(response.interim[0].1["link"], "</style.css>");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_breaks_off_is_visible() -> Result {
    let upstream = Upstream::start(200).await?;
    for reply in [Reply::new(200).huge(1000).reset_after(10), Reply::new(200).huge(1000).truncate_after(10)] {
        upstream.set(reply);
        for mut client in clients(&upstream).await? {
            let response = client.send(client::get("s", "/")?).await?;
            assert_eq!(response.body, pattern(0, 10));
            assert!(response.broken.is_some());
        }
    }
    Ok(())
}

#[tokio::test]
async fn connections_end_as_told() -> Result {
    let upstream = Upstream::start(Answer::reset()).await?;
    for mut client in clients(&upstream).await? {
        assert!(client.send(client::get("s", "/")?).await.is_err());
    }
    let mut raw = Raw::connect(upstream.address()).await?;
    raw.send("GET / HTTP/1.1\r\nhost: s\r\n\r\n").await?;
    assert!(raw.closes_within(SOON).await);

    upstream.set(Reply::new(200).close_silently());
    let answer = raw::exchange(upstream.address(), "GET / HTTP/1.1\r\nhost: s\r\n\r\n").await?;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    upstream.set(Answer::raw("rubbish"));
    let answer = raw::exchange(upstream.address(), "GET / HTTP/1.1\r\nhost: s\r\n\r\n").await?;
    assert_eq!(answer, "rubbish");
    upstream.set(Answer::refuse());
    let mut client = Client::http2(upstream.address()).await?;
    let error = client.send(client::get("s", "/")?).await.unwrap_err();
    assert!(format!("{error:#?}").contains("REFUSED_STREAM"), "{error:#?}");

    let closed = closed_address()?;
    assert!(Client::http1(closed).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_request_whose_client_leaves_is_counted_as_abandoned() -> Result {
    let upstream = Upstream::start(200).await?;
    let hanging = [
        Behaviour::from(Answer::hang()),
        Behaviour::from(200).delayed(Duration::from_secs(600)),
        Behaviour::from(Reply::new(200).huge(1000).stall_after(10)),
    ];
    let mut expected = 0;
    for behaviour in hanging {
        upstream.set(behaviour);
        for mut client in clients(&upstream).await? {
            expected += 1;
            let request = client.send(client::get("s", "/")?);
            tokio::select! {
                answer = request => anyhow::bail!("answered: {answer:?}"),
                arrived = until(|| upstream.request_count() == expected) => arrived?,
            }
            drop(client);
            until(|| upstream.abandoned_count() == expected).await?;
        }
    }
    assert_eq!((upstream.abandoned_count(), upstream.request_count()), (6, 6));
    Ok(())
}

#[tokio::test]
async fn expect_continue_is_answered_unless_judged_before_the_body() -> Result {
    let upstream = Upstream::start(201).await?;
    let head = "POST / HTTP/1.1\r\nhost: s\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let mut raw = Raw::connect(upstream.address()).await?;
    raw.send(head).await?;
    assert_eq!(raw.read_response().await?.status, 100);
    raw.send("ok").await?;
    assert_eq!(raw.read_response().await?.status, 201);
    upstream.set(Behaviour::from(413).before_body());
    raw.send(head).await?;
    assert_eq!(raw.read_response().await?.status, 413);
    raw.send("ok").await?;
    upstream.set(204);
    raw.send("GET / HTTP/1.1\r\nhost: s\r\n\r\n").await?;
    assert_eq!(raw.read_response().await?.status, 204);
    assert_eq!(upstream.requests()[1].body, "ok");
    Ok(())
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_counted() -> Result {
    let upstream = Upstream::start(200).await?;
    let bad = [
        "rubbish\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: s\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n",
    ];
    for (count, request) in (1..).zip(bad) {
        let answer = raw::exchange(upstream.address(), request).await?;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{request:?} got {answer:?}");
        assert_eq!(upstream.malformed_count(), count);
    }
    Ok(())
}

#[tokio::test]
async fn chunked_requests_and_their_trailers_are_read() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let request = "POST / HTTP/1.1\r\nhost: s\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nx-t: v\r\n\r\n";
    let mut raw = Raw::connect(upstream.address()).await?;
    raw.send_slowly(request, Duration::ZERO).await?;
    let response = raw.read_response().await?;
    assert_eq!((response.status, response.body), (200, Bytes::from("abc0123456789")));
    assert_eq!(upstream.last().unwrap().trailers, [("x-t".to_owned(), Bytes::from("v"))]);

    let pieces = || stream::iter(["ab", "cd"].map(|piece| io::Result::Ok(Bytes::from(piece))));
    for mut client in clients(&upstream).await? {
        let request = http::Request::post("http://s/").body(client::stream(pieces()))?;
        assert_eq!(client.send(request).await?.text(), "abcd");
    }
    Ok(())
}

#[tokio::test]
async fn a_stopped_upstream_can_come_back_on_its_port() -> Result {
    let upstream = Upstream::start(200).await?;
    let address = upstream.address();
    let mut client = Client::http1(address).await?;
    client.send(client::get("s", "/")?).await?;
    upstream.stop().await;
    assert!(client.send(client::get("s", "/")?).await.is_err());
    assert!(Client::http1(address).await.is_err());
    let upstream = Upstream::listen(address, 204).await?;
    assert_eq!(client::fetch(address, "s", "/").await?.status, 204);
    drop(upstream);
    Ok(())
}

#[tokio::test]
async fn grpc_echoes_in_all_four_ways() -> Result {
    let upstream = GrpcUpstream::start().await?;
    let mut client = EchoClient::connect(upstream.address(), "echo-service").await?;
    let message = |message: &str| EchoRequest { message: message.into(), ..EchoRequest::default() };

    let mut request = Request::new(message("one"));
    request.metadata_mut().insert("x-grpc-test-echo-initial", "first".parse()?);
    let binary = MetadataValue::from_bytes(b"\x00\xff");
    request.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", binary);
    let response = client.unary(request).await?;
    assert_eq!(response.get_ref().message, "one");
    assert_eq!(response.metadata().get("x-grpc-test-echo-initial").unwrap(), "first");
    let trailing = response.metadata().get_bin("x-grpc-test-echo-trailing-bin").unwrap();
    assert_eq!(trailing.to_bytes()?, &b"\x00\xff"[..]);

    let request = EchoRequest { replies: 3, code: 9, status_message: "done".into(), ..message("s") };
    let mut replies = client.server_stream(Request::new(request)).await?.into_inner();
    for sequence in 0..3 {
        assert_eq!(replies.message().await?.unwrap().sequence, sequence);
    }
    let status = replies.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "done"));

    let requests = stream::iter([message("a"), message("b")]);
    let whole = client.client_stream(Request::new(requests.clone())).await?.into_inner();
    assert_eq!((whole.message.as_str(), whole.sequence), ("ab", 2));

    let mut replies = client.bidi(Request::new(requests)).await?.into_inner();
    assert_eq!(replies.message().await?.unwrap().message, "a");
    assert_eq!(replies.message().await?.unwrap().message, "b");
    assert!(replies.message().await?.is_none());

    upstream.fail_next(1, Code::Unavailable);
    let status = client.unary(Request::new(message("x"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    client.unary(Request::new(message("x"))).await?;
    assert_eq!((upstream.call_count(), upstream.connection_count()), (6, 1));
    assert_eq!(upstream.calls()[0].authority.as_deref(), Some("echo-service"));
    Ok(())
}

#[tokio::test]
async fn websocket_echoes_and_closes() -> Result {
    let upstream = WebSocketUpstream::start().await?;
    let (mut socket, _) = websocket(upstream.address(), "echo-service", "/socket?room=1").await?;
    for message in [Message::text("hello"), Message::binary(vec![0, 255])] {
        socket.send(message.clone()).await?;
        assert_eq!(socket.next().await.unwrap()?, message);
    }
    socket.send(Message::text("close")).await?;
    assert!(matches!(socket.next().await.unwrap()?, Message::Close(_)));
    assert_eq!(upstream.message_count(), 2);
    let handshake = upstream.handshakes().pop().unwrap();
    assert_eq!(handshake.target, "/socket?room=1");
    assert_eq!(handshake.headers["host"], "echo-service");
    Ok(())
}

#[tokio::test]
async fn keys_survive_their_files_and_sign() -> Result {
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
    use base64::Engine;
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);

    let made = RsaKey::generate("one")?;
    let key = RsaKey::from_pem("one", &made.private_pem()?)?;
    assert_eq!(jwks(&[&key]), jwks(&[&made]));
    let jwk = key.public_jwk();
    let token = key.token(&json!({ "sub": "me" }))?;
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let public =
        RsaPublicKeyComponents { n: decode(jwk["n"].as_str().unwrap())?, e: decode(jwk["e"].as_str().unwrap())? };
    let signature = decode(signature)?;
    public.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)?;
    public.verify(&RSA_PKCS1_2048_8192_SHA256, b"other", &signature).unwrap_err();
    Ok(())
}
