mod messages;
mod model;

use super::*;
use serde_json::{Value, json};
use weir_sdk::Failure;
use weir_sdk::host::endpoints::Breaker as Told;
use weir_sdk::testing::{Answer, Call, Harness};

type Policy = Harness<CircuitBreaker>;

const ENDPOINTS: [(&str, u32); 3] = [("a:1", 1), ("b:1", 1), ("c:1", 1)];

fn breaker(config: Value) -> Policy {
    let policy = Policy::new(config).unwrap();
    policy.on_endpoints(&ENDPOINTS).unwrap();
    policy
}

/// Another worker's instance, or a reload's.
fn another(config: Value) -> Policy {
    let policy = Policy::another(config).unwrap();
    policy.on_endpoints(&ENDPOINTS).unwrap();
    policy
}

/// A call that was admitted at endpoint 0, if it was.
fn admitted(policy: &Policy) -> Option<Call> {
    admitted_at(policy, Call::new(), 0)
}

fn admitted_at(policy: &Policy, call: Call, endpoint: u32) -> Option<Call> {
    matches!(policy.on_attempt(&call, endpoint).unwrap(), Attempt::Proceed).then_some(call)
}

fn refusal(policy: &Policy) -> Refusal {
    match policy.on_attempt(&Call::new(), 0).unwrap() {
        Attempt::Refuse(refusal) => refusal,
        other => panic!("not refused but {other:?}"),
    }
}

fn end(policy: &Policy, call: &Call, answer: Answer) {
    assert_eq!(policy.on_outcome(call, answer).unwrap(), Decision::Accept);
}

/// A call from its beginning to this end. It must be admitted.
fn call(policy: &Policy, answer: Answer) {
    end(policy, &admitted(policy).unwrap(), answer);
}

fn calls(policy: &Policy, count: usize, answer: Answer) {
    for _ in 0..count {
        call(policy, answer.clone());
    }
}

fn ok() -> Answer {
    Answer::status(200)
}

fn failed() -> Answer {
    Answer::status(503)
}

fn slow(answer: Answer) -> Answer {
    answer.after(Duration::from_millis(501))
}

fn is_open(policy: &Policy) -> bool {
    admitted(policy).is_none_or(|call| {
        end(policy, &call, Answer::failure(Failure::Cancelled));
        false
    })
}

fn wait(policy: &Policy, milliseconds: u64) {
    policy.advance(Duration::from_millis(milliseconds));
}

fn told(policy: &Policy) -> Vec<Told> {
    policy.host(|host| host.breakers.iter().map(|report| report.state).collect())
}

fn error(config: Value) -> String {
    Policy::new(config).err().unwrap().to_string()
}

#[test]
fn five_failures_in_a_row_open_it_and_four_do_not() {
    let policy = breaker(json!({}));
    calls(&policy, 4, failed());
    call(&policy, ok());
    calls(&policy, 4, failed());
    assert!(!is_open(&policy));
    call(&policy, failed());
    assert!(is_open(&policy));
}

#[test]
fn a_count_window_opens_at_the_call_that_reaches_the_rate() {
    let policy = breaker(json!({ "trip": { "failure-rate": 50, "window-calls": 100, "minimum-calls": 20 } }));
    calls(&policy, 11, ok());
    calls(&policy, 10, failed());
    assert!(!is_open(&policy), "10 of 21");
    call(&policy, failed());
    assert!(is_open(&policy), "11 of 22");
}

#[test]
fn fewer_calls_than_the_minimum_never_open_it() {
    let policy = breaker(json!({ "trip": { "failure-rate": 50, "minimum-calls": 20 } }));
    calls(&policy, 19, failed());
    assert!(!is_open(&policy));
    call(&policy, ok());
    assert!(is_open(&policy), "19 of 20, though the twentieth is a success");
}

#[test]
fn the_oldest_call_leaves_a_count_window() {
    let policy = breaker(json!({ "trip": { "failure-rate": 50, "window-calls": 4 } }));
    call(&policy, failed());
    calls(&policy, 4, ok());
    call(&policy, failed());
    assert!(!is_open(&policy), "one of the last four");
    call(&policy, failed());
    assert!(is_open(&policy), "two of the last four");
}

