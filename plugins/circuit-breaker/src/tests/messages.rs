//! Publishes, whose one endpoint is the broker, and deliveries, of which each attempt is an exchange of its own.

use super::*;

/// Attempt `number` at one message, as an exchange of its own.
fn delivery(number: u32) -> Call {
    Call::new().id(u64::from(number)).kind(ExchangeKind::Delivery).attempts(number - 1)
}

fn publish(channel: u32) -> Call {
    Call::new().kind(ExchangeKind::Publish).route(channel)
}

fn ends(policy: &Policy, call: Call, answer: Answer) {
    let call = admitted_at(policy, call, 0).unwrap();
    end(policy, &call, answer);
}

#[test]
fn deliveries_open_it_and_close_it_as_calls_do() {
    let policy = breaker(json!({}));
    (1..=5).for_each(|number| ends(&policy, delivery(number), Answer::failure(Failure::Connect)));
    let refused = policy.on_attempt(&delivery(6), 0).unwrap();
    let Attempt::Refuse(refusal) = refused else { panic!("{refused:?}") };
    // Until then the message waits, and no attempt is spent.
    assert_eq!((refusal.retry_after, refusal.every_endpoint), (Some(Duration::from_secs(10)), false));
    assert!(admitted_at(&policy, delivery(6), 1).is_some(), "another endpoint has it at once");
    wait(&policy, 10_000);
    ends(&policy, delivery(6), ok());
    assert_eq!(told(&policy), [Told::Open, Told::HalfOpen, Told::Closed]);
}

#[test]
fn a_message_that_its_consumer_refuses_says_nothing_against_the_consumer() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 1 } }));
    for status in [400, 404, 409, 422, 429] {
        ends(&policy, delivery(1), Answer::status(status));
    }
    ends(&policy, delivery(1), Answer::failure(Failure::Cancelled));
    assert!(!is_open(&policy));
}

#[test]
fn channels_share_the_broker_s_breaker_or_have_their_own() {
    for (scope, shared) in [("endpoint", true), ("service", true), ("route", false)] {
        let policy = breaker(json!({ "scope": scope, "trip": { "consecutive-failures": 1 } }));
        // The broker has no room in one channel.
        ends(&policy, publish(1), Answer::status(503));
        assert_eq!(admitted_at(&policy, publish(2), 0).is_none(), shared, "{scope}");
        assert!(admitted_at(&policy, publish(1), 0).is_none(), "{scope}");
    }
}

#[test]
fn messages_have_values_of_fields_as_calls_have() {
    let policy = breaker(json!({ "scope": { "field": "x-weir-key" }, "trip": { "consecutive-failures": 1 } }));
    let of = |call: Call, key: &str| call.field("x-weir-key", key);
    ends(&policy, of(delivery(1), "customer-1"), failed());
    assert!(admitted_at(&policy, of(delivery(2), "customer-1"), 0).is_none());
    assert!(admitted_at(&policy, of(delivery(1), "customer-2"), 0).is_some());
    assert!(admitted_at(&policy, delivery(1), 0).is_some(), "a message without a key");
}
