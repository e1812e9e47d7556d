//! A service that writes as fast as it can, and how to tell that it is held up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub const MIB: u64 = 1024 * 1024;
/// What two sockets, two HTTP libraries and the proxy may hold of a body that nobody reads. The kernel alone lets a
/// connection over loopback hold up to 10 MiB.
pub const HELD: u64 = 40 * MIB;

/// An HTTP/1.1 service that sends a body of `length` bytes as fast as it can, and how much of it was written.
pub async fn flood(length: u64) -> io::Result<(SocketAddr, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await?;
                stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await?;
                let piece = [b'x'; 64 * 1024];
                for _ in 0..length / piece.len() as u64 {
                    stream.write_all(&piece).await?;
                    count.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
                io::Result::Ok(())
            });
        }
    });
    Ok((address, written))
}

/// Waits until a count has not grown for half a second: whoever counts is held up.
pub async fn settled(count: &AtomicU64) -> u64 {
    loop {
        let before = count.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if before > 0 && count.load(Ordering::Relaxed) == before {
            return before;
        }
    }
}
