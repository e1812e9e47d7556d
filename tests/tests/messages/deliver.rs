//! Deliveries: tried again until they succeed or are given up, and nothing is held up meanwhile.

use anyhow::Result;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use weir_tests::messages::{Consumer, embedded, next, publish, settle, setup};
use weir_tests::upstream::{Received, Upstream, closed_address};

fn is(received: &Received, body: &str) -> bool {
    received.body == body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_delivery_is_tried_again_and_says_which_attempt_it_is() -> Result<()> {
    let failures = AtomicUsize::new(2);
    let answer = move |_: &Received| match failures
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
    {
        Ok(_) => 500,
        Err(_) => 200,
    };
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(answer).await?);
    // One worker, so that records come in order.
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").workers(1).start();
    publish(node.address(), "x", &[]).await?;
    let attempts: Vec<_> =
        consumer.until(3).await.iter().map(|seen| seen.header("x-weir-attempt").unwrap().to_owned()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    let records = node.records(3, |record| record["kind"] == "delivery").await;
    let outcomes: Vec<_> = records.iter().map(|record| record["outcome"].clone()).collect();
    assert_eq!(outcomes, ["error", "error", "ok"]);
    assert_eq!(records[0]["acted"], json!([{ "policy": "orders", "hook": "subscription", "did": "will try again" }]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_is_dead_lettered_with_its_reason_and_blocks_nothing() -> Result<()> {
    let (directory, consumer) =
        (tempfile::tempdir()?, Consumer::start(|seen| if is(seen, "poison") { 500 } else { 200 }).await?);
    let keys = "max-attempts = 3\nbackoff = { initial = \"3s\", max = \"3s\" }";
    let node = setup(&embedded(directory.path()), consumer.address(), "", keys).start();
    publish(node.address(), "poison", &[("idempotency-key", "p"), ("x-tenant", "a"), ("content-type", "text/plain")])
        .await?;
    consumer.until(1).await;
    for number in 0..10 {
        publish(node.address(), number.to_string(), &[]).await?;
    }
    // One at a time, and none of them waits for the next attempt at the first.
    let seen = consumer.until(11).await;
    assert_eq!(seen.iter().take(11).filter(|seen| is(seen, "poison")).count(), 1, "{:?}", consumer.bodies());

    let dead = next(node.address(), "dead").await?;
    assert_eq!((dead.status.as_u16(), &dead.body[..]), (200, &b"poison"[..]), "{dead:?}");
    for (name, value) in [
        ("x-weir-message-id", "p"),
        ("x-tenant", "a"),
        ("content-type", "text/plain"),
        ("x-weir-dead-letter-attempts", "3"),
        ("x-weir-dead-letter-channel", "orders"),
        ("x-weir-dead-letter-subscription", "orders"),
    ] {
        assert_eq!(dead.header(name), Some(value), "{name}: {dead:?}");
    }
    let reason = dead.header("x-weir-dead-letter-reason").unwrap();
    assert!(reason.contains("attempt 3 of 3") && reason.contains("answered 500"), "{reason}");
    assert_eq!(settle(node.address(), &dead, "ack", &[]).await?.status, 204);
    assert_eq!(consumer.seen().iter().filter(|seen| is(seen, "poison")).count(), 3, "the last attempt was the last");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_missed_is_delivered_when_it_is_back_in_key_order() -> Result<()> {
    let (directory, address) = (tempfile::tempdir()?, closed_address()?);
    let keys = "max-attempts = 1000\nordered = true\nconcurrency = 8";
    let node = setup(&embedded(directory.path()), address, "", keys).start();
    for number in 0..100 {
        let key = format!("k{}", number % 7);
        assert_eq!(publish(node.address(), number.to_string(), &[("x-weir-key", &key)]).await?.status, 200);
    }
    node.until("it was tried", async || {
        node.metric("weir_messages_total{kind=\"delivery\",route=\"orders\",event=\"retried\"}").await > Some(20.0)
    })
    .await;
    let upstream = Upstream::listen(address, 200).await?;
    let all = async || upstream.request_count() >= 100;
    node.until("all are delivered", all).await;
    let mut by_key: HashMap<String, Vec<u32>> = HashMap::new();
    for seen in upstream.requests() {
        let number = std::str::from_utf8(&seen.body)?.parse()?;
        by_key.entry(seen.header("x-weir-key").unwrap().to_owned()).or_default().push(number);
    }
    assert_eq!(by_key.len(), 7);
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_its_next_attempt_holds_up_its_own_key_alone() -> Result<()> {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let answer = move |seen: &Received| {
        if seen.header("x-weir-key") == Some("bad") && !well.load(Ordering::Relaxed) { 500 } else { 200 }
    };
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(answer).await?);
    let keys = "max-attempts = 1000\nordered = true\nbackoff = { initial = \"200ms\", max = \"200ms\" }";
    let node = setup(&embedded(directory.path()), consumer.address(), "", keys).start();
    for number in 0..6 {
        let key = if number % 2 == 0 { "bad" } else { "good" };
        publish(node.address(), number.to_string(), &[("x-weir-key", key)]).await?;
    }
    node.until("the others are through", async || {
        let bodies = consumer.bodies();
        ["1", "3", "5"].iter().all(|good| bodies.contains(&(*good).to_owned()))
    })
    .await;
    let bodies = consumer.bodies();
    assert!(!bodies.contains(&"2".to_owned()) && !bodies.contains(&"4".to_owned()), "behind the first: {bodies:?}");
    is_well.store(true, Ordering::Relaxed);
    node.until("all are through", async || consumer.bodies().contains(&"4".to_owned())).await;
    let bodies = consumer.bodies();
    let last = |body: &str| bodies.iter().rposition(|seen| seen == body);
    assert!(last("0") < last("2") && last("2") < last("4"), "{bodies:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_answer_is_an_attempt_that_failed() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node =
        setup(&embedded(directory.path()), consumer.address(), "", "timeout = \"200ms\"\nmax-attempts = 2").start();
    consumer
        .upstream
        .set(weir_tests::upstream::Answer::from(weir_tests::upstream::Reply::new(200)).after(Duration::from_secs(30)));
    publish(node.address(), "x", &[]).await?;
    let dead = next(node.address(), "dead").await?;
    let reason = dead.header("x-weir-dead-letter-reason").unwrap();
    assert!(reason.contains("did not answer within 200 ms"), "{reason}");
    let failed = node.records(2, |record| record["kind"] == "delivery" && record["route"] == "orders").await;
    assert_eq!(failed[0]["attempts"][0]["failure"], "timeout");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_deliveries_are_in_progress_than_concurrency_allows() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "concurrency = 3").start();
    consumer.upstream.set(
        weir_tests::upstream::Answer::from(weir_tests::upstream::Reply::new(200)).after(Duration::from_millis(300)),
    );
    for number in 0..12 {
        publish(node.address(), number.to_string(), &[]).await?;
    }
    node.until("all are delivered", async || consumer.upstream.request_count() >= 12).await;
    // Each takes 300 ms: those that begin within so much of each other are in progress together.
    let begun: Vec<_> = consumer.upstream.requests().iter().map(|seen| seen.at).collect();
    let together = |first: &std::time::Instant| {
        begun.iter().filter(|at| *at >= first && **at - *first < Duration::from_millis(290)).count()
    };
    assert_eq!(begun.iter().map(together).max(), Some(3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_costs_a_message_no_attempt() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 503).await?);
    let breaker = "{ scope = \"endpoint\", trip = { consecutive-failures = 2 }, open-for = \"300ms\", half-open = { max-calls = 1, successes = 1 } }";
    let keys = "max-attempts = 6\nchain = \"deliveries\"";
    let node = setup(&embedded(directory.path()), consumer.address(), "", keys)
        .toml("[chain]\ndeliveries = [\"breaker\"]")
        .policy("breaker", "circuit-breaker", breaker)
        .start();
    publish(node.address(), "x", &[]).await?;
    consumer.until(2).await;
    node.until("the breaker is open", async || {
        let page = node.page("/services").await;
        let services = page["services"].as_array().unwrap().clone();
        services
            .iter()
            .any(|service| service["name"] == "consumer" && service["endpoints"][0]["health"] == "breaker-open")
    })
    .await;
    let failed = consumer.seen().len();
    consumer.answers(|_| 200);
    let seen = consumer.until(failed + 1).await;
    assert_eq!(seen.last().unwrap().header("x-weir-attempt").unwrap().parse::<usize>()?, failed + 1);
    let refused = node.records(1, |record| record["kind"] == "delivery" && record["attempts"].is_null()).await;
    assert!(!refused.is_empty(), "an open breaker lets nothing through");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_was_acknowledged_is_not_delivered_again_within_its_window() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "dedup = \"1h\"").start();
    publish(node.address(), "one", &[("idempotency-key", "same")]).await?;
    consumer.until(1).await;
    node.until("it is acknowledged", async || {
        node.metric("weir_messages_total{kind=\"delivery\",route=\"orders\",event=\"acked\"}").await >= Some(1.0)
    })
    .await;
    assert_eq!(publish(node.address(), "again", &[("idempotency-key", "same")]).await?.status, 200);
    publish(node.address(), "other", &[("idempotency-key", "other")]).await?;
    consumer.until(2).await;
    assert_eq!(consumer.bodies(), ["one", "other"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_reloaded_without_a_message_lost_or_delivered_twice() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "concurrency = 2").start();
    for round in 0..6 {
        for number in 0..20 {
            assert_eq!(publish(node.address(), format!("{round}-{number}"), &[]).await?.status, 200);
        }
        match round % 2 {
            // One that goes on, and one that begins anew.
            0 => node.edit_live("path = \"/orders", "path = \"/orders/x").await,
            _ => node.edit_live("concurrency = 2", "concurrency = 2\nordered = true").await,
        }
        if round % 2 == 1 {
            node.edit_live("concurrency = 2\nordered = true", "concurrency = 2").await;
        }
    }
    consumer.until(120).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut bodies = consumer.bodies();
    assert_eq!(bodies.len(), 120, "none twice");
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 120);
    assert_eq!(consumer.seen().last().unwrap().target, "/orders/x/x/x");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_new_name_is_the_same_broker() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 503).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "max-attempts = 1000").start();
    publish(node.address(), "x", &[]).await?;
    consumer.until(1).await;
    node.edit_live("\"events\"", "\"renamed\"").await;
    consumer.answers(|_| 200);
    node.until("it is delivered", async || {
        node.metric("weir_messages_total{kind=\"delivery\",route=\"orders\",event=\"acked\"}").await >= Some(1.0)
    })
    .await;
    assert_eq!(node.page("/channels").await["brokers"][0]["name"], "renamed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_when_a_node_stops_is_delivered_by_the_next() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 500).await?);
    let setup = setup(&embedded(directory.path()), consumer.address(), "", "max-attempts = 1000\nconcurrency = 4");
    let node = setup.start();
    for number in 0..20 {
        publish(node.address(), number.to_string(), &[]).await?;
    }
    consumer.until(10).await;
    tokio::task::spawn_blocking(move || node.stop()).await?;
    let before = consumer.seen().len();
    consumer.answers(|_| 200);
    let node = setup.start();
    let seen = consumer.until(before + 20).await;
    let mut bodies: Vec<u32> =
        seen[before..].iter().map(|seen| std::str::from_utf8(&seen.body).unwrap().parse().unwrap()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, (0..20).collect::<Vec<_>>());
    drop(node);
    Ok(())
}
