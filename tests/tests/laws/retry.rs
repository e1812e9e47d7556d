//! The retry policy through the proxy: what is tried again, how often, and what never is.

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};
use tonic::{Code, Request};
use weir_tests::client::{self, Client, EchoClient, Response};
use weir_tests::retrying::{AT_ONCE, BUDGET, get, setup, start};
use weir_tests::upstream::{Answer, Behaviour, EchoRequest, GrpcUpstream, Reply, Upstream, closed_address, pattern};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

async fn send(
    weir: &Weir,
    method: Method,
    body: impl Into<Bytes>,
    fields: &[(&str, &str)],
) -> anyhow::Result<Response> {
    let mut request = client::request(method, "s", "/", body)?;
    for (name, value) in fields {
        request.headers_mut().insert(name.parse::<HeaderName>()?, value.parse()?);
    }
    Client::http1(weir.address()).await?.send(request).await
}

#[tokio::test]
async fn two_503_and_a_200_are_a_200() -> Result {
    let upstream = Upstream::start(Behaviour::echo().fail_first(2, 503)).await?;
    let weir = start(&[&upstream], AT_ONCE, "");
    assert_eq!(get(&weir).await?.status, StatusCode::OK);
    assert_eq!(upstream.request_count(), 3);

    let record = weir.records(1, |_| true).await.remove(0);
    let statuses: Vec<&Value> =
        record["attempts"].as_array().context("attempts")?.iter().map(|attempt| &attempt["status"]).collect();
    assert_eq!(statuses, [503, 503, 200], "{record}");
    assert_eq!(record["attempts"][0]["endpoint"], upstream.address().to_string());
    let asked = json!({ "policy": "retry", "hook": "on-outcome", "did": "retry", "why": "status 503" });
    assert_eq!(record["acted"], json!([asked, asked]), "the record says who asked for the attempts, and why");
    assert_eq!(upstream.requests()[0].header("x-request-id"), upstream.requests()[2].header("x-request-id"));
    Ok(())
}

#[tokio::test]
async fn max_attempts_is_kept_and_the_last_answer_is_the_services() -> Result {
    let upstream = Upstream::start(Reply::new(503).header("x-mine", "yes").body("sorry")).await?;
    for most in [1, 2, 3, 5] {
        upstream.forget();
        let weir = start(&[&upstream], &format!("max-attempts = {most}, {AT_ONCE}"), "");
        let response = get(&weir).await?;
        assert_eq!(upstream.request_count(), most);
        assert_eq!(
            (response.status.as_u16(), response.text().as_str(), response.header("x-mine")),
            (503, "sorry", Some("yes"))
        );
        assert_eq!(response.header("x-weir-error"), None, "a 5xx of the service is not the proxy's");
    }
    upstream.forget();
    let weir = setup(&[&upstream], &format!("max-attempts = 10, {AT_ONCE}"), "")
        .toml(BUDGET)
        .toml("[limits]\nmax-attempts = 4")
        .start();
    assert_eq!(get(&weir).await?.status.as_u16(), 503);
    assert_eq!(upstream.request_count(), 4, "the node's ceiling is above what a policy says");
    Ok(())
}

#[tokio::test]
async fn a_post_is_repeated_only_where_that_is_safe() -> Result {
    let upstream = Upstream::start(Behaviour::mirror().fail_first(1, 503)).await?;
    let weir = start(&[&upstream], AT_ONCE, "");
    let refused = send(&weir, Method::POST, "pay", &[]).await?;
    assert_eq!((refused.status.as_u16(), upstream.request_count()), (503, 1), "a POST was repeated after a 503");

    upstream.set(Behaviour::mirror().fail_first(1, 503));
    let keyed = send(&weir, Method::POST, "pay", &[("idempotency-key", "k-1")]).await?;
    assert_eq!((keyed.status.as_u16(), keyed.text().as_str(), upstream.request_count()), (200, "pay", 3));

    for failure in [Answer::reset(), Answer::close()] {
        upstream.forget();
        upstream.set(Behaviour::mirror().fail_first(1, failure));
        let broken = send(&weir, Method::POST, "pay", &[]).await?;
        assert_eq!((broken.status.as_u16(), broken.header("x-weir-error")), (502, Some("reset")), "{broken:?}");
        assert_eq!(upstream.request_count(), 1, "a POST was repeated that the service may have carried out");
    }
    Ok(())
}

