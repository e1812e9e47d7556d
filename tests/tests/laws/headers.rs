//! The headers policy through the proxy: fields of requests and of answers.

use anyhow::Context;
use http::HeaderMap;
use weir_tests::client::{self, Client};
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream};
use weir_tests::weir::{Setup, Weir};

type Result = anyhow::Result<()>;

const EDITS: &str =
    "remove = [\"x-gone\"], set = { x-set = \"new\", X-Mixed = \"case\" }, append = { x-more = \"two\" }";

fn start(upstream: &Upstream, config: &str) -> Weir {
    Setup::new()
        .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
        .toml("[chain]\nc = [\"fields\"]")
        .policy("fields", "headers", config)
        .start()
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

/// What the edits are shown on: a field of each kind, in both protocols.
const BEFORE: [(&str, &str); 5] =
    [("x-gone", "1"), ("x-gone", "2"), ("x-set", "old"), ("x-set", "older"), ("x-more", "one")];

#[tokio::test]
async fn fields_of_requests_are_edited_on_each_attempt_and_no_others() -> Result {
    let upstream = Upstream::start(Behaviour::echo().fail_first(1, 503)).await?;
    let weir = Setup::new()
        .service_with("s", &[upstream.address()], "http1", "chain = \"c\"")
        .toml("[chain]\nc = [\"fields\", \"retry\"]")
        .policy("fields", "headers", &format!("{{ request = {{ {EDITS} }} }}"))
        .policy("retry", "retry", "{ backoff = { kind = \"fixed\", delay = \"1ms\" } }")
        .start();
    for mut client in [Client::http1(weir.address()).await?, Client::http2(weir.address()).await?] {
        let mut request = client::get("s", "/")?;
        for (name, value) in BEFORE.into_iter().chain([("x-other", "kept")]) {
            request.headers_mut().append(name, value.parse()?);
        }
        let response = client.send(request).await?;
        assert_eq!(response.status.as_u16(), 200);
        assert_eq!(response.headers.get("x-set"), None, "an edit of the request is seen on the answer");
    }
    let arrived = upstream.requests();
    assert_eq!(arrived.len(), 3);
    for request in arrived {
        assert_eq!(request.headers_named("x-gone"), [""; 0]);
        assert_eq!(request.headers_named("x-set"), ["new"]);
        assert_eq!(request.headers_named("x-mixed"), ["case"]);
        assert_eq!(request.headers_named("x-more"), ["one", "two"]);
        assert_eq!(request.headers_named("x-other"), ["kept"]);
    }
    Ok(())
}

#[tokio::test]
async fn fields_of_answers_are_edited() -> Result {
    let reply = BEFORE.into_iter().fold(Reply::new(200), |reply, (name, value)| reply.header(name, value));
    let upstream = Upstream::start(reply).await?;
    let weir = start(&upstream, &format!("{{ response = {{ {EDITS} }} }}"));
    for mut client in [Client::http1(weir.address()).await?, Client::http2(weir.address()).await?] {
        let response = client.send(client::get("s", "/")?).await?;
        assert_eq!(values(&response.headers, "x-gone"), [""; 0]);
        assert_eq!(values(&response.headers, "x-set"), ["new"]);
        assert_eq!(values(&response.headers, "x-mixed"), ["case"]);
        assert_eq!(values(&response.headers, "x-more"), ["one", "two"]);
    }
    assert_eq!(
        upstream.last().context("a request")?.header("x-set"),
        None,
        "an edit of the answer is seen on the request"
    );
    Ok(())
}

#[tokio::test]
async fn answers_of_the_proxy_are_edited_too() -> Result {
    let upstream = Upstream::start(Answer::reset()).await?;
    let weir = start(&upstream, "{ response = { set = { x-policy-marker = \"v1\" } } }");
    let response = client::fetch(weir.address(), "s", "/").await?;
    assert_eq!((response.status.as_u16(), response.header("x-policy-marker")), (502, Some("v1")));
    assert_eq!(response.header("x-weir-error"), Some("reset"));
    Ok(())
}

#[tokio::test]
async fn a_field_that_frames_the_message_is_no_policys_to_edit() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    for edit in [
        "set = { content-length = \"7\" }",
        "append = { transfer-encoding = \"chunked\" }",
        "remove = [\"host\"]",
        "set = { connection = \"close\" }",
    ] {
        for side in ["request", "response"] {
            let config = format!("{{ {side} = {{ {edit} }} }}");
            let response = client::fetch(start(&upstream, &config).address(), "s", "/").await?;
            assert_eq!((response.status.as_u16(), response.header("x-weir-error")), (503, Some("policy")), "{config}");
            assert!(
                response.json()?["message"].as_str().context("a message")?.contains("policy \"fields\""),
                "the message names the policy: {response:?}"
            );
        }
    }
    Ok(())
}
