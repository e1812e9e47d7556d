//! The streams of one busy HTTP/2 connection run on all workers, and nobody can tell but by the metrics.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_tests::busy::{Busy, WORKERS, counted, setup, stop, taken_over};
use weir_tests::client::{self, Client};
use weir_tests::rogue::{self, Case};
use weir_tests::upstream::{Answer, Behaviour, Received, Reply, Upstream};
use weir_tests::weir::Setup;

type Result<T = ()> = anyhow::Result<T>;

/// A node in front of a service to which many connect at once, and may have to knock twice.
fn in_front_of_many(workers: usize, address: SocketAddr) -> Setup {
    Setup::new().workers(workers).toml(&format!(
        "[[service]]\nname = \"one\"\nconnect-timeout = \"20s\"\nendpoints = [{{ address = \"{address}\" }}]\n\
         [[route]]\nmatch = {{ host = \"one\" }}\nservice = \"one\"\ntimeout = \"none\""
    ))
}

/// A service that answers the first half of `wholehalf` and keeps the second until it is told to end.
async fn halting() -> Result<(SocketAddr, watch::Sender<bool>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (end, ended) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut ended = ended.clone();
            tokio::spawn(async move {
                while stream.read(&mut [0; 4096]).await? > 0 {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await?;
                    let _ = ended.wait_for(|ended| *ended).await;
                    stream.write_all(b"half").await?;
                }
                io::Result::Ok(())
            });
        }
    });
    Ok((address, end))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_of_one_connection_are_spread_evenly_and_all_answered() -> Result {
    const STREAMS: usize = 1000;
    for workers in [2, 4] {
        let (address, end) = halting().await?;
        let weir = in_front_of_many(workers, address).start();
        let client = Client::http2(weir.address()).await?;
        let calls = (0..STREAMS).map(|_| {
            let mut client = client.another().unwrap();
            async move {
                let mut body = client.open(client::get("one", "/")?).await?.into_body();
                let first = body.frame().await.context("a piece")??.into_data().unwrap();
                anyhow::Ok((first, body))
            }
        });
        let begun = try_join_all(calls).await?;
        let counts = counted(&weir, "worker_exchanges", workers).await;
        assert_eq!(counts.iter().sum::<f64>(), STREAMS as f64);
        let fair = (STREAMS / workers) as f64;
        // The worker with the connection may keep a hundred more; no other is left out.
        let (most, least) =
            counts.iter().fold((0.0_f64, f64::MAX), |(most, least), count| (most.max(*count), least.min(*count)));
        assert!(least >= fair * 0.85 && most <= least + 110.0, "{counts:?}");
        end.send_replace(true);
        for (first, body) in begun {
            assert_eq!((&first[..], &body.collect().await?.to_bytes()[..]), (&b"half"[..], &b"half"[..]));
        }
        let ended = async || counted(&weir, "worker_exchanges_ended", workers).await.iter().sum::<f64>();
        weir.until("each exchange ends", async || ended().await == STREAMS as f64).await;
        let records = stop(weir).await?;
        assert_eq!(records.len(), STREAMS);
        let clients: HashSet<_> = records.iter().map(|record| record["client"].to_string()).collect();
        assert_eq!(clients.len(), 1, "whoever runs it, the caller is the same");
        assert!(records.iter().all(|record| record["outcome"] == "ok" && record["response_bytes"] == 8));
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_with_few_streams_stays_where_it_is() -> Result {
    let upstream = Upstream::start(200).await?;
    let (setup, _hang) = setup(upstream.address(), "").await?;
    let weir = setup.start();
    // Many of them keep a worker as busy as one with many streams.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::http2(weir.address()).await?);
        clients.push(Client::http1(weir.address()).await?);
    }
    let calls = clients.into_iter().map(async |mut client: Client| {
        for _ in 0..10 {
            match client.another() {
                Some(mut another) => {
                    let (one, other) =
                        tokio::join!(client.send(client::get("one", "/")?), another.send(client::get("two", "/")?));
                    ensure!(one?.status == 200 && other?.status == 200);
                }
                None => ensure!(client.send(client::get("one", "/")?).await?.status == 200),
            }
        }
        Ok(())
    });
    try_join_all(calls).await?;
    assert_eq!(taken_over(&weir).await, 0.0);
    assert_eq!(counted(&weir, "worker_exchanges", WORKERS).await.iter().sum::<f64>(), 600.0);
    Ok(())
}

#[tokio::test]
async fn streams_that_are_reset_end_their_exchanges_wherever_they_run() -> Result {
    const STREAMS: u64 = 200;
    let upstream = Upstream::start(Answer::hang()).await?;
    for (connection_ends, after_head) in [(false, false), (true, false), (false, true), (true, true)] {
        upstream.forget();
        if after_head {
            upstream.set(Reply::new(200).huge(1000).stall_after(500));
        }
        // It does nothing unless it is asked to.
        let case = Case { hook: "on-complete", deed: "trap", on_error: "reject" };
        let weir = rogue::node(&[case], &upstream, WORKERS).start();
        let client = Client::http2(weir.address()).await?;
        let mut waiting = JoinSet::new();
        for _ in 0..STREAMS {
            let mut client = client.another().unwrap();
            waiting.spawn(async move {
                let response = client.open(rogue::call(&case, false)?).await?;
                std::future::pending::<()>().await;
                anyhow::Ok(response)
            });
        }
        weir.until("all arrive", async || upstream.request_count() == STREAMS).await;
        assert!(taken_over(&weir).await >= 10.0, "{}", taken_over(&weir).await);
        if connection_ends {
            drop(client);
        }
        waiting.shutdown().await;
        weir.until("the endpoint is let go", async || upstream.abandoned_count() == STREAMS).await;
        let completed = format!("weir_plugin_hook_calls_total{{policy={:?},hook=\"on-complete\"}}", case.name());
        weir.until("each end is told", async || weir.metric(&completed).await == Some(STREAMS as f64)).await;
        let records = stop(weir).await?;
        assert_eq!(records.len() as u64, STREAMS, "one record each");
        for record in records {
            assert_eq!(record["outcome"], "client-left", "{record}");
            let failure = if after_head { serde_json::Value::Null } else { "cancelled".into() };
            assert!(after_head || record["attempts"][0].is_null() || record["attempts"][0]["failure"] == failure);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_exchanges_on_every_worker() -> Result {
    const STREAMS: usize = 200;
    for node_stops in [false, true] {
        let (address, end) = halting().await?;
        let weir = in_front_of_many(WORKERS, address).start();
        let client = Client::http2(weir.address()).await?;
        let opened = (0..STREAMS).map(|_| {
            let mut client = client.another().unwrap();
            async move { client.open(client::get("one", "/")?).await }
        });
        let opened = try_join_all(opened).await?;
        assert!(taken_over(&weir).await >= 10.0, "{}", taken_over(&weir).await);
        let read = async || {
            for response in opened {
                assert_eq!(response.into_body().collect().await?.to_bytes(), "halfhalf");
            }
            anyhow::Ok(())
        };
        let records = if node_stops {
            let address = weir.address();
            let stopped = tokio::spawn(stop(weir));
            closes(address).await;
            end.send_replace(true);
            read().await?;
            stopped.await??
        } else {
            // The listener moves away, and the exchanges that came over it end.
            let address = weir.address();
            weir.edit_live("listen = \"127.0.0.1:0\"\n[[service", "listen = \"127.0.0.2:0\"\n[[service").await;
            closes(address).await;
            end.send_replace(true);
            read().await?;
            weir.records(STREAMS, |record| record["outcome"] == "ok").await
        };
        assert_eq!(records.iter().filter(|record| record["outcome"] == "ok").count(), STREAMS);
    }
    Ok(())
}

/// Waits until nobody listens at an address.
async fn closes(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_fails_only_its_exchange_on_every_worker() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let cases = ["on-request", "pick", "on-response"].map(|hook| Case { hook, deed: "trap", on_error: "reject" });
    let hang = Upstream::start(Answer::hang()).await?;
    let setup = rogue::node(&cases, &upstream, WORKERS);
    let weir = setup.service_with("hang", &[hang.address()], "http2", "timeout = \"none\"").start();
    let busy = Busy::new(&weir, &hang).await?;
    let before = taken_over(&weir).await;
    let guilty = |number: usize| number.is_multiple_of(3);
    let calls = (0..90).map(|number| rogue::call(&cases[number % 3], guilty(number / 3)));
    for (number, response) in busy.send(calls).await?.iter().enumerate() {
        assert_eq!(rogue::is_refusal(response), guilty(number / 3), "{number}: {response:?}");
    }
    assert!(taken_over(&weir).await >= before + 10.0);
    Ok(())
}

#[tokio::test]
async fn limits_of_the_node_count_streams_wherever_they_run() -> Result {
    let upstream = Upstream::start(Answer::hang()).await?;
    let (setup, _hang) = setup(upstream.address(), "timeout = \"none\"").await?;
    let weir = setup.toml("[limits]\nmax-pending = 180").start();
    let client = Client::http2(weir.address()).await?;
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let mut client = client.another().unwrap();
        calls.spawn(async move { client.send(client::get("two", "/")?).await });
    }
    for _ in 0..20 {
        let response = calls.join_next().await.context("an answer")???;
        assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (503, Some("overload")));
    }
    weir.until("the others arrive", async || upstream.request_count() == 180).await;
    assert_eq!(calls.len(), 180);
    assert!(taken_over(&weir).await >= 8.0);
    Ok(())
}

#[tokio::test]
async fn a_new_identity_of_the_listener_holds_on_every_worker() -> Result {
    let script = |request: &Received| {
        Reply::new(200).body(request.header("x-service-name").unwrap_or_default().to_owned()).into()
    };
    let upstream = Upstream::start(Behaviour::new(script)).await?;
    let (setup, hang) = setup(upstream.address(), "").await?;
    let weir = setup.listener("identity = \"before\"").start();
    let busy = Busy::new(&weir, &hang).await?;
    let before = taken_over(&weir).await;
    for identity in ["before", "after"] {
        for response in busy.send((0..24).map(|_| client::get("one", "/"))).await? {
            assert_eq!(response.text(), identity);
        }
        if identity == "before" {
            weir.edit_live("identity = \"before\"", "identity = \"after\"").await;
        }
    }
    assert!(taken_over(&weir).await >= before + 8.0);
    Ok(())
}
