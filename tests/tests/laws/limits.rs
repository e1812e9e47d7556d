//! Peers that keep a connection and do nothing with it: each wait has an end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use weir_tests::client::{self, Client, websocket};
use weir_tests::frames::{self, END_HEADERS, END_STREAM, Frames, frame};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream, WebSocketUpstream};
use weir_tests::weir::{Setup, Weir, guests_directory};

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
async fn a_caller_that_reads_little_at_a_time_is_served_whatever_the_kernel_holds() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(1 << 30)).await?;
    let limits = "[limits]\nwrite-timeout = \"1500ms\"";
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(limits).start();
    let socket = tokio::net::TcpSocket::new_v4()?;
    // Or its own side of the connection would take it all.
    socket.set_recv_buffer_size(16 * 1024)?;
    let mut stream = socket.connect(weir.address()).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n").await?;
    let (mut buffer, begun) = (vec![0; 16 * 1024], Instant::now());
    // In that time the kernel would not have found room for more in a buffer as large as it makes them by itself.
    while begun.elapsed() < Duration::from_secs(4) {
        stream.read_exact(&mut buffer).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.abandoned_count(), 0, "{:#?}", weir.all_records().await?);
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
        ("half of the preface", frames::PREFACE[..10].to_vec()),
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

const STILL: &str = "[limits]\nstream-idle-timeout = \"300ms\"";
/// For streams that live: between two of their pieces is a tenth of that.
const LIVELY: &str = "[limits]\nstream-idle-timeout = \"1s\"";
const PIECE: Duration = Duration::from_millis(100);

/// A POST of which some of the body comes, and then neither more nor its end.
fn unfinished(service: &str) -> Result<http::Request<client::Body>> {
    let pieces = stream::iter([Ok(Bytes::from("some"))]).chain(stream::pending());
    Ok(http::Request::post(format!("http://{service}/")).body(client::stream(pieces))?)
}

/// The only record so far.
async fn record(weir: &Weir) -> serde_json::Value {
    let records = weir.records(1, |_| true).await;
    assert_eq!(records.len(), 1, "{records:#?}");
    records[0].clone()
}

