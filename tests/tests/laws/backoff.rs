//! The retry policy through the proxy: how long it waits, and what stops it: the deadline and the budget.

use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use serde_json::Value;
use weir_tests::retrying::{AT_ONCE, get, setup, start};
use weir_tests::upstream::{Behaviour, Reply, Upstream};
use weir_tests::weir::Weir;

type Result = anyhow::Result<()>;

/// Longer than any answer takes, shorter than the waits that must not be waited for.
const LATE: Duration = Duration::from_secs(10);

/// The waits before attempts 2 and up that the one record tells, in milliseconds.
async fn backoffs(weir: &Weir) -> Vec<f64> {
    let record = weir.records(1, |_| true).await.remove(0);
    let attempts = record["attempts"].as_array().unwrap();
    attempts.iter().skip(1).map(|attempt| attempt["backoff_ms"].as_f64().unwrap_or(0.0)).collect()
}

#[tokio::test]
async fn waits_are_those_of_the_setting() -> Result {
    let exact = |waits: &'static [f64]| move |at: usize, wait: f64| wait == waits[at];
    let within = |least: f64, most: f64| move |_: usize, wait: f64| (least..=most).contains(&wait);
    type Law = Box<dyn Fn(usize, f64) -> bool>;
    let table: [(&str, Law); 6] = [
        ("{ kind = \"fixed\", delay = \"30ms\" }", Box::new(exact(&[30.0, 30.0, 30.0]))),
        (
            "{ kind = \"exponential\", initial = \"20ms\", max = \"60ms\", jitter = \"none\" }",
            Box::new(exact(&[20.0, 40.0, 60.0])),
        ),
        (
            "{ kind = \"exponential\", initial = \"20ms\", factor = 3, jitter = \"none\" }",
            Box::new(exact(&[20.0, 60.0, 180.0])),
        ),
        (
            "{ kind = \"exponential\", initial = \"20ms\", max = \"60ms\", jitter = \"full\" }",
            Box::new(|at, wait| wait <= [20.0, 40.0, 60.0][at]),
        ),
        ("{ kind = \"random\", min = \"20ms\", max = \"50ms\" }", Box::new(within(20.0, 50.0))),
        (
            "{ kind = \"random\", min = \"20ms\", max = \"50ms\", jitter = \"decorrelated\" }",
            Box::new(within(20.0, 50.0)),
        ),
    ];
    for (backoff, law) in table {
        let upstream = Upstream::start(503).await?;
        let weir = start(&[&upstream], &format!("max-attempts = 4, backoff = {backoff}"), "");
        get(&weir).await?;
        let (waits, arrived) = (backoffs(&weir).await, upstream.requests());
        assert_eq!((waits.len(), arrived.len()), (3, 4), "{backoff}");
        for (at, (wait, pair)) in waits.iter().zip(arrived.windows(2)).enumerate() {
            assert!(law(at, *wait), "{backoff}: wait {at} is {wait} ms");
            let waited = pair[1].at - pair[0].at;
            // The timer's resolution is a millisecond.
            assert!(waited.as_secs_f64() * 1e3 >= wait - 1.0, "{backoff}: wait {at} of {wait} ms took {waited:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() -> Result {
    let upstream = Upstream::start(Reply::new(503).header("retry-after", "20").body("mine")).await?;
    let table = [
        (AT_ONCE, "timeout = \"15s\""),
        ("backoff = { kind = \"fixed\", delay = \"20s\" }", "timeout = \"15s\""),
        ("timeout = \"15s\"", ""),
    ];
    for (config, route) in table {
        upstream.forget();
        let weir = start(&[&upstream], config, route);
        let response = get(&weir).await?;
        assert_eq!(
            (response.status.as_u16(), response.text().as_str(), response.header("retry-after")),
            (503, "mine", Some("20"))
        );
        assert_eq!(response.header("x-weir-error"), None);
        assert!(response.end_after < LATE && upstream.request_count() == 1, "{config}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_after_that_fits_is_waited_for() -> Result {
    let upstream = Upstream::start(Behaviour::echo().fail_first(1, Reply::new(503).header("retry-after", "1"))).await?;
    let weir = start(&[&upstream], AT_ONCE, "timeout = \"20s\"");
    assert_eq!(get(&weir).await?.status, StatusCode::OK);
    assert_eq!(backoffs(&weir).await, [1000.0]);
    let arrived = upstream.requests();
    assert!(arrived[1].at - arrived[0].at >= Duration::from_millis(999));
    Ok(())
}

#[tokio::test]
async fn a_spent_budget_stops_retries() -> Result {
    let upstream = Upstream::start(503).await?;
    let weir = setup(&[&upstream], AT_ONCE, "").toml("[retry-budget]\npercent = 0\nmin-per-second = 0").start();
    assert_eq!(get(&weir).await?.status.as_u16(), 503);
    assert_eq!(upstream.request_count(), 1);
    assert_eq!(weir.metric("weir_retry_budget_exhausted_total").await, Some(1.0));
    let record = weir.records(1, |_| true).await.remove(0);
    let said = |acted: &Value| acted["policy"] == "retry-budget" && acted["why"] == "the retry budget is spent";
    assert!(record["acted"].as_array().context("acted")?.iter().any(said), "{record}");

    upstream.forget();
    let weir = setup(&[&upstream], AT_ONCE, "").toml("[retry-budget]\npercent = 20\nmin-per-second = 0").start();
    for _ in 0..100 {
        get(&weir).await?;
    }
    let sent = upstream.request_count();
    assert!((101..=120).contains(&sent), "{sent} requests for 100 exchanges and a share of 20 %");
    Ok(())
}
