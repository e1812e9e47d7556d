//! gRPC through the proxy: all kinds of call, deadlines, and errors that gRPC callers understand.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderName, HeaderValue, StatusCode, Version};
use prost::Message;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use weir_tests::client::{self, Client, EchoClient, Response};
use weir_tests::upstream::{Answer, EchoRequest, GrpcUpstream, Reply, Upstream, closed_address, paths};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

/// What the echo service is asked that must not answer before a deadline.
const FAR_MS: u64 = 60_000;
/// The deadline, and the time by which its answer is there on the slowest machine.
const NEAR: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(10);

fn echo(service: &GrpcUpstream, route: &str) -> Weir {
    Setup::new().service_with("echo", &[service.address()], "http2", route).start()
}

fn request(message: &str) -> EchoRequest {
    EchoRequest { message: message.to_owned(), ..EchoRequest::default() }
}

/// A call over a plain HTTP/2 client: a gRPC library would keep the deadline itself, and hide who answered.
async fn call(
    proxy: SocketAddr,
    service: &str,
    path: &str,
    ask: &EchoRequest,
    fields: &[(&str, &str)],
) -> anyhow::Result<Response> {
    Client::http2(proxy).await?.send(plain(service, path, ask, fields)?).await
}

fn plain(
    service: &str,
    path: &str,
    ask: &EchoRequest,
    fields: &[(&str, &str)],
) -> anyhow::Result<http::Request<client::Body>> {
    let message = ask.encode_to_vec();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(&message);
    let mut request = client::post(service, path, body)?;
    let always = [("content-type", "application/grpc"), ("te", "trailers")];
    for (name, value) in always.iter().chain(fields) {
        request.headers_mut().insert(name.parse::<HeaderName>()?, value.parse()?);
    }
    Ok(request)
}

/// `grpc-status`, of an answer that is all trailers or of trailers after messages.
fn grpc_status(response: &Response) -> Option<&str> {
    let status = response.headers.get("grpc-status").or(response.trailers.get("grpc-status"));
    status.map(|status| status.to_str().unwrap())
}

/// An answer of the proxy: all trailers, over HTTP status 200.
fn assert_error(response: &Response, kind: &str, code: Code) {
    assert_eq!(response.status, StatusCode::OK, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/grpc"), "{response:?}");
    assert_eq!(response.header("x-weir-error"), Some(kind), "{response:?}");
    assert_eq!(grpc_status(response), Some((code as i32).to_string().as_str()), "{response:?}");
    assert!(response.header("grpc-message").is_some_and(|message| !message.is_empty()), "{response:?}");
    assert!(response.body.is_empty() && response.broken.is_none(), "{response:?}");
}

#[tokio::test]
async fn all_four_kinds_of_call_pass_with_metadata_and_trailers() -> Result {
    let service = GrpcUpstream::start().await?;
    let weir = echo(&service, "");
    let mut client = EchoClient::connect(weir.address(), "echo").await?;
    let long = "long ".repeat(60_000);
    let binary = MetadataValue::from_bytes(b"\x00\xff\n\x80 bytes");

    let mut unary = Request::new(request(&long));
    unary.metadata_mut().insert("x-grpc-test-echo-initial", "first".parse()?);
    unary.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", binary.clone());
    let reply = client.unary(unary).await?;
    assert_eq!(reply.metadata().get("x-grpc-test-echo-initial").context("initial metadata")?, "first");
    // tonic adds the trailers of a unary call to its metadata.
    assert_eq!(reply.metadata().get_bin("x-grpc-test-echo-trailing-bin"), Some(&binary));
    assert_eq!(reply.into_inner().message, long);

    let mut asked = Request::new(EchoRequest { replies: 5, ..request("again") });
    asked.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", binary.clone());
    let mut replies = client.server_stream(asked).await?.into_inner();
    for sequence in 0..5 {
        assert_eq!(replies.message().await?.context("a reply")?.sequence, sequence);
    }
    assert_eq!(replies.message().await?, None);
    let trailers = replies.trailers().await?.context("trailers")?;
    assert_eq!(trailers.get_bin("x-grpc-test-echo-trailing-bin"), Some(&binary));

    let parts = stream::iter(["a", "b", "c"].map(request));
    let whole = client.client_stream(Request::new(parts)).await?.into_inner();
    assert_eq!((whole.message.as_str(), whole.sequence), ("abc", 3));

    // Each message is answered before the next is sent: neither side is held back.
    let (sender, receiver) = mpsc::channel::<EchoRequest>(1);
    let asked = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|next| (next, receiver)) });
    sender.send(request("0")).await?;
    let mut replies = client.bidi(Request::new(asked)).await?.into_inner();
    for round in 0..10 {
        assert_eq!(replies.message().await?.context("a reply")?.message, round.to_string());
        sender.send(request(&(round + 1).to_string())).await?;
    }
    drop(sender);
    assert_eq!(replies.next().await.context("the last reply")??.message, "10");
    assert!(replies.next().await.is_none());

    assert!(service.calls().iter().all(|call| call.authority.as_deref() == Some("echo")));
    Ok(())
}