#[test]
fn a_time_window_forgets_what_is_older() {
    let policy = breaker(json!({ "trip": { "failure-rate": 50, "window": "10s", "minimum-calls": 4 } }));
    calls(&policy, 3, failed());
    wait(&policy, 10_000);
    calls(&policy, 2, ok());
    call(&policy, failed());
    assert!(!is_open(&policy), "the three are too old to make six");
    call(&policy, failed());
    assert!(is_open(&policy), "two of four within the window");
}

#[test]
fn a_slow_call_counts_as_a_failure() {
    let policy = breaker(json!({ "slow-call": "500ms", "trip": { "consecutive-failures": 3 } }));
    calls(&policy, 2, slow(ok()));
    call(&policy, ok().after(Duration::from_millis(500)));
    calls(&policy, 2, slow(ok()));
    assert!(!is_open(&policy), "500 ms are not longer than 500 ms");
    call(&policy, slow(ok()));
    assert!(is_open(&policy));
}

#[test]
fn slow_calls_have_a_rate_of_their_own() {
    let config = json!({ "slow-call": "500ms", "slow-call-rate": 80, "trip": { "failure-rate": 50, "window-calls": 10, "minimum-calls": 5 } });
    let policy = breaker(config);
    calls(&policy, 2, ok());
    calls(&policy, 7, slow(ok()));
    assert!(!is_open(&policy), "7 of 9 are slow, none has failed");
    call(&policy, slow(ok()));
    assert_eq!(policy.host(|host| host.breakers[0].reason.clone()), "8 of 10 calls were slow, which is 80 % or more");
}

#[test]
fn what_says_nothing_of_the_endpoint_is_never_counted() {
    let nothing = [Failure::Rejected, Failure::Cancelled, Failure::Overload];
    let policy = breaker(json!({ "trip": { "consecutive-failures": 2 } }));
    for failure in nothing {
        calls(&policy, 10, Answer::failure(failure));
    }
    call(&policy, failed());
    for failure in nothing {
        call(&policy, slow(Answer::failure(failure)));
    }
    assert!(!is_open(&policy));
    call(&policy, failed());
    assert!(is_open(&policy), "and it does not stand between two failures in a row");
}

#[test]
fn its_own_refusals_are_never_counted() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 1 }, "open-for": "10s" }));
    call(&policy, failed());
    for _ in 0..50 {
        let refused = Call::new();
        assert!(admitted_at(&policy, refused.clone(), 0).is_none());
        assert_eq!(refused.memo(), 0);
        end(&policy, &refused, Answer::failure(Failure::Rejected));
        end(&policy, &refused, failed());
    }
    wait(&policy, 10_000);
    call(&policy, ok());
    assert_eq!(told(&policy), [Told::Open, Told::HalfOpen, Told::Closed]);
}

#[test]
fn an_open_breaker_says_when_to_come_back() {
    let policy = breaker(json!({ "open-for": "10s" }));
    calls(&policy, 5, failed());
    wait(&policy, 4_000);
    let refused = refusal(&policy);
    assert_eq!(refused.error, "breaker-open");
    assert_eq!(refused.retry_after, Some(Duration::from_secs(6)));
    wait(&policy, 5_999);
    assert!(is_open(&policy));
    wait(&policy, 1);
    assert!(!is_open(&policy));
}

#[test]
fn it_is_never_open_for_less_than_it_says() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 1 }, "open-for": "10ms" }));
    policy.host(|host| host.now += 999_999);
    call(&policy, failed());
    policy.host(|host| host.now += 9_999_999);
    assert!(is_open(&policy));
    policy.host(|host| host.now += 1_000_000);
    assert!(!is_open(&policy));
}

