//! A stream after the other over a shared HTTP/2 connection.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Version};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Asked, Caller};
use crate::peers::endpoints::BODY;

/// Clones share the connection.
#[derive(Clone)]
pub struct Stream {
    connection: SendRequest<Bytes>,
    request: Request<()>,
}

impl Stream {
    /// Opens a connection, of which `drivers` gets the task.
    pub async fn open(proxy: SocketAddr, asked: &Asked, drivers: &mut JoinSet<()>) -> Result<Self> {
        const WINDOW: u32 = 1024 * 1024;
        let stream = TcpStream::connect(proxy).await?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (connection, driver) = builder.handshake(stream).await?;
        // Its end shows in the streams.
        drivers.spawn(async move { drop(driver.await) });
        let request = Request::get("http://bench/")
            .version(Version::HTTP_2)
            .header("authorization", format!("Bearer {}", asked.token))
            .body(())?;
        Ok(Self { connection, request })
    }
}

impl Caller for Stream {
    async fn call(&mut self) -> Result<()> {
        let mut connection = self.connection.clone().ready().await?;
        let (answer, _) = connection.send_request(self.request.clone(), true)?;
        let answer = answer.await?;
        ensure!(answer.status() == 200, "status {}", answer.status());
        let (mut body, mut length) = (answer.into_body(), 0);
        while let Some(data) = body.data().await {
            let data = data?;
            length += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        ensure!(length == BODY, "a body of {length} bytes");
        Ok(())
    }
}
