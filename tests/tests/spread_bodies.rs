//! Heads, bodies and trailers pass between a caller and an exchange on another worker as they do on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use weir_tests::busy::{self, Busy, is_busy, setup, stop, taken_over};
use weir_tests::client::{self, Client, EchoClient};
use weir_tests::frames::{self, Frames};
use weir_tests::upstream::{
    Answer, Behaviour, EchoRequest, GrpcUpstream, HELD, MIB, Received, Reply, Upstream, flood, paths, pattern, settled,
};

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_unchanged_in_both_directions() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let (setup, hang) = setup(upstream.address(), "").await?;
    let weir = setup.start();
    let busy = Busy::new(&weir, &hang).await?;
    let before = taken_over(&weir).await;
    let lengths = [0, 1, 1000, 16 * 1024, 100_000, 1 << 20, 3_000_000];
    let cases: Vec<(&str, usize)> =
        ["one", "two"].into_iter().flat_map(|service| lengths.map(|length| (service, length))).collect();
    let each = cases.iter().flat_map(|case| [case, case]);
    let responses =
        busy.send(each.clone().map(|(service, length)| client::post(service, "/", pattern(7, *length)))).await?;
    for ((service, length), response) in each.zip(responses) {
        assert!(response.status == 200 && response.broken.is_none(), "{service} {length}: {response:?}");
        assert!(response.body == pattern(7, *length), "{service} {length}: {} bytes came back", response.body.len());
    }
    assert!(taken_over(&weir).await >= before + 8.0);
    let records = weir.records(28, |record| record["outcome"] == "ok").await;
    for length in lengths {
        let with = |field: &str| records.iter().filter(|record| record[field] == length).count();
        assert_eq!((with("request_bytes"), with("response_bytes")), (4, 4), "{length}");
    }
    Ok(())
}

