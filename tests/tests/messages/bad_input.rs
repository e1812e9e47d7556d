//! What makes no sense is refused with a word for it, and nothing is lost.

use anyhow::Result;
use weir_tests::client::{Client, request};
use weir_tests::messages::{Consumer, embedded, post, publish, setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_publish_is_refused_by_its_kind() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "max-message = 1000", "").start();
    let event = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/s")];
    for (path, body, fields, status, kind, word) in [
        ("/v1/publish/nowhere", "", &[][..], 404, "no-channel", "\"nowhere\""),
        ("/v1/publish/nowhere/batch", "[]", &[], 404, "no-channel", "\"nowhere\""),
        ("/v1/publish/orders", &"x".repeat(1001), &[], 413, "too-large", "1000"),
        ("/v1/publish/orders", "", &event, 400, "bad-request", "ce-type"),
        ("/v1/publish/orders", "{", &[("content-type", "application/cloudevents+json")], 400, "bad-request", "JSON"),
        ("/v1/publish/orders", "", &[("x-weir-priority", "high")], 400, "bad-request", "x-weir-priority"),
        ("/v1/publish/orders", "", &[("x-weir-ttl", "soon")], 400, "bad-request", "x-weir-ttl"),
        ("/v1/publish/orders", "", &[("x-weir-timeout", "?")], 400, "bad-request", "x-weir-timeout"),
        ("/v1/publish/orders/batch", "{}", &[], 400, "bad-request", "array"),
        ("/v1/deliveries/nobody/ack", "", &[], 404, "no-delivery", "\"nobody\""),
    ] {
        let refused = post(node.address(), path, body.to_owned(), fields).await?;
        assert_eq!(
            (refused.status.as_u16(), refused.header("x-weir-error")),
            (status, Some(kind)),
            "{path}: {refused:?}"
        );
        assert!(refused.json()?["message"].as_str().unwrap().contains(word), "{word}: {refused:?}");
    }
    let mut client = Client::http1(node.address()).await?;
    let host = node.address().to_string();
    let get = client.send(request(http::Method::GET, &host, "/v1/publish/orders", "")?).await?;
    assert_eq!((get.status.as_u16(), get.header("allow")), (405, Some("POST")), "{get:?}");
    let pushed = client.send(request(http::Method::GET, &host, "/v1/subscriptions/orders/next", "")?).await?;
    assert_eq!((pushed.status.as_u16(), pushed.header("x-weir-error")), (404, Some("no-subscription")), "{pushed:?}");
    assert_eq!(consumer.seen().len(), 0);
    assert_eq!(publish(node.address(), "good", &[]).await?.status, 200);
    consumer.until(1).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_channels_the_paths_are_the_routes() -> Result<()> {
    let consumer = Consumer::start(|_| 200).await?;
    let node = weir_tests::weir::Setup::new()
        .toml(&format!(
            "[[service]]\nname = \"all\"\nendpoints = [{{ address = \"{}\" }}]\n[[route]]\nservice = \"all\"",
            consumer.address()
        ))
        .start();
    assert_eq!(post(node.address(), "/v1/publish/orders", "x", &[]).await?.status, 200);
    assert_eq!(consumer.seen()[0].target, "/v1/publish/orders");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_in_use_by_another_is_told_and_nothing_starts() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let setup = setup(&embedded(directory.path()), consumer.address(), "", "");
    let _node = setup.start();
    let (_kept, config) = weir_tests::process::written(&setup)?;
    let refused = weir::app::start(&config, weir::telemetry::metrics::Metrics::new(), std::io::sink());
    let why = refused.err().expect("one at a time").to_string();
    assert!(why.contains("broker \"events\"") && why.contains(&directory.path().display().to_string()), "{why}");
    Ok(())
}

#[test]
fn what_a_broker_does_not_have_is_told_with_its_line_before_anything_starts() -> Result<()> {
    let url = |kind: &str| format!("kind = \"{kind}\"\nurl = \"{kind}://127.0.0.1:1\"");
    let embedded = embedded(std::path::Path::new("/nowhere"));
    for (broker, keys, word) in [
        (url("kafka"), "destination = \"orders\"\nmax-length = 5", "Kafka bounds topics"),
        (url("kafka"), "destination = \"weir/orders\"", "no topic"),
        (url("nats"), "destination = \"orders.*\"", "wildcards"),
        (url("redis"), "destination = \"orders\"\nmax-priority = 3", "priorities"),
        (url("amqp"), "destination = \"weir/orders\"\nquorum = true\nmax-priority = 3", "quorum"),
        (embedded.clone(), "destination = \"orders\"\nquorum = true", "quorum"),
        (
            url("amqp") + "\nuser = \"u\"\npassword-file = \"/no/such/file\"",
            "destination = \"orders\"",
            "/no/such/file",
        ),
    ] {
        let toml = format!("[[broker]]\nname = \"b\"\n{broker}\n[[channel]]\nname = \"c\"\nbroker = \"b\"\n{keys}");
        let (_kept, config) = weir_tests::process::written(&weir_tests::weir::Setup::new().toml(&toml))?;
        let told = weir::app::check(&config).expect_err(word).to_string();
        assert!(told.contains(word) && told.contains("config.toml:"), "{word}: {told}");
    }
    Ok(())
}
