//! Traces through the proxy: what is continued, what starts anew, and the spans that a collector gets.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use http::{HeaderName, HeaderValue};
use tokio::net::TcpListener;
use weir_tests::client::{self, Client};
use weir_tests::upstream::{Behaviour, Collector, Received, Span, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// The service `s` behind a trace policy, and more policies after it.
fn setup(upstream: &Upstream, config: &str, after: &str) -> Setup {
    Setup::new()
        .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
        .toml(&format!("[chain]\nc = [\"trace\"{after}]"))
        .policy("trace", "trace", &format!("{{ {config} }}"))
}

/// What the service is sent for a request with these fields.
async fn sent(weir: &Weir, upstream: &Upstream, fields: &[(&str, &str)]) -> anyhow::Result<Received> {
    let mut request = client::get("s", "/users/1?secret=x")?;
    for (name, value) in fields {
        request.headers_mut().append(name.parse::<HeaderName>()?, HeaderValue::from_str(value)?);
    }
    assert_eq!(Client::http1(weir.address()).await?.send(request).await?.status.as_u16(), 200);
    upstream.last().context("a request")
}

/// Version 00, trace, parent and flags, each as the standard wants it.
fn parsed(request: &Received) -> anyhow::Result<[String; 3]> {
    let [value] = request.headers_named("traceparent")[..] else { anyhow::bail!("one traceparent, not {request:?}") };
    let parts: Vec<String> = value.split('-').map(str::to_owned).collect();
    let [version, trace, parent, flags] = parts.try_into().map_err(|parts| anyhow::anyhow!("four parts: {parts:?}"))?;
    let is_id = |id: &str, length| {
        id.len() == length
            && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && id.bytes().any(|byte| byte != b'0')
    };
    anyhow::ensure!(version == "00" && is_id(&trace, 32) && is_id(&parent, 16) && flags.len() == 2, "{value}");
    Ok([trace, parent, flags])
}

/// The spans of [`TRACE`], once there are so many.
async fn spans(weir: &Weir, collector: &Collector, count: usize) -> Vec<Span> {
    let of_trace = || collector.spans().into_iter().filter(|span| span.trace == TRACE).collect::<Vec<_>>();
    weir.until("the spans arrive", async || of_trace().len() >= count).await;
    of_trace()
}

#[tokio::test]
async fn a_trace_is_continued_with_a_new_parent() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = setup(&upstream, "sample = 0.0", "").start();
    for (flags, version) in [("01", "00"), ("00", "00"), ("01", "cc")] {
        let fields = [
            ("traceparent", format!("{version}-{TRACE}-{PARENT}-{flags}")),
            ("tracestate", "a=1,b=2".into()),
            ("tracestate", "c=3".into()),
        ];
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = sent(&weir, &upstream, &fields).await?;
        let [trace, parent, sampled] = parsed(&request)?;
        assert_eq!((trace.as_str(), sampled.as_str()), (TRACE, flags), "the trace goes on as its caller decided");
        assert_ne!(parent, PARENT);
        assert_eq!(request.headers_named("tracestate").join(","), "a=1,b=2,c=3");
    }
    let records = weir.records(3, |record| record["attributes"]["trace-id"] == TRACE).await;
    assert_eq!(records.len(), 3, "the record names the trace");
    Ok(())
}

#[tokio::test]
async fn a_malformed_traceparent_starts_a_new_trace() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = setup(&upstream, "sample = 1.0", "").start();
    let malformed = [
        format!("00-{TRACE}-{PARENT}"),
        format!("00-{TRACE}-{PARENT}-01-more"),
        format!("00-{TRACE}-{PARENT}-1"),
        format!("00-{TRACE}-{PARENT}-0x"),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", PARENT.to_uppercase()),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}0-{PARENT}-01"),
        format!("00_{TRACE}_{PARENT}_01"),
        "x".to_owned(),
    ];
    for value in &malformed {
        let request = sent(&weir, &upstream, &[("traceparent", value), ("tracestate", "a=1")]).await?;
        let [trace, parent, _] = parsed(&request)?;
        assert!(trace != TRACE && parent != PARENT, "{value} was continued");
        assert_eq!(request.headers_named("tracestate"), [""; 0], "state of a trace that is over: {value}");
    }
    let good = format!("00-{TRACE}-{PARENT}-01");
    let request = sent(&weir, &upstream, &[("traceparent", &good), ("traceparent", &good)]).await?;
    assert_ne!(parsed(&request)?[0], TRACE, "two fields are malformed together");
    let one = parsed(&sent(&weir, &upstream, &[]).await?)?;
    let other = parsed(&sent(&weir, &upstream, &[]).await?)?;
    assert!(one[0] != other[0] && one[1] != other[1], "each exchange without a trace begins one");
    Ok(())
}

#[tokio::test]
async fn tracestate_keeps_its_limits() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = setup(&upstream, "sample = 1.0", "").start();
    let list = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
    let parent = format!("00-{TRACE}-{PARENT}-01");
    for (state, kept) in [(list(32), Some(list(32))), (list(33), None), ("a=1,=2".into(), None)] {
        let request = sent(&weir, &upstream, &[("traceparent", &parent), ("tracestate", &state)]).await?;
        assert_eq!(parsed(&request)?[0], TRACE);
        assert_eq!(request.header("tracestate").map(str::to_owned), kept, "{state}");
    }
    Ok(())
}