#[test]
fn half_open_admits_exactly_what_is_configured_over_all_instances() {
    for max in [1, 3, 100] {
        let config = json!({ "open-for": "1s", "half-open": { "max-calls": max, "successes": max } });
        let policies = [breaker(config.clone()), another(config.clone()), another(config)];
        calls(&policies[0], 5, failed());
        wait(&policies[0], 1_000);
        let trials: Vec<(&Policy, Call)> =
            (0..400).filter_map(|i| admitted(&policies[i % 3]).map(|call| (&policies[i % 3], call))).collect();
        assert_eq!(trials.len(), max);
        let refused = refusal(&policies[1]);
        assert_eq!((refused.error.as_str(), refused.retry_after), ("breaker-open", Some(Duration::from_secs(1))));
        for (policy, call) in &trials {
            end(policy, call, ok());
        }
        assert_eq!(told(&policies[0]), [Told::Open, Told::HalfOpen, Told::Closed]);
    }
}

#[test]
fn the_first_failure_of_a_trial_opens_it_again_for_the_whole_time() {
    let config = json!({ "half-open": { "max-calls": 3, "successes": 3 } });
    let (one, other) = (breaker(config.clone()), another(config));
    calls(&one, 5, failed());
    wait(&one, 10_000);
    let trials = [admitted(&one).unwrap(), admitted(&other).unwrap(), admitted(&one).unwrap()];
    end(&other, &trials[1], failed());
    end(&one, &trials[0], ok());
    end(&one, &trials[2], failed());
    assert_eq!(refusal(&other).retry_after, Some(Duration::from_secs(10)));
    assert_eq!(told(&one), [Told::Open, Told::HalfOpen, Told::Open]);
}

#[test]
fn so_many_successes_close_it_and_the_count_begins_anew() {
    let policy = breaker(json!({ "half-open": { "max-calls": 1, "successes": 3 } }));
    calls(&policy, 5, failed());
    wait(&policy, 10_000);
    calls(&policy, 2, ok());
    let third = admitted(&policy).unwrap();
    assert!(admitted(&policy).is_none(), "half-open still, one at a time");
    end(&policy, &third, ok());
    calls(&policy, 4, failed());
    assert!(!is_open(&policy));
}

#[test]
fn permitted_calls_are_counted_in_all_and_their_rate_decides() {
    let config = json!({
        "trip": { "failure-rate": 50, "window-calls": 10, "minimum-calls": 1 }, "open-for": "1s", "half-open": { "permitted-calls": 10 },
    });
    for (failures, then) in [(4, Told::Closed), (5, Told::Open)] {
        let (one, other) = (breaker(config.clone()), another(config.clone()));
        call(&one, failed());
        wait(&one, 1_000);
        for i in 0..9 {
            call([&one, &other][i % 2], if i < failures { failed() } else { ok() });
        }
        let tenth = admitted(&other).unwrap();
        assert!(admitted(&one).is_none() && admitted(&other).is_none(), "ten in all, though nine have ended");
        end(&other, &tenth, ok());
        assert_eq!(told(&one), [Told::Open, Told::HalfOpen, then]);
    }
}

#[test]
fn a_slow_trial_call_opens_it_again() {
    let rates = json!({ "slow-call": "500ms", "slow-call-rate": 100, "trip": { "failure-rate": 50, "window-calls": 4 }, "open-for": "1s" });
    for config in [json!({ "slow-call": "500ms", "open-for": "1s" }), rates] {
        let policy = breaker(config);
        let until_open = if policy.policy().slow_call_rate.is_some() { 4 } else { 5 };
        calls(&policy, until_open, failed());
        wait(&policy, 1_000);
        call(&policy, slow(ok()));
        assert_eq!(told(&policy), [Told::Open, Told::HalfOpen, Told::Open]);
    }
}

#[test]
fn a_trial_that_tells_nothing_gives_its_permit_back() {
    let (one, other) = (breaker(json!({})), another(json!({})));
    calls(&one, 5, failed());
    wait(&one, 10_000);
    for failure in [Failure::Cancelled, Failure::Rejected, Failure::Overload] {
        let trial = admitted(&one).unwrap();
        assert!(admitted(&other).is_none());
        end(&one, &trial, Answer::failure(failure));
        end(&one, &trial, Answer::failure(failure));
    }
    let trial = admitted(&other).unwrap();
    assert!(admitted(&one).is_none(), "a permit is given back once");
    end(&other, &trial, ok());
    assert_eq!(told(&one), [Told::Open, Told::HalfOpen, Told::Closed]);
}

