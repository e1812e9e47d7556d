mod messages;

use super::*;
use serde_json::{Value, json};
use weir_sdk::testing::{Answer, Call, Harness};

fn retry(config: Value) -> Harness<Retry> {
    Harness::new(config).unwrap()
}

fn refused(config: Value) -> Error {
    Harness::<Retry>::new(config).err().unwrap()
}

/// Long enough for any wait here.
fn patient() -> Call {
    Call::new().deadline_in(Duration::from_secs(1_000_000))
}

/// What follows this outcome of the first attempt.
fn first(policy: &Harness<Retry>, answer: Answer) -> Decision {
    let call = patient();
    policy.on_attempt(&call, 0).unwrap();
    policy.on_outcome(&call, answer).unwrap()
}

fn wait(decision: &Decision) -> Option<Duration> {
    match decision {
        Decision::Retry { after, .. } => Some(*after),
        _ => None,
    }
}

fn is_retried(policy: &Harness<Retry>, answer: Answer) -> bool {
    wait(&first(policy, answer)).is_some()
}

/// The waits of an exchange whose attempts all fail, in milliseconds, until the policy gives up.
fn waits(policy: &Harness<Retry>, call: &Call) -> Vec<u64> {
    let fails = || {
        policy.on_attempt(call, 0).unwrap();
        let after = wait(&policy.on_outcome(call, Answer::status(503)).unwrap())?;
        policy.advance(after);
        Some(after.as_millis() as u64)
    };
    std::iter::from_fn(fails).take(100).collect()
}

/// Random numbers that are all as low, or as high, as they can be.
fn chance(policy: &Harness<Retry>, number: u64) {
    policy.host(|host| host.random.extend([number; 100]));
}

#[test]
fn the_default_is_five_attempts_with_full_jitter_from_one_second_on() {
    let policy = retry(json!({}));
    chance(&policy, u64::MAX);
    assert_eq!(waits(&policy, &patient()), [1_000, 2_000, 4_000, 8_000]);
    policy.host(|host| host.random.clear());
    chance(&policy, 0);
    assert_eq!(waits(&policy, &patient()), [0; 4]);
}

#[test]
fn exponential_waits_grow_up_to_the_longest() {
    let backoff = json!({ "kind": "exponential", "initial": "50ms", "max": "1s", "factor": 3, "jitter": "none" });
    let policy = retry(json!({ "max-attempts": 8, "backoff": backoff }));
    assert_eq!(waits(&policy, &patient()), [50, 150, 450, 1_000, 1_000, 1_000, 1_000]);
}

#[test]
fn no_attempt_is_too_late_to_compute_its_wait() {
    for factor in [1.0, 2.0, 100.0] {
        let backoff = Backoff::Exponential {
            initial: Period::from_secs(1),
            max: Period::from_secs(30),
            factor,
            jitter: backoff::Jitter::None,
        };
        for attempt in [60, 1_000, u32::MAX] {
            let mut exchange = Exchange::default();
            exchange.attempt = attempt;
            let expected = if factor == 1.0 { 1 } else { 30 };
            assert_eq!(backoff.wait(&exchange), Duration::from_secs(expected), "{factor}^{attempt}");
        }
    }
}

#[test]
fn a_fixed_wait_is_the_same_each_time() {
    let policy = retry(json!({ "max-attempts": 4, "backoff": { "kind": "fixed", "delay": "200ms" } }));
    assert_eq!(waits(&policy, &patient()), [200; 3]);
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "200ms", "jitter": "full" } }));
    chance(&policy, 1 << 63);
    assert_eq!(waits(&policy, &patient()), [100; 4]);
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "0s" } }));
    assert_eq!(waits(&policy, &patient()), [0; 4]);
}

#[test]
fn a_random_wait_keeps_to_its_bounds_and_uses_all_between() {
    let policy = retry(json!({ "max-attempts": 10, "backoff": { "kind": "random", "min": "100ms", "max": "300ms" } }));
    let all: Vec<u64> = (0..200).flat_map(|_| waits(&policy, &patient())).collect();
    assert_eq!(all.len(), 1_800);
    assert!(all.iter().all(|wait| (100..=300).contains(wait)));
    assert!(all.iter().any(|wait| *wait < 110) && all.iter().any(|wait| *wait > 290));
    let mean = all.iter().sum::<u64>() as f64 / all.len() as f64;
    assert!((mean - 200.0).abs() < 7.0, "{mean}");
}

