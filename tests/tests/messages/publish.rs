//! Publishes over HTTP: what is confirmed is the broker's, and arrives as it was given.

use anyhow::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use weir_tests::client::fetch;
use weir_tests::messages::{CHANNEL, Consumer, embedded, post, publish, setup};
use weir_tests::upstream::{Behaviour, Upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_message_is_delivered_as_it_was_given() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 204).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let fields = [
        ("content-type", "application/json"),
        ("x-tenant", "a"),
        ("x-tenant", "b"),
        ("idempotency-key", "order-1"),
        ("x-weir-key", "customer-1"),
        ("cookie", "session=1"),
        ("authorization", "Bearer publishers-own"),
    ];
    let confirmed = publish(node.address(), r#"{"order":1}"#, &fields).await?;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    assert_eq!(confirmed.json()?, json!({ "channel": CHANNEL, "id": "order-1" }));

    let seen = consumer.until(1).await.remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), &seen.body[..]),
        ("POST", "/orders", &br#"{"order":1}"#[..])
    );
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-weir-message-id", "order-1"),
        ("x-weir-key", "customer-1"),
        ("x-weir-channel", CHANNEL),
        ("x-weir-subscription", CHANNEL),
        ("x-weir-attempt", "1"),
        ("host", "consumer"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.headers_named("x-tenant"), ["a", "b"]);
    assert_eq!(
        (seen.header("cookie"), seen.header("authorization")),
        (None, None),
        "what is the publisher's stays his"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_events_arrive_in_the_mode_they_came_in() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "7"),
        ("ce-source", "/shop"),
        ("ce-type", "order.created"),
        ("ce-partitionkey", "c-1"),
        ("content-type", "text/plain"),
    ];
    assert_eq!(publish(node.address(), "seven", &binary).await?.json()?["id"], "/shop#7");
    let event = json!({ "specversion": "1.0", "id": "8", "source": "/shop", "type": "order.created", "data": [1, 2] });
    let structured = [("content-type", "application/cloudevents+json; charset=UTF-8")];
    assert_eq!(publish(node.address(), event.to_string(), &structured).await?.json()?["id"], "/shop#8");

    let seen = consumer.until(2).await;
    assert_eq!((seen[0].header("ce-type"), seen[0].header("x-weir-key")), (Some("order.created"), Some("c-1")));
    assert_eq!((&seen[0].body[..], seen[0].header("content-type")), (&b"seven"[..], Some("text/plain")));
    assert_eq!(seen[1].header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
    assert_eq!(serde_json::from_slice::<Value>(&seen[1].body)?, event);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_batch_has_its_own_result() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "max-message = 100", "").start();
    let path = format!("/v1/publish/{CHANNEL}/batch");
    let all_good = json!([
        { "id": "a", "data": { "n": 1 }, "key": "k", "headers": { "x-tenant": "t" } },
        { "id": "b", "data_base64": "AAEC", "datacontenttype": "image/x" },
    ]);
    let confirmed = post(node.address(), &path, all_good.to_string(), &[("content-type", "application/json")]).await?;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    assert_eq!(confirmed.json()?, json!({ "results": [{ "status": 200, "id": "a" }, { "status": 200, "id": "b" }] }));
    let seen = consumer.until(2).await;
    let find = |id: &str| seen.iter().find(|seen| seen.header("x-weir-message-id") == Some(id)).unwrap();
    assert_eq!((&find("a").body[..], find("a").header("x-tenant")), (&br#"{"n":1}"#[..], Some("t")));
    assert_eq!((&find("b").body[..], find("b").header("content-type")), (&[0, 1, 2][..], Some("image/x")));

    let mixed =
        json!([{ "id": "c", "data": 1 }, { "id": "d", "data": "x".repeat(200) }, { "id": "e", "priority": 12 }]);
    let answer = post(node.address(), &path, mixed.to_string(), &[]).await?;
    assert_eq!((answer.status.as_u16(), answer.header("x-weir-error")), (413, Some("too-large")), "{answer:?}");
    let statuses: Vec<Value> =
        answer.json()?["results"].as_array().unwrap().iter().map(|result| result["status"].clone()).collect();
    assert_eq!(statuses, [200, 413, 400]);
    let seen = consumer.until(3).await;
    assert_eq!(
        seen[2].header("x-weir-message-id"),
        Some("c"),
        "what was confirmed is delivered, whatever its neighbours"
    );

    let events = json!([
        { "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1 },
        { "specversion": "1.0", "id": "2", "source": "/s" },
    ]);
    let kind = [("content-type", "application/cloudevents-batch+json")];
    let answer = post(node.address(), &path, events.to_string(), &kind).await?;
    let results = answer.json()?["results"].clone();
    assert_eq!((&results[0]["id"], &results[1]["status"]), (&json!("/s#1"), &json!(400)), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_time_to_live_and_delay_are_kept() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 503).await?);
    // Nothing gets through until all are there.
    let keys = "max-attempts = 1000\nbackoff = { initial = \"100ms\", max = \"100ms\" }\nprefetch = 1";
    let node = setup(&embedded(directory.path()), consumer.address(), "max-priority = 9", keys).start();
    publish(node.address(), "first", &[]).await?;
    consumer.until(1).await;
    let begun = Instant::now();
    publish(node.address(), "late", &[("x-weir-delay", "4s"), ("x-weir-priority", "9")]).await?;
    publish(node.address(), "low", &[]).await?;
    publish(node.address(), "gone", &[("x-weir-ttl", "50ms"), ("x-weir-priority", "9")]).await?;
    publish(node.address(), "high", &[("x-weir-priority", "9")]).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let failed = consumer.seen().len();
    consumer.answers(|_| 200);
    let seen = consumer.until(failed + 4).await;
    let bodies: Vec<_> = seen[failed..].iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect();
    let position = |body: &str| bodies.iter().position(|seen| seen == body);
    assert!(position("high") < position("low") && position("low") < position("late"), "{bodies:?}");
    assert_eq!(position("gone"), None);
    assert!(begun.elapsed() >= Duration::from_secs(4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_a_route_names_keeps_its_paths() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let service = Upstream::start(Behaviour::echo()).await?;
    let node =
        setup(&embedded(directory.path()), consumer.address(), "", "").service("shop", &[service.address()]).start();
    let own = fetch(node.address(), "shop", "/v1/publish/orders").await?;
    assert_eq!(own.json()?["target"], "/v1/publish/orders", "the service's own");
    assert_eq!(consumer.seen().len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_publish_and_every_delivery_leaves_one_record() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    publish(node.address(), "x", &[("idempotency-key", "m-1"), ("x-request-id", "r-1")]).await?;
    post(node.address(), "/v1/publish/nowhere", "x", &[]).await?;
    consumer.until(1).await;
    let publishes = node.records(2, |record| record["kind"] == "publish").await;
    let deliveries = node.records(1, |record| record["kind"] == "delivery").await;
    assert_eq!((publishes.len(), deliveries.len()), (2, 1));
    let of = |record: &Value, names: &[&str]| names.iter().map(|name| record[name].clone()).collect::<Vec<_>>();
    assert_eq!(
        of(&publishes[0], &["id", "route", "service", "outcome", "status"]),
        [json!("r-1"), json!(CHANNEL), json!("broker events"), json!("ok"), json!(200)]
    );
    assert_eq!(publishes[0]["attributes"]["message-id"], "m-1");
    assert_eq!(of(&publishes[1], &["error", "status"]), [json!("no-channel"), json!(404)]);
    assert_eq!(
        of(&deliveries[0], &["route", "service", "outcome", "status"]),
        [json!(CHANNEL), json!("consumer"), json!("ok"), json!(200)]
    );
    let metric = async |event: &str, kind: &str| {
        node.metric(&format!("weir_messages_total{{kind=\"{kind}\",route=\"orders\",event=\"{event}\"}}")).await
    };
    assert_eq!(metric("confirmed", "publish").await, Some(1.0));
    assert_eq!(metric("delivered", "delivery").await, Some(1.0));
    node.until("it is acknowledged", async || metric("acked", "delivery").await == Some(1.0)).await;
    let page = node.page("/channels").await;
    assert_eq!(
        (&page["brokers"][0]["state"], &page["subscriptions"][1]["backlog"]),
        (&json!("ok"), &json!(0)),
        "{page}"
    );
    Ok(())
}