#[tokio::test]
async fn many_small_calls_at_once_are_no_flood_to_the_endpoint() -> Result {
    let service = GrpcUpstream::start().await?;
    let weir = echo(&service, "");
    let client = EchoClient::connect(weir.address(), "echo").await?;
    for _ in 0..10 {
        let calls = (0..150).map(|_| {
            let mut client = client.clone();
            async move { client.server_stream(Request::new(request("small"))).await }
        });
        futures_util::future::try_join_all(calls).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_status_of_the_service_passes_with_its_message() -> Result {
    let service = GrpcUpstream::start().await?;
    let weir = echo(&service, "");
    let mut client = EchoClient::connect(weir.address(), "echo").await?;
    let text = "no: 100 % ünlikely\n\t\u{2603}";
    let fails =
        EchoRequest { code: Code::FailedPrecondition as i32, status_message: text.into(), replies: 2, ..request("x") };

    let status = client.unary(Request::new(fails.clone())).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, text));
    assert!(status.metadata().get("x-weir-error").is_none(), "the proxy claims an error of the service: {status:?}");

    let mut replies = client.server_stream(Request::new(fails)).await?.into_inner();
    assert!(replies.message().await?.is_some() && replies.message().await?.is_some());
    let status = replies.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, text));

    let records = weir.records(2, |record| record["grpc_status"] == 9).await;
    assert_eq!(records.len(), 2, "the record has the status of each call");
    assert!(records.iter().all(|record| record["outcome"] == "ok" && record["protocol"] == "h2"), "{records:?}");
    Ok(())
}

