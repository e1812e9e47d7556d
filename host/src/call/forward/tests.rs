use super::*;
use crate::response::is_grpc;
use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn received(version: Version, uri: &str, fields: &[(&'static str, &str)]) -> Parts {
    let mut parts = Request::new(()).into_parts().0;
    parts.version = version;
    parts.uri = uri.parse().unwrap();
    for (name, value) in fields {
        parts.headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    parts
}

fn http1(fields: &[(&'static str, &str)]) -> Parts {
    let mut parts = received(Version::HTTP_11, "/users/1?a=b", fields);
    parts.headers.entry(HOST).or_insert(HeaderValue::from_static("user-service"));
    parts
}

fn http2(fields: &[(&'static str, &str)]) -> Parts {
    received(Version::HTTP_2, "http://user-service/users/1?a=b", fields)
}

fn origin(identity: Option<&str>, trust_forwarded: bool) -> Origin {
    Origin::new("10.0.0.7".parse().unwrap(), identity, trust_forwarded)
}

/// A request as policies see it, and its target.
fn prepared_by(origin: &Origin, mut parts: Parts) -> (Parts, Target) {
    let target = Target::of(&parts).unwrap();
    let caller = Caller::of(&parts);
    prepare(&mut parts, origin, &target, &caller);
    (parts, target)
}

fn prepared(parts: Parts) -> Parts {
    prepared_by(&origin(None, false), parts).0
}

fn sent_with(protocol: Protocol, parts: Parts, strip_prefix: Option<&str>, left: Option<Duration>) -> Parts {
    let (parts, target) = prepared_by(&origin(None, false), parts);
    to_upstream(parts, &Hop { protocol, address: "10.0.0.1:3201", target: &target, strip_prefix, left })
}

fn sent(protocol: Protocol, parts: Parts) -> Parts {
    sent_with(protocol, parts, None, None)
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let parts = prepared(http1(&[
        ("connection", "keep-alive, X-Private"),
        ("connection", "close,,x-other"),
        ("x-private", "1"),
        ("x-other", "2"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic c2VjcmV0"),
        ("te", "gzip;q=0.5"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("trailer", "x-checksum"),
        ("authorization", "Bearer a"),
    ]));
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "host",
            "trailer",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
}

#[test]
fn each_hop_by_hop_field_is_seen_alone() {
    for name in ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"] {
        let parts = prepared(http1(&[(name, "x")]));
        assert_eq!(all(&parts.headers, name), NONE);
    }
    for name in ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "transfer-encoding", "upgrade"] {
        let mut response = Response::new(());
        response.headers_mut().insert(name, HeaderValue::from_static("x"));
        strip_response(&mut response, &Caller::of(&http1(&[])));
        assert_eq!(all(response.headers(), name), NONE);
    }
}

#[test]
fn connection_cannot_remove_what_frames_or_what_the_proxy_says() {
    let listed = "host, content-length, transfer-encoding, x-forwarded-for, x-service-name, x-request-id, x-weir-timeout, te, connection";
    let fields =
        [("connection", listed), ("content-length", "5"), ("x-request-id", "mine"), ("x-service-name", "admin")];
    let (parts, target) = prepared_by(&origin(Some("order-service"), true), http1(&fields));
    assert_eq!(parts.headers["host"], "user-service");
    assert_eq!(parts.headers["content-length"], "5");
    assert_eq!(parts.headers["x-forwarded-for"], "10.0.0.7");
    assert_eq!(parts.headers["x-service-name"], "order-service");
    assert_eq!(parts.headers["x-request-id"], "mine");
    let left = Some(Duration::from_secs(1));
    let hop = Hop { protocol: Protocol::Http1, address: "a:1", target: &target, strip_prefix: None, left };
    assert_eq!(to_upstream(parts, &hop).headers["x-weir-timeout"], "1000ms");
}

#[test]
fn a_malformed_connection_field_harms_nothing() {
    let parts =
        prepared(http1(&[("connection", ",, \u{e4}, a b, :path, \"x\", accept"), ("accept", "*/*"), ("x-kept", "1")]));
    assert_eq!(parts.headers["x-kept"], "1");
    assert!(!parts.headers.contains_key("accept") && !parts.headers.contains_key("connection"));
}

#[test]
fn te_trailers_reaches_the_service() {
    for parts in [http1(&[("te", "deflate, Trailers"), ("connection", "TE")]), http2(&[("te", "trailers")])] {
        let http1 = sent(Protocol::Http1, parts.clone());
        assert_eq!(all(&http1.headers, "te"), ["trailers"]);
        assert_eq!(all(&http1.headers, "connection"), ["te"], "RFC 9110, section 10.1.4");
        let http2 = sent(Protocol::Http2, parts);
        assert_eq!(all(&http2.headers, "te"), ["trailers"]);
        assert_eq!(all(&http2.headers, "connection"), NONE);
    }
}

#[test]
fn an_upgrade_reaches_only_services_that_speak_http1() {
    let asks = || http1(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "dGhl")]);
    let http1 = sent(Protocol::Http1, asks());
    assert_eq!(
        (all(&http1.headers, "connection"), all(&http1.headers, "upgrade")),
        (vec!["upgrade"], vec!["websocket"])
    );
    let http2 = sent(Protocol::Http2, asks());
    assert_eq!((all(&http2.headers, "connection"), all(&http2.headers, "upgrade")), (vec![], vec![]));
}

#[test]
fn a_smuggled_h2c_upgrade_reaches_nobody() {
    let asks = http1(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")]);
    let sent = sent(Protocol::Http1, asks);
    for name in ["connection", "upgrade", "http2-settings"] {
        assert_eq!(all(&sent.headers, name), NONE, "{name}");
    }
}

#[test]
fn the_callers_word_is_worth_nothing_without_trust() {
    let claims = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", ""),
        ("x-forwarded-for", "5.6.7.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "bank"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-client-cert", "By=a"),
        ("x-forwarded-prefix", "/admin"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
    ];
    let (parts, _) = prepared_by(&origin(None, false), http1(&claims));
    assert_eq!(all(&parts.headers, "x-forwarded-for"), ["10.0.0.7"]);
    assert_eq!(all(&parts.headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&parts.headers, "x-forwarded-host"), ["user-service"]);
    for name in ["x-forwarded-port", "x-forwarded-client-cert", "x-forwarded-prefix", "x-real-ip", "forwarded"] {
        assert_eq!(all(&parts.headers, name), NONE, "{name}");
    }
    let (parts, _) = prepared_by(&origin(None, true), http1(&claims));
    assert_eq!(all(&parts.headers, "x-forwarded-for"), ["1.2.3.4, 5.6.7.8, 10.0.0.7"]);
    for (name, value) in &claims[3..] {
        assert_eq!(all(&parts.headers, name), [*value], "{name}");
    }
}

#[test]
fn a_trusted_caller_that_says_nothing_is_named_too() {
    let (parts, _) = prepared_by(&origin(None, true), http2(&[]));
    assert_eq!(all(&parts.headers, "x-forwarded-for"), ["10.0.0.7"]);
    assert_eq!(all(&parts.headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&parts.headers, "x-forwarded-host"), ["user-service"]);
    let mapped = Origin::new("::ffff:10.0.0.8".parse().unwrap(), None, false);
    assert_eq!(prepared_by(&mapped, http1(&[])).0.headers["x-forwarded-for"], "10.0.0.8");
}

#[test]
fn the_listeners_identity_overrules_the_callers() {
    let claim = [("x-service-name", "admin"), ("x-service-name", "root")];
    let name = |identity, trusted| {
        let (parts, _) = prepared_by(&origin(identity, trusted), http1(&claim));
        parts.headers.get_all("x-service-name").iter().map(|name| name.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(name(Some("order-service"), true), ["order-service"]);
    assert_eq!(name(None, false), [""; 0], "services take it for who calls");
    assert_eq!(name(None, true), ["admin", "root"]);
    assert_eq!(name(Some("a\nb"), false), [""], "what cannot be sent is no reason to believe the caller");
}

#[test]
fn a_request_id_goes_to_the_service_and_back() {
    let parts = http1(&[]);
    let caller = Caller::of(&parts);
    let target = Target::of(&parts).unwrap();
    let mut parts = parts;
    prepare(&mut parts, &origin(None, false), &target, &caller);
    assert_eq!(parts.headers["x-request-id"], caller.id);
    let mut response = Response::new(());
    response.headers_mut().append("x-request-id", HeaderValue::from_static("of-the-service"));
    strip_response(&mut response, &caller);
    assert_eq!(response.headers().get_all("x-request-id").iter().collect::<Vec<_>>(), [caller.id]);
}

#[test]
fn an_http1_service_gets_an_origin_form_target_and_the_callers_host() {
    let absolute = received(Version::HTTP_11, "http://user-service:80/users/1?a=b", &[("host", "elsewhere")]);
    for (parts, host) in [(http1(&[]), "user-service"), (http2(&[]), "user-service"), (absolute, "user-service:80")] {
        let sent = sent(Protocol::Http1, parts);
        assert_eq!(sent.uri.to_string(), "/users/1?a=b");
        assert_eq!((sent.uri.authority(), sent.version), (None, Version::HTTP_11));
        assert_eq!(all(&sent.headers, "host"), [host]);
    }
}

#[test]
fn an_http2_service_gets_an_authority_and_no_host() {
    for parts in [http1(&[("transfer-encoding", "chunked")]), http2(&[("host", "user-service")])] {
        let sent = sent(Protocol::Http2, parts);
        assert_eq!(sent.uri.to_string(), "http://user-service/users/1?a=b");
        assert_eq!(sent.version, Version::HTTP_2);
        assert_eq!((all(&sent.headers, "host"), all(&sent.headers, "transfer-encoding")), (vec![], vec![]));
    }
}

#[test]
fn a_request_without_a_host_names_the_endpoint() {
    let without = || received(Version::HTTP_10, "/x", &[]);
    assert_eq!(all(&sent(Protocol::Http1, without()).headers, "host"), ["10.0.0.1:3201"]);
    assert_eq!(sent(Protocol::Http2, without()).uri.to_string(), "http://10.0.0.1:3201/x");
}

#[test]
fn options_of_everything_stays_so() {
    let mut parts = received(Version::HTTP_11, "*", &[("host", "a")]);
    parts.method = Method::OPTIONS;
    assert_eq!(sent(Protocol::Http1, parts.clone()).uri.to_string(), "*");
    assert_eq!(sent(Protocol::Http2, parts).uri.path_and_query().unwrap(), "*");
}

#[test]
fn a_prefix_is_taken_off_for_the_service_only() {
    for (protocol, expected) in [(Protocol::Http1, "/1?a=b"), (Protocol::Http2, "http://user-service/1?a=b")] {
        assert_eq!(sent_with(protocol, http1(&[]), Some("/users"), None).uri.to_string(), expected);
    }
}

#[test]
fn cookies_arrive_as_one() {
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        assert_eq!(all(&sent(protocol, http2(&crumbs)).headers, "cookie"), ["a=1; b=2; c=3"]);
        assert_eq!(all(&sent(protocol, http2(&crumbs[..1])).headers, "cookie"), ["a=1"]);
    }
}

#[test]
fn the_service_learns_how_long_the_caller_waits() {
    let left = Some(Duration::from_micros(1_234_567));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let plain = sent_with(protocol, http1(&[("x-weir-timeout", "5s")]), None, left);
        assert_eq!(
            (all(&plain.headers, "x-weir-timeout"), all(&plain.headers, "grpc-timeout")),
            (vec!["1234ms"], vec![])
        );
        let grpc =
            sent_with(protocol, http2(&[("content-type", "application/grpc"), ("grpc-timeout", "5S")]), None, left);
        assert!(is_grpc(&grpc.headers));
        assert_eq!(
            (all(&grpc.headers, "x-weir-timeout"), all(&grpc.headers, "grpc-timeout")),
            (vec!["1234ms"], vec!["1234567u"])
        );
    }
    assert_eq!(all(&sent(Protocol::Http1, http1(&[])).headers, "x-weir-timeout"), NONE);
}

#[test]
fn an_attempt_has_nothing_of_the_callers_connection() {
    let mut parts = http1(&[]);
    parts.extensions.insert("upgrade");
    assert!(sent(Protocol::Http1, parts).extensions.is_empty());
}

#[test]
fn an_answers_hop_by_hop_fields_stay_on_their_hop() {
    let caller = Caller::of(&http1(&[]));
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_10;
    for (name, value) in [
        ("connection", "close, x-private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("content-length", "5"),
        ("date", "Fri, 20 Nov 2026 08:15:30 GMT"),
        ("trailer", "grpc-status"),
    ] {
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    strip_response(&mut response, &caller);
    let mut names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date", "trailer", "x-request-id"]);
    assert_eq!(response.version(), Version::HTTP_11);
}

#[test]
fn switching_protocols_is_passed_on_whole() {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", HeaderValue::from_static("Upgrade, x-private"));
    response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    response.headers_mut().insert("x-private", HeaderValue::from_static("1"));
    strip_response(&mut response, &Caller::of(&http1(&[])));
    assert_eq!(
        (all(response.headers(), "connection"), all(response.headers(), "upgrade")),
        (vec!["upgrade"], vec!["websocket"])
    );
    assert!(!response.headers().contains_key("x-private"));
}

/// What hyper's client writes for a request.
async fn written<B>(parts: Parts, body: B) -> String
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    let service = async move {
        let mut bytes = Vec::new();
        let is_chunked = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("chunked");
        while !bytes.ends_with(b"\r\n\r\n") || (is_chunked(&bytes) && !bytes.ends_with(b"\r\n0\r\n\r\n")) {
            far.read_buf(&mut bytes).await.unwrap();
        }
        far.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
        drop(far);
        String::from_utf8(bytes).unwrap()
    };
    let request = client.send_request(Request::from_parts(parts, body));
    let (written, answer, _) = tokio::join!(service, request, connection);
    assert_eq!(answer.unwrap().status(), 204);
    written
}

/// A body that does not know its length.
struct Chunk(Option<Bytes>);

impl http_body::Body for Chunk {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|chunk| Ok(Frame::data(chunk))))
    }
}

#[tokio::test]
async fn a_get_keeps_its_body_and_gets_none_it_has_not() {
    for received in [http1(&[("transfer-encoding", "chunked")]), http2(&[])] {
        let with = written(sent(Protocol::Http1, received.clone()), Chunk(Some(Bytes::from_static(b"hello")))).await;
        assert!(with.contains("transfer-encoding: chunked\r\n") && with.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{with}");
        let without = written(sent(Protocol::Http1, received), Empty::new()).await;
        assert!(!without.contains("transfer-encoding") && !without.contains("content-length"), "{without}");
    }
}
