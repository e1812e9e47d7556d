//! Reads HTTP/1.1 requests strictly: what a proxy must not send, this does not accept.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::Version;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::upstream::record::Received;

const HEAD_LIMIT: usize = 256 * 1024;
const FIELD_LIMIT: usize = 512;
const LINE_LIMIT: usize = 8 * 1024;

/// A connection's bytes, with those that were read ahead.
pub(super) struct Incoming<'a, R> {
    pub(super) reader: &'a mut R,
    pub(super) buffer: &'a mut BytesMut,
}

pub(super) struct Head {
    pub(super) received: Received,
    pub(super) framing: BodyFraming,
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    Length(usize),
    Chunked,
}

impl<R: AsyncRead + Unpin> Incoming<'_, R> {
    /// The next request's head, or none if the peer closed before it began one.
    pub(super) async fn head(&mut self, connection: u64) -> io::Result<Option<Head>> {
        loop {
            if let Some((head, length)) = parse(self.buffer, connection)? {
                let _ = self.buffer.split_to(length);
                return Ok(Some(head));
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(invalid("the head is too long"));
            }
            match self.fill().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.buffer.is_empty() => {
                    return Ok(None);
                }
                filled => filled?,
            }
        }
    }

    /// Reads the body, and the trailers if it has any, into `received`.
    pub(super) async fn body(&mut self, framing: BodyFraming, received: &mut Received) -> io::Result<()> {
        match framing {
            BodyFraming::Length(length) => received.body = self.take(length).await?,
            BodyFraming::Chunked => {
                let mut body = BytesMut::new();
                loop {
                    let size = chunk_size(&self.line().await?)?;
                    if size == 0 {
                        break;
                    }
                    body.extend_from_slice(&self.take(size).await?);
                    if !self.line().await?.is_empty() {
                        return Err(invalid("a chunk is longer than its size"));
                    }
                }
                received.body = body.freeze();
                received.trailers = self.trailers().await?;
            }
        }
        Ok(())
    }

    async fn trailers(&mut self) -> io::Result<Vec<(String, Bytes)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(trailers);
            }
            let Some((name, value)) = line.split_once(':').filter(|_| trailers.len() < FIELD_LIMIT) else {
                return Err(invalid("a trailer is malformed, or there are too many"));
            };
            trailers.push((name.to_owned(), Bytes::from(value.trim().to_owned())));
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Bytes> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// One line without its CRLF.
    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end);
                let _ = self.buffer.split_to(2);
                return String::from_utf8(line.to_vec()).map_err(|_| invalid("a line is not text"));
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(invalid("a line is too long"));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.reader.read_buf(self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Parses a complete head and tells how many bytes it takes.
fn parse(buffer: &[u8], connection: u64) -> io::Result<Option<(Head, usize)>> {
    let mut fields = vec![httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(&error.to_string())),
    };
    let version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let field = |field: &httparse::Header<'_>| (field.name.to_owned(), Bytes::copy_from_slice(field.value));
    let mut received = Received {
        at: Instant::now(),
        connection,
        version,
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        authority: None,
        headers: request.headers.iter().map(field).collect(),
        body: Bytes::new(),
        trailers: Vec::new(),
    };
    received.authority = received.header("host").map(str::to_owned);
    let says = |name: &str, token: &str| {
        received
            .headers_named(name)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let head = Head {
        framing: framing(&received)?,
        expects_continue: says("expect", "100-continue"),
        keep_alive: version == Version::HTTP_11 && !says("connection", "close"),
        received,
    };
    Ok(Some((head, length)))
}

/// RFC 9112 section 6.3, without its leniency: two ways of framing at once are an error.
fn framing(request: &Received) -> io::Result<BodyFraming> {
    let lengths = request.headers_named("content-length");
    let codings = request.headers_named("transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(BodyFraming::Length(0)),
        ([length], []) => {
            let digits = length.bytes().all(|byte| byte.is_ascii_digit());
            let length = length.parse().ok().filter(|_| digits);
            length.map(BodyFraming::Length).ok_or_else(|| invalid("content-length is not a number"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(BodyFraming::Chunked),
        _ => Err(invalid("content-length and transfer-encoding contradict each other or repeat")),
    }
}

fn chunk_size(line: &str) -> io::Result<usize> {
    let digits = line.split(';').next().unwrap_or_default().trim_end();
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let size = usize::from_str_radix(digits, 16).ok().filter(|_| hexadecimal);
    size.ok_or_else(|| invalid("a chunk size is malformed"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
