//! The floor: the least that a proxy made of hyper does. One thread, round robin, kept connections, no policy, no limits.
//! A call that came by one protocol goes on by the same.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::Either;
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

const HOP_BY_HOP: [HeaderName; 4] = [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];

/// Serves HTTP/1.1 at one address and HTTP/2 at the other until the process is ended.
pub fn run(on_http1: SocketAddr, on_http2: SocketAddr, endpoints: &[SocketAddr]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let endpoints = endpoints.iter().map(Endpoint::new).collect();
    let floor = Rc::new(Floor { endpoints, next: Cell::new(0) });
    LocalSet::new().block_on(&runtime, async {
        let (one, two) = (TcpListener::bind(on_http1).await?, TcpListener::bind(on_http2).await?);
        loop {
            tokio::select! {
                accepted = one.accept() => floor.clone().serve(accepted?.0, Version::HTTP_11)?,
                accepted = two.accept() => floor.clone().serve(accepted?.0, Version::HTTP_2)?,
            }
        }
    })
}

struct Floor {
    endpoints: Vec<Endpoint>,
    next: Cell<usize>,
}

struct Endpoint {
    address: SocketAddr,
    /// Those that carry nothing just now.
    http1: RefCell<Vec<http1::SendRequest<Incoming>>>,
    http2: RefCell<Option<http2::SendRequest<Incoming>>>,
}

impl Endpoint {
    fn new(address: &SocketAddr) -> Self {
        Self { address: *address, http1: RefCell::default(), http2: RefCell::default() }
    }

    async fn idle_http1(&self) -> Result<http1::SendRequest<Incoming>> {
        loop {
            let kept = self.http1.borrow_mut().pop();
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let (mut sender, connection) = http1::handshake(self.connect().await?).await?;
        spawn_local(connection);
        sender.ready().await?;
        Ok(sender)
    }

    async fn open_http2(&self) -> Result<http2::SendRequest<Incoming>> {
        let kept = self.http2.borrow().clone();
        if let Some(sender) = kept.filter(|sender| !sender.is_closed()) {
            return Ok(sender);
        }
        let (sender, connection) = http2::handshake(LocalExecutor, self.connect().await?).await?;
        spawn_local(connection);
        Ok(self.http2.borrow_mut().insert(sender).clone())
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

impl Floor {
    fn serve(self: Rc<Self>, stream: TcpStream, version: Version) -> Result<()> {
        stream.set_nodelay(true)?;
        let service = service_fn(move |request| {
            let floor = self.clone();
            async move { Ok::<_, Infallible>(floor.forward(request).await) }
        });
        let stream = TokioIo::new(stream);
        // A caller that leaves is no business of the others.
        if version == Version::HTTP_2 {
            let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
            let connection = builder.max_concurrent_streams(1024).serve_connection(stream, service);
            spawn_local(async move { drop(connection.await) });
        } else {
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(stream, service);
            spawn_local(async move { drop(connection.await) });
        }
        Ok(())
    }

    async fn forward(self: Rc<Self>, mut request: Request<Incoming>) -> Response<Either<Kept, Empty<Bytes>>> {
        let chosen = self.next.get();
        self.next.set((chosen + 1) % self.endpoints.len());
        strip(request.headers_mut());
        let sent = match request.version() {
            Version::HTTP_2 => self.send_http2(chosen, request).await,
            _ => self.send_http1(chosen, request).await,
        };
        sent.map_or_else(
            |_| {
                let mut response = Response::new(Either::Right(Empty::new()));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            },
            |mut response| {
                strip(response.headers_mut());
                response.map(Either::Left)
            },
        )
    }

    async fn send_http1(self: Rc<Self>, chosen: usize, request: Request<Incoming>) -> Result<Response<Kept>> {
        let mut sender = self.endpoints[chosen].idle_http1().await?;
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| Kept { body, connection: Some((self, chosen, sender)) }))
    }

    async fn send_http2(&self, chosen: usize, request: Request<Incoming>) -> Result<Response<Kept>> {
        let mut sender = self.endpoints[chosen].open_http2().await?;
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| Kept { body, connection: None }))
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The body of an answer; when it has ended, its connection is kept for another call.
struct Kept {
    body: Incoming,
    connection: Option<(Rc<Floor>, usize, http1::SendRequest<Incoming>)>,
}

impl Body for Kept {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some((floor, chosen, sender)) = self.connection.take().filter(|_| self.body.is_end_stream()) {
            floor.endpoints[chosen].http1.borrow_mut().push(sender);
        }
    }
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}