#[test]
fn full_jitter_is_even_from_zero_to_the_wait() {
    let policy = retry(json!({ "backoff": { "kind": "exponential", "initial": "1s", "max": "4s" } }));
    for (attempt, longest) in [(0, 1_000.0), (1, 2_000.0), (2, 4_000.0), (3, 4_000.0)] {
        let samples: Vec<f64> = (0..4_000).map(|_| waits(&policy, &patient())[attempt] as f64 / longest).collect();
        let mean = samples.iter().sum::<f64>() / 4_000.0;
        assert!((mean - 0.5).abs() < 0.02, "wait {attempt} has mean {mean}");
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let count = samples.iter().filter(|sample| (low..low + 0.1).contains(*sample)).count();
            assert!((310..490).contains(&count), "{count} of 4 000 waits from {low} on");
        }
    }
}

#[test]
fn a_decorrelated_wait_is_at_most_three_times_the_last() {
    for backoff in [
        json!({ "kind": "exponential", "initial": "100ms", "max": "2s", "jitter": "decorrelated" }),
        json!({ "kind": "random", "min": "100ms", "max": "2s", "jitter": "decorrelated" }),
    ] {
        let policy = retry(json!({ "max-attempts": 6, "backoff": backoff }));
        chance(&policy, u64::MAX);
        assert_eq!(waits(&policy, &patient()), [300, 900, 2_000, 2_000, 2_000]);
        policy.host(|host| host.random.clear());
        chance(&policy, 0);
        assert_eq!(waits(&policy, &patient()), [100; 5]);
        policy.host(|host| host.random.clear());
        for _ in 0..500 {
            let waits = waits(&policy, &patient());
            let mut last = 100;
            for wait in waits {
                assert!((100..=2_000).contains(&wait) && wait <= last * 3 + 3, "{wait} after {last}");
                last = wait;
            }
        }
    }
}

#[test]
fn each_exchange_remembers_its_own_waits() {
    let backoff = json!({ "kind": "random", "min": "1s", "max": "1h", "jitter": "decorrelated" });
    let policy = retry(json!({ "backoff": backoff }));
    chance(&policy, u64::MAX);
    let (one, other) = (patient(), patient());
    policy.on_attempt(&one, 0).unwrap();
    policy.on_attempt(&other, 0).unwrap();
    let next = |call| wait(&policy.on_outcome(call, Answer::status(503)).unwrap()).unwrap().as_secs();
    assert_eq!([next(&one), next(&one), next(&other), next(&one)], [3, 9, 3, 27]);
}

#[test]
fn what_passes_by_itself_is_retried_and_nothing_else() {
    let policy = retry(json!({}));
    for status in [502, 503, 504] {
        assert!(is_retried(&policy, Answer::status(status)), "{status}");
    }
    for status in (200..502).chain(505..600) {
        assert_eq!(first(&policy, Answer::status(status)), Decision::Accept, "{status}");
    }
    for code in 0..40 {
        assert_eq!(is_retried(&policy, Answer::grpc(code)), [8, 14].contains(&code), "{code}");
    }
    for (failure, retried) in [
        (Failure::Connect, true),
        (Failure::Reset, true),
        (Failure::Timeout, true),
        (Failure::Protocol, false),
        (Failure::Rejected, false),
        (Failure::Cancelled, false),
        (Failure::Overload, false),
    ] {
        assert_eq!(is_retried(&policy, Answer::failure(failure)), retried, "{failure:?}");
    }
}

