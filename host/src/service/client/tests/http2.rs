//! Laws of HTTP/2 connections.

use super::*;
use crate::service::client::SendFailure;
use http::HeaderMap;
use hyper::server::conn::http2::{Builder, Connection};
use std::pin::pin;

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

/// Allows `streams` at a time, and closes gracefully once told.
async fn server_with<F>(
    streams: u32,
    closing: Rc<Notify>,
    handler: impl Fn(Request<Incoming>) -> F + Clone + 'static,
) -> Server
where
    F: Future<Output = Response<Sent>> + 'static,
{
    listen(move |stream| {
        let (handler, closing) = (handler.clone(), closing.clone());
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = Builder::new(Local);
        builder.max_concurrent_streams(streams);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        async move {
            let mut connection: Pin<&mut Connection<_, _, _>> = pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = closing.notified() => connection.as_mut().graceful_shutdown(),
            }
            drop(connection.await);
        }
    })
    .await
}

async fn server<F>(handler: impl Fn(Request<Incoming>) -> F + Clone + 'static) -> Server
where
    F: Future<Output = Response<Sent>> + 'static,
{
    server_with(200, Rc::default(), handler).await
}

/// Answers no request before there are `count` of them.
fn together(count: usize) -> impl Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Sent>>>> + Clone {
    let arrived = Rc::new(tokio::sync::Barrier::new(count));
    move |_| {
        let arrived = arrived.clone();
        Box::pin(async move {
            arrived.wait().await;
            Response::new(text("all here"))
        })
    }
}

/// Reads the preface and all frames up to the first of type 1, HEADERS.
async fn read_head(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    let mut head = [0; 9];
    while head[3] != 1 {
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
    }
}

/// An endpoint that resets every stream for this reason.
async fn resetting(reason: h2::Reason) -> Server {
    listen(move |stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            answer.send_reset(reason);
        }
    })
    .await
}

#[test]
fn a_hundred_requests_share_one_connection() {
    on_worker(async {
        let server = server(together(100)).await;
        let world = World::new(server.address, HTTP2);
        let answers: Vec<_> = (0..100).map(|_| world.start()).collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap().unwrap(), "all here");
        }
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.gauges(), (1, 1));
        assert_eq!(world.counts(), Counts { endpoints: 1, open: 1, idle: 1, waiting: 0 });
    });
}

#[test]
fn another_connection_is_opened_where_streams_are_used_up() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = server_with(2, Rc::default(), handler).await;
        let world = World::new(server.address, HTTP2);
        // The limit is known from the request after the endpoint's settings have come.
        for _ in 0..2 {
            gate.open();
            world.text().await;
        }
        let answers: Vec<_> = (0..5).map(|_| world.start()).collect();
        eventually(|| gate.arrived.get() == 7).await;
        assert_eq!((server.accepted.get(), world.gauges()), (3, (3, 0)));
        answers.iter().for_each(|_| gate.open());
        for answer in answers {
            answer.await.unwrap().unwrap();
        }
        assert_eq!(world.gauges(), (3, 3));
    });
}

#[test]
fn beyond_all_connections_as_many_requests_wait_as_run() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = server_with(1, Rc::default(), handler).await;
        let world = World::new(server.address, ServiceOptions { max_connections: 1, ..HTTP2 });
        for _ in 0..2 {
            gate.open();
            world.text().await;
        }
        let (running, waiting) = (world.start(), world.start());
        tokio::task::yield_now().await;
        let error = world.failure().await;
        assert_eq!((error.failure, error.reached), (SendFailure::Overload, false));
        gate.open();
        assert_eq!(running.await.unwrap().unwrap(), "3");
        gate.open();
        assert_eq!(waiting.await.unwrap().unwrap(), "4");
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_connection_that_goes_away_ends_its_streams_and_takes_no_more() {
    on_worker(async {
        let (closing, (gate, handler)) = (Rc::new(Notify::new()), gated());
        let server = server_with(200, closing.clone(), handler).await;
        let world = World::new(server.address, HTTP2);
        let begun = world.start();
        eventually(|| gate.arrived.get() == 1).await;
        closing.notify_one();
        // Counted in turns of all tasks, as it cannot be seen from here when the client has heard of it.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut next = pin!(world.get());
        assert!(poll_once(next.as_mut()).await.is_pending());
        gate.open();
        assert_eq!(begun.await.unwrap().unwrap(), "1");
        gate.open();
        assert_eq!(read(next.await.unwrap()).await, "2");
        assert_eq!(server.accepted.get(), 2);
        eventually(|| world.gauges() == (1, 1)).await;
    });
}