#[tokio::test]
async fn a_caller_whose_body_stops_is_told_so() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(STILL).start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.send(unfinished(service)?).await?;
            assert_eq!(
                (response.status.as_u16(), response.header("x-weir-error")),
                (408, Some("request-timeout")),
                "{response:?}"
            );
            assert!(response.text().contains("stream-idle-timeout"), "{response:?}");
        }
    }
    weir.until("the endpoint is let go", async || upstream.abandoned_count() == 4).await;
    for record in weir.all_records().await? {
        assert_eq!((&record["outcome"], &record["error"]), (&"error".into(), &"request-timeout".into()), "{record:#}");
        // It says nothing of the endpoint.
        assert_eq!(record["attempts"][0]["failure"], "cancelled", "{record:#}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_stops_before_a_policy_has_seen_it_ends_as_well() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(1_000).stall_after(100)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"\nchain = \"bodies\"")
        .with_plugin_file(&guests_directory().join("parrot.wasm"), "parrot")
        .toml("[policy.bodies]\nplugin = \"parrot\"\nconfig = { name = \"a\" }\n[chain]\nbodies = [\"bodies\"]")
        .toml(STILL)
        .start();
    for mut client in weir.clients().await? {
        let response = client.send(unfinished("one")?).await?;
        assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (408, Some("request-timeout")));
    }
    assert_eq!(upstream.request_count(), 0);
    for mut client in weir.clients().await? {
        let response = client.send(client::get("one", "/")?).await?;
        assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (504, Some("timeout")));
        assert!(response.text().contains("stream-idle-timeout"), "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_let_go_without_a_deadline_too() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(STILL).start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.send(client::post(service, "/", "all of it")?).await?;
            assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (504, Some("timeout")));
            assert!(response.text().contains("stream-idle-timeout"), "{response:?}");
        }
    }
    weir.until("the endpoint is let go", async || upstream.abandoned_count() == 4).await;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_stops_breaks_off_and_says_why() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(100_000).chunked().stall_after(1_000)).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(STILL).start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let response = client.send(client::get(service, "/")?).await?;
            assert_eq!((response.status.as_u16(), response.body.len()), (200, 1_000));
            assert!(response.broken.is_some(), "{response:?}");
        }
        let mut request = client::get(service, "/")?;
        request.headers_mut().insert("content-type", "application/grpc".parse()?);
        let response = Client::http2(weir.address()).await?.send(request).await?;
        assert_eq!(response.trailers.get("grpc-status").map(|status| status.as_bytes()), Some(&b"4"[..]));
    }
    weir.until("the endpoint is let go", async || upstream.abandoned_count() == 6).await;
    let records = weir.all_records().await?;
    assert_eq!(records.len(), 6);
    for record in records {
        assert_eq!((&record["outcome"], &record["error"]), (&"truncated".into(), &"timeout".into()), "{record:#}");
        assert!(record["message"].to_string().contains("stream-idle-timeout"), "{record:#}");
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_stream_lives_as_long_as_something_moves() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let weir = Setup::in_front_of(upstream.address(), "timeout = \"none\"").toml(LIVELY).start();
    let slow = || {
        let pieces = stream::unfold(0, |sent| async move {
            tokio::time::sleep(PIECE).await;
            (sent < 30).then(|| (Ok(Bytes::from("x")), sent + 1))
        });
        client::stream(pieces)
    };
    let mut calls = tokio::task::JoinSet::new();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let request = http::Request::post(format!("http://{service}/")).body(slow())?;
            calls.spawn(async move { client.send(request).await });
        }
    }
    for response in calls.join_all().await {
        let response = response?;
        assert_eq!((response.status.as_u16(), response.body.len()), (200, 30), "{response:?}");
    }
    // One direction is enough: of the request nothing comes meanwhile.
    upstream.set(Behaviour::from(Reply::new(200).huge(30).trickle(1, PIECE)).before_body());
    let mut calls = tokio::task::JoinSet::new();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let request = unfinished(service)?;
            calls.spawn(async move { client.send(request).await });
        }
    }
    for response in calls.join_all().await {
        let response = response?;
        assert_eq!((response.status.as_u16(), response.body.len(), &response.broken), (200, 30, &None), "{response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_route_has_its_own_patience_or_none() -> Result {
    let upstream = Upstream::start(Answer::from(200).after(Duration::from_millis(1_500))).await?;
    let own = |limit: &str| format!("timeout = \"none\"\nstream-idle-timeout = \"{limit}\"");
    for (limits, route, status) in [
        ("300ms", String::new(), 504),
        ("300ms", own("none"), 200),
        ("300ms", own("1h"), 200),
        ("none", "timeout = \"none\"".to_owned(), 200),
        ("none", own("300ms"), 504),
    ] {
        let toml = format!("[limits]\nstream-idle-timeout = \"{limits}\"");
        let weir = Setup::in_front_of(upstream.address(), &route).toml(&toml).start();
        let response = client::fetch(weir.address(), "one", "/").await?;
        assert_eq!(response.status, status, "{limits} {route:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_web_socket_in_which_nobody_speaks_is_closed() -> Result {
    let upstream = WebSocketUpstream::start().await?;
    let weir = Setup::new().workers(1).service("one", &[upstream.address()]).toml(LIVELY).start();
    let (mut socket, _) = websocket(weir.address(), "one", "/").await?;
    for _ in 0..30 {
        tokio::time::sleep(PIECE).await;
        socket.send(Message::text("hello")).await?;
        assert_eq!(socket.next().await.transpose()?, Some(Message::text("hello")));
    }
    let closed = tokio::time::timeout(client::LIMIT, socket.next()).await?;
    assert!(!matches!(closed, Some(Ok(_))), "{closed:?}");
    weir.until("the service is left", async || upstream.open_connections() == 0).await;
    let record = record(&weir).await;
    assert_eq!((&record["outcome"], &record["error"]), (&"truncated".into(), &"timeout".into()), "{record:#}");
    assert!(record["message"].to_string().contains("stream-idle-timeout"), "{record:#}");
    assert!(record["request_bytes"].as_u64() > Some(150), "{record:#}");
    Ok(())
}

#[tokio::test]
async fn a_tunnel_of_which_one_side_has_ended_and_the_other_is_silent_ends() -> Result {
    for caller_ends in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let weir = Setup::new()
            .workers(1)
            .service("one", &[listener.local_addr()?])
            .listener("connect = true")
            .toml(STILL)
            .start();
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send("CONNECT one:80 HTTP/1.1\r\nhost: one:80\r\n\r\nearly").await?;
        assert!(raw.read_head().await?.starts_with("HTTP/1.1 200 "));
        let (mut endpoint, _) = listener.accept().await?;
        let mut heard = [0; 5];
        endpoint.read_exact(&mut heard).await?;
        if caller_ends {
            raw.finish().await?;
        } else {
            endpoint.shutdown().await?;
        }
        let record = record(&weir).await;
        assert_eq!((&record["error"], &record["request_bytes"]), (&"timeout".into(), &5.into()), "{record:#}");
        tokio::time::timeout(client::LIMIT, endpoint.read(&mut heard)).await??;
        assert_eq!(raw.read_to_end().await?, "");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_was_opened_in_advance_is_idle_and_not_late() -> Result {
    let upstream = Upstream::start(Reply::new(200)).await?;
    let setup = Setup::in_front_of(upstream.address(), "");
    let weir = setup.toml("[limits]\nheader-timeout = \"200ms\"\nidle-timeout = \"1h\"").start();
    let mut stream = TcpStream::connect(weir.address()).await?;
    tokio::time::sleep(Duration::from_millis(600)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");

    drop(stream);
    // And does not hold up the node's end.
    let _silent = TcpStream::connect(weir.address()).await?;
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || weir.stop()).await?;
    assert!(begun.elapsed() < Duration::from_millis(1500), "the drain took its whole time");
    Ok(())
}
