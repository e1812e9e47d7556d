use super::*;
use weir_sdk::host::trace::{AttributeValue, Span, SpanKind};
use weir_sdk::testing::{Answer, Host};

pub fn hosted(config: Value) -> Harness<Trace> {
    let mut host = Host::default();
    host.services.insert(0, "user-service".into());
    host.routes.insert(0, "outbound/user-service".into());
    Harness::in_host(host, config).unwrap()
}

pub fn all() -> Harness<Trace> {
    hosted(json!({ "sample": 1.0 }))
}

pub fn spans(policy: &Harness<Trace>) -> Vec<Span> {
    policy.host(|host| std::mem::take(&mut host.spans))
}

pub fn value(span: &Span, name: &str) -> Option<String> {
    span.attributes.iter().find(|(other, _)| other == name).map(|(_, value)| match value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Number(number) => number.to_string(),
    })
}

pub fn attempt(policy: &Harness<Trace>, call: &Call, answer: Answer) -> Vec<(String, String)> {
    let Attempt::Amend(edits) = policy.on_attempt(call, 0).unwrap() else { panic!("a sampled attempt is amended") };
    policy.advance(Duration::from_millis(20));
    assert_eq!(policy.on_outcome(call, answer.after(Duration::from_millis(20))).unwrap(), Decision::Accept);
    apply::<&str, &str>(&[], edits)
}

pub fn completion(status: u16, attempts: u32) -> Completion {
    Completion { status, attempts, duration: Duration::from_millis(50), ..Completion::default() }
}

#[test]
fn an_exchange_leaves_a_span_for_itself_and_one_for_each_attempt() {
    let policy = all();
    let call = call(&[("traceparent", PARENT), ("tracestate", "foo=1")]).id(7);
    policy.on_request(&call).unwrap();
    let first = attempt(&policy, &call, Answer::status(503).field(":endpoint", "127.0.0.1:3201"));
    let second = attempt(&policy, &call, Answer::status(200).field(":endpoint", "127.0.0.1:3202"));
    policy.on_complete(&call, &completion(200, 2));

    let spans = spans(&policy);
    let [one, two, whole] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(
        (whole.kind, whole.parent, whole.end - whole.start),
        (SpanKind::Server, 0x1234_5678_9012_3456, 50_000_000)
    );
    assert_eq!((whole.name.as_str(), whole.error.as_str(), whole.state.as_str()), ("GET user-service", "", "foo=1"));
    for span in &spans {
        assert_eq!(span.trace_id, (0x1234_5678_9012_3456, 0x7890_1234_5678_9012));
        for (name, expected) in [
            ("http.request.method", "GET"),
            ("url.path", "/users/1"),
            ("server.address", "user-service"),
            ("weir.route", "outbound/user-service"),
        ] {
            assert_eq!(value(span, name).as_deref(), Some(expected));
        }
    }
    assert_eq!(
        (value(whole, "http.response.status_code").as_deref(), value(whole, "weir.attempts").as_deref()),
        (Some("200"), Some("2"))
    );
    for (span, fields) in [(one, &first), (two, &second)] {
        assert_eq!((span.kind, span.parent, span.end - span.start), (SpanKind::Client, whole.span_id, 20_000_000));
        assert_eq!(
            traceparent(fields),
            (TRACE.into(), format!("{:016x}", span.span_id), "01".into()),
            "the endpoint's parent is the attempt"
        );
    }
    assert_eq!((one.error.as_str(), value(one, "error.type").as_deref()), ("503", Some("503")));
    assert_eq!(
        (value(one, "weir.endpoint").as_deref(), value(one, "http.request.resend_count")),
        (Some("127.0.0.1:3201"), None)
    );
    assert_eq!((two.error.as_str(), value(two, "http.request.resend_count").as_deref()), ("", Some("1")));
    assert_ne!(one.span_id, two.span_id);
}

#[test]
fn an_attempt_names_the_exchange_as_parent_in_each_dialect() {
    let policy = hosted(json!({ "sample": 1.0, "dialects": ["x-trace"] }));
    let call = call(&[]);
    let request = sent(&policy, &call, &[]);
    let fields = attempt(&policy, &call, Answer::status(200));
    assert_eq!(get(&fields, "x-trace-id"), get(&request, "x-trace-id"));
    assert_eq!(get(&fields, "x-parent-span-id"), get(&request, "x-span-id"));
}

