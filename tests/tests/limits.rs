//! Peers that keep a connection and do nothing with it: each wait has an end.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weir_tests::client::{self, Client};
use weir_tests::frames::{self, END_HEADERS, END_STREAM, Frames, frame};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Reply, Upstream};
use weir_tests::weir::Setup;

type Result<T = ()> = anyhow::Result<T>;

const SHORT: &str = "[limits]\nheader-timeout = \"300ms\"\nidle-timeout = \"300ms\"";
const IMPATIENT: &str = "[limits]\nwrite-timeout = \"500ms\"";

#[tokio::test]
async fn a_caller_that_takes_nothing_is_let_go_without_a_deadline_too() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(1 << 30)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(IMPATIENT).start();
    let mut held = Vec::new();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.open(client::get(service, "/")?).await?;
            held.push((client, response));
        }
    }
    weir.until("the endpoint is let go", async || upstream.abandoned_count() == 4).await;
    let records = weir.all_records().await?;
    assert!(records.iter().all(|record| record["outcome"] == "client-left"), "{records:#?}");
    // Over HTTP/1 the socket tells, which knows of no exchange.
    let explained = |record: &&serde_json::Value| record["message"].to_string().contains("write-timeout");
    assert_eq!(records.iter().filter(explained).count(), 2, "{records:#?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_that_reads_slowly_is_not_one_that_takes_nothing() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(16 << 20)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(IMPATIENT).start();
    let mut stream = TcpStream::connect(weir.address()).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n").await?;
    let (mut read, mut buffer, begun) = (0, vec![0; 1 << 20], Instant::now());
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => read += length,
        }
        if begun.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(read > 16 << 20, "{read}");
    assert_eq!(weir.all_records().await?[0]["outcome"], "ok");
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_and_its_connection_stays() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(1 << 30)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"500ms\"").start();
    for service in ["one", "two"] {
        let mut frames = Frames::silent(weir.address()).await?;
        frames.send(frames::PREFACE).await?;
        // Nothing may be sent on any stream.
        frames.send(frames::setting(4, 0)).await?;
        frames.send(frames::get(1, service)).await?;
        let reset = frames.next_of(frames::RST_STREAM).await?;
        assert_eq!(reset.stream, 1);
        frames.send(frame(frames::PING, 0, 0, b"are you?")).await?;
        while frames.next_of(frames::PING).await?.payload != b"are you?" {}
    }
    weir.until("the endpoint is let go", async || upstream.abandoned_count() == 2).await;
    let records = weir.all_records().await?;
    assert!(records.iter().all(|record| record["error"] == "timeout"), "{records:#?}");
    Ok(())
}

/// An endpoint that answers each request at once and never reads its body.
async fn deaf(http2: bool) -> Result<(std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<&'static str>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                if http2 {
                    let mut frames = Frames::accepted(stream).await?;
                    let stream = frames.next_of(frames::HEADERS).await?.stream;
                    frames.send(frames::ok(stream, true)).await?;
                    // Reads frames, but opens no window.
                    frames.next_of(frames::RST_STREAM).await?;
                    tell.send("reset").ok();
                } else {
                    stream.set_nodelay(true)?;
                    socket2::SockRef::from(&stream).set_recv_buffer_size(4096)?;
                    let mut head = [0; 16];
                    stream.read_exact(&mut head).await?;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
                    std::future::pending::<()>().await;
                }
                anyhow::Ok(())
            });
        }
    });
    Ok((address, told))
}

#[tokio::test]
async fn an_endpoint_that_answers_and_does_not_take_the_request_is_let_go() -> Result {
    for protocol in ["http1", "http2"] {
        let (address, mut told) = deaf(protocol == "http2").await?;
        let weir = Setup::new().workers(1).service_with("deaf", &[address], protocol, "timeout = \"none\"").start();
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send("POST / HTTP/1.1\r\nhost: deaf\r\ncontent-length: 100000000\r\n\r\n").await?;
        let upload = tokio::spawn(async move {
            let piece = vec![b'x'; 1 << 20];
            let response = raw.read_response().await?;
            while raw.send(&piece).await.is_ok() {}
            anyhow::Ok(response.status)
        });
        if protocol == "http1" {
            let open = "weir_upstream_connections{service=\"deaf\"}";
            weir.until("the connection is closed", async || weir.metric(open).await == Some(0.0)).await;
        } else {
            let told = tokio::time::timeout(client::LIMIT, told.recv()).await;
            assert_eq!(told, Ok(Some("reset")));
        }
        let active = "weir_exchanges_in_flight{kind=\"call\",route=\"deaf/\"}";
        weir.until("the exchange has ended", async || weir.metric(active).await == Some(0.0)).await;
        upload.abort();
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_closed() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").toml(SHORT).start();
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send("GET / HTTP/1.1\r\nhost: one\r\n\r\n").await?;
    assert_eq!(raw.read_response().await?.status, 200);
    assert!(raw.closes_within(client::LIMIT).await);

    let mut frames = Frames::connect(weir.address()).await?;
    frames.send(frames::get(1, "one")).await?;
    frames.next_of(frames::HEADERS).await?;
    let begun = Instant::now();
    // It is told to go, and told why: there is no error. It does not, and is left.
    let away = frames.next_of(frames::GOAWAY).await?;
    assert_eq!(away.payload[4..8], [0; 4], "{away:?}");
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    frames.rest().await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_in_use_keeps_its_connection() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(20).trickle(1, Duration::from_millis(100))).await?;
    let weir = Setup::in_front_of(upstream.address(), "").toml(SHORT).start();
    for http2 in [false, true] {
        let address = weir.address();
        let mut client = if http2 { Client::http2(address).await? } else { Client::http1(address).await? };
        let response = client.send(client::get("one", "/")?).await?;
        assert_eq!((response.status.as_u16(), response.body.len(), &response.broken), (200, 20, &None));
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_that_stalls_in_a_head_is_let_go() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "")
        .toml("[limits]\nheader-timeout = \"300ms\"\nidle-timeout = \"1h\"")
        .start();
    let block = frames::request(false, "one");
    let settings = frame(frames::SETTINGS, 0, 0, &[]);
    let whole = frames::get(1, "one");
    let begun: [(&str, Vec<u8>); 5] = [
        ("nothing", vec![]),
        ("preface", frames::PREFACE.to_vec()),
        ("half of the settings", [frames::PREFACE, &settings[..5]].concat()),
        ("half of a head", [frames::PREFACE, &settings, &whole[..12]].concat()),
        ("a head that goes on", [frames::PREFACE, &settings, &frame(frames::HEADERS, END_STREAM, 1, &block)].concat()),
    ];
    for (name, bytes) in begun {
        let mut frames = Frames::silent(weir.address()).await?;
        frames.send(&bytes).await?;
        let ended = frames.rest().await;
        assert!(ended.is_ok(), "{name}: {ended:?}");
    }
    assert_eq!(upstream.request_count(), 0);
    // One that is whole may take its time for the next.
    let mut frames = Frames::connect(weir.address()).await?;
    for stream in [1, 3] {
        let continued = frame(frames::HEADERS, END_STREAM, stream, &block[..3]);
        frames.send([continued, frame(frames::CONTINUATION, END_HEADERS, stream, &block[3..])].concat()).await?;
        assert_eq!(frames.next_of(frames::HEADERS).await?.stream, stream);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(Client::http2(weir.address()).await?.send(client::get("one", "/")?).await?.status, 200);
    Ok(())
}
