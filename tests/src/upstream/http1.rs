//! The HTTP/1.1 side of a scripted upstream (RFC 9112).

mod read;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::behaviour::{Action, Answer};
use super::record::{Received, Shared};
use super::reply::{Closing, Cut, Framing, Piece, Reply, let_arrive};
use read::{Head, Incoming};

/// What becomes of the connection after an answer.
enum After {
    KeepAlive,
    Close,
    Reset,
}

pub(super) async fn serve(mut stream: TcpStream, connection: u64, shared: Arc<Shared>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        match exchange(&mut stream, &mut buffer, connection, &shared).await? {
            After::KeepAlive => {}
            After::Close => return stream.shutdown().await,
            After::Reset => return SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        }
    }
}

/// Reads one request and answers it.
async fn exchange(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    connection: u64,
    shared: &Shared,
) -> io::Result<After> {
    let (mut reader, mut writer) = stream.split();
    let mut incoming = Incoming { reader: &mut reader, buffer };
    let head = match incoming.head(connection).await {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(After::Close),
        Err(error) => return malformed(error, &mut writer, shared).await,
    };
    let Head { mut received, framing, expects_continue, keep_alive } = head;
    let number = shared.keep(received.clone());
    let behaviour = shared.behaviour();

    let after = if behaviour.answers_before_body() {
        let answer = behaviour.answer(&received);
        let after = give(&answer, &received, &mut incoming, &mut writer, shared).await?;
        if matches!(after, After::KeepAlive) {
            incoming.body(framing, &mut received).await?;
            shared.complete(number, &received);
        }
        after
    } else {
        if expects_continue {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if let Err(error) = incoming.body(framing, &mut received).await {
            return malformed(error, &mut writer, shared).await;
        }
        shared.complete(number, &received);
        give(&behaviour.answer(&received), &received, &mut incoming, &mut writer, shared).await?
    };
    Ok(match after {
        After::KeepAlive if !keep_alive => After::Close,
        after => after,
    })
}

/// What arrived was not HTTP, or broke off in the middle.
async fn malformed(error: io::Error, writer: &mut WriteHalf<'_>, shared: &Shared) -> io::Result<After> {
    if error.kind() == io::ErrorKind::InvalidData {
        shared.counts.malformed.add();
        writer.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
        return Ok(After::Close);
    }
    shared.counts.abandoned.add();
    Err(error)
}

/// Gives the answer unless the peer leaves meanwhile.
async fn give(
    answer: &Answer,
    request: &Received,
    incoming: &mut Incoming<'_, ReadHalf<'_>>,
    writer: &mut WriteHalf<'_>,
    shared: &Shared,
) -> io::Result<After> {
    tokio::select! {
        biased;
        after = act(answer, request, writer) => {
            // It left before it had read all.
            if after.is_err() {
                shared.counts.abandoned.add();
            }
            after
        }
        () = peer_left(incoming) => {
            shared.counts.abandoned.add();
            Ok(After::Close)
        }
    }
}

/// Waits until the peer closes; what it sends meanwhile is kept for the next request.
///
/// A peer that closes only its sending half counts as gone, which proxies do not do to upstreams.
async fn peer_left(incoming: &mut Incoming<'_, ReadHalf<'_>>) {
    const AHEAD: usize = 64 * 1024;
    while incoming.buffer.len() < AHEAD {
        if !matches!(incoming.reader.read_buf(incoming.buffer).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
}

async fn act(answer: &Answer, request: &Received, writer: &mut WriteHalf<'_>) -> io::Result<After> {
    tokio::time::sleep(answer.delay).await;
    match &answer.action {
        Action::Reply(reply) => respond(reply, request, writer).await,
        Action::Hang => std::future::pending().await,
        Action::Reset => Ok(After::Reset),
        Action::Close | Action::Refuse => Ok(After::Close),
        Action::Raw(bytes) => {
            writer.write_all(bytes).await?;
            Ok(After::Close)
        }
    }
}

async fn respond(reply: &Reply, request: &Received, writer: &mut WriteHalf<'_>) -> io::Result<After> {
    // RFC 9112 section 6.3: neither an answer to HEAD nor these statuses have a body.
    let bodiless = request.method == "HEAD" || matches!(reply.status, 204 | 304);
    writer.write_all(head(reply).as_bytes()).await?;
    if !bodiless {
        let mut pieces = reply.pieces();
        loop {
            match pieces.next().await {
                Piece::Data(data) if reply.framing == Framing::Chunked => {
                    writer.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
                    writer.write_all(&data).await?;
                    writer.write_all(b"\r\n").await?;
                }
                Piece::Data(data) => writer.write_all(&data).await?,
                Piece::Cut(Cut::Stall) => std::future::pending().await,
                Piece::Cut(Cut::Reset) => {
                    let_arrive().await;
                    return Ok(After::Reset);
                }
                Piece::Cut(Cut::Truncate) => return Ok(After::Close),
                Piece::End => break,
            }
        }
        if reply.framing == Framing::Chunked {
            let mut end = String::from("0\r\n");
            push_fields(&mut end, &reply.trailers);
            end.push_str("\r\n");
            writer.write_all(end.as_bytes()).await?;
        }
    }
    Ok(if reply.framing == Framing::UntilClose || reply.closing != Closing::KeepAlive {
        After::Close
    } else {
        After::KeepAlive
    })
}

/// Everything up to the body, interim responses included.
fn head(reply: &Reply) -> String {
    let mut head = String::new();
    for (status, fields) in &reply.interim {
        push_status(&mut head, *status);
        push_fields(&mut head, fields);
        head.push_str("\r\n");
    }
    push_status(&mut head, reply.status);
    push_fields(&mut head, &reply.headers);
    match reply.framing {
        _ if matches!(reply.status, 204 | 304) => {}
        Framing::ContentLength => push_field(&mut head, "content-length", &reply.length().to_string()),
        Framing::Chunked => push_field(&mut head, "transfer-encoding", "chunked"),
        Framing::UntilClose => {}
    }
    if reply.closing == Closing::Announced {
        push_field(&mut head, "connection", "close");
    }
    head.push_str("\r\n");
    head
}

fn push_status(head: &mut String, status: u16) {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    head.push_str(&format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default()));
}

fn push_fields(head: &mut String, fields: &[(String, String)]) {
    for (name, value) in fields {
        push_field(head, name, value);
    }
}

fn push_field(head: &mut String, name: &str, value: &str) {
    head.push_str(&format!("{name}: {value}\r\n"));
}