#[test]
fn errors_are_those_of_the_side_that_failed() {
    let ended = |answer: Answer, completion: Completion| {
        let policy = all();
        let call = call(&[]);
        policy.on_request(&call).unwrap();
        attempt(&policy, &call, answer);
        policy.on_complete(&call, &completion);
        spans(&policy).into_iter().map(|span| span.error).collect::<Vec<_>>()
    };
    let grpc = |code| Completion { grpc_status: Some(code), ..completion(200, 1) };
    let failed = |failure| Completion { failure, ..completion(504, 1) };
    assert_eq!(ended(Answer::status(404), completion(404, 1)), ["404", ""], "the caller's fault");
    assert_eq!(ended(Answer::status(500), completion(500, 1)), ["500", "500"]);
    assert_eq!(ended(Answer::grpc(0), grpc(0)), ["", ""]);
    assert_eq!(ended(Answer::grpc(5), grpc(5)), ["grpc-5", ""], "NOT_FOUND is the caller's fault");
    assert_eq!(ended(Answer::grpc(14), grpc(14)), ["grpc-14", "grpc-14"]);
    assert_eq!(ended(Answer::failure(Failure::Timeout), failed(Failure::Timeout)), ["timeout", "timeout"]);
    assert_eq!(
        ended(Answer::failure(Failure::Connect), completion(200, 2)),
        ["connect", ""],
        "the second attempt went well"
    );
}

#[test]
fn a_grpc_span_is_named_by_its_method() {
    let policy = all();
    let call = Call::new().field(":method", "POST").field(":path", "/shop.Orders/Place");
    policy.on_request(&call).unwrap();
    attempt(&policy, &call, Answer::grpc(0));
    let span = &spans(&policy)[0];
    assert_eq!((span.name.as_str(), value(span, "rpc.grpc.status_code").as_deref()), ("shop.Orders/Place", Some("0")));
}

#[test]
fn nothing_is_recorded_where_nothing_takes_spans() {
    let policy = all();
    policy.host(|host| host.tracing = false);
    let call = call(&[("traceparent", PARENT)]);
    let fields = sent(&policy, &call, &[]);
    assert_eq!((traceparent(&fields).2.as_str(), call.memo()), ("01", 0), "what the caller samples stays sampled");
}

#[test]
fn a_full_plugin_loses_spans_rather_than_calls() {
    let policy = all();
    let calls: Vec<Call> = (0..=OPEN as u64).map(|id| call(&[]).id(id)).collect();
    for call in &calls {
        assert_eq!(traceparent(&sent(&policy, call, &[])).2, "01");
    }
    assert_eq!(calls.last().unwrap().memo(), 0);
    policy.on_complete(&calls[0], &completion(200, 1));
    let another = call(&[]).id(9999);
    policy.on_request(&another).unwrap();
    assert_ne!(another.memo(), 0, "room again");
}

#[test]
fn an_exchange_that_another_instance_began_is_not_taken_for_ones_own() {
    let old = all();
    let (stale, fresh) = (call(&[]).id(1), call(&[]).id(2));
    old.on_request(&stale).unwrap();
    let new = Harness::<Trace>::another(json!({ "sample": 1.0 })).unwrap();
    new.on_request(&fresh).unwrap();
    assert_eq!(stale.memo(), fresh.memo(), "the case at hand");
    assert_eq!(new.on_attempt(&stale, 0).unwrap(), Attempt::Proceed);
    new.on_complete(&stale, &completion(200, 1));
    assert!(spans(&new).is_empty());
    new.on_complete(&fresh, &completion(200, 1));
    assert_eq!(spans(&new).len(), 1);
}

#[test]
fn what_is_kept_of_an_exchange_has_a_bound() {
    let policy = all();
    let call = Call::new().field(":method", "M".repeat(1000)).field(":path", format!("/{}", "ä".repeat(5000)));
    policy.on_request(&call).unwrap();
    policy.on_complete(&call, &completion(200, 1));
    let span = &spans(&policy)[0];
    let path = value(span, "url.path").unwrap();
    assert!(path.len() <= 512 && path.len() > 500 && span.name.len() < 60);
}