#[test]
fn a_configured_list_replaces_its_default_and_no_other() {
    let policy = retry(json!({ "retry-on": { "statuses": [429, 408], "grpc": [] } }));
    assert!(is_retried(&policy, Answer::status(429)) && is_retried(&policy, Answer::status(408)));
    assert!(!is_retried(&policy, Answer::status(503)) && !is_retried(&policy, Answer::status(404)));
    assert!(!is_retried(&policy, Answer::grpc(14)));
    assert!(is_retried(&policy, Answer::failure(Failure::Reset)));
    let policy = retry(json!({ "retry-on": { "grpc": ["CANCELLED", "UNAUTHENTICATED"], "failures": ["protocol"] } }));
    let retried: Vec<u32> = (0..64).filter(|code| is_retried(&policy, Answer::grpc(*code))).collect();
    assert_eq!(retried, [1, 16]);
    assert!(is_retried(&policy, Answer::failure(Failure::Protocol)));
    assert!(!is_retried(&policy, Answer::failure(Failure::Connect)));
}

#[test]
fn what_is_not_safe_to_repeat_is_not_retried() {
    let policy = retry(json!({}));
    assert_eq!(first(&policy, Answer::status(503).not_repeatable()), Decision::Accept);
    assert_eq!(first(&policy, Answer::failure(Failure::Connect).not_repeatable()), Decision::Accept);
}

#[test]
fn a_wait_that_does_not_fit_before_the_deadline_is_not_begun() {
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "400ms" } }));
    assert_eq!(waits(&policy, &Call::new().deadline_in(Duration::from_millis(1_000))), [400, 400]);
    assert_eq!(waits(&policy, &Call::new().deadline_in(Duration::from_millis(400))), [0; 0]);
    assert_eq!(waits(&policy, &Call::new().deadline_in(Duration::ZERO)), [0; 0]);
}

#[test]
fn retry_after_in_seconds_is_kept() {
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "200ms" } }));
    let after = |value: &str| wait(&first(&policy, Answer::status(503).field("retry-after", value)));
    assert_eq!(after("2"), Some(Duration::from_secs(2)));
    assert_eq!(after(" 002\t"), Some(Duration::from_secs(2)));
    assert_eq!(after("0"), Some(Duration::from_millis(200)), "the backoff is longer");
    for nonsense in ["", "-1", "+2", "2.5", "soon", "1, 2", "0x10"] {
        assert_eq!(after(nonsense), Some(Duration::from_millis(200)), "{nonsense:?}");
    }
}

#[test]
fn retry_after_as_a_date_is_kept() {
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "200ms" } }));
    // 2026-01-01T00:00:00Z
    policy.host(|host| host.unix = 1_767_225_600_000_000_000);
    let after = |value: &str| wait(&first(&policy, Answer::status(503).field("retry-after", value)));
    for date in ["Thu, 01 Jan 2026 00:00:05 GMT", "Thursday, 01-Jan-26 00:00:05 GMT", "Thu Jan  1 00:00:05 2026"] {
        assert_eq!(after(date), Some(Duration::from_secs(5)), "{date}");
    }
    assert_eq!(after("Wed, 31 Dec 2025 23:59:59 GMT"), Some(Duration::from_millis(200)), "it has passed");
    assert_eq!(after("Thu, 31 Feb 2026 99:00:00 GMT"), Some(Duration::from_millis(200)), "not a date");
}

#[test]
fn a_retry_after_beyond_the_deadline_passes_the_answer_on_at_once() {
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "10ms" } }));
    for value in ["30", "99999999999999999999999", "18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let call = Call::new().deadline_in(Duration::from_secs(30));
        policy.on_attempt(&call, 0).unwrap();
        let decision = policy.on_outcome(&call, Answer::status(503).field("retry-after", value)).unwrap();
        assert_eq!(decision, Decision::Accept, "{value}");
    }
}

#[test]
fn a_pushback_replaces_the_backoff() {
    let policy = retry(json!({ "backoff": { "kind": "fixed", "delay": "200ms" } }));
    let after = |value: &str| wait(&first(&policy, Answer::grpc(14).field("grpc-retry-pushback-ms", value)));
    assert_eq!(after("50"), Some(Duration::from_millis(50)));
    assert_eq!(after("0"), Some(Duration::ZERO));
    for no in ["-1", "", "soon", "+5", "1.5", "2147483648", "5 ", "50, 60"] {
        assert_eq!(after(no), None, "{no:?}");
    }
    let both = Answer::grpc(14).field("grpc-retry-pushback-ms", "70").field("retry-after", "3");
    assert_eq!(wait(&first(&policy, both)), Some(Duration::from_millis(70)));
    let not_transient = Answer::grpc(13).field("grpc-retry-pushback-ms", "70");
    assert_eq!(first(&policy, not_transient), Decision::Accept);
}