#[test]
fn breakers_at_work_are_those_that_are_not_closed_or_have_failures_to_forget() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 2 } }));
    let at_work = || weir_sdk::host::cells::Word::open(breaker::AT_WORK).unwrap().load();
    let at = |endpoint, answer| end(&policy, &admitted_at(&policy, Call::new(), endpoint).unwrap(), answer);
    at(0, ok());
    assert_eq!(at_work(), 0);
    at(0, failed());
    at(1, failed());
    assert_eq!(at_work(), 2);
    at(0, ok());
    assert_eq!(at_work(), 1, "the failure is forgotten");
    at(1, failed());
    assert!(admitted_at(&policy, Call::new(), 1).is_none());
    assert_eq!(at_work(), 1, "it is open");
    wait(&policy, 10_000);
    at(1, ok());
    assert_eq!(at_work(), 0, "and closed again");
}

#[test]
fn an_attempt_ends_once() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 2 } }));
    let only = admitted(&policy).unwrap();
    end(&policy, &only, failed());
    end(&policy, &only, failed());
    assert!(!is_open(&policy));
}

#[test]
fn a_lost_permit_is_issued_anew_after_a_minute() {
    let (one, other) = (breaker(json!({})), another(json!({})));
    calls(&one, 5, failed());
    wait(&one, 10_000);
    let lost = admitted(&one).unwrap();
    wait(&one, 60_000);
    assert!(admitted(&other).is_none());
    wait(&one, 3_000);
    let trial = admitted(&other).unwrap();
    assert!(admitted(&one).is_none());
    end(&one, &lost, failed());
    end(&other, &trial, ok());
    assert_eq!(told(&one), [Told::Open, Told::HalfOpen, Told::Closed], "what was lost is late and has no say");
    assert_eq!(one.host(|host| host.log.len()), 1);
}

#[test]
fn a_slow_trickle_of_trials_is_not_taken_for_lost_permits() {
    let config = json!({ "trip": { "failure-rate": 50, "window-calls": 2, "minimum-calls": 2 }, "half-open": { "permitted-calls": 10 } });
    let policy = breaker(config);
    calls(&policy, 2, failed());
    for _ in 0..10 {
        wait(&policy, 30_000);
        call(&policy, ok());
    }
    assert_eq!(told(&policy), [Told::Open, Told::HalfOpen, Told::Closed]);
}

#[test]
fn an_outcome_from_an_earlier_epoch_changes_nothing() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 2 } }));
    let old: Vec<Call> = (0..6).map(|_| admitted(&policy).unwrap()).collect();
    calls(&policy, 2, failed());
    end(&policy, &old[0], ok());
    assert!(is_open(&policy), "a late success does not close it");
    wait(&policy, 10_000);
    let trial = admitted(&policy).unwrap();
    end(&policy, &old[1], ok());
    end(&policy, &old[2], failed());
    end(&policy, &old[3], Answer::failure(Failure::Cancelled));
    assert!(admitted(&policy).is_none(), "nor does it free a permit, close or open a half-open one");
    end(&policy, &trial, ok());
    end(&policy, &old[4], failed());
    end(&policy, &old[5], failed());
    assert!(!is_open(&policy), "nor count in a closed one");
    assert_eq!(told(&policy), [Told::Open, Told::HalfOpen, Told::Closed]);
}

#[test]
fn a_window_does_not_see_the_failures_of_an_earlier_epoch() {
    let policy = breaker(json!({ "trip": { "failure-rate": 50, "window-calls": 4, "minimum-calls": 2 } }));
    let old: Vec<Call> = (0..4).map(|_| admitted(&policy).unwrap()).collect();
    calls(&policy, 2, failed());
    wait(&policy, 10_000);
    call(&policy, ok());
    old.iter().for_each(|call| end(&policy, call, failed()));
    call(&policy, ok());
    call(&policy, ok());
    call(&policy, failed());
    assert!(!is_open(&policy), "one of three");
}