#[tokio::test]
async fn a_post_that_never_arrived_is_repeated() -> Result {
    let upstream = Upstream::start(Behaviour::mirror()).await?;
    let weir = Setup::new()
        .service_with("s", &[closed_address()?, upstream.address()], "http1", "chain = \"c\"")
        .toml("[chain]\nc = [\"retry\"]")
        .toml(BUDGET)
        .policy("retry", "retry", &format!("{{ {AT_ONCE} }}"))
        .start();
    for round in 0..6 {
        let response = send(&weir, Method::POST, format!("pay {round}"), &[]).await?;
        assert_eq!((response.status.as_u16(), response.text()), (200, format!("pay {round}")));
    }
    assert_eq!(upstream.request_count(), 6, "each arrived once");
    let refused = weir.records(1, |record| record["attempts"][0]["failure"] == "connect").await;
    assert!(!refused.is_empty(), "the closed endpoint was never met, and nothing was shown");
    Ok(())
}

#[tokio::test]
async fn a_body_is_replayed_intact_up_to_the_limit() -> Result {
    let fails = || Behaviour::mirror().fail_first(2, 503);
    let upstream = Upstream::start(fails()).await?;
    let weir = start(&[&upstream], AT_ONCE, "");
    let body = pattern(0, 60_000);
    assert_eq!(send(&weir, Method::PUT, body.clone(), &[]).await?.body, body);
    assert_eq!(upstream.requests().iter().map(|request| request.body == body).collect::<Vec<_>>(), [true; 3]);

    upstream.forget();
    upstream.set(fails());
    let pieces: Vec<_> = body.chunks(7_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let mut request = client::request(Method::PUT, "s", "/", "")?;
    *request.body_mut() = client::stream(stream::iter(pieces));
    assert_eq!(Client::http1(weir.address()).await?.send(request).await?.body, body);
    assert_eq!(upstream.requests().iter().map(|request| request.body == body).collect::<Vec<_>>(), [true; 3]);

    upstream.forget();
    upstream.set(fails());
    let long = send(&weir, Method::PUT, pattern(0, 200_000), &[]).await?;
    assert_eq!((long.status.as_u16(), upstream.request_count()), (503, 1), "a body beyond the limit passes, and once");
    assert_eq!(upstream.requests()[0].body, pattern(0, 200_000));
    Ok(())
}

#[tokio::test]
async fn another_endpoint_is_preferred() -> Result {
    let bad = Upstream::start(503).await?;
    let good = Upstream::start(Behaviour::echo()).await?;
    let weir = start(&[&bad, &good], &format!("max-attempts = 2, {AT_ONCE}"), "");
    for _ in 0..20 {
        assert_eq!(get(&weir).await?.status, StatusCode::OK);
    }
    assert_eq!(good.request_count(), 20);
    assert!(bad.request_count() > 0, "the bad endpoint was never met, and nothing was shown");
    Ok(())
}

#[tokio::test]
async fn only_what_passes_by_itself_is_repeated() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = start(&[&upstream], AT_ONCE, "");
    let once = [400, 401, 403, 404, 405, 408, 409, 410, 422, 425, 429, 500, 501, 505];
    for (status, requests) in
        once.map(|status| (status, 1)).into_iter().chain([502, 503, 504].map(|status| (status, 5)))
    {
        upstream.forget();
        upstream.set(status);
        assert_eq!(get(&weir).await?.status.as_u16(), status);
        assert_eq!(upstream.request_count(), requests, "{status}");
    }
    upstream.forget();
    upstream.set(Behaviour::echo().fail_first(1, 429));
    let weir = start(&[&upstream], &format!("retry-on = {{ statuses = [429] }}, {AT_ONCE}"), "");
    assert_eq!(
        (get(&weir).await?.status.as_u16(), upstream.request_count()),
        (200, 2),
        "a 4xx that is listed is repeated"
    );
    Ok(())
}