#[test]
fn another_endpoint_is_preferred_unless_told_otherwise() {
    let fixed = json!({ "kind": "fixed", "delay": "1s" });
    let decision = |elsewhere| Decision::Retry { after: Duration::from_secs(1), elsewhere };
    assert_eq!(first(&retry(json!({ "backoff": fixed })), Answer::status(503)), decision(true));
    let policy = retry(json!({ "backoff": fixed, "elsewhere": false }));
    assert_eq!(first(&policy, Answer::status(503)), decision(false));
}

#[test]
fn timeouts_are_passed_on_and_without_them_a_request_is_not_looked_at() {
    let policy = retry(json!({ "timeout": "3s", "attempt-timeout": "500ms" }));
    let amendment = Amendment {
        timeout: Some(Duration::from_secs(3)),
        attempt_timeout: Some(Duration::from_millis(500)),
        ..Amendment::new()
    };
    assert_eq!(policy.on_request(&Call::new()).unwrap(), amendment.into());
    assert!(!policy.needs().skip.on_request);
    let skip = retry(json!({})).needs().skip;
    assert!(skip.on_request && skip.on_outcome_of_success && !skip.on_outcome && !skip.without_memo);
}

#[test]
fn a_wrong_configuration_is_refused_by_its_key() {
    for (config, pointer) in [
        (json!({ "max-attempts": 0 }), "/max-attempts"),
        (json!({ "max-attempts": 11 }), "/max-attempts"),
        (json!({ "timeout": "0s" }), "/timeout"),
        (json!({ "attempt-timeout": "0ms" }), "/attempt-timeout"),
        (json!({ "backoff": { "kind": "exponential", "factor": 0.5 } }), "/backoff/factor"),
        (json!({ "backoff": { "kind": "exponential", "initial": "31s" } }), "/backoff/initial"),
        (json!({ "backoff": { "kind": "random", "min": "2s", "max": "1s" } }), "/backoff/min"),
        (json!({ "backoff": { "kind": "random", "min": "1s", "max": "2s", "jitter": "none" } }), "/backoff/jitter"),
        (json!({ "backoff": { "kind": "fixed", "delay": "1s", "jitter": "decorrelated" } }), "/backoff/jitter"),
        (json!({ "retry-on": { "statuses": [503, 200] } }), "/retry-on/statuses/1"),
        (json!({ "retry-on": { "grpc": ["UNAVAILABLE", "unavailable"] } }), "/retry-on/grpc/1"),
        (json!({ "retry-on": { "grpc": ["OK"] } }), "/retry-on/grpc/0"),
    ] {
        assert_eq!(refused(config.clone()).pointer(), pointer, "{config}");
    }
    for (config, key) in [
        (json!({ "attempts": 3 }), "attempts"),
        (json!({ "backoff": { "initial": "1s" } }), "kind"),
        (json!({ "backoff": { "kind": "fixed", "delay": "1s", "initial": "1s" } }), "initial"),
        (json!({ "backoff": { "kind": "linear" } }), "linear"),
        (json!({ "retry-on": { "failures": ["cancelled"] } }), "cancelled"),
        (json!({ "retry-on": { "codes": 1 } }), "codes"),
    ] {
        assert!(refused(config.clone()).message().contains(key), "{config}");
    }
}

#[test]
fn the_schema_names_limits_and_choices() {
    let schema: Value = serde_json::from_str(&weir_sdk::policy::schema::<Retry>()).unwrap();
    assert_eq!(schema["properties"]["max-attempts"]["maximum"], 10);
    let text = schema.to_string();
    for part in ["\"RESOURCE_EXHAUSTED\"", "\"decorrelated\"", "\"const\":\"random\"", "\"minimum\":400"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("codes"), "{text}");
}
