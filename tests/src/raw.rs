//! Bytes over TCP, for requests that no HTTP library would send.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::LIMIT;

/// A TCP connection whose bytes the test writes and reads itself.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
}

/// A response as the bytes that came.
#[derive(Clone, Debug)]
pub struct RawResponse {
    pub status: u16,
    /// The head as it was sent, up to and including the empty line.
    pub head: String,
    /// The body, with its chunks put together.
    pub body: Bytes,
}

impl RawResponse {
    /// The first value of a field; names match in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Sends bytes and returns everything that comes back until the peer closes, within [`LIMIT`].
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> io::Result<Bytes> {
    let mut raw = Raw::connect(address).await?;
    raw.send(bytes).await?;
    raw.read_to_end().await
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Sends bytes one by one, each in a segment of its own where the kernel lets it.
    pub async fn send_slowly(&mut self, bytes: impl AsRef<[u8]>, pause: Duration) -> io::Result<()> {
        for byte in bytes.as_ref() {
            self.stream.write_u8(*byte).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Closes the sending half only.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Aborts the connection with RST.
    pub fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    /// Everything until the peer closes; a peer that resets counts as closing, one that goes on is an error after
    /// [`LIMIT`].
    pub async fn read_to_end(&mut self) -> io::Result<Bytes> {
        limited(async {
            while self.fill().await? {}
            Ok(self.buffer.split().freeze())
        })
        .await
    }

    /// Whether the peer closes, or resets, within `patience` without having sent anything more.
    pub async fn closes_within(&mut self, patience: Duration) -> bool {
        self.buffer.is_empty() && matches!(tokio::time::timeout(patience, self.fill()).await, Ok(Ok(false)))
    }

    /// The next response, whatever its status; interim ones are responses too.
    pub async fn read_response(&mut self) -> io::Result<RawResponse> {
        limited(self.response()).await
    }

    /// The head of the next response only: for an answer to CONNECT, which has no body.
    pub async fn read_head(&mut self) -> io::Result<String> {
        limited(self.head()).await
    }

    async fn head(&mut self) -> io::Result<String> {
        let head = self.through(b"\r\n\r\n").await?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    async fn response(&mut self) -> io::Result<RawResponse> {
        let head = self.head().await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid(&format!("not a response: {head:?}")))?;
        let mut response = RawResponse { status, head, body: Bytes::new() };
        response.body = if status < 200 || matches!(status, 204 | 304) {
            Bytes::new()
        } else if response.header("transfer-encoding").is_some() {
            self.chunks().await?
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid("content-length is not a number"))?;
            self.take(length).await?
        } else {
            while self.fill().await? {}
            self.buffer.split().freeze()
        };
        Ok(response)
    }

    async fn chunks(&mut self) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let line = self.through(b"\r\n").await?;
            let size = String::from_utf8_lossy(&line);
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk size is malformed"))?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&self.take(size).await?);
            self.through(b"\r\n").await?;
        }
        // Trailers, up to an empty line.
        while self.through(b"\r\n").await?.len() > 2 {}
        Ok(body.freeze())
    }

    /// Bytes up to and including `end`.
    async fn through(&mut self, end: &[u8]) -> io::Result<Bytes> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.split_to(at + end.len()).freeze());
            }
            self.fill_or_fail().await?;
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Bytes> {
        while self.buffer.len() < length {
            self.fill_or_fail().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads once; false when the peer has closed or reset.
    async fn fill(&mut self) -> io::Result<bool> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(read) => Ok(read > 0),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
