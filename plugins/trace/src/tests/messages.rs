//! Messages: a publish, what the broker keeps of it, and its deliveries.

use super::spans::{attempt, completion, spans, value};
use super::*;
use weir_sdk::Failure;
use weir_sdk::host::trace::{Link, Span, SpanKind};
use weir_sdk::testing::{Answer, Host};

const PUBLISH: u32 = 1;
const DELIVERY: u32 = 2;

fn hosted(config: Value) -> Harness<Trace> {
    let mut host = Host::default();
    host.services.extend([(PUBLISH, "broker events".to_owned()), (DELIVERY, "mailer".to_owned())]);
    host.routes.extend([(PUBLISH, "publish order.created".to_owned()), (DELIVERY, "deliver invoices".to_owned())]);
    Harness::in_host(host, config).unwrap()
}

fn all() -> Harness<Trace> {
    hosted(json!({ "sample": 1.0 }))
}

fn with_fields(call: Call, fields: &[(String, String)]) -> Call {
    fields.iter().fold(call, |call, (name, value)| call.field(name, value.as_str()))
}

fn publish(fields: &[(&str, &str)]) -> Call {
    let call = Call::new().id(1).kind(ExchangeKind::Publish).service(PUBLISH).route(PUBLISH);
    let call = call.field(":method", "POST").field(":path", "/v1/publish/order.created").field("@message-id", "m-1");
    fields.iter().fold(call, |call, (name, value)| call.field(name, *value))
}

/// Of a message that the broker kept with these fields.
fn delivery(fields: &[(String, String)]) -> Call {
    let call = Call::new().id(2).kind(ExchangeKind::Delivery).service(DELIVERY).route(DELIVERY);
    let call = call.field(":method", "POST").field(":path", "/events").field("@message-id", "m-1");
    with_fields(call.field("@channel", "order.created"), fields)
}

/// What the broker keeps of a publish: the fields that its attempt carries. The attempts are recorded.
fn kept(policy: &Harness<Trace>, call: &Call, answers: &[Answer]) -> Vec<(String, String)> {
    let request = sent(policy, call, &[]);
    let attempts = answers.iter().map(|answer| match policy.on_attempt(call, 0).unwrap() {
        Attempt::Amend(edits) => {
            policy.on_outcome(call, answer.clone()).unwrap();
            apply(&request, edits)
        }
        _ => request.clone(),
    });
    let last = attempts.last().unwrap();
    policy.on_complete(call, &completion(200, answers.len() as u32));
    last
}

fn delivered(policy: &Harness<Trace>, call: &Call, answer: Answer, ended: &Completion) -> [Span; 2] {
    policy.on_request(call).unwrap();
    attempt(policy, call, answer);
    policy.on_complete(call, ended);
    spans(policy).try_into().unwrap()
}

#[test]
fn a_delivery_continues_the_trace_of_its_publish_and_is_linked_to_it() {
    let policy = all();
    let message = kept(&policy, &publish(&[("traceparent", PARENT)]), &[Answer::status(503), Answer::status(200)]);
    let [_, sent, producer] = <[Span; 3]>::try_from(spans(&policy)).unwrap();
    assert_eq!((producer.kind, producer.parent), (SpanKind::Producer, 0x1234_5678_9012_3456));
    assert_eq!((sent.kind, sent.parent), (SpanKind::Client, producer.span_id));
    assert!(producer.links.is_empty() && sent.links.is_empty(), "what it came from is its parent, and no message");

    // The broker has the context of the attempt that it kept the message from, and not of one that failed.
    assert_eq!(traceparent(&message), (TRACE.into(), format!("{:016x}", sent.span_id), "01".into()));

    let [posted, consumer] = delivered(&policy, &delivery(&message), Answer::status(200), &completion(200, 1));
    assert_eq!((consumer.kind, consumer.trace_id, consumer.parent), (SpanKind::Consumer, sent.trace_id, sent.span_id));
    assert_eq!(consumer.links, [Link { trace_id: sent.trace_id, span_id: sent.span_id }]);
    assert_eq!((posted.kind, posted.parent, posted.links.len()), (SpanKind::Client, consumer.span_id, 0));
}

#[test]
fn each_attempt_to_deliver_is_linked_to_the_one_publish() {
    let policy = all();
    let message = kept(&policy, &publish(&[]), &[Answer::status(200)]);
    let published = spans(&policy)[0].span_id;
    for number in 1..4 {
        let [_, consumer] = delivered(&policy, &delivery(&message), Answer::status(500), &completion(500, number));
        assert_eq!(consumer.links.iter().map(|link| link.span_id).collect::<Vec<_>>(), [published]);
        assert_eq!(value(&consumer, "weir.attempts"), Some(number.to_string()));
    }
}

