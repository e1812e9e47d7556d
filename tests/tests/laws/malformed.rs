//! What is not HTTP, or has two readings, is refused, ends its connection and never reaches a service.

use std::time::Duration;

use http::Request;
use weir_tests::client::{self, Client};
use weir_tests::raw::{self, Raw};
use weir_tests::upstream::{Behaviour, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

/// What a smuggler would have the service see.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: one\r\n\r\n";

fn node(upstream: &Upstream, limits: &str) -> Weir {
    let endpoints = [upstream.address()];
    Setup::new().workers(1).toml(limits).service("one", &endpoints).service_with("two", &endpoints, "http2", "").start()
}

/// Sends bytes, and returns the statuses of the answers; the node must close the connection by itself.
async fn statuses(weir: &Weir, bytes: impl AsRef<[u8]>) -> anyhow::Result<Vec<u16>> {
    let answers = raw::exchange(weir.address(), bytes).await?;
    let answers = String::from_utf8(answers.to_vec())?;
    let status = |answer: &str| answer.get(..3).and_then(|status| status.parse().ok());
    Ok(answers.split("HTTP/1.1 ").skip(1).filter_map(status).collect())
}

#[tokio::test]
async fn a_malformed_head_is_400_and_never_forwarded() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "");
    let head = "POST / HTTP/1.1\r\nhost: one\r\n";
    let fields = [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 5\r\n\r\n",
        "content-length: 0, 0\r\n\r\n",
        "content-length: +0\r\n\r\n",
        "content-length: -1\r\n\r\n",
        "content-length: 0x0\r\n\r\n",
        "content-length: 99999999999999999999\r\n\r\n",
        "content-length:\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: identity\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "a: b\n\r\n",
        "a: b\nc: d\r\n\r\n",
        "a: b\rc: d\r\n\r\n",
        "a: b\r\n\n",
        "a: b\r\n c\r\n\r\n",
        "a: b\r\n\tc\r\n\r\n",
        "a : b\r\n\r\n",
        "a b: c\r\n\r\n",
        ": b\r\n\r\n",
        "no-colon\r\n\r\n",
        "a: b\0c\r\n\r\n",
        "a\0: b\r\n\r\n",
        "a: \x7f\r\n\r\n",
        "host: two\r\n\r\n",
    ];
    let whole = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nhost: one\r\n\r\n",
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: one\r\n\r\n",
        "GET / HTTP/1.1 \r\nhost: one\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: one\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: one\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nhost: one\r\n\r\n",
        "G(T / HTTP/1.1\r\nhost: one\r\n\r\n",
        " GET / HTTP/1.1\r\nhost: one\r\n\r\n",
        "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ];
    let requests =
        fields.iter().map(|fields| format!("{head}{fields}")).chain(whole.iter().map(|whole| (*whole).to_owned()));
    for request in requests {
        assert_eq!(statuses(&weir, format!("{request}{HIDDEN}")).await?, [400], "{request:?}");
    }
    assert_eq!((upstream.request_count(), upstream.connection_count()), (0, 0));
    // The node is as well as before.
    assert_eq!(client::fetch(weir.address(), "one", "/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_none_is_400_and_never_forwarded() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "");
    let targets = [
        "GET http://one@two/",
        "GET http://",
        "GET ftp://one/",
        "GET https://one/",
        "GET *",
        "GET one",
        "GET http://one:x/",
        "CONNECT /",
    ];
    for target in targets {
        let request = format!("{target} HTTP/1.1\r\nhost: one\r\n\r\n{HIDDEN}");
        assert_eq!(statuses(&weir, &request).await?, [400], "{target:?}");
    }
    for host in ["one/", "one two", "one,two", "user@one", "one:x", "[::1"] {
        assert_eq!(
            statuses(&weir, format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n{HIDDEN}")).await?,
            [400],
            "{host:?}"
        );
    }
    assert_eq!(upstream.request_count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_call_and_the_service_never_sees_it_whole() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "");
    let bodies = [
        "x\r\nabc\r\n",
        "-3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\nabc\r\n",
        "3 3\r\nabc\r\n",
        "fffffffffffffffff\r\n",
        "3;a\0\r\nabc\r\n",
        "0\r\ncontent-length: 3\r\n\r\n",
        "0\r\na: b\n\r\n",
    ];
    for (count, body) in (1_u64..).zip(bodies) {
        let mut raw = Raw::connect(weir.address()).await?;
        // The head and a good chunk first, so that the call is under way.
        raw.send("POST / HTTP/1.1\r\nhost: one\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await?;
        weir.until("the call is under way", async || upstream.request_count() == count).await;
        raw.send(format!("{body}0\r\n\r\n{HIDDEN}")).await?;
        let answer = String::from_utf8(raw.read_to_end().await?.to_vec())?;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer:?}");
        weir.until("the service is left", async || upstream.abandoned_count() == count).await;
    }
    assert!(upstream.requests().iter().all(|request| request.target == "/" && request.body.is_empty()));
    Ok(())
}

#[tokio::test]
async fn requests_before_a_malformed_one_are_answered() -> Result {
    let upstream = Upstream::start(Behaviour::from(200).delayed(Duration::from_millis(100))).await?;
    let weir = node(&upstream, "");
    let requests = format!(
        "GET /1 HTTP/1.1\r\nhost: one\r\n\r\nPOST /2 HTTP/1.1\r\nhost: one\r\ncontent-length: 2\r\n\r\nokGET /3 HTTP/1.1\r\nhost: one\r\na: b\n\r\n{HIDDEN}"
    );
    assert_eq!(statuses(&weir, requests).await?, [200, 200, 400]);
    let targets: Vec<String> = upstream.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/1", "/2"]);
    Ok(())
}

#[tokio::test]
async fn what_is_over_a_limit_is_414_or_431() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "[limits]\nmax-header-bytes = \"8KiB\"\nmax-headers = 20\nmax-target-bytes = 100");
    let target =
        |length: usize| format!("GET /{} HTTP/1.1\r\nhost: one\r\nconnection: close\r\n\r\n", "x".repeat(length - 1));
    let fields = |count: usize| {
        format!("GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\n{}\r\n", "a: b\r\n".repeat(count - 2))
    };
    let field = |length: usize| {
        format!("GET / HTTP/1.1\r\nhost: one\r\nconnection: close\r\na: {}\r\n\r\n", "x".repeat(length))
    };
    for (request, status) in [
        (target(100), 200),
        (target(101), 414),
        (target(1_000_000), 414),
        (fields(20), 200),
        (fields(21), 431),
        (fields(10_000), 431),
        (field(8_000), 200),
        (field(8_192), 431),
        (field(1_000_000), 431),
    ] {
        let shown: String = request.chars().take(120).collect();
        assert_eq!(statuses(&weir, request).await?, [status], "{shown:?}");
    }
    assert_eq!(upstream.request_count(), 3);
    for (name, value) in [("a", "x".repeat(9_000)), ("b", String::new())] {
        let mut request = client::get("one", "/")?;
        for _ in 0..if value.is_empty() { 21 } else { 1 } {
            request.headers_mut().append(name, value.parse()?);
        }
        assert_eq!(Client::http2(weir.address()).await?.send(request).await?.status, 431, "{name}");
    }
    assert_eq!(upstream.request_count(), 3);
    Ok(())
}

