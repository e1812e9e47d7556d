//! Publishes and deliveries. Each attempt to deliver a message is an exchange of its own.

use super::*;

/// Before attempt `made` + 1.
fn delivery(made: u32) -> Call {
    patient().kind(ExchangeKind::Delivery).attempts(made)
}

/// What follows attempt `number` at a delivery.
fn decided(policy: &Harness<Retry>, number: u32, answer: Answer) -> Decision {
    let call = delivery(number - 1);
    policy.on_attempt(&call, 0).unwrap();
    policy.on_outcome(&call, answer).unwrap()
}

fn dead(reason: &str) -> Decision {
    Decision::DeadLetter(reason.to_owned())
}

#[test]
fn a_publish_is_retried_like_a_call() {
    let policy = retry(json!({ "max-attempts": 3, "backoff": { "kind": "fixed", "delay": "1s" } }));
    assert_eq!(waits(&policy, &patient().kind(ExchangeKind::Publish)), [1_000; 2]);
}

#[test]
fn nothing_but_a_delivery_becomes_a_dead_letter() {
    for kind in [ExchangeKind::Call, ExchangeKind::Publish] {
        let policy = retry(json!({ "max-attempts": 1 }));
        for answer in [Answer::status(503), Answer::status(404), Answer::failure(Failure::Reset)] {
            let call = patient().kind(kind);
            policy.on_attempt(&call, 0).unwrap();
            assert_eq!(policy.on_outcome(&call, answer).unwrap(), Decision::Accept, "its sender has it still");
        }
    }
}

#[test]
fn a_delivery_is_retried_until_its_attempts_are_made_and_is_then_a_dead_letter() {
    let policy = retry(json!({ "max-attempts": 3, "backoff": { "kind": "fixed", "delay": "1s" } }));
    for number in [1, 2] {
        assert_eq!(wait(&decided(&policy, number, Answer::status(503))), Some(Duration::from_secs(1)));
    }
    assert_eq!(decided(&policy, 3, Answer::status(503)), dead("status 503: attempt 3 of 3"));
    assert_eq!(decided(&policy, 4, Answer::failure(Failure::Timeout)), dead("timeout: attempt 4 of 3"));
    let once = retry(json!({ "max-attempts": 1 }));
    assert_eq!(decided(&once, 1, Answer::status(500)), dead("status 500: attempt 1 of 1"));
}

#[test]
fn without_a_number_the_subscription_has_the_last_word() {
    let policy = retry(json!({}));
    assert!(wait(&decided(&policy, 999, Answer::status(503))).is_some());
    let last = Answer::status(503).not_repeatable();
    assert_eq!(decided(&policy, 1_000, last), Decision::Accept, "the host says that attempts are used up");
    assert_eq!(waits(&policy, &patient()).len(), 4, "of calls there are five attempts");
}

#[test]
fn what_the_message_is_to_blame_for_is_a_dead_letter_at_once() {
    let policy = retry(json!({}));
    for status in [400, 401, 403, 404, 409, 410, 413, 415, 422] {
        let expected = dead(&format!("status {status}: not to be tried again"));
        assert_eq!(decided(&policy, 1, Answer::status(status)), expected);
    }
    // Also when it is the last attempt.
    let last = Answer::status(422).not_repeatable();
    assert_eq!(decided(&policy, 5, last), dead("status 422: not to be tried again"));
}

#[test]
fn what_a_consumer_may_get_over_is_tried_again() {
    let policy = retry(json!({}));
    for status in [408, 425, 429].into_iter().chain(500..600) {
        assert!(wait(&decided(&policy, 1, Answer::status(status))).is_some(), "{status}");
    }
    for failure in [Failure::Connect, Failure::Reset, Failure::Timeout, Failure::Protocol] {
        assert!(wait(&decided(&policy, 1, Answer::failure(failure))).is_some(), "{failure:?}");
    }
}