#[test]
fn a_reload_keeps_the_state() {
    let before = breaker(json!({ "scope": "service" }));
    calls(&before, 5, failed());
    wait(&before, 4_000);
    let after = another(json!({ "scope": "service", "open-for": "20s" }));
    assert_eq!(refusal(&after).retry_after, Some(Duration::from_secs(6)));
    wait(&after, 6_000);
    let trial = admitted(&before).unwrap();
    let later = another(json!({ "scope": "service" }));
    assert!(admitted(&later).is_none());
    end(&before, &trial, ok());
    assert!(!is_open(&later));
}

#[test]
fn each_transition_is_told_once_whoever_makes_it() {
    let config = json!({ "trip": { "consecutive-failures": 2 } });
    let policies = [breaker(config.clone()), another(config)];
    let running: Vec<Call> = (0..10).map(|i| admitted(&policies[i % 2]).unwrap()).collect();
    for (i, call) in running.iter().enumerate() {
        end(&policies[i % 2], call, failed());
    }
    wait(&policies[0], 10_000);
    assert_eq!(policies.iter().filter_map(admitted).count(), 1);
    let reports = policies[0].host(|host| host.breakers.clone());
    assert_eq!(told(&policies[0]), [Told::Open, Told::HalfOpen]);
    assert_eq!((reports[0].service, reports[0].endpoint, reports[0].scope.as_str()), (0, Some(0), "endpoint"));
    assert_eq!(reports[0].reason, "2 failures in a row");
}

#[test]
fn a_rate_is_told_with_its_numbers() {
    let policy = breaker(json!({ "trip": { "failure-rate": 50, "window-calls": 4 } }));
    calls(&policy, 2, ok());
    calls(&policy, 2, failed());
    assert_eq!(policy.host(|host| host.breakers[0].reason.clone()), "2 of 4 calls failed, which is 50 % or more");
}

#[test]
fn an_endpoint_is_refused_alone() {
    let policy = breaker(json!({}));
    calls(&policy, 5, failed());
    assert!(!refusal(&policy).every_endpoint);
    assert!(admitted_at(&policy, Call::new(), 1).is_some());
}

#[test]
fn a_service_is_refused_with_all_its_endpoints_and_apart_from_others() {
    let policy = breaker(json!({ "scope": "service" }));
    for endpoint in [0, 1, 2, 0, 1] {
        end(&policy, &admitted_at(&policy, Call::new(), endpoint).unwrap(), failed().from(endpoint));
    }
    assert!(refusal(&policy).every_endpoint);
    assert!(admitted_at(&policy, Call::new().service(1), 0).is_some());
    let report = policy.host(|host| host.breakers[0].clone());
    assert_eq!((report.endpoint, report.scope.as_str()), (None, "service"));
}

#[test]
fn a_route_is_refused_whatever_its_service() {
    let policy = breaker(json!({ "scope": "route" }));
    policy.host(|host| host.routes.insert(7, "checkout".into()));
    for service in 0..5 {
        end(&policy, &admitted_at(&policy, Call::new().route(7).service(service), 0).unwrap(), failed());
    }
    assert!(admitted_at(&policy, Call::new().route(7).service(9), 1).is_none());
    assert!(admitted_at(&policy, Call::new().route(8), 0).is_some());
    assert_eq!(policy.host(|host| host.breakers[0].scope.clone()), "route:checkout");
}

fn tenant(name: impl Into<Vec<u8>>) -> Call {
    Call::new().field("x-tenant", name)
}

