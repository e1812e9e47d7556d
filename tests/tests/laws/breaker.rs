//! The circuit breaker through the proxy: what opens it, what it says while it is open, and how it closes again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio::task::JoinSet;
use weir_tests::client::{self, Client, EchoClient, Response};
use weir_tests::upstream::{Answer, Behaviour, EchoRequest, Upstream, closed_address};
use weir_tests::weir::{Setup, Weir, plugins_directory};

type Result = anyhow::Result<()>;

/// Longer than a test takes.
const LONG: &str = "open-for = \"1h\"";
/// Connections enough for both workers to have many.
const MANY: usize = 40;

fn setup(endpoints: &[SocketAddr], config: &str) -> Setup {
    Setup::new().service_with("s", endpoints, "http1", "chain = \"c\"").toml("[chain]\nc = [\"breaker\"]").policy(
        "breaker",
        "circuit-breaker",
        &format!("{{ {config} }}"),
    )
}

fn start(upstream: &Upstream, config: &str) -> Weir {
    setup(&[upstream.address()], config).start()
}

async fn get(weir: &Weir) -> anyhow::Result<Response> {
    client::fetch(weir.address(), "s", "/").await
}

fn is_refused(response: &Response) -> bool {
    response.header("x-weir-error") == Some("breaker-open")
}

/// Sends so many requests one after the other; how many were refused by the breaker.
async fn send(weir: &Weir, count: usize) -> anyhow::Result<usize> {
    let mut refused = 0;
    for _ in 0..count {
        refused += usize::from(is_refused(&get(weir).await?));
    }
    Ok(refused)
}

/// The breaker of the whole service, as the admin page has it.
async fn shown(weir: &Weir) -> Value {
    weir.page("/services").await["services"][0]["breakers"]["service"].clone()
}

async fn transitions(weir: &Weir, endpoint: &str, to: &str) -> u64 {
    let series = format!(
        "weir_breaker_transitions_total{{policy=\"breaker\",service=\"s\",endpoint=\"{endpoint}\",to=\"{to}\"}}"
    );
    weir.metric(&series).await.unwrap_or(0.0) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_endpoint_of_three_costs_callers_at_most_10_of_1200() -> Result {
    let (one, two, bad) = (Upstream::start(200).await?, Upstream::start(200).await?, Upstream::start(503).await?);
    for bad in [bad.address(), closed_address()?] {
        let weir =
            setup(&[one.address(), bad, two.address()], "trip = { consecutive-failures = 5 }, open-for = \"10s\"")
                .start();
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let mut client = Client::http1(weir.address()).await?;
            callers.spawn(async move {
                let mut failed = 0;
                for _ in 0..300 {
                    failed += usize::from(!client.send(client::get("s", "/")?).await?.status.is_success());
                }
                anyhow::Ok(failed)
            });
        }
        let failed: usize = callers.join_all().await.into_iter().sum::<anyhow::Result<usize>>()?;
        assert!((5..=10).contains(&failed), "{failed} of 1200 callers saw a failure");
        assert!(transitions(&weir, &bad.to_string(), "open").await >= 1);
    }
    Ok(())
}

