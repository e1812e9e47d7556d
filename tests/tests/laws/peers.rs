//! The bench of `cargo xtask bench`, as short as can be. What it measures is not looked at here: it depends on the machine.

use std::time::Duration;

use weir_tests::peers::{self, Lengths, Measured, options::Options};

/// As many requests as 64 connections make in so little time, at least: each makes one.
const LENGTHS: Lengths = Lengths {
    rounds: 2,
    starts: 1,
    warm_up: Duration::from_millis(20),
    turn: Duration::from_millis(200),
    paced: Duration::from_millis(200),
};

#[tokio::test]
async fn a_bench_measures_each_proxy_in_each_round_and_no_request_fails() -> anyhow::Result<()> {
    let only = ["floor", "weir-empty", "weir-five"];
    let options = Options { h2: true, rate: 200, only: only.map(String::from).into(), ..Options::default() };
    let report = peers::run(&options, LENGTHS, |line| println!("{line}")).await?;
    println!("{report}");
    assert_eq!(report.failed(), 0, "{}", report.problem());
    assert_eq!(report.measured.iter().map(|of| &*of.name).collect::<Vec<_>>(), only);
    for Measured { name, starts, http1, http2, paced, idle_kib, loaded_kib, tally } in &report.measured {
        assert_eq!([http1.len(), http2.len(), paced.len(), starts.len()], [2, 2, 2, 1], "{name}");
        assert!(http1.iter().chain(http2).all(|turn| turn.cpu > 0.0 && turn.rate > 0.0), "{name}: {http1:?} {http2:?}");
        // 200 ms of 200 requests a second.
        assert!(paced.iter().all(|turn| turn.latencies.len() == 40 && turn.cpu > 0.0), "{name}");
        assert!(*idle_kib > 0 && *loaded_kib > 0 && tally.requests > 0, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bench_says_which_proxies_there_are() {
    let options = Options { rate: 200, only: vec!["apache".into()], ..Options::default() };
    let error = peers::run(&options, LENGTHS, |_| {}).await.expect_err("there is no such proxy");
    assert!(error.to_string().contains("floor"), "{error:#}");
}
