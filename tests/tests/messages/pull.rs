//! Consumers that come for their messages.

use anyhow::Result;
use std::time::Duration;
use weir_tests::messages::{Consumer, embedded, next, post, settle, setup};

async fn start(keys: &str) -> Result<(weir_tests::weir::Weir, tempfile::TempDir, Consumer)> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let toml = format!(
        "[[channel]]\nname = \"jobs\"\nbroker = \"events\"\ndestination = \"weir/jobs\"\n\
         [[subscription]]\nname = \"workers\"\nchannel = \"jobs\"\ndead-letter = \"dead\"\n\
         backoff = {{ initial = \"10ms\", max = \"20ms\" }}\n{keys}\n"
    );
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").toml(&toml).start();
    Ok((node, directory, consumer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_handed_out_until_it_is_acknowledged() -> Result<()> {
    let (node, _directory, _consumer) = start("max-attempts = 3").await?;
    let node = &node;
    let empty = post(node.address(), "/v1/subscriptions/workers/next", "", &[]).await?;
    assert_eq!(empty.status, 405, "it is asked for with GET");
    post(node.address(), "/v1/publish/jobs", "one", &[("idempotency-key", "1"), ("content-type", "text/plain")])
        .await?;

    let first = next(node.address(), "workers").await?;
    assert_eq!((first.status.as_u16(), first.text().as_str(), first.header("x-weir-attempt")), (200, "one", Some("1")));
    assert_eq!(first.header("content-type"), Some("text/plain"));
    assert_eq!(settle(node.address(), &first, "nack", &[]).await?.status, 204);
    assert_eq!(settle(node.address(), &first, "ack", &[]).await?.status, 404, "it is settled");

    let second = next(node.address(), "workers").await?;
    assert_eq!((second.text().as_str(), second.header("x-weir-attempt")), ("one", Some("2")));
    assert_eq!(settle(node.address(), &second, "ack", &[]).await?.status, 204);
    let page = node.page("/channels").await;
    let of = page["subscriptions"].as_array().unwrap().iter().find(|known| known["name"] == "workers").unwrap();
    assert_eq!((&of["backlog"], &of["messages"]["acked"]), (&0.into(), &1.into()), "{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_says_nothing_loses_its_message_to_another() -> Result<()> {
    let (node, _directory, _consumer) = start("timeout = \"2s\"\nmax-attempts = 2").await?;
    post(node.address(), "/v1/publish/jobs", "one", &[]).await?;
    let first = next(node.address(), "workers").await?;
    let second = next(node.address(), "workers").await?;
    assert_eq!((first.text(), second.text()), ("one".to_owned(), "one".to_owned()));
    assert_eq!(settle(node.address(), &first, "ack", &[]).await?.status, 404, "too late");
    assert_eq!(settle(node.address(), &second, "nack", &[]).await?.status, 204);
    let dead = next(node.address(), "dead").await?;
    assert!(dead.header("x-weir-dead-letter-reason").unwrap().contains("attempt 2 of 2"), "{dead:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_given_what_comes_and_nobody_gets_it_twice() -> Result<()> {
    let (node, _directory, _consumer) = start("").await?;
    let address = node.address();
    let waiting: Vec<_> = (0..8).map(|_| tokio::spawn(async move { next(address, "workers").await })).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for number in 0..8 {
        post(address, "/v1/publish/jobs", number.to_string(), &[]).await?;
    }
    let mut bodies = Vec::new();
    for waiting in waiting {
        let pulled = waiting.await??;
        assert_eq!(pulled.status, 200, "{pulled:?}");
        assert_eq!(settle(address, &pulled, "ack", &[]).await?.status, 204);
        bodies.push(pulled.text());
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..8).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}
