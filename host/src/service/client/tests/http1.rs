//! Laws of HTTP/1.1 connections.

use super::*;
use crate::service::client::SendFailure;
use http::StatusCode;
use std::pin::pin;

#[test]
fn giving_up_before_the_answer_closes_the_connection() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, HTTP1);
        let attempt = world.start();
        eventually(|| gate.arrived.get() == 1).await;
        assert_eq!(world.gauges(), (1, 0));
        attempt.abort();
        eventually(|| world.gauges() == (0, 0) && world.counts().open == 0).await;
    });
}

#[test]
fn a_request_that_an_idle_connection_did_not_take_goes_to_another() {
    on_worker(async {
        let (server, mut streams) = answering_once().await;
        let world = World::new(server.address, HTTP1);
        for round in 1..=20 {
            assert_eq!(world.text().await, "ok");
            assert_eq!(server.accepted.get(), round);
            // The client learns of it only while it sends.
            drop(streams.recv().await.unwrap());
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_connection_that_breaks_after_the_request_is_a_reset_and_nothing_is_sent_twice() {
    on_worker(async {
        let server = scripted(&[OK, b""]).await;
        let world = World::new(server.address, HTTP1);
        assert_eq!(world.text().await, "ok");
        let error = world.failure().await;
        assert_eq!((error.failure, error.reached), (SendFailure::Reset, true));
        let said = format!("{} closed the connection before it answered", server.address);
        assert_eq!(error.message, said);
        assert_eq!(server.accepted.get(), 1);

        let server = scripted(&[b""]).await;
        let error = World::new(server.address, HTTP1).failure().await;
        assert_eq!((error.failure, error.reached), (SendFailure::Reset, true));
    });
}

#[test]
fn a_refused_connection_did_not_reach_the_endpoint() {
    on_worker(async {
        let address = nobody().await;
        let world = World::new(address, HTTP1);
        let error = world.failure().await;
        assert_eq!((error.failure, error.reached), (SendFailure::Connect, false));
        assert_eq!(error.message, format!("cannot connect to {address}: connection refused"));
        assert_eq!((world.gauges(), world.counts().open), ((0, 0), 0));
    });
}

#[test]
fn names_are_resolved() {
    on_worker(async {
        let server = http1_server(hello).await;
        let world = World::new(format!("localhost:{}", server.address.port()), HTTP1);
        assert_eq!(world.text().await, "hello");
    });
}

#[test]
fn an_upgraded_connection_is_a_tunnel_and_counts_as_open() {
    on_worker(async {
        let server = http1_server(|mut request| async move {
            let upgrade = hyper::upgrade::on(&mut request);
            spawn_local(async move {
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                drop(tokio::io::copy(&mut reader, &mut writer).await);
            });
            let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
            answer.body(text("")).unwrap()
        })
        .await;
        let world = World::new(server.address, ServiceOptions { max_connections: 1, ..HTTP1 });
        let mut request = request("GET", text(""));
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "echo".parse().unwrap());
        let mut answer = world.send(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        drop(answer);
        tunnel.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        tunnel.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
        assert_eq!((world.gauges(), world.counts().open), ((1, 0), 1));
        let mut next = pin!(world.get());
        assert!(poll_once(next.as_mut()).await.is_pending());
        assert_eq!(world.counts().waiting, 1);
        drop(tunnel);
        assert_eq!(next.await.unwrap().status(), StatusCode::SWITCHING_PROTOCOLS);
    });
}

#[test]
fn a_connection_is_busy_until_its_request_was_sent() {
    on_worker(async {
        let server = http1_server(|mut request| async move {
            // Reads the rest behind the answer's back.
            spawn_local(async move { while request.body_mut().frame().await.is_some() {} });
            Response::new(text("early"))
        })
        .await;
        let world = World::new(server.address, HTTP1);
        let (sender, body) = frames();
        sender.send(Ok(Frame::data("part".into()))).unwrap();
        assert_eq!(read(world.send(request("POST", body)).await.unwrap()).await, "early");
        assert_eq!(world.gauges(), (1, 0));
        drop(sender);
        eventually(|| world.gauges() == (1, 1)).await;
        assert_eq!(world.text().await, "early");
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_body_that_fails_is_not_the_endpoints_fault() {
    on_worker(async {
        let (_gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, HTTP1);
        let (sender, body) = frames();
        sender.send(Err(io::Error::other("the caller left"))).unwrap();
        let error = world.send(request("POST", body)).await.map(drop).unwrap_err();
        assert_eq!(error.failure, SendFailure::Upload);
        let said = format!("the body for {} broke off: the caller left", server.address);
        assert_eq!(error.message, said);
        eventually(|| world.gauges() == (0, 0)).await;
    });
}

#[test]
fn an_answer_that_is_not_http_is_a_protocol_failure() {
    on_worker(async {
        let fields = |count| format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n", "a: b\r\n".repeat(count));
        let (fine, over): (&'static str, &'static str) = (fields(200).leak(), fields(300).leak());
        for answer in ["SSH-2.0-OpenSSH_9.9\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", over] {
            let server = scripted(&*vec![answer.as_bytes()].leak()).await;
            let error = World::new(server.address, HTTP1).failure().await;
            assert_eq!((error.failure, error.reached), (SendFailure::Protocol, true), "{error}");
            assert!(error.message.starts_with(&server.address.to_string()), "{error}");
        }
        let server = scripted(&*vec![fine.as_bytes()].leak()).await;
        assert_eq!(World::new(server.address, HTTP1).text().await, "");
    });
}