#[tokio::test]
async fn other_dialects_are_written_and_continued() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = setup(&upstream, "sample = 1.0, dialects = [\"w3c\", \"x-trace\", \"b3\"]", "").start();
    let request = sent(&weir, &upstream, &[("x-trace-id", TRACE), ("x-span-id", PARENT), ("x-sampled", "1")]).await?;
    let [trace, span, flags] = parsed(&request)?;
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    let fields = ["x-trace-id", "x-span-id", "x-parent-span-id", "x-sampled", "x-b3-traceid", "x-b3-spanid"];
    let sent = fields.map(|name| request.header(name).unwrap_or_default().to_owned());
    assert_eq!(sent[0], TRACE);
    assert_eq!(
        (&sent[1], sent[3].as_str(), &sent[4], &sent[5]),
        (&span, "1", &sent[0], &span),
        "all dialects name the same span"
    );
    assert!(sent[2].len() == 16 && sent[2] != span, "{sent:?}");
    Ok(())
}

#[tokio::test]
async fn spans_of_exchange_and_attempts_arrive_at_the_collector() -> Result {
    let (collector, upstream) =
        (Collector::start().await?, Upstream::start(Behaviour::echo().fail_first(2, 503)).await?);
    let weir = setup(&upstream, "sample = 1.0", ", \"retry\"")
        .toml(&format!("[trace]\notlp-endpoint = \"http://{}\"\ninterval = \"50ms\"", collector.address()))
        .policy("retry", "retry", "{ backoff = { kind = \"fixed\", delay = \"1ms\" } }")
        .start();
    sent(&weir, &upstream, &[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]).await?;

    let mut spans = spans(&weir, &collector, 4).await;
    spans.sort_by_key(|span| span.start);
    let (exchanges, attempts): (Vec<_>, Vec<_>) = spans.into_iter().partition(|span| span.kind == Span::SERVER);
    let [exchange] = &exchanges[..] else { anyhow::bail!("one span of the exchange: {exchanges:?}") };
    assert_eq!((exchange.parent.as_str(), exchange.name.as_str()), (PARENT, "GET s"));
    for (name, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/users/1"),
        ("http.response.status_code", "200"),
        ("weir.attempts", "3"),
        ("server.address", "s"),
    ] {
        assert_eq!(exchange.attribute(name), Some(value), "{name}: {exchange:?}");
    }

    let seen: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| parsed(request).map(|[_, parent, _]| parent))
        .collect::<anyhow::Result<_>>()?;
    assert_eq!(
        attempts.iter().map(|attempt| attempt.id.clone()).collect::<Vec<_>>(),
        seen,
        "each attempt carried its own span"
    );
    let endpoint = upstream.address().to_string();
    for (attempt, (status, resent)) in attempts.iter().zip([("503", None), ("503", Some("1")), ("200", Some("2"))]) {
        assert_eq!((attempt.kind, &attempt.parent), (Span::CLIENT, &exchange.id));
        assert!(
            attempt.start >= exchange.start && attempt.start <= attempt.end && attempt.end <= exchange.end,
            "{attempt:?}"
        );
        assert_eq!(attempt.attribute("weir.endpoint"), Some(endpoint.as_str()), "{attempt:?}");
        let how = ["http.response.status_code", "http.request.resend_count"].map(|name| attempt.attribute(name));
        assert_eq!(how, [Some(status), resent], "{attempt:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_sampled_leaves_no_span() -> Result {
    let (collector, upstream) = (Collector::start().await?, Upstream::start(Behaviour::echo()).await?);
    let weir = setup(&upstream, "sample = 1.0", "")
        .toml(&format!("[trace]\notlp-endpoint = \"http://{}\"\ninterval = \"10ms\"", collector.address()))
        .start();
    let refused = "1".repeat(32);
    sent(&weir, &upstream, &[("traceparent", &format!("00-{refused}-{PARENT}-00"))]).await?;
    sent(&weir, &upstream, &[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]).await?;
    spans(&weir, &collector, 2).await;
    let all = collector.spans();
    assert!(all.iter().all(|span| span.trace == TRACE), "a span that its caller did not want: {all:?}");
    Ok(())
}

#[tokio::test]
async fn calls_do_not_care_whether_there_is_a_collector() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    // It accepts connections and never answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let weir = setup(&upstream, "sample = 1.0", "")
        .toml(&format!(
            "[trace]\notlp-endpoint = \"http://{}\"\nqueue = 8\nbatch = 4\ninterval = \"10ms\"",
            silent.local_addr()?
        ))
        .start();
    for _ in 0..200 {
        sent(&weir, &upstream, &[]).await?;
    }
    let dropped = async || weir.metric("weir_spans_dropped_total").await.is_some_and(|dropped| dropped > 300.0);
    weir.until("spans that find no room are counted", dropped).await;
    tokio::time::timeout(Duration::from_secs(5), sent(&weir, &upstream, &[])).await??;
    Ok(())
}