#[test]
fn configured_lists_count_for_deliveries_as_for_calls() {
    let policy = retry(json!({ "retry-on": { "statuses": [503], "failures": ["connect"] } }));
    assert!(wait(&decided(&policy, 1, Answer::status(503))).is_some());
    assert!(wait(&decided(&policy, 1, Answer::failure(Failure::Connect))).is_some());
    assert_eq!(decided(&policy, 1, Answer::status(500)), dead("status 500: not to be tried again"));
    assert_eq!(decided(&policy, 1, Answer::failure(Failure::Reset)), dead("reset: not to be tried again"));
}

#[test]
fn what_says_nothing_of_the_message_is_left_to_the_host() {
    let policy = retry(json!({ "max-attempts": 1 }));
    for failure in [Failure::Rejected, Failure::Cancelled, Failure::Overload] {
        assert_eq!(decided(&policy, 1, Answer::failure(failure)), Decision::Accept, "{failure:?}");
    }
}

#[test]
fn a_success_is_never_a_dead_letter() {
    let policy = retry(json!({ "max-attempts": 1 }));
    for status in (200..400).step_by(7) {
        assert_eq!(decided(&policy, 1, Answer::status(status)), Decision::Accept, "{status}");
    }
}

#[test]
fn a_consumer_says_when_and_whether() {
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "1s" } }));
    let after = |field, value: &str| decided(&policy, 1, Answer::status(503).field(field, value));
    assert_eq!(wait(&after("retry-after", "3600")), Some(Duration::from_secs(3600)));
    assert_eq!(wait(&after("grpc-retry-pushback-ms", "50")), Some(Duration::from_millis(50)));
    let never = dead("status 503: the service asked for no other attempt");
    assert_eq!(after("grpc-retry-pushback-ms", "-1"), never);
}

#[test]
fn a_message_waits_longer_than_the_deadline_of_one_attempt() {
    let policy = retry(json!({ "timeout": "3s", "backoff": { "kind": "fixed", "delay": "1h" } }));
    let call = Call::new().kind(ExchangeKind::Delivery).deadline_in(Duration::from_secs(3));
    policy.on_attempt(&call, 0).unwrap();
    let decision = policy.on_outcome(&call, Answer::failure(Failure::Timeout)).unwrap();
    assert_eq!(wait(&decision), Some(Duration::from_secs(3600)));
}

#[test]
fn waits_grow_from_delivery_to_delivery() {
    let nth = |backoff: Value, number| {
        let policy = retry(json!({ "backoff": backoff }));
        chance(&policy, u64::MAX);
        wait(&decided(&policy, number, Answer::status(503))).unwrap().as_millis()
    };
    let exponential = json!({ "kind": "exponential", "initial": "1s", "max": "30s" });
    assert_eq!([1, 2, 3, 9].map(|number| nth(exponential.clone(), number)), [1_000, 2_000, 4_000, 30_000]);
    let decorrelated = json!({ "kind": "random", "min": "100ms", "max": "2s", "jitter": "decorrelated" });
    assert_eq!([1, 2, 3, 999].map(|number| nth(decorrelated.clone(), number)), [300, 900, 2_000, 2_000]);
}

#[test]
fn a_decorrelated_wait_is_as_long_on_average_as_one_of_a_call() {
    let backoff = json!({ "kind": "random", "min": "100ms", "max": "1h", "jitter": "decorrelated" });
    let policy = retry(json!({ "max-attempts": 10, "backoff": backoff }));
    let mean = |waits: Vec<u64>| waits.iter().sum::<u64>() as f64 / waits.len() as f64;
    let of_calls = mean((0..2_000).map(|_| waits(&policy, &patient())[3]).collect());
    let of_delivery = || wait(&decided(&policy, 4, Answer::status(503))).unwrap().as_millis() as u64;
    let of_deliveries = mean((0..2_000).map(|_| of_delivery()).collect());
    assert!((of_calls / of_deliveries - 1.0).abs() < 0.15, "{of_calls} and {of_deliveries}");
}
