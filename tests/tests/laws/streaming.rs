//! Bodies stream in both directions at the pace of who reads them, and one that breaks off is never taken for whole.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use weir_tests::client::{self, Client};
use weir_tests::upstream::{Answer, Behaviour, HELD, MIB, Reply, Upstream, flood, pattern, settled};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

/// Long enough for whatever is waited for to happen, however slow the machine.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_a_huge_answer() -> Result {
    const LENGTH: u64 = 96 * MIB;
    for http2 in [false, true] {
        let (address, written) = flood(LENGTH).await?;
        let weir = Setup::in_front_of(address, "timeout = \"none\"").start();
        let mut client =
            if http2 { Client::http2(weir.address()).await? } else { Client::http1(weir.address()).await? };
        let response = client.open(client::get("one", "/")?).await?;
        let held = settled(&written).await;
        assert!(held < HELD, "{} MiB are on their way to a caller that reads nothing", held / MIB);
        // And nothing is lost meanwhile.
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        assert_eq!(read, LENGTH);
        assert_eq!(
            weir.records(1, |record| record["outcome"] == "ok" && record["response_bytes"] == LENGTH).await.len(),
            1
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_holds_up_a_huge_upload() -> Result {
    const LENGTH: u64 = 96 * MIB;
    for http2 in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let weir = Setup::in_front_of(listener.local_addr()?, "timeout = \"none\"").start();
        let sent = Arc::new(AtomicU64::new(0));
        let count = sent.clone();
        let piece = Bytes::from_static(&[b'x'; 64 * 1024]);
        let pieces = stream::iter(0..LENGTH / piece.len() as u64).map(move |_| {
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(piece.clone())
        });
        let mut client =
            if http2 { Client::http2(weir.address()).await? } else { Client::http1(weir.address()).await? };
        let request = Request::post("http://one/").header("content-length", LENGTH).body(client::stream(pieces))?;
        let call = tokio::spawn(async move { client.open(request).await.map(|response| response.status()) });
        let (mut service, _) = listener.accept().await?;
        let held = settled(&sent).await;
        assert!(held < HELD, "{} MiB are on their way to a service that reads nothing", held / MIB);
        let (mut buffer, mut read) = (vec![0; 256 * 1024], 0);
        while read < LENGTH {
            let length = service.read(&mut buffer).await?;
            assert_ne!(length, 0, "the body ends early");
            // The first bytes are the head: a few too many.
            read += length as u64;
        }
        service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        assert_eq!(call.await??, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn both_directions_stream_at_once() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // Answers before the request has ended, each piece by a piece.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 4096];
            let mut seen = String::new();
            while !seen.contains("one") {
                let length = stream.read(&mut buffer).await?;
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nONE\r\n").await?;
            while !seen.contains("two") {
                let length = stream.read(&mut buffer).await?;
                seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            stream.write_all(b"3\r\nTWO\r\n0\r\n\r\n").await?;
        }
        io::Result::Ok(())
    });
    let weir = Setup::in_front_of(address, "").start();
    for mut client in weir.clients().await? {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
        let pieces = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
        let request = Request::post("http://one/").body(client::stream(pieces))?;
        sender.send(Ok(Bytes::from("one"))).await?;
        let mut body = tokio::time::timeout(SOON, client.open(request)).await??.into_body();
        let first = tokio::time::timeout(SOON, body.frame()).await?.unwrap()?;
        assert_eq!(first.data_ref().map(|data| &data[..]), Some(&b"ONE"[..]));
        sender.send(Ok(Bytes::from("two"))).await?;
        drop(sender);
        assert_eq!(tokio::time::timeout(SOON, body.collect()).await??.to_bytes(), "TWO");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_reaches_the_caller() -> Result {
    const LENGTH: usize = 8_000_000;
    let upstream = Upstream::start(Behaviour::from(Reply::new(413).body("too much")).before_body()).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.send(client::post(service, "/", pattern(0, LENGTH))?).await?;
            assert_eq!(
                (response.status.as_u16(), &*response.text(), &response.broken),
                (413, "too much", &None),
                "{service}"
            );
        }
    }
    assert_eq!(weir.records(4, |record| record["outcome"] == "ok" && record["status"] == 413).await.len(), 4);
    Ok(())
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_never_taken_for_whole() -> Result {
    let upstream = Upstream::start(Answer::from(200)).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for (abandoned, service) in [(1, "one"), (3, "two")] {
        for (more, mut client) in (0..).zip(weir.clients().await?) {
            let pieces = stream::iter([Ok(Bytes::from("half")), Err(io::Error::other("the caller breaks off"))]);
            let slowly = pieces.then(|piece| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                piece
            });
            let request = Request::post(format!("http://{service}/")).body(client::stream(slowly.boxed()))?;
            client.open(request).await.expect_err("there is no answer to half a request");
            let started = std::time::Instant::now();
            while upstream.abandoned_count() < abandoned + more && started.elapsed() < SOON {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(upstream.abandoned_count(), abandoned + more, "{service}");
            assert_eq!(upstream.last().unwrap().body, "");
        }
    }
    let records = weir.records(4, |_| true).await;
    assert!(records.len() == 4 && records.iter().all(|record| record["outcome"] == "client-left"), "{records:#?}");
    Ok(())
}
