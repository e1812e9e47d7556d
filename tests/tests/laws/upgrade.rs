//! After 101 a connection is no longer HTTP: bytes go both ways until its ends are done.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message};
use weir_tests::client::{self, WebSocket, websocket};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Reply, Upstream, WebSocketUpstream, pattern};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

const ASK: &str = "GET /x HTTP/1.1\r\nhost: one\r\nconnection: Upgrade\r\nupgrade: echo/1\r\n\r\n";

fn node(address: SocketAddr, route: &str) -> Weir {
    Setup::new().workers(1).service_with("one", &[address], "http1", route).listener("identity = \"chat\"").start()
}

async fn next(socket: &mut WebSocket) -> anyhow::Result<Option<Message>> {
    Ok(tokio::time::timeout(Duration::from_secs(20), socket.next()).await?.transpose()?)
}

/// A service that switches to a protocol in which everything is said twice, until the caller is done.
async fn doubling() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await?;
                // The service speaks first, in the same segment.
                stream
                    .write_all(
                        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\nwelcome",
                    )
                    .await?;
                loop {
                    let length = stream.read(&mut buffer).await?;
                    if length == 0 {
                        stream.write_all(b"bye").await?;
                        return stream.shutdown().await;
                    }
                    stream.write_all(&buffer[..length]).await?;
                    stream.write_all(&buffer[..length]).await?;
                }
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn web_socket_messages_pass_both_ways() -> Result {
    let upstream = WebSocketUpstream::start().await?;
    let weir = node(upstream.address(), "");
    let (mut socket, response) = websocket(weir.address(), "one", "/chat?room=1").await?;
    assert_eq!(response.status(), 101);
    let messages = [
        Message::text("hello"),
        Message::text(""),
        Message::binary(pattern(0, 1_000_000)),
        Message::binary(pattern(0, 70_000)),
    ];
    for message in messages {
        socket.send(message.clone()).await?;
        assert!(next(&mut socket).await? == Some(message), "it comes back as it was");
    }
    socket.send(Message::Ping("are you there".into())).await?;
    assert_eq!(next(&mut socket).await?, Some(Message::Pong("are you there".into())));
    socket.close(None).await?;
    while next(&mut socket).await?.is_some() {}
    drop(socket);
    let handshakes = upstream.handshakes();
    assert_eq!((handshakes.len(), &*handshakes[0].target), (1, "/chat?room=1"));
    assert_eq!(
        (&handshakes[0].headers["x-service-name"], &handshakes[0].headers["host"]),
        (&"chat".parse()?, &"one".parse()?)
    );
    let records = weir.records(1, |_| true).await;
    assert_eq!(
        (records.len(), &records[0]["outcome"], &records[0]["status"]),
        (1, &"ok".into(), &101.into()),
        "{records:?}"
    );
    assert!(
        records[0]["request_bytes"].as_u64().unwrap() > 1_070_000
            && records[0]["response_bytes"].as_u64().unwrap() > 1_070_000
    );
    Ok(())
}

#[tokio::test]
async fn either_end_may_leave_a_tunnel_and_the_other_notices() -> Result {
    let upstream = WebSocketUpstream::start().await?;
    let weir = node(upstream.address(), "");
    let (mut socket, _) = websocket(weir.address(), "one", "/").await?;
    socket.send(Message::text("drop")).await?;
    assert!(matches!(socket.next().await, None | Some(Err(Error::Protocol(_) | Error::Io(_)))));
    drop(socket);
    let (mut socket, _) = websocket(weir.address(), "one", "/").await?;
    socket.send(Message::text("hello")).await?;
    next(&mut socket).await?;
    drop(socket);
    weir.until("the service is left", async || upstream.open_connections() == 0).await;
    assert_eq!(weir.records(2, |record| record["status"] == 101).await.len(), 2);
    Ok(())
}

