//! Laws of HTTP/1.1 connections.

use super::*;
use crate::service::client::{MAX_PENDING, SendFailure};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

async fn hello(_: Request<Incoming>) -> Response<Sent> {
    Response::new(text("hello"))
}

/// Answers once it is let, with the number of the request.
fn gated() -> (Rc<Notify>, impl Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Sent>>>> + Clone) {
    let gate = Rc::new(Notify::new());
    let (entrance, served) = (gate.clone(), Rc::new(Cell::new(0)));
    let handler = move |_| {
        let (entrance, served) = (entrance.clone(), served.clone());
        Box::pin(async move {
            entrance.notified().await;
            served.set(served.get() + 1);
            Response::new(text(served.get().to_string()))
        }) as Pin<Box<dyn Future<Output = _>>>
    };
    (gate, handler)
}

/// Reads one request without a body.
async fn read_head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "a whole request");
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

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
            match request.headers().get("kind").map(|kind| kind.as_bytes()) {
                Some(b"empty") => Response::builder().status(204).body(text("")).unwrap(),
                Some(b"long") => Response::new(text(vec![b'x'; 3_000_000])),
                Some(b"chunked") => {
                    let chunk = |at| Ok::<_, io::Error>(Frame::data(Bytes::from(vec![b'x'; at])));
                    let trailers = HeaderMap::from_iter([("a".parse().unwrap(), "b".parse().unwrap())]);
                    let mut frames = vec![chunk(10), chunk(500_000), Ok(Frame::trailers(trailers))].into_iter();
                    let frames = tokio_stream_of(move || frames.next());
                    let answer = Response::builder().header("trailer", "a");
                    answer.body(frames).unwrap()
                }
                _ => Response::new(text("short")),
            }
        })
        .await;
        let world = World::new(server.address, HTTP1);
        for (method, kind, length) in [
            ("GET", "short", 5),
            ("HEAD", "long", 0),
            ("GET", "empty", 0),
            ("GET", "long", 3_000_000),
            ("GET", "chunked", 500_010),
            ("POST", "short", 5),
        ] {
            let mut request = request(method, text(if method == "POST" { "a body" } else { "" }));
            request.headers_mut().insert("kind", kind.parse().unwrap());
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            let body = world.send(request).await.unwrap().into_body().collect().await.unwrap();
            let trailers = body.trailers().map_or(0, HeaderMap::len);
            assert_eq!(trailers, usize::from(kind == "chunked"));
            assert_eq!(body.to_bytes().len(), length, "{method} {kind}");
            eventually(|| world.gauges() == (1, 1)).await;
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

/// A body of what `next` gives.
fn tokio_stream_of(mut next: impl FnMut() -> Option<Result<Frame<Bytes>, io::Error>> + Send + 'static) -> Sent {
    StreamBody::new(futures_of(move || Poll::Ready(next()))).boxed_unsync()
}

fn futures_of<T>(next: impl FnMut() -> Poll<Option<T>>) -> impl Iterator<Item = T> {
    let mut next = next;
    std::iter::from_fn(move || match next() {
        Poll::Ready(item) => item,
        Poll::Pending => None,
    })
}

#[test]
fn placeholder() {
    let _ = (MAX_PENDING, SendFailure::Reset, StatusCode::OK, OK);
    let _ = mpsc::channel::<()>(1);
    let _ = gated();
    let _ = read_head;
    let _ = AsyncWriteExt::shutdown::<TcpStream>;
}
