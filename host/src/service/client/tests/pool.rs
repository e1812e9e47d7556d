//! Laws of the pool of HTTP/1.1 connections.

use super::*;
use crate::service::client::SendFailure;
use http::HeaderMap;
use std::pin::pin;

#[test]
fn a_connection_is_used_again_once_its_answer_was_read() {
    on_worker(async {
        let server = http1_server(hello).await;
        let world = World::new(server.address, HTTP1);
        for _ in 0..3 {
            assert_eq!(world.text().await, "hello");
            assert_eq!(world.gauges(), (1, 1));
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn every_kind_of_answer_frees_its_connection() {
    on_worker(async {
        let server = http1_server(|request| async move {
            match request.uri().path() {
                "/none" => Response::builder().status(204).body(text("")).unwrap(),
                "/long" => Response::new(text(vec![b'x'; 3_000_000])),
                "/chunked" => {
                    let (sender, body) = frames();
                    let field = (http::header::ETAG, "b".parse().unwrap());
                    sender.send(Ok(Frame::data(vec![b'x'; 500_000].into()))).unwrap();
                    sender.send(Ok(Frame::trailers(HeaderMap::from_iter([field])))).unwrap();
                    Response::builder().header("trailer", "etag").body(body).unwrap()
                }
                _ => Response::new(text("short")),
            }
        })
        .await;
        let world = World::new(server.address, HTTP1);
        for (method, path, sent, length) in [
            ("GET", "/short", "", 5),
            ("HEAD", "/long", "", 0),
            ("GET", "/none", "", 0),
            ("GET", "/long", "", 3_000_000),
            ("GET", "/chunked", "", 500_000),
            ("POST", "/short", "a body", 5),
        ] {
            let mut request = request(method, text(sent));
            *request.uri_mut() = path.parse().unwrap();
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            let body = world.send(request).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(body.trailers().is_some(), path == "/chunked", "{method} {path}");
            assert_eq!(body.to_bytes().len(), length, "{method} {path}");
            eventually(|| world.gauges() == (1, 1)).await;
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_connection_with_an_unread_answer_is_not_used_again() {
    on_worker(async {
        let server = http1_server(|_| async { Response::new(text(vec![b'x'; 30_000_000])) }).await;
        let world = World::new(server.address, HTTP1);
        let mut answer = world.get().await.unwrap();
        assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());
        assert_eq!(world.gauges(), (1, 0));
        drop(answer);
        eventually(|| world.gauges() == (0, 0)).await;
        assert_eq!(world.text().await.len(), 30_000_000);
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn requests_beyond_max_connections_wait_in_turn() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, ServiceOptions { max_connections: 1, ..HTTP1 });
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(world.start());
        }
        eventually(|| world.counts().waiting == 4 && gate.arrived.get() == 1).await;
        assert_eq!(world.gauges(), (1, 0));
        for (number, answer) in answers.into_iter().enumerate() {
            gate.open();
            assert_eq!(answer.await.unwrap().unwrap(), (number + 1).to_string());
        }
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.counts(), Counts { endpoints: 1, open: 1, idle: 1, waiting: 0 });
    });
}

#[test]
fn who_gives_up_waiting_leaves_its_turn_to_the_next() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, ServiceOptions { max_connections: 1, ..HTTP1 });
        let first = world.start();
        eventually(|| gate.arrived.get() == 1).await;
        let mut second = Box::pin(world.get());
        let mut third = pin!(world.get());
        assert!(poll_once(second.as_mut()).await.is_pending());
        assert!(poll_once(third.as_mut()).await.is_pending());
        gate.open();
        // The connection is offered to the second, which gives up before it has had a look.
        first.await.unwrap().unwrap();
        assert_eq!((world.counts().waiting, world.counts().idle), (2, 1));
        drop(second);
        gate.open();
        assert_eq!(read(third.await.unwrap()).await, "2");
        assert_eq!((server.accepted.get(), world.counts().waiting), (1, 0));
    });
}

#[test]
fn who_comes_later_does_not_overtake_those_that_wait() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, ServiceOptions { max_connections: 1, ..HTTP1 });
        let first = world.start();
        eventually(|| gate.arrived.get() == 1).await;
        let mut second = pin!(world.get());
        assert!(poll_once(second.as_mut()).await.is_pending());
        gate.open();
        first.await.unwrap().unwrap();
        let mut later = pin!(world.get());
        assert!(poll_once(later.as_mut()).await.is_pending());
        assert_eq!((world.counts().waiting, world.counts().idle), (2, 1));
        gate.open();
        assert_eq!(read(second.await.unwrap()).await, "2");
        gate.open();
        assert_eq!(read(later.await.unwrap()).await, "3");
    });
}

#[test]
fn a_full_queue_is_overload() {
    on_worker(async {
        let (_gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, ServiceOptions { max_connections: 1, max_pending: 3, ..HTTP1 });
        let waiting: Vec<_> = (0..=3).map(|_| world.start()).collect();
        eventually(|| world.counts().waiting == 3).await;
        let error = world.failure().await;
        assert_eq!((error.failure, error.reached), (SendFailure::Overload, false));
        waiting.iter().for_each(|request| request.abort());
        eventually(|| world.counts().waiting == 0 && world.counts().open == 0).await;
    });
}

#[test]
fn connections_that_idle_too_long_are_closed() {
    on_worker(async {
        let server = http1_server(hello).await;
        let world = World::new(server.address, HTTP1);
        assert_eq!(world.text().await, "hello");
        world.clients.close_idle(Instant::now() + Duration::from_secs(59));
        assert_eq!(world.text().await, "hello");
        assert_eq!(server.accepted.get(), 1);
        world.clients.close_idle(Instant::now() + Duration::from_secs(61));
        assert_eq!(world.counts().idle, 0);
        eventually(|| world.gauges() == (0, 0)).await;
        world.clients.close_idle(Instant::now());
        assert_eq!(world.counts(), Counts::default());
        assert_eq!(world.text().await, "hello");
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn a_connection_that_the_endpoint_closes_is_forgotten_at_once() {
    on_worker(async {
        let (server, mut streams) = answering_once().await;
        let world = World::new(server.address, HTTP1);
        assert_eq!(world.text().await, "ok");
        assert_eq!((world.gauges(), world.counts().idle), ((1, 1), 1));
        drop(streams.recv().await.unwrap());
        eventually(|| world.gauges() == (0, 0) && world.counts().idle == 0).await;
    });
}

#[test]
fn a_retired_endpoint_ends_what_it_began() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = http1_server(handler).await;
        let world = World::new(server.address, HTTP1);
        let (busy, idle) = (world.start(), world.start());
        eventually(|| gate.arrived.get() == 2).await;
        gate.open();
        eventually(|| world.gauges() == (2, 1)).await;
        let address = server.address.to_string();
        world.clients.retire("orders", |kept| kept == address);
        world.clients.retire("others", |_| false);
        assert_eq!(world.counts().open, 2);
        world.clients.retire("orders", |kept| kept != address);
        assert_eq!(world.counts(), Counts::default());
        eventually(|| world.gauges() == (1, 0)).await;
        gate.open();
        idle.await.unwrap().unwrap();
        busy.await.unwrap().unwrap();
        eventually(|| world.gauges() == (0, 0)).await;
    });
}
