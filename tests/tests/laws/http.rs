//! A call arrives at its service as it was meant, in either protocol, and so does the answer.

use std::process::Command;
use std::time::Duration;

use futures_util::future::try_join_all;
use http::{StatusCode, Version};
use weir_tests::client::{self, Client};
use weir_tests::raw::{self, Raw};
use weir_tests::upstream::{Answer, Behaviour, Reply, Upstream};
use weir_tests::weir::Setup;

type Result = anyhow::Result<()>;

#[tokio::test]
async fn each_protocol_reaches_services_of_each() -> Result {
    let upstream = Upstream::start(Behaviour::new(|request| {
        Reply::new(201).header("x-answer", "yes").body(request.body.clone()).into()
    }))
    .await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for (service, version) in [("one", Version::HTTP_11), ("two", Version::HTTP_2)] {
        for mut client in weir.clients().await? {
            let mut request = client::post(service, "/users?x=1&y=%20", "hello")?;
            request.headers_mut().append("x-twice", "a".parse()?);
            request.headers_mut().append("x-twice", "b".parse()?);
            let response = client.send(request).await?;
            assert_eq!(
                (response.status, response.header("x-answer")),
                (StatusCode::CREATED, Some("yes")),
                "{response:?}"
            );
            assert_eq!((&*response.text(), &response.broken), ("hello", &None));
            let arrived = upstream.last().unwrap();
            assert_eq!((&*arrived.method, &*arrived.target, arrived.version), ("POST", "/users?x=1&y=%20", version));
            assert_eq!(arrived.authority.as_deref(), Some(service));
            assert_eq!((arrived.headers_named("x-twice"), &arrived.body[..]), (vec!["a", "b"], &b"hello"[..]));
        }
    }
    assert_eq!(upstream.malformed_count(), 0);
    Ok(())
}

#[tokio::test]
async fn connections_are_reused_on_both_sides() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            for _ in 0..10 {
                assert_eq!(client.send(client::post(service, "/", "body")?).await?.status, 200);
            }
            assert!(!client.is_closed());
        }
    }
    assert_eq!((upstream.request_count(), upstream.connection_count()), (40, 2));
    Ok(())
}

