//! Three services that cost as little as can be: whatever is asked, the same answer. They speak HTTP/1.1 and HTTP/2 on one
//! port, and take spans too.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Length of each answer's body, in bytes.
pub const BODY: usize = 1024;
static BYTES: [u8; BODY] = [b'x'; BODY];

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\
    date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n";

/// They stop when this is dropped.
pub struct Endpoints {
    pub addresses: [SocketAddr; 3],
    _tasks: JoinSet<()>,
}

impl Endpoints {
    pub async fn start() -> Result<Self> {
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?);
            tasks.spawn(accept(listener));
        }
        let addresses = addresses.try_into().map_err(|_| anyhow::anyhow!("three endpoints"))?;
        Ok(Self { addresses, _tasks: tasks })
    }

    /// Where spans may go, by OTLP over gRPC.
    pub fn collector(&self) -> SocketAddr {
        self.addresses[0]
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => { connections.spawn(serve(stream)); }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What breaks a connection shows where the load is made.
async fn serve(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => {}
        Ok(_) if &first == b"PRI" => drop(http2(stream).await),
        Ok(_) => drop(http1(stream).await),
    }
}

/// Proxies wait for an answer before they send the next request, and the requests have no bodies.
async fn http1(mut stream: TcpStream) -> std::io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    let answer = [HEAD.as_bytes(), &BYTES].concat();
    let (mut buffer, mut filled) = ([0; 8192], 0);
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        if buffer[..filled].ends_with(END) {
            stream.write_all(&answer).await?;
            filled = 0;
        }
    }
    Ok(())
}

async fn http2(stream: TcpStream) -> Result<(), h2::Error> {
    const WINDOW: u32 = 1024 * 1024;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_streams(1024);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        if request.method() == Method::POST {
            tokio::spawn(take_spans(request, respond));
            continue;
        }
        let answer = Response::builder()
            .header("content-type", "text/plain")
            .header("content-length", "1024")
            .header("date", "Sat, 21 Nov 2026 12:00:00 GMT")
            .body(())
            .unwrap_or_default();
        respond.send_response(answer, false)?.send_data(Bytes::from_static(&BYTES), true)?;
    }
    Ok(())
}

/// Answers an export with an empty message (OTLP over gRPC).
async fn take_spans(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap_or_default();
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    stream
        .send_trailers(HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]))
}
