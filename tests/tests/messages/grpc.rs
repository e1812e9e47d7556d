//! The same over gRPC.

use anyhow::Result;
use futures_util::{StreamExt, stream};
use prost::Message;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request};
use weir::message::grpc::proto::messages_client::MessagesClient;
use weir::message::grpc::proto::{PublishManyResponse, PublishRequest, PullRequest, SettleRequest};
use weir_tests::messages::{Consumer, DEAD, embedded, setup};

fn to(channel: &str, body: &str) -> PublishRequest {
    PublishRequest { channel: channel.into(), body: body.into(), ..PublishRequest::default() }
}

async fn client(address: std::net::SocketAddr) -> Result<MessagesClient<Channel>> {
    Ok(MessagesClient::connect(format!("http://{address}")).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_confirmed_and_delivered() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let mut client = client(node.address()).await?;
    let request = PublishRequest {
        id: "order-1".into(),
        key: "c-1".into(),
        content_type: "text/plain".into(),
        headers: [("ce-type".to_owned(), "t".to_owned())].into(),
        ..to("orders", "hello")
    };
    assert_eq!(client.publish(request).await?.into_inner().id, "order-1");
    let seen = consumer.until(1).await.remove(0);
    assert_eq!(&seen.body[..], b"hello");
    let fields = ["x-weir-message-id", "x-weir-key", "content-type", "ce-type"].map(|name| seen.header(name));
    assert_eq!(fields, [Some("order-1"), Some("c-1"), Some("text/plain"), Some("t")]);
    assert_eq!((seen.header("te"), seen.header("user-agent")), (None, None));

    let refused = client.publish(to("nowhere", "x")).await.unwrap_err();
    assert!(refused.message().contains("\"nowhere\""), "{refused:?}");
    assert_eq!(refused.metadata().get("x-weir-error").unwrap(), "no-channel");
    let records = node.records(2, |record| record["kind"] == "publish").await;
    assert_eq!((&records[0]["protocol"], &records[1]["error"]), (&"h2".into(), &"no-channel".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_messages_has_a_result_for_each() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let mut client = client(node.address()).await?;
    let messages = (0..500).map(|number| to("orders", &number.to_string()));
    let results = client.publish_many(stream::iter(messages)).await?.into_inner().results;
    assert_eq!(results.len(), 500);
    assert!(results.iter().all(|result| result.error.is_empty() && !result.id.is_empty()));
    consumer.until(500).await;

    let mixed = [to("orders", "good"), to("nowhere", "bad")];
    let status = client.publish_many(stream::iter(mixed)).await.unwrap_err();
    let results = status.metadata().get_bin("weir-results-bin").unwrap().to_bytes()?;
    let results = PublishManyResponse::decode(results)?.results;
    assert_eq!((results[0].error.as_str(), results[1].error.as_str()), ("", "no-channel"));
    consumer.until(501).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_pulled_and_settled() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let mut client = client(node.address()).await?;
    let mut deliveries = client.pull(PullRequest { subscription: DEAD.into() }).await?.into_inner();
    for body in ["a", "b"] {
        client.publish(to(DEAD, body)).await?;
    }
    let first = deliveries.next().await.expect("a message")?;
    assert_eq!((&first.body[..], first.attempt, first.channel.as_str()), (&b"a"[..], 1, DEAD));
    let settle =
        |delivery_id: &str, done| SettleRequest { delivery_id: delivery_id.into(), done, retry_after_seconds: 0 };
    client.settle(settle(&first.delivery_id, false)).await?;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let delivery = deliveries.next().await.expect("a message")?;
        client.settle(settle(&delivery.delivery_id, true)).await?;
        bodies.push(delivery.body);
    }
    bodies.sort_unstable();
    assert_eq!(bodies, [b"a", b"b"]);
    let gone = client.settle(settle(&first.delivery_id, true)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let pushed = client.pull(PullRequest { subscription: "orders".into() }).await.unwrap_err();
    assert_eq!(pushed.code(), Code::NotFound);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_metadata_holds() -> Result<()> {
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let mut client = client(node.address()).await?;
    let mut request = Request::new(to("orders", "x"));
    request.set_timeout(Duration::from_secs(5));
    client.publish(request).await?;
    Ok(())
}

/// Of the standard services, as far as they are asked here (`grpc/health/v1/health.proto`, `grpc/reflection/v1/reflection.proto`).
mod standard {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HealthRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HealthResponse {
        #[prost(int32, tag = "1")]
        pub status: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ReflectionRequest {
        #[prost(string, tag = "7")]
        pub list_services: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ReflectionResponse {
        #[prost(message, optional, tag = "6")]
        pub services: Option<Services>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Services {
        #[prost(message, repeated, tag = "1")]
        pub service: Vec<Service>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Service {
        #[prost(string, tag = "1")]
        pub name: String,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_find_the_services_and_that_they_are_well() -> Result<()> {
    use http::uri::PathAndQuery;
    use standard::*;
    use tonic_prost::ProstCodec;
    let (directory, consumer) = (tempfile::tempdir()?, Consumer::start(|_| 200).await?);
    let node = setup(&embedded(directory.path()), consumer.address(), "", "").start();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address()))?.connect().await?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let codec = ProstCodec::<HealthRequest, HealthResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let health = grpc.unary(Request::new(HealthRequest {}), path, codec).await?;
    assert_eq!(health.into_inner().status, 1, "SERVING");

    for version in ["v1", "v1alpha"] {
        grpc.ready().await?;
        let codec = ProstCodec::<ReflectionRequest, ReflectionResponse>::default();
        let path: PathAndQuery = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo").parse()?;
        let ask = stream::iter([ReflectionRequest { list_services: "*".into() }]);
        let mut answers = grpc.streaming(Request::new(ask), path, codec).await?.into_inner();
        let services = answers.next().await.expect("an answer")?.services.expect("a list").service;
        let names: Vec<_> = services.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&"weir.v1.Messages".to_owned()), "{names:?}");
    }
    Ok(())
}
