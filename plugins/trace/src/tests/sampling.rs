use super::*;

fn sampled(config: Value, value: &str) -> bool {
    traceparent(&through(config, &[("traceparent", value)])).2 == "01"
}

#[test]
fn the_callers_decision_is_kept_unless_told_otherwise() {
    let unsampled = PARENT.replace("-01", "-00");
    assert!(sampled(json!({ "sample": 0.0 }), PARENT));
    assert!(!sampled(json!({ "sample": 1.0 }), &unsampled));
    assert!(!sampled(json!({ "sample": 0.0, "parent-based": false }), PARENT));
    assert!(sampled(json!({ "sample": 1.0, "parent-based": false }), &unsampled));
}

#[test]
fn the_trace_id_decides_so_that_all_hops_agree() {
    let quarter = || json!({ "sample": 0.25, "parent-based": false });
    for (low, expected) in [
        ("00c0000000000000", true),
        ("ffc0000000000000", true),
        ("ffbfffffffffffff", false),
        ("ff00000000000001", false),
        ("00ffffffffffffff", true),
    ] {
        let value = format!("00-1234567890123456{low}-{SPAN}-00");
        assert_eq!(sampled(quarter(), &value), expected, "{low}");
    }
}

#[test]
fn the_share_of_new_traces_is_the_one_configured() {
    for (sample, least, most) in [(0.0, 0, 0), (0.01, 60, 140), (0.5, 4800, 5200), (1.0, 10_000, 10_000)] {
        let policy = policy(json!({ "sample": sample }));
        let sampled = (0..10_000).filter(|_| traceparent(&sent(&policy, &Call::new(), &[])).2 == "01").count();
        assert!((least..=most).contains(&sampled), "{sampled} of 10 000 at {sample}");
    }
}

#[test]
fn an_unsampled_exchange_costs_one_hook() {
    let policy = policy(json!({ "sample": 0.0 }));
    let call = Call::new();
    policy.on_request(&call).unwrap();
    assert_eq!((call.memo(), policy.needs().skip.without_memo), (0, true));
}

#[test]
fn a_configuration_that_never_samples_asks_for_nothing_else() {
    let policy = policy(json!({ "sample": 0.0, "parent-based": false }));
    let skip = policy.needs().skip;
    assert!(skip.on_attempt && skip.on_outcome && skip.on_complete && !skip.on_request);
    assert_eq!(policy.needs().request, ["traceparent", "tracestate"]);
    assert!(policy.needs().response.is_empty());
}

#[test]
fn the_trace_id_is_put_on_the_record() {
    let call = call(&[("traceparent", PARENT)]);
    policy(json!({})).on_request(&call).unwrap();
    assert_eq!(call.attribute("trace-id").as_deref(), Some(TRACE));
    let call = Call::new();
    policy(json!({ "record": false })).on_request(&call).unwrap();
    assert_eq!(call.attribute("trace-id"), None);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    for (config, named) in [
        (json!({ "dialects": [] }), "w3c"),
        (json!({ "dialects": ["jaeger"] }), "jaeger"),
        (json!({ "sample": 1.5 }), "between 0 and 1"),
        (json!({ "sample": -0.1 }), "between 0 and 1"),
        (json!({ "ratio": 1.0 }), "ratio"),
    ] {
        let error = Harness::<Trace>::new(config.clone()).err().unwrap();
        assert!(error.message().contains(named), "{config}: {error}");
    }
}