#[test]
fn a_stream_above_the_last_one_of_a_goaway_did_not_reach_the_endpoint() {
    on_worker(async {
        for (last, reached) in [(0, false), (1, true)] {
            let server = listen(move |mut stream| async move {
                let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
                let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0];
                read_head(&mut stream).await;
                stream.write_all(&[&settings[..], &goaway[..]].concat()).await.unwrap();
            })
            .await;
            let error = World::new(server.address, HTTP2).failure().await;
            assert_eq!((error.failure, error.reached), (SendFailure::Reset, reached), "{error}");
        }
    });
}

#[test]
fn a_refused_stream_did_not_reach_the_endpoint() {
    on_worker(async {
        for (reason, reached) in [(h2::Reason::REFUSED_STREAM, false), (h2::Reason::CANCEL, true)] {
            let server = resetting(reason).await;
            let world = World::new(server.address, HTTP2);
            let error = world.failure().await;
            assert_eq!((error.failure, error.reached), (SendFailure::Reset, reached), "{error}");
            assert!(error.message.starts_with(&format!("{} reset the stream: ", server.address)), "{error}");
            // The connection lives.
            assert_eq!(world.gauges(), (1, 1));
        }
    });
}

#[test]
fn trailers_pass_both_ways() {
    on_worker(async {
        let server = server(|request: Request<Incoming>| async {
            let trailers = request.into_body().collect().await.unwrap().trailers().cloned();
            let (sender, body) = frames();
            sender.send(Ok(Frame::data("data".into()))).unwrap();
            sender.send(Ok(Frame::trailers(trailers.unwrap()))).unwrap();
            Response::new(body)
        })
        .await;
        let world = World::new(server.address, HTTP2);
        let (sender, body) = frames();
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "last".parse().unwrap())]);
        sender.send(Ok(Frame::data("data".into()))).unwrap();
        sender.send(Ok(Frame::trailers(trailers.clone()))).unwrap();
        let mut answer = world.send(request("POST", body)).await.unwrap();
        assert_eq!(world.gauges(), (1, 0));
        let first = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "data");
        let last = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap(), trailers);
        // Free with its last frame, whether or not anybody asks for one more.
        assert_eq!(world.gauges(), (1, 1));
    });
}

#[test]
fn a_failed_connect_fails_all_that_wait_and_no_others() {
    on_worker(async {
        let address = nobody().await;
        let world = World::new(address, HTTP2);
        let waiting: Vec<_> = (0..10).map(|_| world.start()).collect();
        for request in waiting {
            let error = request.await.unwrap().unwrap_err();
            assert_eq!((error.failure, error.reached), (SendFailure::Connect, false));
            assert_eq!(error.message, format!("cannot connect to {address}: connection refused"));
        }
        assert_eq!((world.gauges(), world.counts().open), ((0, 0), 0));
        let error = world.failure().await;
        assert_eq!(error.failure, SendFailure::Connect);
    });
}

#[test]
fn who_gives_up_does_not_take_the_connection_with_it() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = server(handler).await;
        let world = World::new(server.address, HTTP2);
        // While the connection is being made, and while the answer is being made.
        let mut first = Box::pin(world.get());
        assert!(poll_once(first.as_mut()).await.is_pending());
        let mut second = Box::pin(world.get());
        assert!(poll_once(second.as_mut()).await.is_pending());
        drop(first);
        let third = world.start();
        eventually(|| gate.arrived.get() == 1).await;
        assert!(poll_once(second.as_mut()).await.is_pending());
        eventually(|| gate.arrived.get() == 2).await;
        let held = Rc::strong_count(&gate);
        drop(second);
        eventually(|| Rc::strong_count(&gate) < held).await;
        gate.open();
        assert_eq!(third.await.unwrap().unwrap(), "1");
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.gauges(), (1, 1));
    });
}