#[tokio::test]
async fn heads_are_answered_as_on_one_worker() -> Result {
    let script = |request: &Received| match request.path() {
        "/empty" => Answer::from(204),
        "/chunked" => Reply::new(200).body("chunked").trailer("x-trailer", "last").into(),
        "/fields" => Reply::new(418).header("x-twice", "1").header("x-twice", "2").body("fields").into(),
        "/cut" => Reply::new(200).body(vec![0; 1000]).truncate_after(400).into(),
        _ => Reply::new(200).body("body").into(),
    };
    let upstream = Upstream::start(Behaviour::new(script)).await?;
    let (setup, hang) = setup(upstream.address(), "").await?;
    let weir = setup.start();
    let busy = Busy::new(&weir, &hang).await?;
    let mut lone = Client::http2(weir.address()).await?;
    for path in ["/empty", "/chunked", "/fields", "/cut", "/", "/none"] {
        for service in ["one", "two", "nobody"] {
            for method in ["GET", "HEAD", "POST"] {
                let request =
                    || client::request(method.parse()?, service, path, if method == "POST" { "x" } else { "" });
                let before = taken_over(&weir).await;
                let expected = lone.send(request()?).await?;
                assert_eq!(taken_over(&weir).await, before);
                for response in busy.send((0..4).map(|_| request())).await? {
                    let case = format!("{method} {service} {path}: {response:?}, expected {expected:?}");
                    assert_eq!((response.status, &response.trailers), (expected.status, &expected.trailers), "{case}");
                    assert_eq!(response.broken.is_some(), expected.broken.is_some(), "{case}");
                    let own = response.header("x-weir-error").is_some();
                    // What the proxy says itself names the exchange.
                    assert!(own || response.body == expected.body, "{case}");
                    let mut fields = [response.headers.clone(), expected.headers.clone()];
                    fields.iter_mut().for_each(|fields| drop((fields.remove("date"), fields.remove("x-request-id"))));
                    assert_eq!(fields[0], fields[1], "{case}");
                }
                // What finds no route is over at once, and keeps nobody busy.
                assert!(taken_over(&weir).await > before || service == "nobody", "{method} {service} {path}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_both_ways_with_trailers() -> Result {
    const CALLS: usize = 20;
    let service = GrpcUpstream::start().await?;
    let (setup, _hang) = setup(service.address(), "").await?;
    let weir = setup.service_with("echo", &[service.address()], "http2", "timeout = \"none\"").start();
    let client = EchoClient::connect(weir.address(), "echo").await?;
    // While others wait, so that some of them run elsewhere.
    let mut waiting = JoinSet::new();
    let mut begun = 0;
    while !is_busy(&weir) {
        let mut client = client.clone();
        let ask = EchoRequest { delay_ms: 60_000, ..EchoRequest::default() };
        waiting.spawn(async move { client.unary(tonic::Request::new(ask)).await.map(drop) });
        begun += 1;
        weir.until("it waits", async || service.call_count() == begun).await;
    }
    let before = taken_over(&weir).await;
    let calls = (0..CALLS).map(|number| {
        let mut client = client.clone();
        async move {
            let (sender, receiver) = mpsc::channel::<EchoRequest>(1);
            let asked = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
            let ask = |text: String| EchoRequest { message: text, ..EchoRequest::default() };
            sender.send(ask(format!("{number}.0"))).await?;
            let mut request = tonic::Request::new(asked.boxed());
            request.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", MetadataValue::from_bytes(b"\0\xff"));
            let mut replies = client.bidi(request).await?.into_inner();
            // Each message is answered before the next is sent: neither side is held back.
            for round in 0..20 {
                let reply = replies.message().await?.context("a reply")?;
                ensure!(reply.message == format!("{number}.{round}"), "{reply:?}");
                sender.send(ask(format!("{number}.{}", round + 1))).await?;
            }
            drop(sender);
            ensure!(replies.message().await?.is_some() && replies.message().await?.is_none());
            let trailers = replies.trailers().await?.context("trailers")?;
            ensure!(trailers.get_bin("x-grpc-test-echo-trailing-bin") == Some(&MetadataValue::from_bytes(b"\0\xff")));
            Ok(())
        }
    });
    try_join_all(calls).await?;
    assert!(taken_over(&weir).await >= before + 8.0);

    // A status after messages, and one instead of them.
    let fails = |replies| EchoRequest { code: 9, status_message: "no".into(), replies, ..EchoRequest::default() };
    let before = taken_over(&weir).await;
    let calls = (0..CALLS).map(|number| {
        let mut client = client.clone();
        async move {
            let mut replies = client
                .server_stream(tonic::Request::new(fails(u32::from(number.is_multiple_of(2)) * 3)))
                .await?
                .into_inner();
            loop {
                match replies.message().await {
                    Ok(Some(_)) => {}
                    other => return Ok::<_, tonic::Status>(other.unwrap_err()),
                }
            }
        }
    });
    for status in join_all(calls).await {
        let status = status.unwrap_or_else(|status| status);
        assert_eq!((status.code() as i32, status.message()), (9, "no"));
    }
    assert!(taken_over(&weir).await >= before + 8.0);
    let records = weir.records(CALLS, |record| record["grpc_status"] == 9).await;
    assert_eq!(records.len(), CALLS);
    Ok(())
}

const LENGTH: u64 = 80 * MIB;
const BODIES: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_answers_from_another_worker() -> Result {
    let (address, written) = flood(LENGTH).await?;
    let (setup, hang) = setup(address, "timeout = \"none\"").await?;
    let weir = setup.start();
    let busy = Busy::new(&weir, &hang).await?;
    let before = taken_over(&weir).await;
    let mut opened = Vec::new();
    for _ in 0..BODIES {
        opened.push(busy.another().open(client::get("one", "/")?).await?);
    }
    assert!(taken_over(&weir).await > before);
    let held = settled(&written).await;
    assert!(held < HELD * BODIES, "{} MiB are on their way to a caller that reads nothing", held / MIB);
    let read = opened.into_iter().map(async |response: Response<Incoming>| {
        let (mut body, mut read) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            read += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        anyhow::Ok(read)
    });
    assert_eq!(try_join_all(read).await?, [LENGTH; BODIES as usize], "nothing is lost meanwhile");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_holds_up_uploads_to_another_worker() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (setup, hang) = setup(listener.local_addr()?, "timeout = \"none\"").await?;
    let weir = setup.start();
    let busy = Busy::new(&weir, &hang).await?;
    let before = taken_over(&weir).await;
    let (mut calls, mut services) = (JoinSet::new(), Vec::new());
    let sent = Arc::new(AtomicU64::new(0));
    for _ in 0..BODIES {
        let (mut client, count) = (busy.another(), sent.clone());
        calls.spawn(async move {
            let piece = Bytes::from_static(&[b'x'; 64 * 1024]);
            let pieces = stream::iter(0..LENGTH / piece.len() as u64).map(move |_| {
                count.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(piece.clone())
            });
            let request = Request::post("http://one/").header("content-length", LENGTH).body(client::stream(pieces))?;
            client.open(request).await.map(|response| response.status())
        });
        services.push(listener.accept().await?.0);
    }
    assert!(taken_over(&weir).await > before);
    let held = settled(&sent).await;
    assert!(held < HELD * BODIES, "{} MiB are on their way to a service that reads nothing", held / MIB);
    let read = services.into_iter().map(async |mut service: TcpStream| {
        let (mut buffer, mut read) = (vec![0; 256 * 1024], 0);
        // The first bytes are the head: a few too many.
        while read < LENGTH {
            let length = service.read(&mut buffer).await?;
            ensure!(length != 0, "the body ends early");
            read += length as u64;
        }
        Ok(service.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?)
    });
    try_join_all(read).await?;
    while let Some(answered) = calls.join_next().await {
        assert_eq!(answered??, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_wherever_its_exchange_runs() -> Result {
    const STREAMS: usize = 24;
    let upstream = Upstream::start(Reply::new(200).huge(1 << 30)).await?;
    let impatient = ("timeout = \"none\"", "[limits]\nwrite-timeout = \"500ms\"", "client-left");
    let timed = ("timeout = \"3s\"", "", "truncated");
    for (route, limits, outcome) in [impatient, timed] {
        upstream.forget();
        let (setup, hang) = setup(upstream.address(), route).await?;
        let weir = setup.toml(limits).start();
        let mut frames = Frames::silent(weir.address()).await?;
        frames.send(frames::PREFACE).await?;
        // Nothing may be sent on any stream.
        frames.send(frames::setting(4, 0)).await?;
        let mut numbers = (1..).step_by(2);
        while !is_busy(&weir) {
            let (begun, number) = (hang.request_count(), numbers.next().unwrap());
            frames.send(frames::get(number, "hang")).await?;
            weir.until("it hangs", async || hang.request_count() > begun).await;
        }
        let before = taken_over(&weir).await;
        for number in numbers.take(STREAMS) {
            frames.send(frames::get(number, "two")).await?;
        }
        for _ in 0..STREAMS {
            frames.next_of(frames::RST_STREAM).await?;
        }
        frames.send(frames::frame(frames::PING, 0, 0, b"are you?")).await?;
        while frames.next_of(frames::PING).await?.payload != b"are you?" {}
        weir.until("the endpoint is let go", async || upstream.abandoned_count() == STREAMS as u64).await;
        assert!(taken_over(&weir).await >= before + 4.0);
        let records = stop(weir).await?;
        let records: Vec<_> = records.iter().filter(|record| record["service"] == "two").collect();
        assert_eq!(records.len(), STREAMS);
        for record in records {
            let said = if limits.is_empty() { "deadline" } else { "write-timeout" };
            assert!(record["outcome"] == outcome && record["message"].to_string().contains(said), "{record}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn deadlines_hold_wherever_an_exchange_runs() -> Result {
    const CALLS: usize = 24;
    // Before the head of an answer.
    let upstream = Upstream::start(Answer::hang()).await?;
    let (setup, hang) = setup(upstream.address(), "timeout = \"300ms\"").await?;
    let weir = setup.start();
    let busy = Busy::new(&weir, &hang).await?;
    let before = taken_over(&weir).await;
    for response in busy.send((0..CALLS).map(|_| client::get("one", "/"))).await? {
        assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (504, Some("timeout")));
    }
    // In the middle of it.
    upstream.set(Reply::new(200).huge(100_000).stall_after(500));
    for response in busy.send((0..CALLS).map(|_| client::get("two", "/"))).await? {
        assert!(response.status == 200 && response.body.len() == 500 && response.broken.is_some(), "{response:?}");
    }
    assert!(taken_over(&weir).await >= before + 8.0);
    let records = weir.records(2 * CALLS, |record| record["error"] == "timeout").await;
    let with = |outcome: &str| records.iter().filter(|record| record["outcome"] == outcome).count();
    assert_eq!((with("error"), with("truncated")), (CALLS, CALLS));

    // gRPC callers are told in trailers.
    let service = GrpcUpstream::start().await?;
    let (setup, hang) = busy::setup(service.address(), "timeout = \"300ms\"").await?;
    let weir = setup.start();
    let busy = Busy::new(&weir, &hang).await?;
    let ask = prost::Message::encode_to_vec(&EchoRequest { delay_ms: 60_000, replies: 2, ..EchoRequest::default() });
    let message = [&[0][..], &(ask.len() as u32).to_be_bytes(), &ask].concat();
    let calls = (0..CALLS).map(|_| {
        let mut request = client::post("two", paths::SERVER_STREAM, message.clone())?;
        request.headers_mut().insert("content-type", "application/grpc".parse()?);
        request.headers_mut().insert("te", "trailers".parse()?);
        Ok(request)
    });
    for response in busy.send(calls).await? {
        assert!(response.status == 200 && response.broken.is_none(), "{response:?}");
        assert_eq!(response.trailers["grpc-status"], "4", "{response:?}");
    }
    Ok(())
}