#[tokio::test]
async fn an_open_breaker_says_so_and_sends_nothing() -> Result {
    let upstream = Upstream::start(503).await?;
    let weir = start(&upstream, "scope = \"service\", trip = { consecutive-failures = 3 }, open-for = \"30s\"");
    for _ in 0..3 {
        let response = get(&weir).await?;
        assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (503, None), "{response:?}");
    }
    for _ in 0..5 {
        let response = get(&weir).await?;
        assert_eq!(
            (response.status.as_u16(), response.header("x-weir-error")),
            (503, Some("breaker-open")),
            "{response:?}"
        );
        let after: u64 = response.header("retry-after").context("retry-after")?.parse()?;
        assert!((1..=30).contains(&after), "{response:?}");
        assert_eq!(response.json()?["error"], "breaker-open");
    }
    assert_eq!(upstream.request_count(), 3);
    let status = EchoClient::connect(weir.address(), "s")
        .await?
        .unary(tonic::Request::new(EchoRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(status.metadata().get("x-weir-error").context("x-weir-error")?, "breaker-open");

    let shown = shown(&weir).await;
    assert_eq!(
        (&shown["state"], &shown["reason"], &shown["policy"]),
        (&"open".into(), &"3 failures in a row".into(), &"breaker".into())
    );
    assert_eq!(transitions(&weir, "", "open").await, 1);
    assert_eq!(weir.metric("weir_breaker_rejections_total{policy=\"breaker\",service=\"s\"}").await, Some(6.0));
    let record = &weir.records(1, |record| record["error"] == "breaker-open").await[0];
    assert_eq!(
        (&record["acted"][0]["policy"], &record["acted"][0]["did"]),
        (&"breaker".into(), &"refused".into()),
        "{record}"
    );
    assert_eq!(record.get("attempts"), None, "a refusal is no attempt: {record}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_admits_exactly_what_is_configured() -> Result {
    let table = [
        ("trip = { consecutive-failures = 1 }", 1),
        ("trip = { consecutive-failures = 1 }, half-open = { max-calls = 3 }", 3),
        ("trip = { failure-rate = 50, window-calls = 1 }, half-open = { permitted-calls = 10 }", 10),
    ];
    for (config, permitted) in table {
        let upstream = Upstream::start(503).await?;
        let weir = start(&upstream, &format!("scope = \"service\", open-for = \"200ms\", {config}"));
        assert_eq!(get(&weir).await?.status.as_u16(), 503);
        upstream.forget();
        upstream.set(Answer::hang());
        tokio::time::sleep(Duration::from_millis(300)).await;

        let refused = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..MANY {
            let (mut client, refused) = (Client::http1(weir.address()).await?, refused.clone());
            callers.spawn(async move {
                while is_refused(&client.send(client::get("s", "/")?).await?) {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        weir.until("many calls are refused", async || refused.load(Ordering::Relaxed) > 2_000).await;
        assert_eq!(upstream.request_count(), permitted, "the trial calls hang, and no other may be sent");
        assert_eq!(shown(&weir).await["state"], "half-open");

        assert!(callers.try_join_next().is_none(), "a caller got another answer than a refusal");

        // Callers that leave say nothing about the service: their places are free again.
        callers.shutdown().await;
        // While they leave, others may still have taken a place.
        weir.until("the trial calls are given up", async || upstream.abandoned_count() == upstream.request_count())
            .await;
        upstream.set(200);
        weir.until("it closes", async || get(&weir).await.is_ok() && shown(&weir).await["state"] == "closed").await;
        assert_eq!((transitions(&weir, "", "half-open").await, transitions(&weir, "", "closed").await), (1, 1));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_half_open_phase_of_a_failing_service_costs_one_call() -> Result {
    let upstream = Upstream::start(503).await?;
    let weir = start(&upstream, "scope = \"service\", trip = { consecutive-failures = 1 }, open-for = \"100ms\"");
    get(&weir).await?;
    let end = Instant::now() + Duration::from_secs(2);
    let mut callers = JoinSet::new();
    for _ in 0..MANY {
        let mut client = Client::http1(weir.address()).await?;
        callers.spawn(async move {
            while Instant::now() < end {
                client.send(client::get("s", "/")?).await?;
            }
            anyhow::Ok(())
        });
    }
    callers.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    let phases = transitions(&weir, "", "half-open").await;
    assert_eq!(upstream.request_count(), 1 + phases, "calls that reached the service");
    assert!((2..=20).contains(&phases), "{phases} half-open phases in 2 s");
    Ok(())
}

#[tokio::test]
async fn a_breaker_closes_after_its_successes_and_opens_at_a_failed_trial() -> Result {
    let upstream = Upstream::start(500).await?;
    let weir = start(
        &upstream,
        "scope = \"service\", trip = { consecutive-failures = 2 }, open-for = \"100ms\", half-open = { max-calls = 1, successes = 2 }",
    );
    let half_open = || tokio::time::sleep(Duration::from_millis(150));
    assert_eq!(send(&weir, 3).await?, 1);
    half_open().await;
    assert_eq!(send(&weir, 2).await?, 1, "a trial call that fails opens it again");
    upstream.set(200);
    half_open().await;
    assert_eq!(get(&weir).await?.status.as_u16(), 200);
    assert_eq!(shown(&weir).await["state"], "half-open", "one success of two");
    assert_eq!(get(&weir).await?.status.as_u16(), 200);
    assert_eq!(shown(&weir).await["state"], "closed");
    assert_eq!(
        [
            transitions(&weir, "", "open").await,
            transitions(&weir, "", "half-open").await,
            transitions(&weir, "", "closed").await
        ],
        [2, 2, 1]
    );
    upstream.set(Behaviour::echo().fail_first(1, 500));
    assert_eq!(send(&weir, 5).await?, 0, "failures from before count no more");
    Ok(())
}

#[tokio::test]
async fn a_failure_rate_opens_it_over_calls_and_over_time() -> Result {
    for trip in [
        "{ failure-rate = 50, window-calls = 10, minimum-calls = 10 }",
        "{ failure-rate = 50, window = \"1h\", minimum-calls = 10 }",
    ] {
        let count = AtomicU64::new(0);
        let alternating = Behaviour::new(move |_| {
            if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 200.into() } else { 503.into() }
        });
        let upstream = Upstream::start(alternating).await?;
        let weir = start(&upstream, &format!("scope = \"service\", trip = {trip}, {LONG}"));
        assert_eq!(send(&weir, 20).await?, 10, "{trip}");
        assert_eq!(upstream.request_count(), 10, "{trip}: neither before the minimum nor after the rate is reached");
        assert_eq!(shown(&weir).await["reason"], "5 of 10 calls failed, which is 50 % or more");
    }
    Ok(())
}

#[tokio::test]
async fn what_says_nothing_about_the_service_is_not_counted() -> Result {
    let upstream = Upstream::start(404).await?;
    let weir = start(&upstream, &format!("scope = \"service\", trip = {{ consecutive-failures = 1 }}, {LONG}"));
    assert_eq!(send(&weir, 3).await?, 0, "a 4xx is the caller's failure");
    upstream.set(Answer::hang());
    upstream.forget();
    let address = weir.address();
    let leaver = tokio::spawn(async move { client::fetch(address, "s", "/").await });
    weir.until("the call arrives", async || upstream.request_count() == 1).await;
    leaver.abort();
    weir.until("it is given up", async || upstream.abandoned_count() == 1).await;
    upstream.set(200);
    assert_eq!(send(&weir, 3).await?, 0, "a caller that leaves opened the breaker");
    Ok(())
}

#[tokio::test]
async fn slow_calls_open_it_where_they_count() -> Result {
    let upstream = Upstream::start(Behaviour::echo().delayed(Duration::from_millis(80))).await?;
    let weir = start(
        &upstream,
        &format!("scope = \"service\", trip = {{ consecutive-failures = 2 }}, slow-call = \"40ms\", {LONG}"),
    );
    assert_eq!(send(&weir, 5).await?, 3);
    assert_eq!(upstream.request_count(), 2);
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_neither_waited_for_nor_repeated() -> Result {
    let upstream = Upstream::start(503).await?;
    for scope in ["service", "endpoint"] {
        upstream.forget();
        let weir = Setup::new()
            .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
            .toml("[chain]\nc = [\"breaker\", \"retry\", \"balance\"]")
            .policy(
                "breaker",
                "circuit-breaker",
                &format!("{{ scope = \"{scope}\", trip = {{ consecutive-failures = 2 }}, {LONG} }}"),
            )
            .policy("retry", "retry", "{ max-attempts = 2, backoff = { kind = \"fixed\", delay = \"1ms\" } }")
            .policy("balance", "load-balance", "{}")
            .start();
        assert!(!is_refused(&get(&weir).await?));
        let response = get(&weir).await?;
        assert!(is_refused(&response) && response.header("retry-after").is_some(), "{scope}: {response:?}");
        assert_eq!(upstream.request_count(), 2, "{scope}: each attempt counts, and none follows");
    }
    Ok(())
}

#[tokio::test]
async fn state_survives_a_reload_of_plugin_and_configuration() -> Result {
    let upstream = Upstream::start(503).await?;
    let weir = start(&upstream, &format!("scope = \"service\", trip = {{ consecutive-failures = 2 }}, {LONG}"));
    assert_eq!(send(&weir, 3).await?, 1);

    // The same plugin with one more custom section is another file: a new version.
    let mut file = std::fs::read(plugins_directory().join("circuit-breaker.wasm"))?;
    file.extend(b"\x00\x06\x04noteX");
    let new = tempfile::NamedTempFile::new()?;
    std::fs::write(new.path(), file)?;
    let before = weir.generation();
    weir.drop_plugin(new.path(), "circuit-breaker");
    weir.until("the plugin is reloaded", async || weir.generation() > before).await;
    assert_eq!(send(&weir, 3).await?, 3, "the breaker forgot that it is open");

    weir.edit_live("consecutive-failures = 2", "consecutive-failures = 3").await;
    assert_eq!(send(&weir, 3).await?, 3, "the breaker forgot that it is open");
    assert_eq!((upstream.request_count(), shown(&weir).await["state"].as_str()), (2, Some("open")));
    Ok(())
}

#[tokio::test]
async fn a_closed_breaker_hears_of_successes_only_after_a_failure() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = start(&upstream, "scope = \"service\", trip = { consecutive-failures = 3 }");
    let outcomes = || async {
        let series = "weir_plugin_hook_calls_total{policy=\"breaker\",hook=\"on-outcome\"}";
        weir.metric(series).await.unwrap_or(0.0) as u64
    };
    send(&weir, 20).await?;
    assert_eq!(outcomes().await, 0, "nothing to forget");
    for _ in 0..5 {
        upstream.set(503);
        send(&weir, 2).await?;
        upstream.set(200);
        assert_eq!(send(&weir, 3).await?, 0, "a success in between, on whichever worker, is heard");
    }
    // Two failures, and the success that makes up for them.
    assert_eq!(outcomes().await, 5 * 3);
    Ok(())
}
