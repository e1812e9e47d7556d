use super::*;
use serde_json::{Value, json};

fn caller(grpc: bool, http2: bool) -> Caller {
    Caller { id: HeaderValue::from_static("id-1"), http2, grpc, head: false }
}

fn http() -> Caller {
    caller(false, false)
}

fn grpc() -> Caller {
    caller(true, true)
}

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn error(kind: ErrorKind) -> ProxyError {
    ProxyError::new(kind, "service \"a\": no")
}

#[test]
fn each_kind_has_its_status() {
    let table: Vec<_> = ErrorKind::ALL.map(|kind| (kind.as_str(), kind.status().as_u16())).to_vec();
    let expected = [
        ("bad-request", 400),
        ("connect-refused", 405),
        ("method-not-allowed", 405),
        ("token", 401),
        ("forbidden", 403),
        ("no-route", 404),
        ("too-large", 413),
        ("headers-too-large", 431),
        ("request-timeout", 408),
        ("limited", 429),
        ("connect", 502),
        ("reset", 502),
        ("protocol", 502),
        ("no-endpoint", 503),
        ("breaker-open", 503),
        ("overload", 503),
        ("policy", 503),
        ("draining", 503),
        ("timeout", 504),
        ("no-channel", 404),
        ("no-subscription", 404),
        ("no-delivery", 404),
        ("broker-down", 503),
        ("broker-full", 503),
        ("broker-refused", 502),
    ];
    assert_eq!(table, expected);
    for (kind, _) in expected {
        assert_eq!(known_kind(kind), Some(kind));
    }
    assert_eq!(known_kind("teapot"), Some("policy"));
    assert_eq!(known_kind(""), None);
}

#[test]
fn an_error_says_its_kind_its_reason_and_its_exchange() {
    for kind in ErrorKind::ALL {
        let response = respond(&error(kind), &http());
        assert_eq!(response.status(), kind.status());
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(header(&response, "x-weir-error"), Some(kind.as_str()));
        assert_eq!(header(&response, "x-request-id"), Some("id-1"));
        assert_eq!(header(&response, "retry-after"), None);
        assert_eq!(
            body(&response),
            json!({ "error": kind.as_str(), "message": "service \"a\": no", "exchange": "id-1" })
        );
    }
}

#[test]
fn a_grpc_caller_gets_trailers_only() {
    let statuses = [13, 12, 12, 16, 7, 12, 8, 8, 4, 8, 14, 14, 14, 14, 14, 14, 14, 14, 4, 12, 12, 12, 14, 14, 14];
    for (kind, status) in ErrorKind::ALL.into_iter().zip(statuses) {
        let response = respond(&error(kind), &grpc());
        assert_eq!(response.status(), 200);
        assert!(response.body().is_empty());
        assert_eq!(header(&response, "content-type"), Some("application/grpc"));
        assert_eq!(grpc_status(response.headers()), Some(status), "{kind:?}");
        assert_eq!(header(&response, "grpc-message"), Some("service \"a\": no"));
        assert_eq!(header(&response, "x-weir-error"), Some(kind.as_str()));
        assert_eq!(header(&response, "x-request-id"), Some("id-1"));
        assert_eq!(header(&response, "connection"), None);
    }
}

#[test]
fn retry_after_is_whole_seconds_rounded_up_and_never_zero() {
    for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
        let error = ProxyError { retry_after: Some(Duration::from_millis(millis)), ..error(ErrorKind::BreakerOpen) };
        assert_eq!(header(&respond(&error, &http()), "retry-after"), Some(seconds));
        let response = respond(&error, &grpc());
        assert_eq!(header(&response, "retry-after"), Some(seconds));
        assert_eq!(header(&response, "grpc-retry-pushback-ms"), None);
    }
    assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
}