#[test]
fn values_of_a_field_are_apart_and_the_same_on_all_workers() {
    let config = json!({ "scope": { "field": "X-Tenant" } });
    let (one, other) = (breaker(config.clone()), another(config));
    assert_eq!(one.needs().request, ["x-tenant"]);
    // Met in another order, so that the two number them differently.
    end(&other, &admitted_at(&other, tenant("globex"), 0).unwrap(), ok());
    for i in 0..5 {
        end([&one, &other][i % 2], &admitted_at([&one, &other][i % 2], tenant("acme"), 0).unwrap(), failed());
    }
    for policy in [&one, &other] {
        assert!(admitted_at(policy, tenant("acme"), 1).is_none());
        assert!(admitted_at(policy, tenant("acme").service(1), 1).is_some(), "another service");
        assert!(admitted_at(policy, tenant("globex"), 1).is_some());
        assert!(admitted_at(policy, Call::new(), 1).is_some(), "without the field");
    }
    assert_eq!(one.host(|host| host.breakers[0].scope.clone()), "field:x-tenant=acme");
}

#[test]
fn values_of_a_field_are_bounded_and_the_rest_share_a_breaker() {
    let config = json!({ "scope": { "field": "x-tenant" }, "trip": { "consecutive-failures": 1 } });
    let (one, other) = (breaker(config.clone()), another(config));
    for i in 0..10_000 {
        end(&one, &admitted_at(&one, tenant(format!("tenant-{i}")), 0).unwrap(), ok());
    }
    let others: Vec<Call> = (20_000..20_100).map(|i| tenant(format!("tenant-{i}"))).collect();
    end(&one, &admitted_at(&one, others[0].clone(), 0).unwrap(), failed());
    let refused = others.iter().filter(|call| admitted_at(&other, (*call).clone(), 0).is_none()).count();
    assert!(refused > 90, "{refused} of 100 share the breaker");
    assert_eq!(one.host(|host| host.breakers[0].scope.clone()), "field:x-tenant, others");
    assert!(admitted_at(&other, tenant("tenant-0"), 0).is_some(), "who came first is not among them");
}

#[test]
fn a_value_is_shown_in_part_and_without_control_characters() {
    let policy = breaker(json!({ "scope": { "field": "x-tenant" }, "trip": { "consecutive-failures": 1 } }));
    let value = [b"a\r\n\xff".as_slice(), &[b'x'; 10_000]].concat();
    end(&policy, &admitted_at(&policy, tenant(value), 0).unwrap(), failed());
    let scope = policy.host(|host| host.breakers[0].scope.clone());
    assert!(scope.starts_with("field:x-tenant=a\\r\\n\\xff") && scope.len() < 100, "{scope}");
}

#[test]
fn an_endpoint_keeps_its_breaker_when_its_number_changes() {
    let policy = breaker(json!({}));
    let late = admitted(&policy).unwrap();
    calls(&policy, 3, failed());
    policy.on_endpoints(&[("new:1", 1), ("a:1", 1)]).unwrap();
    end(&policy, &admitted_at(&policy, Call::new(), 1).unwrap(), failed());
    end(&policy, &late, failed());
    assert!(admitted_at(&policy, Call::new(), 0).is_some(), "the new one has done nothing");
    assert!(admitted_at(&policy, Call::new(), 1).is_none());
    assert_eq!(policy.host(|host| host.breakers[0].endpoint), Some(1));
}

#[test]
fn announcing_endpoints_opens_no_cells() {
    let policy = breaker(json!({}));
    let many: Vec<String> = (0..10_000).map(|i| format!("10.0.{}.{}:80", i / 256, i % 256)).collect();
    policy.on_endpoints(&many.iter().map(|address| (address.as_str(), 1)).collect::<Vec<_>>()).unwrap();
    policy.on_endpoints(&ENDPOINTS).unwrap();
    assert_eq!(policy.host(|host| format!("{host:?}").matches("kind: Word").count()), 0);
    call(&policy, ok());
    // Its own, and the one of all.
    assert_eq!(policy.host(|host| format!("{host:?}").matches("kind: Word").count()), 2);
}

#[test]
fn of_an_endpoint_that_left_nothing_is_told() {
    let policy = breaker(json!({}));
    let late = admitted(&policy).unwrap();
    calls(&policy, 4, failed());
    policy.on_endpoints(&[("new:1", 1)]).unwrap();
    end(&policy, &late, failed());
    assert_eq!(told(&policy), []);
    policy.on_endpoints(&ENDPOINTS).unwrap();
    assert!(is_open(&policy), "and when it is back it is what it was");
}

