//! Whatever bytes a caller sends, services see the requests that are in them by the strictest reading, and nothing else.

use std::collections::HashSet;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use weir_tests::fuzz::http1::{self, Stream};
use weir_tests::fuzz::node::{Got, Script, Settled, Watched};
use weir_tests::fuzz::reading::{self, Asked, End, Reading};
use weir_tests::fuzz::{Shown, again, fuzz};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Received, Reply};
use weir_tests::weir::{Setup, Weir};

/// Ends a stream that is otherwise complete, so that the node closes when it has answered all.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n";

fn node() -> Watched {
    Watched::start(
        |request| Reply::new(200).header("x-method", &request.method).body(request.body.clone()).into(),
        |upstream| Setup::new().service("one", &[upstream]),
    )
}

#[test]
fn services_see_the_requests_of_the_strictest_reading_and_no_others() {
    let node = node();
    fuzz("http1", &http1::stream(), |stream| law(&node, &script(stream)));
    node.block_on(node.check_records()).expect("each answer leaves one record");
}

fn script(stream: &Stream) -> Script {
    let mut bytes = stream.bytes();
    if !stream.leaves() {
        bytes.extend_from_slice(LAST);
    }
    Script { bytes, cuts: stream.cuts(), leaves: stream.leaves() }
}

fn law(node: &Watched, script: &Script) -> Result<()> {
    let reading = reading::read(&script.bytes);
    let methods: Vec<&str> = reading.asked.iter().map(|asked| asked.method.as_str()).collect();
    let whole = reading.asked.iter().filter(|asked| asked.whole).count();
    // What is open stays so, and the caller leaves once the rest is answered.
    let enough = if reading.end == End::Open { whole } else { usize::MAX };
    node.block_on(async {
        let got = node.say(script, &methods, enough).await?;
        let Settled { exchanges, seen } = node.settle().await?;
        services_saw(&reading, &seen)?;
        if !script.leaves {
            the_caller_got(&reading, &got, &seen)?;
        }
        let recorded = got.answers.iter().filter(|answer| answer.text("x-request-id").is_some()).count();
        ensure!(exchanges >= recorded.max(seen.len()), "{exchanges} records, {recorded} answers, {} seen", seen.len());
        ensure!(exchanges <= reading.asked.len(), "{exchanges} records of {} requests", reading.asked.len());
        if got.closed && reading.asked.iter().all(|asked| asked.whole) {
            ensure!(exchanges == recorded, "{exchanges} records, {recorded} answers");
        }
        Ok(())
    })
}

/// What arrived whole is, in order, among what was asked whole, and all of it that nothing stands against.
fn services_saw(reading: &Reading, seen: &[Received]) -> Result<()> {
    let mut asked = reading.asked.iter();
    for received in seen {
        let found = asked.by_ref().find(|asked| asked.whole && is(asked, received));
        ensure!(found.is_some(), "nobody asked for this, or not after those before it: {received:?}\n{reading:?}");
    }
    Ok(())
}

fn is(asked: &Asked, received: &Received) -> bool {
    let headers = |name: &str| -> Vec<&[u8]> {
        let named = received.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim_ascii()).collect()
    };
    let kept = asked.fields.iter().all(|(name, _)| {
        !name.starts_with("x-")
            || is_the_hosts(name)
            || asked.lists("connection", name)
            || headers(name) == asked.values(name)
    });
    let none_added = received.headers.iter().all(|(name, _)| {
        let name = name.to_ascii_lowercase();
        is_the_hosts(&name) || !asked.values(&name).is_empty()
    });
    let taken_off = ["keep-alive", "proxy-connection", "expect", "http2-settings"];
    let stripped = taken_off.iter().all(|name| *name == "http2-settings" || headers(name).is_empty())
        && headers("te").iter().all(|te| *te == b"trailers");
    asked.method == received.method
        && path(&asked.target) == received.target.as_bytes()
        && asked.body == received.body
        && kept
        && none_added
        && stripped
}

/// Fields that the host may set whatever the caller said.
fn is_the_hosts(name: &str) -> bool {
    let own = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "x-request-id",
        "x-weir-timeout",
        "grpc-timeout",
        "x-service-name",
    ];
    own.contains(&name) || name.starts_with("x-forwarded-")
}

/// Path and query of a target.
fn path(target: &[u8]) -> Vec<u8> {
    let scheme = b"http://";
    let absolute = target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme));
    let Some(_) = absolute else { return target.to_vec() };
    let rest = &target[scheme.len()..];
    let at = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let path = &rest[at..];
    if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() }
}

fn the_caller_got(reading: &Reading, got: &Got, seen: &[Received]) -> Result<()> {
    ensure!(
        got.rest.is_empty() || !got.closed,
        "{:?} after the answers, reset: {}",
        Shown(got.rest.clone()),
        got.reset
    );
    let refusal = usize::from(matches!(reading.end, End::Malformed | End::Open));
    ensure!(got.answers.len() <= reading.asked.len() + refusal, "{} answers to {reading:?}", got.answers.len());
    if reading.end == End::Malformed {
        ensure!(got.closed, "what is malformed ends its connection");
        let last = got.answers.last().map(|answer| answer.status);
        let complete = reading.asked.iter().all(|asked| asked.whole && !ends_the_connection(asked));
        // A body that is malformed may be too late for an answer, and one after an answer that closes is not looked at.
        ensure!(
            !complete || last.is_some_and(|status| (400..500).contains(&status)),
            "the refusal has status {last:?}"
        );
    }
    // What is plainly good is answered by its service, as long as all before it is.
    let good = reading.asked.iter().take_while(|asked| is_plain(asked)).count();
    ensure!(seen.len() >= good, "only {} of {good} good requests arrived", seen.len());
    for (asked, answer) in reading.asked.iter().zip(&got.answers).take(good) {
        ensure!(answer.status == 200 && answer.text("x-method") == Some(&asked.method), "{answer:?} to {asked:?}");
        ensure!(asked.method == "HEAD" || answer.body == asked.body, "another body in {answer:?}");
    }
    let ids: HashSet<_> = got.answers.iter().filter_map(|answer| answer.text("x-request-id")).collect();
    ensure!(ids.len() >= good, "an id came twice");
    Ok(())
}