#[tokio::test]
async fn any_protocol_passes_and_either_direction_may_end_first() -> Result {
    let weir = node(doubling().await?, "");
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send(ASK).await?;
    let response = raw.read_response().await?;
    assert_eq!((response.status, response.header("upgrade")), (101, Some("echo/1")));
    assert!(response.header("connection").is_some_and(|connection| connection.eq_ignore_ascii_case("upgrade")));
    // Bytes that would be malformed HTTP.
    raw.send("\0\n\r\u{7f}GET").await?;
    raw.finish().await?;
    assert_eq!(raw.read_to_end().await?, "welcome\0\n\r\u{7f}GET\0\n\r\u{7f}GETbye");
    let records = weir.records(1, |_| true).await;
    assert_eq!(
        (records.len(), &records[0]["outcome"], &records[0]["request_bytes"], &records[0]["response_bytes"]),
        (1, &"ok".into(), &7.into(), &24.into()),
        "{records:?}"
    );
    Ok(())
}

#[tokio::test]
async fn connect_opens_a_tunnel_where_the_listener_allows_it() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let weir = Setup::new().workers(1).service("one", &[listener.local_addr()?]).listener("connect = true").start();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            stream.write_all(&[&b"heard "[..], &heard].concat()).await?;
        }
        std::io::Result::Ok(())
    });
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send("CONNECT one:80 HTTP/1.1\r\nhost: one:80\r\n\r\nearly ").await?;
    let response = raw.read_head().await?;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    raw.send("\0late").await?;
    raw.finish().await?;
    assert_eq!(raw.read_to_end().await?, "heard early \0late");
    let records = weir.records(1, |_| true).await;
    assert_eq!(
        (records.len(), &records[0]["outcome"], &records[0]["request_bytes"]),
        (1, &"ok".into(), &11.into()),
        "{records:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_deadline_does_not_cut_a_tunnel() -> Result {
    let weir = node(doubling().await?, "timeout = \"300ms\"");
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send(ASK).await?;
    assert_eq!(raw.read_response().await?.status, 101);
    tokio::time::sleep(Duration::from_millis(900)).await;
    raw.send("late").await?;
    raw.finish().await?;
    assert_eq!(raw.read_to_end().await?, "welcomelatelatebye");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_goes_on_while_the_node_drains() -> Result {
    let weir = node(doubling().await?, "");
    let (address, admin) = (weir.address(), weir.admin());
    let mut raw = Raw::connect(address).await?;
    raw.send(ASK).await?;
    assert_eq!(raw.read_response().await?.status, 101);
    let stopped = tokio::task::spawn_blocking(move || weir.stop());
    while client::fetch(admin, "admin", "/readyz").await?.status == 200 {}
    while TcpStream::connect(address).await.is_ok() {}
    raw.send("late").await?;
    raw.finish().await?;
    assert_eq!(raw.read_to_end().await?, "welcomelatelatebye");
    let records = stopped.await?;
    assert_eq!((records.len(), &records[0]["outcome"]), (1, &"ok".into()), "{records:?}");
    Ok(())
}

#[tokio::test]
async fn a_service_may_decline_and_the_connection_goes_on_as_http() -> Result {
    let upstream = Upstream::start(Reply::new(426).body("not here")).await?;
    let weir = node(upstream.address(), "");
    let mut raw = Raw::connect(weir.address()).await?;
    for _ in 0..2 {
        raw.send(ASK).await?;
        let response = raw.read_response().await?;
        assert_eq!((response.status, &response.body[..]), (426, &b"not here"[..]));
        assert_eq!(upstream.last().unwrap().header("upgrade"), Some("echo/1"));
    }
    Ok(())
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_502() -> Result {
    let weir = node(doubling().await?, "");
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send("GET / HTTP/1.1\r\nhost: one\r\n\r\n").await?;
    let response = raw.read_response().await?;
    assert_eq!((response.status, response.header("x-weir-error")), (502, Some("protocol")), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn nobody_upgrades_to_http2_behind_the_proxy() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(upstream.address(), "");
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send("GET / HTTP/1.1\r\nhost: one\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n").await?;
    assert_eq!(raw.read_response().await?.status, 200);
    let arrived = upstream.last().unwrap();
    assert_eq!(
        (arrived.header("upgrade"), arrived.header("http2-settings"), arrived.header("connection")),
        (None, None, None)
    );
    Ok(())
}