#[test]
fn a_connection_with_two_readings_is_closed() {
    for kind in ErrorKind::ALL {
        let closing =
            [ErrorKind::BadRequest, ErrorKind::ConnectRefused, ErrorKind::TooLarge, ErrorKind::RequestTimeout];
        let close = closing.contains(&kind);
        assert_eq!(header(&respond(&error(kind), &http()), "connection").is_some(), close, "{kind:?}");
        assert_eq!(
            header(&respond(&error(kind), &caller(false, true)), "connection"),
            None,
            "HTTP/2 has no such field"
        );
    }
}

#[test]
fn statuses_come_with_the_fields_they_need() {
    assert_eq!(header(&respond(&error(ErrorKind::Token), &http()), "www-authenticate"), Some("Bearer"));
    assert!(header(&respond(&error(ErrorKind::ConnectRefused), &http()), "allow").is_some());
    let given =
        Reply { status: 401, headers: vec![("www-authenticate".into(), b"Basic".to_vec())], ..Reply::default() };
    let response = reply(&given, &http());
    assert_eq!(response.headers().get_all("www-authenticate").iter().collect::<Vec<_>>(), ["Basic"]);
}

#[test]
fn a_grpc_message_survives_any_text() {
    for text in ["50% of \"ä\"\r\n\u{0}\u{7f}", "%41", "日本", " plain ~"] {
        let response = respond(&ProxyError::new(ErrorKind::Policy, text), &grpc());
        let sent = header(&response, "grpc-message").unwrap();
        assert!(sent.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{sent}");
        assert_eq!(percent_encoding::percent_decode_str(sent).decode_utf8().unwrap(), text);
    }
    let spec = respond(&ProxyError::new(ErrorKind::Policy, "a %\n"), &grpc());
    assert_eq!(header(&spec, "grpc-message"), Some("a %25%0A"));
}

#[test]
fn a_grpc_message_has_a_bound() {
    let response = respond(&ProxyError::new(ErrorKind::Policy, "ä".repeat(100_000)), &grpc());
    assert_eq!(header(&response, "grpc-message").unwrap().len(), MAX_ENCODED);
    const MAX_ENCODED: usize = 3 * 1024;
}

#[test]
fn a_policy_replies_in_its_own_words() {
    let teapot = Reply {
        status: 418,
        error: "teapot".into(),
        message: "short and stout".into(),
        headers: vec![("set-cookie".into(), b"a=1".to_vec()), ("set-cookie".into(), b"b=2".to_vec())],
        ..Reply::default()
    };
    assert_eq!(teapot.check(), Ok(()));
    let response = reply(&teapot, &http());
    assert_eq!(response.status(), 418);
    assert_eq!(header(&response, "x-weir-error"), Some("teapot"));
    assert_eq!(response.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(body(&response), json!({ "error": "teapot", "message": "short and stout", "exchange": "id-1" }));

    let response = reply(&teapot, &grpc());
    assert_eq!((response.status().as_u16(), grpc_status(response.headers())), (200, Some(2)));
    assert_eq!(header(&response, "grpc-message"), Some("short and stout"));
    assert_eq!(header(&response, "set-cookie"), Some("a=1"));

    let chosen = Reply { grpc_status: Some(9), ..teapot };
    assert_eq!(grpc_status(reply(&chosen, &grpc()).headers()), Some(9));
    assert_eq!(grpc_status(reply(&chosen, &http()).headers()), None);
}

#[test]
fn a_policys_body_is_sent_as_it_is() {
    let page = Reply {
        status: 200,
        headers: vec![("content-type".into(), b"text/html".to_vec())],
        body: Some(Bytes::from_static(b"<p>")),
        ..Reply::default()
    };
    let response = reply(&page, &http());
    assert_eq!(response.body(), "<p>");
    assert_eq!(header(&response, "content-type"), Some("text/html"));
    assert_eq!(header(&response, "x-weir-error"), None);
    let response = reply(&page, &grpc());
    assert!(response.body().is_empty());
    assert_eq!(header(&response, "content-type"), Some("application/grpc"));
    assert_eq!(grpc_status(response.headers()), Some(0));
}

#[test]
fn an_answer_without_content_has_none() {
    for status in [204, 205, 304] {
        let given = Reply { status, body: Some(Bytes::from_static(b"no")), ..Reply::default() };
        assert!(reply(&given, &http()).body().is_empty());
        let told = Reply { status, message: "no".into(), ..Reply::default() };
        assert!(reply(&told, &http()).body().is_empty());
    }
    let empty = reply(&Reply { status: 200, ..Reply::default() }, &http());
    assert!(empty.body().is_empty() && header(&empty, "content-type").is_none());
    let told = reply(&Reply { status: 200, message: "hello".into(), ..Reply::default() }, &http());
    assert_eq!(body(&told), json!({ "message": "hello", "exchange": "id-1" }));
}

#[test]
fn what_a_policy_cannot_say_is_named_and_not_sent() {
    let good = Reply { status: 200, ..Reply::default() };
    assert_eq!(good.check(), Ok(()));
    let with_header = |name: &str, value: &[u8]| Reply { headers: vec![(name.into(), value.to_vec())], ..good.clone() };
    let bad = [
        (Reply { status: 101, ..good.clone() }, "101"),
        (Reply { status: 0, ..good.clone() }, "0"),
        (Reply { status: 600, ..good.clone() }, "600"),
        (Reply { error: "a b".into(), ..good.clone() }, "a b"),
        (Reply { error: "a\r\nset-cookie: b".into(), ..good.clone() }, "a\\r\\n"),
        (Reply { error: "x".repeat(65), ..good.clone() }, "xxx"),
        (with_header("content-length", b"9"), "content-length"),
        (with_header("transfer-encoding", b"chunked"), "transfer-encoding"),
        (with_header("Upper", b"1"), "Upper"),
        (with_header("x-a", b"1\r\nset-cookie: b"), "x-a"),
    ];
    for (bad, named) in bad {
        let problem = bad.check().unwrap_err();
        assert!(problem.contains(named), "{problem}");
        let response = reply(&bad, &http());
        assert!(matches!(response.status().as_u16(), 200 | 500));
        assert_eq!(header(&response, "x-weir-error"), None);
        assert!(
            response.headers().keys().all(|name| ["x-request-id", "content-type"].contains(&name.as_str())),
            "{response:?}"
        );
    }
}

#[test]
fn a_failure_after_the_head_ends_in_trailers() {
    let (status, trailers) = grpc_trailers(FailureKind::Timeout, "the deadline passed");
    assert_eq!((status, grpc_status(&trailers)), (4, Some(4)));
    assert_eq!(trailers["grpc-message"], "the deadline passed");
    assert_eq!(trailers["x-weir-error"], "timeout");
    assert_eq!(grpc_trailers(FailureKind::Reset, "").0, 14);
    assert_eq!(trailers.len(), 3, "nothing that only a head may have");
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let with = |content_type: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        is_grpc(&headers)
    };
    for yes in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",
        "Application/GRPC",
        "application/grpc; a=b",
    ] {
        assert!(with(yes), "{yes}");
    }
    for no in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "application/json",
        "",
        "application/grp",
    ] {
        assert!(!with(no), "{no}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn a_grpc_status_is_a_number_or_nothing() {
    let with = |status: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static(status));
        grpc_status(&headers)
    };
    assert_eq!(with("0"), Some(0));
    assert_eq!(with("14"), Some(14));
    assert_eq!([with(""), with("-1"), with("x"), with("99999999999")], [None; 4]);
    assert_eq!(grpc_status(&HeaderMap::new()), None);
}

#[test]
fn an_answer_to_head_over_http2_has_the_length_and_not_the_body() {
    let caller = Caller { head: true, ..caller(false, true) };
    let response = respond(&error(ErrorKind::NoRoute), &caller);
    let length = respond(&error(ErrorKind::NoRoute), &http()).body().len().to_string();
    assert_eq!((response.status().as_u16(), header(&response, "content-length")), (404, Some(length.as_str())));
    assert!(response.body().is_empty());
}