#[test]
fn dropping_an_unread_answer_frees_its_stream_only() {
    on_worker(async {
        let server = server(|_| async { Response::new(text(vec![b'x'; 10_000_000])) }).await;
        let world = World::new(server.address, HTTP2);
        for _ in 0..5 {
            let mut answer = world.get().await.unwrap();
            assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());
            assert_eq!(world.gauges(), (1, 0));
            drop(answer);
            assert_eq!(world.gauges(), (1, 1));
        }
        assert_eq!(world.text().await.len(), 10_000_000);
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn connections_that_idle_too_long_or_are_closed_are_forgotten() {
    on_worker(async {
        let closing = Rc::new(Notify::new());
        let server = server_with(200, closing.clone(), |_| async { Response::new(text("hello")) }).await;
        let world = World::new(server.address, HTTP2);
        assert_eq!(world.text().await, "hello");
        world.clients.close_idle(Instant::now() + Duration::from_secs(59));
        assert_eq!(world.counts().idle, 1);
        world.clients.close_idle(Instant::now() + Duration::from_secs(61));
        assert_eq!(world.counts().idle, 0);
        eventually(|| world.gauges() == (0, 0)).await;
        world.clients.close_idle(Instant::now());
        assert_eq!(world.counts(), Counts::default());

        assert_eq!(world.text().await, "hello");
        assert_eq!((server.accepted.get(), world.gauges()), (2, (1, 1)));
        closing.notify_waiters();
        eventually(|| world.gauges() == (0, 0) && world.counts().idle == 0).await;
    });
}

#[test]
fn a_retired_endpoint_ends_its_streams() {
    on_worker(async {
        let (gate, handler) = gated();
        let server = server(handler).await;
        let world = World::new(server.address, HTTP2);
        let begun = world.start();
        eventually(|| gate.arrived.get() == 1).await;
        world.clients.retire("orders", |_| false);
        assert_eq!((world.counts(), world.gauges()), (Counts::default(), (1, 0)));
        gate.open();
        assert_eq!(begun.await.unwrap().unwrap(), "1");
        eventually(|| world.gauges() == (0, 0)).await;
    });
}

#[test]
fn a_body_that_fails_is_not_the_endpoints_fault() {
    on_worker(async {
        let (_gate, handler) = gated();
        let server = server(handler).await;
        let world = World::new(server.address, HTTP2);
        let (sender, body) = frames();
        sender.send(Err(io::Error::other("the caller left"))).unwrap();
        let error = world.send(request("POST", body)).await.map(drop).unwrap_err();
        assert_eq!(error.failure, SendFailure::Upload, "{error}");
        assert_eq!(world.gauges(), (1, 1));
    });
}

#[test]
fn an_endpoint_that_speaks_something_else_is_a_protocol_failure() {
    on_worker(async {
        let server = listen(|mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
        })
        .await;
        let error = World::new(server.address, HTTP2).failure().await;
        assert_eq!((error.failure, error.reached), (SendFailure::Protocol, true), "{error}");
        let said = format!("{} does not speak HTTP/2 as it should: ", server.address);
        assert!(error.message.starts_with(&said), "{error}");
    });
}

#[test]
fn a_change_of_protocol_closes_what_speaks_the_other() {
    on_worker(async {
        let server = listen(|stream| async {
            let service = service_fn(|request: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(text(format!("{:?}", request.version()))))
            });
            let mut first = [0; 3];
            stream.peek(&mut first).await.unwrap();
            let stream = TokioIo::new(stream);
            if &first == b"PRI" {
                drop(Builder::new(Local).serve_connection(stream, service).await);
            } else {
                drop(hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await);
            }
        })
        .await;
        let world = World::new(server.address, HTTP1);
        assert_eq!(world.text().await, "HTTP/1.1");
        let sent = request("GET", text(""));
        let sent = world.clients.send(&world.service, &world.endpoint, &HTTP2, sent);
        assert_eq!(read(sent.await.unwrap()).await, "HTTP/2.0");
        eventually(|| world.gauges() == (1, 1)).await;
        assert_eq!(world.counts().endpoints, 1);
    });
}

#[test]
fn an_endpoint_that_closes_every_connection_is_not_tried_for_ever() {
    on_worker(async {
        for options in [HTTP1, HTTP2] {
            let server = listen(|stream| async move { drop(stream) }).await;
            let world = World::new(server.address, options);
            assert_eq!(world.failure().await.failure, SendFailure::Reset);
            assert!((1..=32).contains(&server.accepted.get()));
            eventually(|| world.gauges() == (0, 0)).await;
        }
    });
}