#[tokio::test]
async fn failures_without_an_answer_are_repeated() -> Result {
    for (failure, kind) in [(Answer::reset(), "reset"), (Answer::close(), "reset"), (Answer::hang(), "timeout")] {
        let upstream = Upstream::start(Behaviour::echo().fail_first(1, failure)).await?;
        let weir = start(&[&upstream], &format!("attempt-timeout = \"1s\", {AT_ONCE}"), "");
        assert_eq!((get(&weir).await?.status.as_u16(), upstream.request_count()), (200, 2), "{kind}");
        assert_eq!(weir.records(1, |_| true).await[0]["attempts"][0]["failure"], kind);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_passed_on_in_part_is_not_repeated() -> Result {
    let upstream = Upstream::start(Reply::new(200).huge(100_000).truncate_after(50_000)).await?;
    let weir = start(&[&upstream], AT_ONCE, "");
    let response = get(&weir).await?;
    assert!(response.broken.is_some(), "a truncated answer looks whole: {response:?}");
    assert_eq!(upstream.request_count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_service_can_ask_not_to_be_called_again() -> Result {
    let unavailable = Reply::new(200).header("content-type", "application/grpc").header("grpc-status", "14");
    for (pushback, requests) in [("-1", 1), ("soon", 1), ("10", 3)] {
        let upstream = Upstream::start(unavailable.clone().header("grpc-retry-pushback-ms", pushback)).await?;
        let weir = Setup::new()
            .service_with("s", &[upstream.address()], "http2", "chain = \"c\"")
            .toml("[chain]\nc = [\"retry\"]")
            .toml(BUDGET)
            .policy("retry", "retry", &format!("{{ max-attempts = 3, {AT_ONCE} }}"))
            .start();
        let mut client = EchoClient::connect(weir.address(), "s").await?;
        let status = client.unary(Request::new(EchoRequest::default())).await.unwrap_err();
        assert_eq!((status.code(), upstream.request_count()), (Code::Unavailable, requests), "{pushback}");
    }
    Ok(())
}

#[tokio::test]
async fn grpc_statuses_that_pass_by_themselves_are_repeated() -> Result {
    let service = GrpcUpstream::start().await?;
    let weir = Setup::new()
        .service_with("s", &[service.address()], "http2", "chain = \"c\"")
        .toml("[chain]\nc = [\"retry\"]")
        .toml(BUDGET)
        .policy("retry", "retry", &format!("{{ max-attempts = 3, {AT_ONCE} }}"))
        .start();
    let mut client = EchoClient::connect(weir.address(), "s").await?;
    let ask = || Request::new(EchoRequest { message: "hello".into(), ..EchoRequest::default() });
    for code in [Code::Unavailable, Code::ResourceExhausted] {
        let before = service.call_count();
        service.fail_next(2, code);
        assert_eq!(client.unary(ask()).await?.into_inner().message, "hello", "the message is replayed");
        assert_eq!(service.call_count() - before, 3, "{code:?}");
    }
    for code in [Code::InvalidArgument, Code::NotFound, Code::Internal, Code::DeadlineExceeded, Code::Aborted] {
        let before = service.call_count();
        service.fail_next(1, code);
        assert_eq!(client.unary(ask()).await.unwrap_err().code(), code);
        assert_eq!(service.call_count() - before, 1, "{code:?}");
    }
    Ok(())
}