fn is_plain(asked: &Asked) -> bool {
    let host = asked.values("host");
    let origin = asked.target.starts_with(b"/")
        && asked.target.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/?.;=%".contains(byte));
    let unusual = ["x-weir-timeout", "grpc-timeout", "expect", "upgrade", "content-type"];
    asked.whole
        && !asked.http10
        && host == [b"one"]
        && origin
        && asked.method != "CONNECT"
        && !asked.lists("connection", "close")
        && unusual.iter().all(|name| asked.values(name).is_empty())
}

/// Whether the answer to it ends the connection, as far as one can tell from the request.
fn ends_the_connection(asked: &Asked) -> bool {
    !is_plain(asked)
}

/// A caller that asks for a tunnel, and does not wait for the answer.
#[derive(Debug, Clone)]
struct Dial {
    connect: bool,
    early: Shown,
    /// The early bytes come in so many segments.
    segments: usize,
    late: Shown,
}

fn dial() -> impl Strategy<Value = Dial> {
    let said = || {
        prop_oneof![
            vec(any::<u8>(), 0..40).prop_map(Shown),
            http1::stream().prop_map(|stream| Shown(stream.bytes())),
            Just(Shown(Vec::new())),
        ]
    };
    (any::<bool>(), said(), 1..4usize, said()).prop_map(|(connect, early, segments, late)| Dial {
        connect,
        early,
        segments,
        late,
    })
}

/// Services that say what they heard once the caller is done: one after a switch of protocols, the other from the start.
async fn parrots() -> Result<[SocketAddr; 2]> {
    let mut addresses = Vec::new();
    for switches in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    while switches && !heard.ends_with(b"\r\n\r\n") {
                        heard.push(stream.read_u8().await?);
                    }
                    if switches {
                        heard.clear();
                        let switch =
                            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: parrot\r\n\r\n";
                        stream.write_all(switch.as_bytes()).await?;
                    }
                    stream.read_to_end(&mut heard).await?;
                    stream.write_all(&heard).await?;
                    stream.shutdown().await
                });
            }
        });
    }
    Ok([addresses[0], addresses[1]])
}

#[test]
fn a_tunnel_carries_every_byte_or_does_not_come_about() {
    let runtime = Runtime::new().expect("a runtime");
    let [switches, listens] = runtime.block_on(parrots()).expect("services");
    let setup = Setup::new().workers(1).listener("connect = true");
    let weir = setup.service("switches", &[switches]).service("listens", &[listens]).start();
    fuzz("http1", &dial(), |dial| runtime.block_on(tunnel_law(&weir, dial)));
}

async fn tunnel_law(weir: &Weir, dial: &Dial) -> Result<()> {
    let (ask, status) = match dial.connect {
        true => ("CONNECT listens:80 HTTP/1.1\r\nhost: listens\r\n\r\n", 200),
        false => ("GET / HTTP/1.1\r\nhost: switches\r\nconnection: upgrade\r\nupgrade: parrot\r\n\r\n", 101),
    };
    let mut raw = Raw::connect(weir.address()).await?;
    let bytes = [ask.as_bytes(), &dial.early.0].concat();
    for segment in bytes.chunks(bytes.len().div_ceil(dial.segments)) {
        // What is refused closes, and may do so at any time.
        drop(raw.send(segment).await);
        tokio::task::yield_now().await;
    }
    let head = raw.read_head().await?;
    if head.starts_with(&format!("HTTP/1.1 {status} ")) {
        raw.send(&dial.late.0).await?;
        raw.finish().await?;
        let heard = raw.read_to_end().await?;
        let said = [&dial.early.0[..], &dial.late.0].concat();
        ensure!(heard == said, "the tunnel carried {:?} instead", Shown(heard.to_vec()));
        return Ok(());
    }
    // Before the switch the caller still speaks HTTP, and what is none is refused.
    let complete = reading::read(&dial.early.0).end == End::Clean;
    ensure!(!dial.connect && head.starts_with("HTTP/1.1 400 ") && !complete, "{head:?}");
    Ok(())
}

/// Streams that once broke a law.
#[test]
fn streams_that_were_trouble_once_are_none() {
    let node = node();
    let large = |fields: &str, length: usize| {
        let head = format!("POST / HTTP/1.1\r\nhost: one\r\n{fields}content-length: {length}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; length]].concat()
    };
    let malformed = [&b"GET / HTTP/1.1\r\nno colon\r\n\r\n"[..], &[b'x'; 120_000]].concat();
    // The node closed with something unread: that reset the connection, and took the end of the last answer with it.
    for fields in ["", "upgrade: websocket\r\n", "connection: upgrade\r\nupgrade: h2c\r\n"] {
        let bytes = [large(fields, 35), large("", 80_000), malformed.clone()].concat();
        for _ in 0..100 {
            let script = Script { bytes: bytes.clone(), cuts: vec![(70_000, false)], leaves: false };
            again(&Shown(bytes.clone()), |_| law(&node, &script));
        }
    }
}
