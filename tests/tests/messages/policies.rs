//! The policies of calls, on messages.

use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;
use weir_tests::keys::RsaKey;
use weir_tests::messages::{Consumer, DEAD, embedded, next, post, publish, settle, setup};
use weir_tests::upstream::{Collector, Span, closed_address};
use weir_tests::weir::{Setup, guests_directory};

/// A node whose messages go through one chain, both ways.
fn through(directory: &Path, consumer: &Consumer, policies: &str) -> Setup {
    setup(&embedded(directory), consumer.address(), "chain = \"messages\"", "max-attempts = 1000")
        .workers(1)
        .toml(&format!("[chain]\nmessages = [{policies}]"))
}

async fn dead_letter(node: std::net::SocketAddr) -> Result<(String, String)> {
    let dead = next(node, DEAD).await?;
    settle(node, &dead, "ack", &[]).await?;
    Ok((dead.text(), dead.header("x-weir-dead-letter-reason").unwrap_or_default().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_chain_signs_what_is_published_and_believes_only_that() -> Result<()> {
    let (directory, consumer, key) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?, RsaKey::generate("k")?);
    let [private, public] = ["private.pem", "public.pem"].map(|name| directory.path().join(name));
    std::fs::write(&private, key.private_pem()?)?;
    std::fs::write(&public, key.public_pem()?)?;
    let keys = format!(
        "[key.sign]\nalgorithm = \"RS256\"\nprivate = {{ file = {private:?} }}\n\
         [key.check]\nalgorithm = \"RS256\"\npublic = {{ file = {public:?} }}\n\
         [[channel]]\nname = \"backdoor\"\nbroker = \"events\"\ndestination = \"weir.orders\""
    );
    let verify = "{ key = \"check\", algorithms = [\"RS256\"], issuer = \"weir\", audience = \"orders\", callers = [\"shop\"], on = [\"delivery\"] }";
    let node = through(&directory.path().join("events"), &consumer, "\"mint\", \"verify\"")
        .listener("identity = \"shop\"")
        .toml(&keys)
        .policy("mint", "token-mint", "{ key = \"sign\", issuer = \"weir\" }")
        .policy("verify", "token-verify", verify)
        .start();
    assert_eq!(publish(node.address(), "signed", &[("authorization", "Bearer mine")]).await?.status, 200);
    let seen = consumer.until(1).await.remove(0);
    let token = seen.header("authorization").unwrap().strip_prefix("Bearer ").unwrap();
    assert_eq!(token.split('.').count(), 3, "{token}");

    // To the same place, by a channel without the chain.
    post(node.address(), "/v1/publish/backdoor", "forged", &[("authorization", "Bearer mine")]).await?;
    let (body, reason) = dead_letter(node.address()).await?;
    assert_eq!(body, "forged");
    assert!(reason.contains("a policy replied 401"), "{reason}");
    assert_eq!(consumer.bodies(), ["signed"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_continues_the_trace_of_its_publish_and_is_linked_to_it() -> Result<()> {
    let (directory, consumer, collector) =
        (tempfile::tempdir()?, Consumer::start(|_| 200).await?, Collector::start().await?);
    let node = through(directory.path(), &consumer, "\"trace\"")
        .toml(&format!("[trace]\notlp-endpoint = \"http://{}\"\ninterval = \"20ms\"", collector.address()))
        .policy("trace", "trace", "{ sample = 1.0 }")
        .start();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    publish(node.address(), "x", &[("traceparent", &parent), ("idempotency-key", "m-1")]).await?;
    let seen = consumer.until(1).await.remove(0);
    assert!(seen.header("traceparent").unwrap().contains(trace), "{seen:?}");
    node.until("all spans are there", async || collector.spans().len() >= 4).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == trace), "{spans:?}");
    let of_kind = |kind| spans.iter().find(|span| span.kind == kind).unwrap();
    let (producer, consumer) = (of_kind(Span::PRODUCER), of_kind(Span::CONSUMER));
    let attempts: Vec<&Span> = spans.iter().filter(|span| span.kind == Span::CLIENT).collect();
    let of_publish = attempts.iter().find(|span| span.parent == producer.id).unwrap();
    assert_eq!((producer.name.as_str(), consumer.name.as_str()), ("send orders", "process orders"));
    assert_eq!(producer.parent, "b7ad6b7169203331");
    assert_eq!(consumer.parent, of_publish.id);
    assert_eq!(consumer.links, [(trace.to_owned(), of_publish.id.clone())]);
    assert_eq!(consumer.attribute("messaging.message.id"), Some("m-1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_decides_over_deliveries_and_what_it_gives_up_is_a_dead_letter() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 503).await?);
    let retry = "{ max-attempts = 3, backoff = { kind = \"fixed\", delay = \"10ms\" } }";
    let node = through(directory.path(), &consumer, "\"retry\"").policy("retry", "retry", retry).start();
    publish(node.address(), "transient", &[]).await?;
    let (body, reason) = dead_letter(node.address()).await?;
    assert_eq!((body.as_str(), consumer.seen().len()), ("transient", 3), "{reason}");
    assert!(reason.contains("503"), "{reason}");
    let records = node.records(3, |record| record["kind"] == "delivery" && record["route"] == "orders").await;
    let did = |record: &Value| {
        record["acted"].as_array().unwrap().iter().map(|acted| acted["did"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(did(&records[0]), [json!("retry"), json!("will try again")]);
    assert_eq!(did(&records[2]), [json!("dead-letter"), json!("dead-lettered")]);

    consumer.answers(|_| 422);
    publish(node.address(), "wrong", &[]).await?;
    let (body, reason) = dead_letter(node.address()).await?;
    assert_eq!(
        (body.as_str(), consumer.seen().len()),
        ("wrong", 4),
        "one attempt at what will never be right: {reason}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_over_a_broker_that_is_away() -> Result<()> {
    let consumer = Consumer::start(|_| 200).await?;
    let broker = format!("kind = \"amqp\"\nurl = \"amqp://{}\"", closed_address()?);
    let breaker = "{ scope = \"endpoint\", trip = { consecutive-failures = 2 }, open-for = \"1h\" }";
    let node = setup(&broker, consumer.address(), "chain = \"c\"", "")
        .toml("[chain]\nc = [\"breaker\"]")
        .policy("breaker", "circuit-breaker", breaker)
        .start();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let answer = publish(node.address(), "x", &[]).await?;
        assert_eq!(answer.status, 503, "{answer:?}");
        kinds.push(answer.header("x-weir-error").unwrap().to_owned());
    }
    assert_eq!(kinds, ["broker-down", "broker-down", "breaker-open"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn transform_edits_bodies_on_their_way() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let transform = "{ set = { \"/customer/tier\" = \"gold\" }, remove = [\"/card\"] }";
    let node =
        through(directory.path(), &consumer, "\"transform\"").policy("transform", "transform", transform).start();
    publish(node.address(), r#"{"order":1,"card":"4111"}"#, &[("content-type", "application/json")]).await?;
    let seen = consumer.until(1).await.remove(0);
    assert_eq!(serde_json::from_slice::<Value>(&seen.body)?, json!({ "order": 1, "customer": { "tier": "gold" } }));
    assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string().as_str()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_follows_the_policy_that_comes_meanwhile() -> Result<()> {
    let (directory, consumer) =
        (tempfile::tempdir()?, Consumer::start(|seen| if seen.header("x-fixed").is_some() { 200 } else { 500 }).await?);
    let node = through(directory.path(), &consumer, "\"marker\"")
        .policy("marker", "headers", "{ request = { set = { \"x-broken\" = \"1\" } } }")
        .start();
    publish(node.address(), "x", &[]).await?;
    consumer.until(2).await;
    node.edit_live("x-broken", "x-fixed").await;
    node.until("it is delivered", async || {
        node.metric("weir_messages_total{kind=\"delivery\",route=\"orders\",event=\"acked\"}").await == Some(1.0)
    })
    .await;
    Ok(())
}

/// A channel's broker is where its messages go, and where those that wait for them look.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_a_policy_sends_to_another_service_is_refused() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = through(directory.path(), &consumer, "\"parrot\"")
        .with_plugin_file(&guests_directory().join("parrot.wasm"), "parrot")
        .policy("parrot", "parrot", "{ name = \"a\" }")
        .start();
    let (mut kept, mut refused) = (0, 0);
    // One of them is the broker, one the consumer, and some are none.
    for service in 0..64 {
        let words = json!({ "on-request": { "amend": { "service": service } } }).to_string();
        let words: String = words.bytes().map(|byte| format!("{byte:02x}")).collect();
        let answer = publish(node.address(), service.to_string(), &[("x-say-a", &words)]).await?;
        if answer.status == 200 {
            kept += 1;
            continue;
        }
        assert_eq!((answer.status.as_u16(), answer.header("x-weir-error")), (503, Some("policy")), "{answer:?}");
        refused += usize::from(answer.text().contains("which is no broker"));
    }
    assert!(kept == 1 && refused > 0, "{kept} kept, {refused} refused");
    Ok(())
}