#[test]
fn an_instance_finds_the_breakers_of_the_one_before_it() {
    let config = json!({ "scope": "service", "trip": { "consecutive-failures": 1 } });
    let before = breaker(config.clone());
    let running = [0, 1].map(|service| admitted_at(&before, Call::new().service(service), 0).unwrap());
    // It meets the services in another order.
    let after = another(config);
    assert!(admitted_at(&after, Call::new().service(1), 0).is_some());
    end(&after, &running[0], failed());
    assert!(admitted_at(&after, Call::new().service(1), 0).is_some());
    assert!(admitted_at(&after, Call::new().service(0), 0).is_none());
}

#[test]
fn an_instance_does_not_mistake_one_value_of_a_field_for_another() {
    let config = json!({ "scope": { "field": "x-tenant" }, "trip": { "consecutive-failures": 1 } });
    let before = breaker(config.clone());
    let running = admitted_at(&before, tenant("acme"), 0).unwrap();
    let after = another(config);
    assert!(admitted_at(&after, tenant("globex"), 0).is_some());
    end(&after, &running, failed());
    assert!(admitted_at(&after, tenant("globex"), 0).is_some());
    assert_eq!(told(&after), []);
}

#[test]
fn names_of_any_length_have_a_breaker() {
    let policy = breaker(json!({ "scope": "route", "trip": { "consecutive-failures": 1 } }));
    policy.host(|host| host.routes.extend([(1, "r".repeat(300)), (2, "s".repeat(300))]));
    end(&policy, &admitted_at(&policy, Call::new().route(1), 0).unwrap(), failed());
    assert!(admitted_at(&policy, Call::new().route(1), 0).is_none());
    assert!(admitted_at(&policy, Call::new().route(2), 0).is_some());
}

#[test]
fn the_loser_of_a_race_decides_anew() {
    let (one, other) = (breaker(json!({})), another(json!({})));
    calls(&one, 5, failed());
    wait(&one, 10_000);
    let raced = std::cell::Cell::new(false);
    let mut places = one.policy().places.borrow_mut();
    let (_, breaker) = places.find(&Scope::Endpoint, &Exchange::default(), EndpointId(0)).unwrap();
    let (_, after) = breaker.change(|state| {
        // Between this one's look at the state and its change, the other takes the only permit.
        if !raced.replace(true) {
            assert!(admitted(&other).is_some());
        }
        crate::breaker::admitted(state, &one.policy().rules, clock::now())
    });
    assert_eq!(after, None);
    assert_eq!(told(&one), [Told::Open, Told::HalfOpen]);
}

#[test]
fn server_errors_and_failures_count_and_other_answers_do_not() {
    let counts = |config: &Value, answer: Answer| {
        let policy = breaker(config.clone());
        call(&policy, answer);
        is_open(&policy)
    };
    let one = json!({ "trip": { "consecutive-failures": 1 } });
    for status in 100..600 {
        assert_eq!(counts(&one, Answer::status(status)), status >= 500, "{status}");
    }
    for code in 0..17 {
        assert_eq!(counts(&one, Answer::grpc(code)), [2, 4, 8, 13, 14, 15].contains(&code), "{code}");
    }
    for failure in [Failure::Connect, Failure::Reset, Failure::Timeout, Failure::Protocol] {
        assert!(counts(&one, Answer::failure(failure)), "{failure:?}");
    }

    let chosen = json!({
        "trip": { "consecutive-failures": 1 }, "failures-on": { "statuses": [429, 503], "grpc": ["ABORTED"], "failures": ["connect"] },
    });
    assert!(counts(&chosen, Answer::status(429)) && counts(&chosen, failed()) && counts(&chosen, Answer::grpc(10)));
    assert!(!counts(&chosen, Answer::status(500)) && !counts(&chosen, Answer::grpc(14)));
    assert!(counts(&chosen, Answer::failure(Failure::Connect)) && !counts(&chosen, Answer::failure(Failure::Reset)));
}

