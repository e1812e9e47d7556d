//! Laws of the upstream side, against real servers on this machine. Here: what they need.

mod http1;
mod http2;
mod pool;

use super::{Clients, Counts, SendError, UpstreamBody};
use crate::config;
use crate::service::ServiceOptions;
use crate::service::endpoint::Endpoint;
use crate::telemetry::metrics::handles::ServiceMetrics;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local};

type Sent = UnsyncBoxBody<Bytes, io::Error>;
type Answered = Result<Response<UpstreamBody>, SendError>;

/// Runs a law as a worker would run it.
fn on_worker(law: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(60), law).await.expect("the law hangs") };
    LocalSet::new().block_on(&runtime, limited);
}

/// Waits for what other tasks bring about.
#[track_caller]
fn eventually(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let (here, began) = (std::panic::Location::caller(), Instant::now());
    async move {
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(30), "never came about: {here}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Lets a future go as far as it can without waiting.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// One worker's clients, and one endpoint.
struct World {
    clients: Clients<Sent>,
    service: Arc<str>,
    endpoint: Endpoint,
    options: ServiceOptions,
    metrics: ServiceMetrics,
}

const HTTP1: ServiceOptions = ServiceOptions {
    protocol: config::Protocol::Http1,
    connect_timeout: Duration::from_secs(20),
    idle_timeout: Duration::from_secs(60),
    max_connections: 8,
    max_pending: 1024,
};

const HTTP2: ServiceOptions = ServiceOptions { protocol: config::Protocol::Http2, ..HTTP1 };

impl World {
    fn new(address: impl ToString, options: ServiceOptions) -> Rc<Self> {
        let metrics = ServiceMetrics { open: Gauge::default(), idle: Gauge::default() };
        let gauges = metrics.clone();
        let spec = config::Endpoint { address: address.to_string(), weight: 1, metadata: Default::default() };
        Rc::new(Self {
            clients: Clients::new(move |_| gauges.clone()),
            service: "orders".into(),
            endpoint: Endpoint::new(0, &spec),
            options,
            metrics,
        })
    }

    async fn send(&self, request: Request<Sent>) -> Answered {
        self.clients.send(&self.service, &self.endpoint, &self.options, request).await
    }

    async fn get(&self) -> Answered {
        self.send(request("GET", Empty::new().map_err(never).boxed_unsync())).await
    }

    /// Sends a GET and reads the answer.
    async fn text(&self) -> String {
        read(self.get().await.unwrap()).await
    }

    async fn failure(&self) -> SendError {
        self.get().await.map(|answer| answer.status()).unwrap_err()
    }

    /// Sends a GET in a task of its own, which ends with the text of the answer.
    fn start(self: &Rc<Self>) -> tokio::task::JoinHandle<Result<String, SendError>> {
        let world = self.clone();
        spawn_local(async move { Ok(read(world.get().await?).await) })
    }

    fn counts(&self) -> Counts {
        self.clients.counts()
    }

    /// Open and idle connections, by the metrics.
    fn gauges(&self) -> (i64, i64) {
        (self.metrics.open.get(), self.metrics.idle.get())
    }
}

fn never<E>(never: Infallible) -> E {
    match never {}
}

fn request(method: &str, body: Sent) -> Request<Sent> {
    let request = Request::builder().method(method).uri("http://orders/").header("host", "orders");
    request.body(body).unwrap()
}

fn text(text: impl Into<Bytes>) -> Sent {
    Full::new(text.into()).map_err(never).boxed_unsync()
}

/// A body of the frames that are sent to it.
fn frames() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, io::Error>>, Sent) {
    struct Frames(mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>);
    impl Body for Frames {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            self.get_mut().0.poll_recv(context)
        }
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Frames(receiver).boxed_unsync())
}

/// Holds requests back.
#[derive(Default)]
struct Gate {
    pass: Notify,
    arrived: Cell<usize>,
    passed: Cell<usize>,
}

impl Gate {
    /// Lets one request be answered, now or when it comes.
    fn open(&self) {
        self.pass.notify_one();
    }
}

type Answering = Pin<Box<dyn Future<Output = Response<Sent>>>>;

/// A handler that answers once it is let, with the number of its answer.
fn gated() -> (Rc<Gate>, impl Fn(Request<Incoming>) -> Answering + Clone) {
    let gate = Rc::new(Gate::default());
    let ours = gate.clone();
    let handler = move |_| -> Answering {
        let gate = ours.clone();
        Box::pin(async move {
            gate.arrived.set(gate.arrived.get() + 1);
            gate.pass.notified().await;
            gate.passed.set(gate.passed.get() + 1);
            Response::new(text(gate.passed.get().to_string()))
        })
    };
    (gate, handler)
}

async fn hello(_: Request<Incoming>) -> Response<Sent> {
    Response::new(text("hello"))
}

/// An address at which nobody listens.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn read(answer: Response<UpstreamBody>) -> String {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An endpoint, and how many connections it has accepted.
struct Server {
    address: std::net::SocketAddr,
    accepted: Rc<Cell<usize>>,
}

/// Serves each connection by `serve`.
async fn listen<F: Future<Output = ()> + 'static>(serve: impl Fn(TcpStream) -> F + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (listener.local_addr().unwrap(), Rc::new(Cell::new(0)));
    let count = accepted.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            spawn_local(serve(stream));
        }
    });
    Server { address, accepted }
}

async fn http1_server<F>(handler: impl Fn(Request<Incoming>) -> F + Clone + 'static) -> Server
where
    F: Future<Output = Response<Sent>> + 'static,
{
    listen(move |stream| {
        let handler = handler.clone();
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let connection = connection.serve_connection(TokioIo::new(stream), service).with_upgrades();
        async move { drop(connection.await) }
    })
    .await
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Reads one request without a body.
async fn read_head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "a whole request");
    }
}

/// An endpoint that answers each request on a connection with the next of these bytes, and then closes it.
async fn scripted(answers: &'static [&'static [u8]]) -> Server {
    listen(move |mut stream| async move {
        for answer in answers {
            read_head(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        }
    })
    .await
}

/// An endpoint that answers once on each connection and hands its side over, for the law to close.
async fn answering_once() -> (Server, mpsc::UnboundedReceiver<TcpStream>) {
    let (hand_over, streams) = mpsc::unbounded_channel();
    let server = listen(move |mut stream| {
        let hand_over = hand_over.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            hand_over.send(stream).unwrap();
        }
    })
    .await;
    (server, streams)
}
