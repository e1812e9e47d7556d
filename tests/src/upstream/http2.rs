//! The HTTP/2 side of a scripted upstream (RFC 9113, prior knowledge).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::behaviour::{Action, Answer};
use super::record::{Received, Shared};
use super::reply::{Closing, Cut, Framing, Piece, Reply, let_arrive};

/// What becomes of the connection after an answer.
enum After {
    KeepAlive,
    GoAway,
    Close,
    Reset,
}

pub(super) async fn serve(stream: TcpStream, connection: u64, shared: Arc<Shared>) -> io::Result<()> {
    const WINDOW: u32 = 1024 * 1024;
    // A second handle on the socket: the first one disappears into the HTTP/2 connection.
    let socket = SockRef::from(&stream).try_clone()?;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let mut http2 = builder.handshake::<_, Bytes>(stream).await.map_err(|error| broken(error, &shared))?;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = http2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(exchange(request, respond, connection, shared.clone()));
                }
                Some(Err(error)) => return Err(broken(error, &shared)),
                None => break,
            },
            Some(ended) = streams.join_next() => match ended {
                Ok(After::GoAway) => http2.graceful_shutdown(),
                Ok(After::Close) => return Ok(()),
                Ok(After::Reset) => return socket.set_linger(Some(Duration::ZERO)),
                Ok(After::KeepAlive) | Err(_) => {}
            },
        }
    }
    // The peer left: what still waits to be answered notices, and is counted.
    drop(http2);
    while streams.join_next().await.is_some() {}
    Ok(())
}

fn broken(error: h2::Error, shared: &Shared) -> io::Error {
    if !error.is_io() && !error.is_remote() {
        shared.counts.malformed.add();
    }
    io::Error::other(error)
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: u64,
    shared: Arc<Shared>,
) -> After {
    let given = answer(request, &mut respond, connection, &shared).await;
    given.unwrap_or_else(|_| {
        shared.counts.abandoned.add();
        After::KeepAlive
    })
}

/// Reads one request and answers it; fails when the peer left.
async fn answer(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    connection: u64,
    shared: &Shared,
) -> Result<After, h2::Error> {
    let (head, mut body) = request.into_parts();
    let mut received = Received {
        at: Instant::now(),
        connection,
        version: Version::HTTP_2,
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: head.uri.authority().map(ToString::to_string),
        headers: fields(&head.headers),
        body: Bytes::new(),
        trailers: Vec::new(),
    };
    if received.authority.is_none() {
        received.authority = received.header("host").map(str::to_owned);
    }
    let number = shared.keep(received.clone());
    let behaviour = shared.behaviour();
    if behaviour.answers_before_body() {
        let after = give(&behaviour.answer(&received), &received, respond).await?;
        read(&mut body, &mut received).await?;
        shared.complete(number, &received);
        return Ok(after);
    }
    if received.header("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue")) {
        respond.send_informational(head_of(100, &[]))?;
    }
    read(&mut body, &mut received).await?;
    shared.complete(number, &received);
    give(&behaviour.answer(&received), &received, respond).await
}

async fn read(body: &mut RecvStream, received: &mut Received) -> Result<(), h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    received.body = whole.freeze();
    received.trailers = body.trailers().await?.as_ref().map(fields).unwrap_or_default();
    Ok(())
}

async fn give(answer: &Answer, request: &Received, respond: &mut SendResponse<Bytes>) -> Result<After, h2::Error> {
    tokio::select! {
        () = tokio::time::sleep(answer.delay) => {}
        reset = poll_fn(|context| respond.poll_reset(context)) => return Err(left(reset)),
    }
    match &answer.action {
        Action::Reply(reply) => reply_with(reply, request, respond).await,
        Action::Hang => Err(left(poll_fn(|context| respond.poll_reset(context)).await)),
        Action::Reset => Ok(After::Reset),
        Action::Close => Ok(After::Close),
        Action::Refuse => Ok(reset(respond, Reason::REFUSED_STREAM)),
        Action::Raw(_) => Ok(reset(respond, Reason::INTERNAL_ERROR)),
    }
}

fn reset(respond: &mut SendResponse<Bytes>, reason: Reason) -> After {
    respond.send_reset(reason);
    After::KeepAlive
}

/// The peer reset the stream, or the connection ended.
fn left(reset: Result<Reason, h2::Error>) -> h2::Error {
    reset.map_or_else(|error| error, h2::Error::from)
}

async fn reply_with(reply: &Reply, request: &Received, respond: &mut SendResponse<Bytes>) -> Result<After, h2::Error> {
    for (status, fields) in &reply.interim {
        respond.send_informational(head_of(*status, fields))?;
    }
    let bodiless = request.method == "HEAD" || matches!(reply.status, 204 | 304);
    let mut head = head_of(reply.status, &reply.headers);
    if reply.framing == Framing::ContentLength && !matches!(reply.status, 204 | 304) {
        head.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(reply.length()));
    }
    let no_trailers = reply.trailers.is_empty();
    let only_head = bodiless || (reply.length() == 0 && no_trailers);
    let mut stream = respond.send_response(head, only_head)?;
    if !only_head {
        let mut pieces = reply.pieces();
        loop {
            match pieces.next().await {
                Piece::Data(data) => send(&mut stream, data).await?,
                Piece::Cut(Cut::Stall) => {
                    return Err(left(poll_fn(|context| stream.poll_reset(context)).await));
                }
                Piece::Cut(cut) => {
                    let reason = if cut == Cut::Reset { Reason::INTERNAL_ERROR } else { Reason::CANCEL };
                    let_arrive().await;
                    stream.send_reset(reason);
                    return Ok(After::KeepAlive);
                }
                Piece::End => break,
            }
        }
        if no_trailers {
            stream.send_data(Bytes::new(), true)?;
        } else {
            let (head, ()) = head_of(200, &reply.trailers).into_parts();
            stream.send_trailers(head.headers)?;
        }
    }
    Ok(if reply.closing == Closing::KeepAlive { After::KeepAlive } else { After::GoAway })
}

/// Sends within the peer's flow-control window.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|context| stream.poll_capacity(context)).await;
        let granted = granted.unwrap_or(Err(Reason::CANCEL.into()))?;
        stream.send_data(data.split_to(granted.min(data.len())), false)?;
    }
    Ok(())
}

/// A head from a script; fields that HTTP/2 cannot carry are left out.
fn head_of(status: u16, fields: &[(String, String)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    let parsed = fields
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?)));
    for (name, value) in parsed {
        response.headers_mut().append(name, value);
    }
    response
}

fn fields(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    let field =
        |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()));
    headers.iter().map(field).collect()
}
