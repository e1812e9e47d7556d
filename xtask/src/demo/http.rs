//! As much of an HTTP client as the demo needs: one request, one connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// More than any page of the demo; an answer that is longer is cut.
const LIMIT: u64 = 8 * 1024 * 1024;

pub struct Response {
    pub status: u16,
    pub body: String,
}

/// A GET in HTTP/1.0, whose answers are not chunked.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    send(address, &format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n"))
}

/// Sends a whole request, after whose answer the server closes.
pub fn send(address: SocketAddr, request: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(LIMIT).read_to_end(&mut bytes)?;
    let answer = String::from_utf8_lossy(&bytes);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(Response { status, body: body.to_owned() })
}
