//! HTTP/2 connections that send frames for the sake of it: they end or are held back, and others do not notice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use weir_tests::client::{self, Client};
use weir_tests::frames::{self, ACK, END_HEADERS, END_STREAM, Frames, frame};
use weir_tests::process::resident;
use weir_tests::upstream::{Answer, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result<T = ()> = anyhow::Result<T>;

/// A flood that is to be ended has not been when this has passed.
const PATIENCE: Duration = Duration::from_secs(20);
/// For a neighbour's call, however slow the machine: what a flood holds up takes for ever.
const NEIGHBOUR: Duration = Duration::from_secs(5);
/// More than any of the floods may make the node hold, and far less than they send.
const MEMORY: u64 = 64 << 20;

/// One way to send frames for nothing.
struct Flood {
    name: &'static str,
    /// What comes first, with a stream 1 where one is needed.
    first: Vec<u8>,
    next: Box<dyn FnMut() -> Vec<u8> + Send>,
}

fn flood(name: &'static str, first: Vec<u8>, next: impl FnMut() -> Vec<u8> + Send + 'static) -> Flood {
    Flood { name, first, next: Box::new(next) }
}

fn streams() -> impl FnMut() -> u32 + Send {
    let mut stream = 1;
    move || {
        stream += 2;
        stream
    }
}

fn floods() -> Vec<Flood> {
    let post = |stream| frame(frames::HEADERS, END_HEADERS, stream, &frames::request(true, "slow"));
    let reset = |stream| frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let update = |stream, by: u32| frame(frames::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let (mut rapid, mut paced, mut made, mut closed) = (streams(), streams(), streams(), streams());
    let bomb = {
        // One long field that goes into the table, and then a byte for each time it is repeated.
        let mut block = frames::request(false, "slow");
        block.extend([0x40, 1, b'a', 0x7f, 0x81, 0x1e]);
        block.extend(vec![b'x'; 4_000]);
        block.extend(vec![0xbe; 10_000]);
        block
    };
    let mut bombs = streams();
    vec![
        flood("rapid reset", vec![], move || {
            let stream = rapid();
            [frames::get(stream, "slow"), reset(stream)].concat()
        }),
        flood("reset of calls that were begun", vec![], move || {
            // By sixteens, so that the node has looked at each before.
            let batch: Vec<u32> = (0..16).map(|_| paced()).collect();
            let begun = batch.iter().flat_map(|stream| frames::get(*stream, "slow"));
            let ping = frame(frames::PING, 0, 0, &[0; 8]);
            begun.chain(ping).chain(batch.iter().flat_map(|stream| reset(*stream))).collect()
        }),
        flood("made to reset", vec![], move || {
            let stream = made();
            [frames::get(stream, "slow"), update(stream, 0)].concat()
        }),
        flood("data on closed streams", vec![], move || {
            let stream = closed();
            [frames::get(stream, "slow"), frame(frames::DATA, END_STREAM, stream, b"x")].concat()
        }),
        flood("ping", vec![], || frame(frames::PING, 0, 0, &[7; 8])),
        flood("ping acknowledgement", vec![], || frame(frames::PING, ACK, 0, &[7; 8])),
        flood("settings", vec![], || frames::setting(4, 70_000)),
        flood("empty settings", vec![], || frame(frames::SETTINGS, 0, 0, &[])),
        flood("continuation", frame(frames::HEADERS, END_STREAM, 1, &frames::request(false, "slow")), || {
            frame(frames::CONTINUATION, 0, 1, &[])
        }),
        flood(
            "continuation with fields",
            frame(frames::HEADERS, END_STREAM, 1, &frames::request(false, "slow")),
            || frame(frames::CONTINUATION, 0, 1, &[&[0x00, 1, b'a', 0x7f, 0x81, 0x1e][..], &[b'x'; 4_000]].concat()),
        ),
        flood("empty fields", frame(frames::HEADERS, END_STREAM, 1, &frames::request(false, "slow")), || {
            frame(frames::CONTINUATION, 0, 1, &[0x00, 0, 0].repeat(5_000))
        }),
        flood("empty data", post(1), || frame(frames::DATA, 0, 1, &[])),
        flood("window update", post(1), move || update(1, 1)),
        flood("window update of the connection", vec![], move || update(0, 1)),
        flood("priority", vec![], || frame(frames::PRIORITY, 0, 3, &[0, 0, 0, 1, 16])),
        flood("unknown frames", vec![], || frame(0xee, 0, 0, &[])),
        flood("compressed fields", vec![], move || {
            let stream = bombs();
            frame(frames::HEADERS, END_STREAM | END_HEADERS, stream, &bomb)
        }),
    ]
}

/// A service that answers, and one that never does, behind one worker.
fn node(quick: &Upstream, slow: &Upstream) -> Weir {
    Setup::new()
        .workers(1)
        .service("quick", &[quick.address()])
        .service_with("slow", &[slow.address()], "http2", "timeout = \"none\"")
        .start()
}

/// Calls again and again until told to stop; says how long the longest call took.
async fn neighbour(address: SocketAddr, stop: tokio::sync::oneshot::Receiver<()>) -> Result<(u32, Duration)> {
    let mut client = Client::http1(address).await?;
    let (mut calls, mut longest) = (0, Duration::ZERO);
    tokio::pin!(stop);
    loop {
        let begun = Instant::now();
        let response = tokio::time::timeout(NEIGHBOUR, client.send(client::get("quick", "/")?)).await??;
        anyhow::ensure!(response.status == 200, "{response:?}");
        (calls, longest) = (calls + 1, longest.max(begun.elapsed()));
        if tokio::time::timeout(Duration::from_millis(5), &mut stop).await.is_ok() {
            return Ok((calls, longest));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_ended_and_others_are_answered_meanwhile() -> Result {
    let (quick, slow) = (Upstream::start(200).await?, Upstream::start(Answer::hang()).await?);
    let weir = node(&quick, &slow);
    client::fetch(weir.address(), "quick", "/").await?;
    for reads in [true, false] {
        for mut flood in floods() {
            let before = resident();
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let neighbour = tokio::spawn(neighbour(weir.address(), stopped));
            let mut frames = Frames::connect(weir.address()).await?;
            frames.send(&flood.first).await?;
            let begun = Instant::now();
            let patience = if reads { PATIENCE } else { Duration::from_secs(2) };
            let ended = frames.flood(&mut flood.next, reads, patience).await;
            let took = begun.elapsed();
            let grown = resident().saturating_sub(before);
            let _ = stop.send(());
            let (calls, longest) = neighbour.await?.map_err(|error| error.context(flood.name))?;
            println!(
                "{:32} reads {reads:5} ended {ended:5} after {took:9.2?}, {grown:9} bytes more, {calls} calls beside, the longest {longest:.2?}",
                flood.name
            );
            // Who reads nothing is held back at the latest by what the node would write.
            assert!(ended || !reads, "{} goes on", flood.name);
            assert!(grown < MEMORY, "{}: {grown} bytes", flood.name);
            drop(frames);
            weir.until(&format!("{} leaves nothing behind", flood.name), async || {
                let slow = weir.metric("weir_exchanges_in_flight{kind=\"call\",route=\"slow/\"}").await;
                // Not even begun: a route has metrics from its first exchange on.
                slow.is_none_or(|slow| slow == 0.0)
            })
            .await;
        }
    }
    Ok(())
}

/// An endpoint that answers each connection's first request with a flood.
async fn flooding(
    next: impl Fn() -> Vec<u8> + Clone + Send + 'static,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let next = next.clone();
            tokio::spawn(async move {
                let Ok(mut frames) = Frames::accepted(stream).await else { return };
                if frames.next_of(frames::HEADERS).await.is_ok() {
                    frames.flood(next, true, PATIENCE).await;
                }
            });
        }
    });
    Ok((address, task))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_floods_fails_its_attempt_and_nothing_else() -> Result {
    let quick = Upstream::start(200).await?;
    type Next = fn() -> Vec<u8>;
    let kinds: [(&str, Next); 6] = [
        ("ping", || frame(frames::PING, 0, 0, &[7; 8])),
        ("settings", || frames::setting(4, 70_000)),
        ("continuation", || {
            let first = frame(frames::HEADERS, 0, 1, &[0x88]);
            [first, frame(frames::CONTINUATION, 0, 1, &[]).repeat(1_000)].concat()
        }),
        ("empty data", || frame(frames::DATA, 0, 1, &[])),
        ("window update", || frame(frames::WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
        ("priority", || frame(frames::PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
    ];
    for (name, next) in kinds {
        let (address, endpoint) = flooding(next).await?;
        let weir = Setup::new()
            .workers(1)
            .service("quick", &[quick.address()])
            .service_with("floods", &[address], "http2", "timeout = \"none\"")
            .start();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let neighbour = tokio::spawn(neighbour(weir.address(), stopped));
        let before = resident();
        let response = client::fetch(weir.address(), "floods", "/").await?;
        let grown = resident().saturating_sub(before);
        let _ = stop.send(());
        let (calls, longest) = neighbour.await??;
        println!(
            "{name:32} {} after {:.2?}, {grown} bytes more, {calls} calls beside, the longest {longest:.2?}",
            response.status, response.end_after
        );
        assert_eq!(response.status, 502, "{name}: {response:?}");
        assert!(grown < MEMORY, "{name}: {grown}");
        endpoint.abort();
    }
    Ok(())
}
