//! The load-balance policy through the proxy: who gets how much, over all workers together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http::HeaderValue;
use tokio::task::JoinSet;
use weir_tests::client::{self, Client};
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream, closed_address};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

const NAMES: [&str; 3] = ["a", "b", "c"];

const ALGORITHMS: [&str; 7] = [
    "algorithm = \"round-robin\"",
    "algorithm = \"weighted-round-robin\"",
    "algorithm = \"random\"",
    "algorithm = \"weighted-random\"",
    "algorithm = \"least-connections\"",
    "algorithm = \"p2c-ewma\"",
    "algorithm = \"consistent-hash\", hash-on = \"x-user\"",
];

/// Three services that say who they are in `x-endpoint`.
async fn endpoints() -> anyhow::Result<[Upstream; 3]> {
    let [a, b, c] = NAMES.map(|name| Upstream::start(Reply::new(200).header("x-endpoint", name)));
    Ok([a.await?, b.await?, c.await?])
}

/// Endpoints with weights, as the configuration has them.
fn list(endpoints: &[(SocketAddr, u32)]) -> String {
    let items: Vec<String> =
        endpoints.iter().map(|(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}")).collect();
    format!("[{}]", items.join(", "))
}

/// The service `s` with these endpoints, behind more policies and this one.
fn setup(endpoints: &[(SocketAddr, u32)], before: &str, config: &str) -> Setup {
    Setup::new()
        .toml(&format!("[[service]]\nname = \"s\"\nendpoints = {}", list(endpoints)))
        .toml("[[route]]\nmatch = { host = \"s\" }\nservice = \"s\"\nchain = \"c\"")
        .toml(&format!("[chain]\nc = [{before}\"balance\"]"))
        .toml("[retry-budget]\npercent = 100\nmin-per-second = 1000")
        .policy("balance", "load-balance", &format!("{{ {config} }}"))
}

fn start(upstreams: &[Upstream; 3], weights: [u32; 3], config: &str) -> Weir {
    let endpoints: Vec<_> = upstreams.iter().map(Upstream::address).zip(weights).collect();
    setup(&endpoints, "", config).start()
}

/// Connections enough that both workers have some.
async fn connections(weir: &Weir) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Client::http1(weir.address()).await?);
    }
    Ok(clients)
}

/// Who answered, in order: one request at a time, over one connection after the other.
async fn picks(weir: &Weir, count: usize, user: impl Fn(usize) -> Option<String>) -> anyhow::Result<Vec<String>> {
    let (mut clients, mut names) = (connections(weir).await?, Vec::new());
    let connections = clients.len();
    for at in 0..count {
        let mut request = client::get("s", "/")?;
        if let Some(user) = user(at) {
            request.headers_mut().insert("x-user", HeaderValue::try_from(user)?);
        }
        let response = clients[at % connections].send(request).await?;
        names.push(response.header("x-endpoint").with_context(|| format!("{response:?}"))?.to_owned());
    }
    Ok(names)
}

async fn in_turn(weir: &Weir, count: usize) -> anyhow::Result<Vec<String>> {
    picks(weir, count, |_| None).await
}

/// Sends so many requests over each of all connections, at the same time.
async fn at_once(weir: &Weir, each: usize) -> Result {
    let mut callers = JoinSet::new();
    for mut client in connections(weir).await? {
        callers.spawn(async move {
            for _ in 0..each {
                client.send(client::get("s", "/")?).await?;
            }
            anyhow::Ok(())
        });
    }
    callers.join_all().await.into_iter().collect()
}

fn counts(upstreams: &[Upstream; 3]) -> [u64; 3] {
    [&upstreams[0], &upstreams[1], &upstreams[2]].map(Upstream::request_count)
}

fn longest_run(names: &[String]) -> usize {
    names.chunk_by(|one, next| one == next).map(<[_]>::len).max().unwrap_or(0)
}

#[tokio::test]
async fn round_robin_takes_each_in_turn_over_all_workers() -> Result {
    let upstreams = endpoints().await?;
    let weir = start(&upstreams, [5, 1, 1], "algorithm = \"round-robin\"");
    let names = in_turn(&weir, 300).await?;
    assert!(
        names.windows(3).all(|three| three[0] != three[1] && three[1] != three[2] && three[0] != three[2]),
        "{names:?}"
    );
    at_once(&weir, 30).await?;
    assert_eq!(counts(&upstreams), [260; 3], "780 requests, whatever the weights");
    Ok(())
}

#[tokio::test]
async fn smooth_weights_5_1_1_never_give_more_than_4_in_a_row() -> Result {
    let upstreams = endpoints().await?;
    let weir = start(&upstreams, [5, 1, 1], "algorithm = \"weighted-round-robin\"");
    let names = in_turn(&weir, 700).await?;
    assert!(longest_run(&names) <= 4, "{} in a row", longest_run(&names));
    assert_eq!(counts(&upstreams), [500, 100, 100]);
    at_once(&weir, 70).await?;
    assert_eq!(counts(&upstreams), [1300, 260, 260], "shares are exact under load too");
    Ok(())
}

