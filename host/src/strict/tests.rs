use std::{cell::RefCell, collections::VecDeque, convert::Infallible, rc::Rc};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

mod limits;
mod malformed;
mod streams;
mod tunnels;

const HEAD: &str = "GET / HTTP/1.1\r\nhost: a\r\n";

/// A socket that gives one piece a read, then the end, and keeps what is written.
#[derive(Default)]
struct Pieces {
    reads: VecDeque<Vec<u8>>,
    written: Rc<RefCell<Vec<u8>>>,
}

impl Pieces {
    fn new(pieces: &[&[u8]]) -> Self {
        let reads = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec());
        Self { reads: reads.collect(), ..Self::default() }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.reads.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.reads.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written.borrow_mut().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What became of a stream of requests.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// Requests handed to the service, by path.
    begun: Vec<String>,
    /// Bodies that arrived in full.
    bodies: Vec<Vec<u8>>,
    statuses: Vec<u16>,
    violation: Option<Violation>,
}

/// Serves the transport with hyper as the host does. Bodies that fail are answered 400.
async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
    transport: T,
    written: Rc<RefCell<Vec<u8>>>,
    half_close: bool,
) -> Outcome {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let service = service_fn(|request: Request<Incoming>| {
        let outcome = outcome.clone();
        async move {
            outcome.borrow_mut().begun.push(request.uri().path().to_owned());
            // Some time in which hyper reads on.
            tokio::task::yield_now().await;
            let status = match request.into_body().collect().await {
                Ok(body) => {
                    outcome.borrow_mut().bodies.push(body.to_bytes().to_vec());
                    200
                }
                Err(_) => 400,
            };
            let response = Response::builder().status(status).body(Full::<Bytes>::default());
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let _ = http1::Builder::new().half_close(half_close).serve_connection(TokioIo::new(transport), service).await;
    let mut outcome = outcome.take();
    let written = String::from_utf8(written.take()).unwrap();
    outcome.statuses = written
        .split("HTTP/1.1 ")
        .filter_map(|answer| answer.get(..3)?.parse().ok())
        .filter(|status| *status != 100)
        .collect();
    outcome
}

async fn serve_strictly(pieces: &[&[u8]], limits: Limits) -> Outcome {
    let pieces = Pieces::new(pieces);
    let written = pieces.written.clone();
    let strict = Strict::new(pieces, Bytes::new(), limits);
    let switch = strict.switch();
    // Half-close, so that the end of the pieces does not cut off answers.
    let outcome = serve(strict, written, true).await;
    Outcome { violation: switch.violation(), ..outcome }
}

/// What can be read of it without hyper.
struct Read {
    bytes: Vec<u8>,
    end: io::Result<usize>,
    violation: Option<Violation>,
}

async fn read_all(pieces: &[&[u8]]) -> Read {
    let mut strict = Strict::new(Pieces::new(pieces), Bytes::new(), Limits::default());
    let mut bytes = Vec::new();
    let end = strict.read_to_end(&mut bytes).await;
    Read { bytes, end, violation: strict.switch().violation() }
}

/// Every way to cut the bytes in two, and all of them one by one.
fn cuts(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let two = (0..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]);
    two.chain([bytes.chunks(1).collect()]).collect()
}

fn chunked(body: &str) -> String {
    format!("POST /chunked HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}")
}
