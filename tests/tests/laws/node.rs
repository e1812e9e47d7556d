//! The node as an operator sees it: its admin pages, its limits, and how it stops.

use std::time::Duration;

use http::StatusCode;
use weir_tests::client::{self, Client};
use weir_tests::raw::Raw;
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

#[tokio::test]
async fn the_admin_pages_tell_what_they_promise() -> Result {
    let upstream = Upstream::start(200).await?;
    let setup = Setup::new()
        .toml("[chain]\nc = [\"marker\"]")
        .policy("marker", "headers", "{ response = { set = { \"x-policy-marker\" = \"v1\" } } }")
        .service_with("one", &[upstream.address()], "http1", "chain = \"c\"");
    let weir = setup.start();
    let response = client::fetch(weir.address(), "one", "/").await?;
    assert_eq!(response.header("x-policy-marker"), Some("v1"));

    assert_eq!(client::fetch(weir.admin(), "admin", "/healthz").await?.status, 200);
    let ready = weir.page("/readyz").await;
    assert_eq!((&ready["status"], ready["generation"].as_u64()), (&"ready".into(), Some(weir.generation())));

    let plugins = weir.page("/plugins").await;
    let plugin = &plugins["plugins"][0];
    assert_eq!(
        (&plugin["name"], &plugin["serving"], &plugin["traps"]),
        (&"headers".into(), &true.into(), &0.into()),
        "{plugins}"
    );
    assert!(plugin["digest"].as_str().is_some_and(|digest| digest.len() >= 64));
    assert!(plugin["hooks"].as_array().is_some_and(|hooks| hooks.contains(&"on-response".into())));
    assert!(plugin["loaded-at"].as_str().is_some_and(|at| at.ends_with('Z')));
    assert!(plugin["last-error"].is_null() && plugin["generation"].is_u64());
    let time = &plugin["policies"][0]["time"]["on-response"];
    assert!(time["calls"].as_u64() >= Some(1) && time["seconds"].as_f64() > Some(0.0), "{plugin}");

    let services = weir.page("/services").await;
    let endpoint = &services["services"][0]["endpoints"][0];
    assert_eq!(
        (&services["services"][0]["name"], &endpoint["address"]),
        (&"one".into(), &upstream.address().to_string().into())
    );
    assert_eq!(
        (&endpoint["health"], &endpoint["in-flight"], &endpoint["breaker"]["state"]),
        (&"ok".into(), &0.into(), &"closed".into()),
        "{services}"
    );

    let config = weir.page("/config").await;
    assert_eq!(config["config"]["service"][0]["name"], "one", "{config}");
    assert!(config["last-error"].is_null());

    let metrics = client::fetch(weir.admin(), "admin", "/metrics").await?;
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text") || kind.starts_with("text/plain"))
    );
    let text = metrics.text();
    for line in [
        "weir_exchanges_total{",
        "weir_attempts_total{",
        "weir_downstream_connections{",
        "# TYPE weir_exchange_duration_seconds histogram",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let missing = client::fetch(weir.admin(), "admin", "/nothing").await?;
    assert_eq!((missing.status, &missing.json()?["error"]), (StatusCode::NOT_FOUND, &"not-found".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_finishes_what_it_has_begun() -> Result {
    let slow = Reply::new(200).huge(10_000).trickle(1_000, Duration::from_millis(10));
    let upstream = Upstream::start(Behaviour::from(Answer::from(slow).after(Duration::from_millis(300)))).await?;
    let endpoints = [upstream.address()];
    let weir = Setup::new().workers(2).service("one", &endpoints).service_with("two", &endpoints, "http2", "").start();
    let (address, admin) = (weir.address(), weir.admin());
    let mut idle = Raw::connect(address).await?;
    idle.send("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await?;
    assert_eq!(idle.read_response().await?.status, 404);
    let mut calls = Vec::new();
    for service in ["one", "two"] {
        for mut client in [Client::http1(address).await?, Client::http2(address).await?] {
            let request = client::get(service, "/")?;
            calls.push(tokio::spawn(async move { client.send(request).await }));
        }
    }
    weir.until("all calls are under way", async || upstream.request_count() == 4).await;
    let mut probe = Client::http1(admin).await?;
    assert_eq!(probe.send(client::get("admin", "/readyz")?).await?.status, 200);
    let stopped = tokio::task::spawn_blocking(move || weir.stop());
    let draining = loop {
        let answer = probe.send(client::get("admin", "/readyz")?).await?;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((draining.status, &draining.json()?["status"]), (StatusCode::SERVICE_UNAVAILABLE, &"draining".into()));
    // It has nothing to end.
    assert_eq!(idle.read_to_end().await?, "");
    for call in calls {
        let response = call.await??;
        assert_eq!(
            (response.status, response.body.len(), &response.broken),
            (StatusCode::OK, 10_000, &None),
            "{response:?}"
        );
    }
    let records = stopped.await?;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "it accepts nothing more");
    assert_eq!(
        records.iter().filter(|record| record["status"] == 200 && record["outcome"] == "ok").count(),
        4,
        "{records:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_in_time_is_dropped_and_recorded() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let weir = Setup::new().service_with("one", &[upstream.address()], "http1", "timeout = \"none\"").start();
    let address = weir.address();
    let call = tokio::spawn(async move { client::fetch(address, "one", "/").await });
    weir.until("the call is under way", async || upstream.request_count() == 1).await;
    let records = tokio::task::spawn_blocking(move || weir.stop()).await?;
    assert!(call.await?.is_err());
    assert_eq!(records.len(), 1, "{records:?}");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_carries_nothing_is_closed() -> Result {
    let upstream = Upstream::start(200).await?;
    let limits = "[limits]\nidle-timeout = \"300ms\"\nheader-timeout = \"300ms\"";
    let weir = Setup::new().toml(limits).service("one", &[upstream.address()]).start();
    let mut raw = Raw::connect(weir.address()).await?;
    raw.send("GET / HTTP/1.1\r\nhost: one\r\n\r\n").await?;
    assert_eq!(raw.read_response().await?.status, 200);
    assert!(raw.closes_within(Duration::from_secs(20)).await);
    Ok(())
}

#[tokio::test]
async fn more_exchanges_than_allowed_are_503_overload() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let setup = Setup::new().workers(1).toml("[limits]\nmax-pending = 2").service_with(
        "one",
        &[upstream.address()],
        "http1",
        "timeout = \"none\"",
    );
    let weir = setup.start();
    let address = weir.address();
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(async move { client::fetch(address, "one", "/").await })).collect();
    weir.until("both are under way", async || upstream.request_count() == 2).await;
    for mut client in [Client::http1(address).await?, Client::http2(address).await?] {
        let response = client.send(client::get("one", "/")?).await?;
        assert_eq!(
            (response.status, response.header("x-weir-error")),
            (StatusCode::SERVICE_UNAVAILABLE, Some("overload"))
        );
        assert_eq!(response.json()?["error"], "overload");
    }
    held.iter().for_each(|call| call.abort());
    upstream.set(200);
    weir.until("there is room again", async || {
        client::fetch(address, "one", "/").await.is_ok_and(|response| response.status == 200)
    })
    .await;
    assert!(weir.records(2, |record| record["error"] == "overload").await.len() >= 2);
    Ok(())
}

#[tokio::test]
async fn more_calls_to_an_endpoint_than_its_service_allows_are_503_overload() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let service = format!(
        "[[service]]\nname = \"one\"\nendpoints = [{{ address = \"{}\" }}]\nmax-connections = 1\nmax-pending = 1\n[[route]]\nservice = \"one\"\ntimeout = \"none\"",
        upstream.address()
    );
    let weir = Setup::new().workers(1).toml(&service).start();
    let address = weir.address();
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(async move { client::fetch(address, "one", "/").await })).collect();
    weir.until("one is under way and one waits", async || {
        weir.page("/services").await["services"][0]["endpoints"][0]["in-flight"] == 2
    })
    .await;
    let response = client::fetch(address, "one", "/").await?;
    assert_eq!((response.status, response.header("x-weir-error")), (StatusCode::SERVICE_UNAVAILABLE, Some("overload")));
    assert_eq!((upstream.request_count(), upstream.connection_count()), (1, 1));
    held.iter().for_each(|call| call.abort());
    Ok(())
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir =
        Setup::new().workers(2).toml("[limits]\nmax-connections = 2").service("one", &[upstream.address()]).start();
    let mut first = Client::http1(weir.address()).await?;
    let mut second = Client::http2(weir.address()).await?;
    assert_eq!(first.send(client::get("one", "/")?).await?.status, 200);
    assert_eq!(second.send(client::get("one", "/")?).await?.status, 200);
    let mut third = Raw::connect(weir.address()).await?;
    third.send("GET / HTTP/1.1\r\nhost: one\r\n\r\n").await?;
    let response = third.read_response().await?;
    assert_eq!((response.status, response.header("x-weir-error")), (503, Some("overload")), "{response:?}");
    assert_eq!(third.read_to_end().await?, "");
    assert_eq!(weir.metric("weir_errors_total{kind=\"overload\"}").await, Some(1.0));
    assert_eq!(first.send(client::get("one", "/")?).await?.status, 200);
    drop(second);
    weir.until("there is room again", async || {
        client::fetch(weir.address(), "one", "/").await.is_ok_and(|response| response.status == 200)
    })
    .await;
    Ok(())
}
