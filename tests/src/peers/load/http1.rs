//! An HTTP/1.1 connection that is kept, as cheap as it can be: fixed bytes out, the end of the answer found.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{BUFFER, is_complete};
use super::{Asked, Caller};

pub struct Connection {
    stream: TcpStream,
    request: Arc<[u8]>,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(proxy: SocketAddr, asked: &Asked) -> Result<Self> {
        let stream = TcpStream::connect(proxy).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: asked.bytes().into(), buffer: vec![0; BUFFER] })
    }
}

impl Caller for Connection {
    async fn call(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(read > 0, "the connection was closed before the end of an answer");
            filled += read;
            if is_complete(&self.buffer[..filled])? {
                return Ok(());
            }
        }
    }
}