#[test]
fn a_message_that_nobody_traced_has_no_link() {
    let policy = all();
    let [_, consumer] = delivered(&policy, &delivery(&[]), Answer::status(200), &completion(200, 1));
    assert_eq!((consumer.parent, consumer.links.len()), (0, 0));
}

#[test]
fn a_publish_that_is_not_sampled_hands_its_trace_on_all_the_same() {
    let policy = hosted(json!({ "sample": 0.0, "dialects": ["w3c", "x-trace", "b3"] }));
    let message = kept(&policy, &publish(&[]), &[Answer::status(200)]);
    let (trace, _, flags) = traceparent(&message);
    assert_eq!((flags.as_str(), get(&message, "x-trace-id")), ("00", Some(trace.as_str())));
    let call = delivery(&message);
    assert_eq!(traceparent(&sent(&policy, &call, &[])).0, trace);
    assert_eq!(call.memo(), 0, "and its deliveries are as little sampled");
    assert!(spans(&policy).is_empty());
}

#[test]
fn spans_of_messages_are_named_as_opentelemetry_names_them() {
    let policy = all();
    let message = kept(&policy, &publish(&[]), &[Answer::status(200)]);
    let published = spans(&policy);
    let processed = delivered(&policy, &delivery(&message), Answer::status(200), &completion(200, 1));
    for (spans, operation, subscription, service) in
        [(&published[..], "send", None, "broker events"), (&processed[..], "process", Some("invoices"), "mailer")]
    {
        for span in spans {
            assert_eq!(span.name, format!("{operation} order.created"));
            for (name, expected) in [
                ("messaging.system", Some("weir")),
                ("messaging.operation.name", Some(operation)),
                ("messaging.operation.type", Some(operation)),
                ("messaging.destination.name", Some("order.created")),
                ("messaging.destination.subscription.name", subscription),
                ("messaging.message.id", Some("m-1")),
                ("weir.service", Some(service)),
                ("error.type", None),
            ] {
                assert_eq!(value(span, name).as_deref(), expected, "{name} of {}", span.name);
            }
            let others = ["http.", "url.", "server.", "rpc."];
            let of_calls = |(name, _): &&(String, _)| others.iter().any(|other| name.starts_with(other));
            assert_eq!(span.attributes.iter().find(of_calls), None, "{}", span.name);
        }
    }
}

#[test]
fn a_message_that_was_refused_before_an_attempt_is_named_by_its_route() {
    for (call, name) in [(publish(&[]), "send order.created"), (delivery(&[]), "process invoices")] {
        let policy = all();
        policy.on_request(&call).unwrap();
        policy.on_complete(&call, &completion(401, 0));
        let [span] = <[Span; 1]>::try_from(spans(&policy)).unwrap();
        assert_eq!((span.name.as_str(), span.error.as_str()), (name, "401"));
        assert_eq!(value(&span, "messaging.message.id"), None);
    }
}

#[test]
fn a_message_that_was_not_taken_has_failed() {
    let failed = |failure, status| Completion { failure, ..completion(status, 1) };
    for (answer, ended, expected) in [
        (Answer::status(204), completion(204, 1), ["", ""]),
        // No redirect is followed, so nobody has the message.
        (Answer::status(302), completion(302, 1), ["302", "302"]),
        (Answer::status(404), completion(404, 1), ["404", "404"]),
        (Answer::failure(Failure::Connect), failed(Failure::Connect, 0), ["connect", "connect"]),
        (Answer::failure(Failure::Overload), completion(0, 1), ["overload", "_OTHER"]),
    ] {
        let [one, whole] = delivered(&all(), &delivery(&[]), answer, &ended);
        assert_eq!([one.error.as_str(), whole.error.as_str()], expected);
        let types = [&one, &whole].map(|span| value(span, "error.type").unwrap_or_default());
        assert_eq!(types, expected);
    }
}

#[test]
fn what_is_kept_of_a_message_has_a_bound() {
    let policy = all();
    let long = "x".repeat(10_000);
    let call = Call::new().kind(ExchangeKind::Delivery).field("@message-id", &*long).field("@channel", &*long);
    let [span, _] = delivered(&policy, &call, Answer::status(200), &completion(200, 1));
    let lengths = ["messaging.message.id", "messaging.destination.name"].map(|name| value(&span, name).unwrap().len());
    assert_eq!(lengths, [256, 256]);
}

#[test]
fn calls_read_nothing_more_for_the_sake_of_messages() {
    let policy = all();
    assert_eq!(policy.needs().request, ["traceparent", "tracestate", ":method", ":path"]);
    assert!(policy.needs().skip.without_memo, "what is not sampled is not looked at again");
}
