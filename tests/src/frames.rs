//! HTTP/2 frames over TCP, for what no HTTP/2 library would send.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::LIMIT;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A SETTINGS frame that sets one parameter.
pub fn setting(parameter: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&parameter.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// The block of fields of a GET, or of a POST, for `http://{host}/`.
pub fn request(post: bool, host: &str) -> Vec<u8> {
    let mut block = vec![if post { 0x83 } else { 0x82 }, 0x86, 0x84, 0x01, host.len() as u8];
    block.extend(host.as_bytes());
    block
}

/// A GET for `http://{host}/`.
pub fn get(stream: u32, host: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request(false, host))
}

/// An answer 200 without a body, or the head of one.
pub fn ok(stream: u32, end: bool) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &[0x88])
}

/// One end of an HTTP/2 connection.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Frames {
    /// Connects and sends the preface, and settings if there are any; the peer's are not waited for.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut frames = Self::silent(address).await?;
        frames.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        Ok(frames)
    }

    /// Connects and says nothing.
    pub async fn silent(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    /// The endpoint's end of a connection: takes the preface, and sends settings.
    pub async fn accepted(stream: TcpStream) -> io::Result<Self> {
        let mut frames = Self { stream, buffer: BytesMut::new() };
        let mut preface = [0; PREFACE.len()];
        frames.stream.read_exact(&mut preface).await?;
        frames.send(frame(SETTINGS, 0, 0, &[])).await?;
        Ok(frames)
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// The next frame; `None` when the peer has closed or reset the connection.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let (kind, flags) = (head[3], head[4]);
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    self.buffer.advance(9);
                    let payload = self.buffer.split_to(length).to_vec();
                    return Ok(Some(Frame { kind, flags, stream, payload }));
                }
            }
            match timeout(LIMIT, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// The next frame of a kind.
    pub async fn next_of(&mut self, kind: u8) -> io::Result<Frame> {
        while let Some(frame) = self.next().await? {
            if frame.kind == kind {
                return Ok(frame);
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// All frames until the peer closes.
    pub async fn rest(&mut self) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Sends bytes again and again until the peer has had enough; reads nothing meanwhile, or everything. Says whether the
    /// peer ended the connection: the other way to bear a flood is to take no more of it.
    pub async fn flood(&mut self, mut next: impl FnMut() -> Vec<u8>, reads: bool, patience: Duration) -> bool {
        let (mut reader, mut writer) = self.stream.split();
        let send = async {
            loop {
                let mut batch = Vec::new();
                while batch.len() < 16 * 1024 {
                    batch.extend(next());
                }
                if writer.write_all(&batch).await.is_err() {
                    return;
                }
            }
        };
        let read = async {
            let mut sink = vec![0; 64 * 1024];
            while reads && reader.read(&mut sink).await.is_ok_and(|length| length > 0) {}
            if !reads {
                std::future::pending::<()>().await;
            }
        };
        timeout(patience, async {
            tokio::select! { () = send => {}, () = read => {} }
        })
        .await
        .is_ok()
    }
}