#[test]
fn a_failure_that_is_not_listed_is_no_success_either() {
    let policy = breaker(json!({ "trip": { "consecutive-failures": 2 }, "failures-on": { "failures": ["connect"] } }));
    calls(&policy, 1, failed());
    call(&policy, Answer::failure(Failure::Timeout));
    call(&policy, failed());
    assert!(is_open(&policy));
}

#[test]
fn an_unknown_endpoint_is_an_error() {
    let policy = Policy::new(json!({})).unwrap();
    assert!(policy.on_attempt(&Call::new(), 3).unwrap_err().message().contains("endpoint 3"));
}

#[test]
fn errors_of_the_configuration_name_the_key() {
    let cases = [
        (json!({ "trip": { "consecutive-failures": 5, "failure-rate": 50 } }), "/trip/consecutive-failures"),
        (json!({ "trip": { "failure-rate": 50, "window-calls": 10, "window": "1s" } }), "/trip/window"),
        (json!({ "trip": { "window-calls": 10 } }), "/trip/window-calls"),
        (json!({ "trip": { "consecutive-failures": 5, "minimum-calls": 10 } }), "/trip/minimum-calls"),
        (json!({ "trip": { "consecutive-failures": 0 } }), "/trip/consecutive-failures"),
        (json!({ "trip": { "failure-rate": 101 } }), "/trip/failure-rate"),
        (json!({ "trip": { "failure-rate": 50, "window-calls": 70_000 } }), "/trip/window-calls"),
        (json!({ "trip": { "failure-rate": 50, "window": "10ms" } }), "/trip/window"),
        (json!({ "trip": { "failure-rate": 50, "window-calls": 10, "minimum-calls": 11 } }), "/trip/minimum-calls"),
        (json!({ "trip": { "failures": 5 } }), "failures"),
        (json!({ "open-for": "0s" }), "/open-for"),
        (json!({ "open-for": "2h" }), "/open-for"),
        (json!({ "half-open": { "max-calls": 0 } }), "/half-open/max-calls"),
        (json!({ "half-open": { "successes": 101 } }), "/half-open/successes"),
        (json!({ "half-open": { "permitted-calls": 10 } }), "/half-open/permitted-calls"),
        (
            json!({ "trip": { "failure-rate": 50 }, "half-open": { "permitted-calls": 10, "max-calls": 1 } }),
            "/half-open/permitted-calls",
        ),
        (
            json!({ "trip": { "failure-rate": 50 }, "half-open": { "permitted-calls": 101 } }),
            "/half-open/permitted-calls",
        ),
        (json!({ "slow-call": "0s" }), "/slow-call"),
        (json!({ "slow-call-rate": 50, "trip": { "failure-rate": 50 } }), "/slow-call-rate"),
        (json!({ "slow-call-rate": 50, "slow-call": "1s" }), "/slow-call-rate"),
        (json!({ "slow-call-rate": 0, "slow-call": "1s", "trip": { "failure-rate": 50 } }), "/slow-call-rate"),
        (json!({ "scope": "node" }), "node"),
        (json!({ "scope": { "field": "" } }), "/scope/field"),
        (json!({ "failures-on": { "grpc": ["unavailable"] } }), "unavailable"),
        (json!({ "failures-on": { "failures": ["rejected"] } }), "rejected"),
        (json!({ "opn-for": "1s" }), "opn-for"),
    ];
    for (config, key) in cases {
        let error = error(config.clone());
        assert!(error.contains(key), "{config}: {error}");
    }
}

#[test]
fn the_forms_that_people_know_are_accepted() {
    for config in [
        json!({ "scope": "endpoint", "trip": { "consecutive-failures": 5 }, "open-for": "10s", "half-open": { "max-calls": 1, "successes": 1 } }),
        json!({ "trip": { "failure-rate": 50, "window-calls": 100, "minimum-calls": 20 } }),
        json!({ "trip": { "failure-rate": 50, "window": "10s", "minimum-calls": 20 } }),
        json!({ "trip": { "failure-rate": 50, "window-calls": 5 } }),
    ] {
        assert!(Policy::new(config.clone()).is_ok(), "{config}");
    }
}