#[tokio::test]
async fn random_picks_follow_their_shares() -> Result {
    // Five standard deviations of 1400 draws to either side: once in two million runs by chance.
    let near =
        |count: u64, share: f64| (count as f64 - 1400.0 * share).abs() < 5.0 * (1400.0 * share * (1.0 - share)).sqrt();
    for (algorithm, weights, shares) in
        [("random", [5, 1, 1], [1.0 / 3.0; 3]), ("weighted-random", [5, 1, 1], [5.0 / 7.0, 1.0 / 7.0, 1.0 / 7.0])]
    {
        let upstreams = endpoints().await?;
        let weir = start(&upstreams, weights, &format!("algorithm = \"{algorithm}\""));
        let names = in_turn(&weir, 1400).await?;
        let counts = counts(&upstreams);
        assert!(counts.iter().zip(shares).all(|(count, share)| near(*count, share)), "{algorithm}: {counts:?}");
        assert!(longest_run(&names) > 2, "{algorithm}: too regular for chance");
    }
    Ok(())
}

#[tokio::test]
async fn least_connections_avoids_the_busy_ones() -> Result {
    let upstreams = endpoints().await?;
    let weir = start(&upstreams, [1, 1, 1], "algorithm = \"least-connections\"");
    upstreams[0].set(Answer::hang());
    let mut waiting = JoinSet::new();
    while upstreams[0].request_count() == 0 {
        let address = weir.address();
        waiting.spawn(async move { client::fetch(address, "s", "/").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let names = in_turn(&weir, 60).await?;
    assert!(!names.contains(&"a".to_owned()), "the busy one was picked: {names:?}");
    assert_eq!(upstreams[0].request_count(), 1);
    let shown = weir.page("/services").await["services"][0]["endpoints"][0]["in-flight"].clone();
    assert_eq!(shown, 1);
    Ok(())
}

#[tokio::test]
async fn two_choices_send_at_most_3_percent_to_a_slow_endpoint() -> Result {
    let upstreams = endpoints().await?;
    upstreams[1].set(Behaviour::echo().delayed(Duration::from_millis(100)));
    let weir = start(&upstreams, [1, 1, 1], "algorithm = \"p2c-ewma\"");
    for _ in 0..1000 {
        client::fetch(weir.address(), "s", "/").await?;
    }
    let [_, slow, _] = counts(&upstreams);
    assert!(slow <= 30, "{slow} of 1000, one at a time, went to the slow one");
    at_once(&weir, 100).await?;
    let [a, slow, c] = counts(&upstreams);
    assert!(slow <= 78, "{slow} of 2600 went to the slow one");
    assert!(a.min(c) > 300, "the fast ones share the rest: {a} and {c}");
    Ok(())
}

#[tokio::test]
async fn a_hashed_key_stays_at_its_endpoint() -> Result {
    let upstreams = endpoints().await?;
    let weir = start(&upstreams, [1, 1, 1], "algorithm = \"consistent-hash\", hash-on = \"x-user\"");
    let user = |at: usize| Some(format!("user-{}", at % 100));
    let names = picks(&weir, 300, user).await?;
    assert!(names.chunks(100).all(|round| round == &names[..100]), "a key moved");
    let mut shares = BTreeMap::new();
    for name in &names[..100] {
        *shares.entry(name.clone()).or_insert(0) += 1;
    }
    assert!(shares.len() == 3 && shares.values().all(|share| *share >= 10), "{shares:?}");

    // Without its endpoint a key moves, and no other does.
    let all: Vec<_> = upstreams.iter().map(|upstream| (upstream.address(), 1)).collect();
    weir.edit_live(&list(&all), &list(&all[..2])).await;
    let left = picks(&weir, 100, user).await?;
    assert!(left.iter().zip(&names).all(|(now, then)| now == then || then == "c"), "a key moved that had no need to");
    assert!(!left.contains(&"c".to_owned()));

    let without = in_turn(&weir, 20).await?;
    assert_eq!(without.iter().filter(|name| *name == "a").count(), 10, "without a key each gets its turn");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_was_tried_or_refused_is_left_out_by_all_algorithms() -> Result {
    let good = Upstream::start(Reply::new(200).header("x-endpoint", "good")).await?;
    let bad = Upstream::start(503).await?;
    for algorithm in ALGORITHMS {
        let user = |at: usize| Some(at.to_string());
        let weir = setup(&[(bad.address(), 1), (good.address(), 1)], "\"retry\", ", algorithm)
            .policy("retry", "retry", "{ max-attempts = 2, backoff = { kind = \"fixed\", delay = \"1ms\" } }")
            .start();
        assert_eq!(
            picks(&weir, 30, user).await?,
            ["good"; 30],
            "{algorithm}: a second attempt went to the endpoint that had failed"
        );

        let weir = setup(&[(closed_address()?, 1), (good.address(), 1)], "\"breaker\", ", algorithm)
            .policy("breaker", "circuit-breaker", "{ trip = { consecutive-failures = 1 }, open-for = \"1h\" }")
            .start();
        let (mut client, mut failed) = (Client::http1(weir.address()).await?, 0);
        for at in 0..30 {
            let mut request = client::get("s", "/")?;
            request.headers_mut().insert("x-user", HeaderValue::from(at));
            failed += usize::from(!client.send(request).await?.status.is_success());
        }
        assert!(failed <= 1, "{algorithm}: {failed} calls failed, though one opens the breaker");
    }
    Ok(())
}

#[tokio::test]
async fn with_no_endpoint_left_callers_are_told() -> Result {
    for algorithm in ALGORITHMS {
        let weir = setup(&[], "", algorithm).start();
        let response = client::fetch(weir.address(), "s", "/").await?;
        assert_eq!(
            (response.status.as_u16(), response.header("x-weir-error")),
            (503, Some("no-endpoint")),
            "{algorithm}"
        );
        assert!(response.json()?["message"].as_str().context("a message")?.contains("\"s\""), "{response:?}");
    }
    Ok(())
}