#[tokio::test]
async fn a_hundred_streams_share_one_connection() -> Result {
    let upstream = Upstream::start(Behaviour::echo().delayed(Duration::from_millis(300))).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        let client = Client::http2(weir.address()).await?;
        let calls = (0..100).map(|number| {
            let mut client = client.another().unwrap();
            async move {
                let response = client.send(client::get(service, &format!("/{number}"))?).await?;
                assert_eq!(response.json()?["target"], format!("/{number}"));
                anyhow::Ok(response.status)
            }
        });
        assert_eq!(try_join_all(calls).await?, [StatusCode::OK; 100]);
    }
    // At most an HTTP/1.1 connection each, and a stream each of one connection or, while it is new, two.
    assert!(upstream.connection_count() <= 102, "{}", upstream.connection_count());
    assert_eq!(weir.records(200, |record| record["outcome"] == "ok").await.len(), 200);
    Ok(())
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() -> Result {
    let slow_first = |path: &str| Duration::from_millis(if path == "/0" { 200 } else { 0 });
    let upstream = Upstream::start(Behaviour::new(move |request| {
        Answer::from(Reply::new(200).body(request.target.clone())).after(slow_first(&request.target))
    }))
    .await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let mut raw = Raw::connect(weir.address()).await?;
    let requests: String =
        (0..20).map(|number| format!("POST /{number} HTTP/1.1\r\nhost: one\r\ncontent-length: 3\r\n\r\nabc")).collect();
    raw.send(requests).await?;
    for number in 0..20 {
        let response = raw.read_response().await?;
        assert_eq!((response.status, &response.body[..]), (200, format!("/{number}").as_bytes()));
    }
    assert_eq!(upstream.request_count(), 20);
    Ok(())
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() -> Result {
    let upstream = Upstream::start(Reply::new(200).body("hello").chunked()).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let answer = raw::exchange(weir.address(), "GET / HTTP/1.0\r\nhost: one\r\n\r\n").await?;
    let answer = String::from_utf8(answer.to_vec())?;
    assert!(answer.contains(" 200 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert_eq!(upstream.last().unwrap().version, Version::HTTP_11);
    Ok(())
}

#[tokio::test]
async fn a_service_is_told_who_calls_and_callers_cannot_say_otherwise() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").listener("identity = \"order-service\"").start();
    for service in ["one", "two"] {
        for mut client in weir.clients().await? {
            let mut request = client::get(service, "/")?;
            for (name, value) in [
                ("x-service-name", "admin"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil"),
                ("forwarded", "for=10.0.0.1"),
                ("x-real-ip", "10.0.0.1"),
            ] {
                request.headers_mut().insert(name, value.parse()?);
            }
            client.send(request).await?;
            let arrived = upstream.last().unwrap();
            let all = |name| arrived.headers_named(name);
            assert_eq!(all("x-service-name"), ["order-service"]);
            assert_eq!((all("x-forwarded-for"), all("x-forwarded-proto")), (vec!["127.0.0.1"], vec!["http"]));
            assert_eq!(all("x-forwarded-host"), [service]);
            assert_eq!((all("forwarded"), all("x-real-ip")), (vec![], vec![]));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_trusted_listener_appends_to_what_was_forwarded() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").listener("trust-forwarded = true").start();
    let mut request = client::get("one", "/")?;
    request.headers_mut().insert("x-forwarded-for", "10.0.0.1".parse()?);
    request.headers_mut().insert("x-forwarded-proto", "https".parse()?);
    Client::http1(weir.address()).await?.send(request).await?;
    let arrived = upstream.last().unwrap();
    assert_eq!(arrived.header("x-forwarded-for"), Some("10.0.0.1, 127.0.0.1"));
    assert_eq!(arrived.header("x-forwarded-proto"), Some("https"));
    Ok(())
}

#[tokio::test]
async fn the_request_id_is_the_same_for_caller_service_and_record() -> Result {
    let upstream = Upstream::start(200).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for mut client in weir.clients().await? {
        for given in [None, Some("call-7")] {
            let mut request = client::get("one", "/")?;
            if let Some(id) = given {
                request.headers_mut().insert("x-request-id", id.parse()?);
            }
            let response = client.send(request).await?;
            let id = response.header("x-request-id").unwrap().to_owned();
            assert!(given.is_none_or(|given| given == id), "{id}");
            assert_eq!(upstream.last().unwrap().headers_named("x-request-id"), [id.as_str()]);
            assert_ne!(weir.records(1, |record| record["id"] == *id).await.len(), 0);
        }
    }
    Ok(())
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_connection() -> Result {
    let reply = Reply::new(200)
        .header("connection", "x-secret, keep-alive")
        .header("x-secret", "s")
        .header("keep-alive", "timeout=5")
        .header("proxy-authenticate", "Basic")
        .header("upgrade", "websocket")
        .header("x-public", "p");
    let upstream = Upstream::start(reply).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let mut raw = Raw::connect(weir.address()).await?;
    let fields = "connection: x-private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=9\r\nproxy-connection: keep-alive\r\n\
                  proxy-authorization: Basic YTpi\r\nte: trailers, deflate\r\nupgrade: h2c\r\nx-kept: 2\r\n";
    for service in ["one", "two"] {
        // What an HTTP/2 endpoint must not send would be a protocol error of its own.
        if service == "two" {
            upstream.set(Reply::new(200).header("x-public", "p"));
        }
        raw.send(format!("GET / HTTP/1.1\r\nhost: {service}\r\n{fields}\r\n")).await?;
        let response = raw.read_response().await?;
        let arrived = upstream.last().unwrap();
        for name in ["x-private", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade"] {
            assert_eq!(arrived.header(name), None, "{service}: {name}");
        }
        assert_eq!((arrived.header("x-kept"), arrived.header("te")), (Some("2"), Some("trailers")));
        for name in ["x-secret", "keep-alive", "proxy-authenticate", "upgrade"] {
            assert_eq!(response.header(name), None, "{service}: {name}");
        }
        assert_eq!((response.status, response.header("x-public")), (200, Some("p")));
    }
    Ok(())
}

#[tokio::test]
async fn absolute_targets_work_as_through_an_http_proxy() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    for service in ["one", "two"] {
        let mut client = Client::http1_as_proxy(weir.address()).await?;
        let mut request = client::get(service, "/users/1?x=2")?;
        // An absolute target overrules it (RFC 9112, section 3.2.2).
        request.headers_mut().insert("host", "elsewhere".parse()?);
        let arrived = client.send(request).await?.json()?;
        assert_eq!((&arrived["target"], &arrived["authority"]), (&"/users/1?x=2".into(), &service.into()));
    }
    Ok(())
}

#[tokio::test]
async fn curl_uses_it_as_its_http_proxy() -> Result {
    let upstream = Upstream::start(Behaviour::echo()).await?;
    let weir = Setup::in_front_of(upstream.address(), "").start();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "30", "http://one/users/1"]);
    curl.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("http_proxy", format!("http://{}", weir.address()));
    // Not every machine has it.
    let Ok(curl) = tokio::task::spawn_blocking(move || curl.output()).await? else {
        return Ok(());
    };
    assert!(curl.status.success(), "{curl:?}");
    let arrived: serde_json::Value = serde_json::from_slice(&curl.stdout)?;
    assert_eq!((&arrived["target"], &arrived["authority"]), (&"/users/1".into(), &"one".into()));
    Ok(())
}