#[tokio::test]
async fn a_head_that_never_ends_is_let_go() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "[limits]\nheader-timeout = \"300ms\"\nidle-timeout = \"300ms\"");
    for begun in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: on"] {
        let mut raw = Raw::connect(weir.address()).await?;
        raw.send(begun).await?;
        raw.read_to_end().await?;
    }
    assert_eq!(upstream.connection_count(), 0);
    Ok(())
}

#[tokio::test]
async fn malformed_http2_breaks_its_stream_or_connection_and_is_never_forwarded() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = node(&upstream, "");
    // A body that is longer, and one that is shorter, than was announced (RFC 9113, section 8.1.1).
    for length in ["2", "9"] {
        let request = Request::post("http://two/").header("content-length", length);
        let pieces = futures_util::stream::iter([Ok("hello".into())]);
        let answer = Client::http2(weir.address()).await?.open(request.body(client::stream(pieces))?).await;
        assert!(answer.as_ref().map_or(true, |response| response.status() == 400), "{length}: {answer:?}");
    }
    assert!(upstream.requests().iter().all(|request| request.body.is_empty()), "no service sees it whole");
    // Frames that are none.
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    raw.send([0xff; 64]).await?;
    raw.read_to_end().await?;
    assert_eq!(client::fetch(weir.address(), "one", "/").await?.status, 200);
    Ok(())
}