#[tokio::test]
async fn a_deadline_before_the_head_is_deadline_exceeded() -> Result {
    let service = GrpcUpstream::start().await?;
    let slow = EchoRequest { delay_ms: FAR_MS, ..request("slow") };
    for (route, fields) in [("", &[("grpc-timeout", "300m")][..]), ("timeout = \"300ms\"", &[])] {
        let weir = echo(&service, route);
        let response = call(weir.address(), "echo", paths::UNARY, &slow, fields).await?;
        assert_error(&response, "timeout", Code::DeadlineExceeded);
        assert!(response.end_after >= NEAR && response.end_after < LATE, "{response:?}");
        let record = &weir.records(1, |record| record["error"] == "timeout").await[0];
        assert_eq!(
            (&record["grpc_status"], &record["attempts"][0]["failure"]),
            (&4.into(), &"timeout".into()),
            "{record}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_after_the_head_is_told_in_trailers() -> Result {
    let service = GrpcUpstream::start().await?;
    let slow = EchoRequest { delay_ms: FAR_MS, replies: 2, ..request("slow") };
    for (route, fields) in [("", &[("grpc-timeout", "300m")][..]), ("timeout = \"300ms\"", &[])] {
        let weir = echo(&service, route);
        let response = call(weir.address(), "echo", paths::SERVER_STREAM, &slow, fields).await?;
        assert_eq!((response.status, response.broken.as_deref()), (StatusCode::OK, None), "{response:?}");
        assert_eq!(response.headers.get("grpc-status"), None, "the head was the service's: {response:?}");
        assert_eq!(response.trailers.get("grpc-status"), Some(&HeaderValue::from_static("4")), "{response:?}");
        assert_eq!(response.trailers.get("x-weir-error"), Some(&HeaderValue::from_static("timeout")), "{response:?}");
        assert!(response.end_after >= NEAR && response.end_after < LATE, "{response:?}");
        let record = &weir.records(1, |record| record["error"] == "timeout").await[0];
        assert_eq!((&record["grpc_status"], &record["outcome"]), (&4.into(), &"truncated".into()), "{record}");
    }
    Ok(())
}

#[tokio::test]
async fn the_service_is_told_what_is_left_of_the_deadline() -> Result {
    let service = GrpcUpstream::start().await?;
    let weir = echo(&service, "timeout = \"20s\"");
    for (asked, most) in [("100S", Duration::from_secs(20)), ("5000m", Duration::from_secs(5))] {
        let response = call(weir.address(), "echo", paths::UNARY, &request("x"), &[("grpc-timeout", asked)]).await?;
        assert_eq!(grpc_status(&response), Some("0"));
        let calls = service.calls();
        let told = calls.last().context("a call")?.metadata["grpc-timeout"].to_str()?;
        let (number, unit) = told.split_at(told.len() - 1);
        let scale = [("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("S", 1.0)].into_iter().find(|(name, _)| *name == unit);
        let told = Duration::from_secs_f64(number.parse::<f64>()? * scale.context("a unit")?.1);
        assert!(told <= most && told > most / 2, "asked for {asked}, told {told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn errors_of_the_proxy_have_their_grpc_status() -> Result {
    let resets = Upstream::start(Answer::reset()).await?;
    let echoes = GrpcUpstream::start().await?;
    let weir = Setup::new()
        .service_with("away", &[closed_address()?], "http2", "")
        .service_with("empty", &[], "http2", "")
        .service_with("resets", &[resets.address()], "http2", "")
        .service_with("echo", &[echoes.address()], "http2", "")
        .start();
    let ask = request("x");
    let table = [
        ("nobody", "no-route", Code::Unimplemented),
        ("away", "connect", Code::Unavailable),
        ("empty", "no-endpoint", Code::Unavailable),
        ("resets", "reset", Code::Unavailable),
    ];
    for (service, kind, code) in table {
        let response = call(weir.address(), service, paths::UNARY, &ask, &[]).await?;
        assert_error(&response, kind, code);
        let record = &weir.records(1, |record| record["error"] == kind).await[0];
        assert_eq!(record["grpc_status"], code as i32, "{record}");
    }
    let response = call(weir.address(), "echo", paths::UNARY, &ask, &[("grpc-timeout", "1 second")]).await?;
    assert_error(&response, "bad-request", Code::Internal);
    assert_eq!(echoes.call_count(), 0, "a call with a malformed deadline was passed on");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_in_trailers() -> Result {
    let breaks =
        Reply::new(200).header("content-type", "application/grpc").chunked().body(vec![0; 1000]).reset_after(400);
    let service = Upstream::start(breaks).await?;
    let weir = Setup::new().service_with("echo", &[service.address()], "http2", "").start();
    let response = call(weir.address(), "echo", paths::SERVER_STREAM, &request("x"), &[]).await?;
    assert_eq!(response.body, Bytes::from(vec![0; 400]), "what arrived is passed on: {response:?}");
    assert_eq!(response.trailers.get("grpc-status"), Some(&HeaderValue::from_static("14")), "{response:?}");
    assert_eq!(response.trailers.get("x-weir-error"), Some(&HeaderValue::from_static("reset")), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_service() -> Result {
    let service = Upstream::start(Answer::hang()).await?;
    let weir = Setup::new().service_with("echo", &[service.address()], "http2", "").start();
    let mut client = Client::http2(weir.address()).await?;
    let ask = plain("echo", paths::UNARY, &request("x"), &[])?;
    let waiting = tokio::spawn(async move { client.send(ask).await });
    weir.until("the call arrives", async || service.request_count() == 1).await;
    assert_eq!(service.last().context("a request")?.version, Version::HTTP_2);
    waiting.abort();
    weir.until("the call is cancelled at the service", async || service.abandoned_count() == 1).await;
    let records = weir.records(1, |record| record["outcome"] == "client-left").await;
    assert_eq!(records.len(), 1, "one record, that of a caller who left");
    Ok(())
}
