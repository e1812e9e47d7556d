use super::*;

const OTHER: &str = "aaaabbbbccccddddaaaabbbbccccdddd";

fn x_trace() -> Value {
    json!({ "dialects": ["x-trace", "w3c"], "sample": 0.0 })
}

fn b3() -> Value {
    json!({ "dialects": ["w3c", "b3"], "sample": 0.0 })
}

#[test]
fn every_dialect_says_the_same() {
    let fields = through(json!({ "dialects": ["b3", "x-trace", "w3c"], "sample": 1.0 }), &[]);
    let (trace, span, flags) = traceparent(&fields);
    assert_eq!(flags, "01");
    for (name, expected) in [
        ("x-trace-id", &trace),
        ("x-span-id", &span),
        ("x-sampled", &"1".to_owned()),
        ("x-b3-traceid", &trace),
        ("x-b3-spanid", &span),
        ("x-b3-sampled", &"1".to_owned()),
        ("b3", &format!("{trace}-{span}-1")),
    ] {
        assert_eq!(get(&fields, name), Some(expected.as_str()), "{name}");
    }
    assert_eq!(
        (get(&fields, "x-parent-span-id"), get(&fields, "x-b3-parentspanid")),
        (None, None),
        "a root has no parent"
    );
}

#[test]
fn only_the_dialects_that_are_named_are_written() {
    let received = [("x-trace-id", OTHER), ("b3", "0")];
    let fields = through(json!({}), &received);
    assert_eq!((get(&fields, "x-trace-id"), get(&fields, "b3")), (Some(OTHER), Some("0")), "left alone");
    let fields = through(json!({ "dialects": ["b3"] }), &[("traceparent", "nonsense")]);
    assert_eq!(get(&fields, "traceparent"), Some("nonsense"), "left alone");
}

#[test]
fn w3c_comes_first_and_then_the_order_of_the_dialects() {
    let received = [("traceparent", PARENT), ("x-trace-id", OTHER), ("x-sampled", "0")];
    let fields = through(x_trace(), &received);
    assert_eq!((get(&fields, "x-trace-id"), get(&fields, "x-sampled")), (Some(TRACE), Some("1")));

    let received = [
        ("traceparent", "00-nonsense"),
        ("tracestate", "foo=1"),
        ("x-trace-id", OTHER),
        ("x-span-id", SPAN),
        ("b3", "0"),
    ];
    let fields = through(json!({ "dialects": ["x-trace", "b3", "w3c"], "sample": 1.0 }), &received);
    assert_eq!(traceparent(&fields).0, OTHER);
    assert_eq!(get(&fields, "tracestate"), None, "it belongs to the traceparent that was not used");
    let fields = through(json!({ "dialects": ["b3", "x-trace", "w3c"], "sample": 1.0 }), &received);
    assert_eq!(traceparent(&fields).2, "00", "b3 has decided");
    assert_ne!(traceparent(&fields).0, OTHER);
}

#[test]
fn x_trace_is_continued() {
    let received =
        [("x-trace-id", OTHER), ("x-span-id", SPAN), ("x-parent-span-id", "fedcba9876543210"), ("x-sampled", "1")];
    let fields = through(x_trace(), &received);
    let (trace, span, flags) = traceparent(&fields);
    assert_eq!((trace.as_str(), flags.as_str()), (OTHER, "01"));
    assert_eq!((get(&fields, "x-trace-id"), get(&fields, "x-span-id")), (Some(OTHER), Some(span.as_str())));
    assert_eq!((get(&fields, "x-parent-span-id"), get(&fields, "x-sampled")), (Some(SPAN), Some("1")));
}

#[test]
fn x_trace_takes_either_case_short_ids_and_words() {
    for (id, expected) in
        [("AAAABBBBCCCCDDDDaaaabbbbccccdddd", OTHER), ("aaaabbbbccccdddd", "0000000000000000aaaabbbbccccdddd")]
    {
        for (sampled, flags) in
            [("1", "01"), ("true", "01"), ("TRUE", "01"), ("0", "00"), ("false", "00"), ("maybe", "00")]
        {
            let (trace, _, sent) = traceparent(&through(x_trace(), &[("x-trace-id", id), ("x-sampled", sampled)]));
            assert_eq!((trace.as_str(), sent.as_str()), (expected, flags), "{id} {sampled}");
        }
    }
}

#[test]
fn a_malformed_x_trace_restarts_the_trace_and_is_not_forwarded() {
    for id in [
        "",
        "abc",
        "00000000000000000000000000000000",
        "0000000000000000",
        "aaaabbbbccccddddaaaabbbbccccdddg",
        "+aaabbbbccccdddd",
    ] {
        let fields = through(x_trace(), &[("x-trace-id", id), ("x-span-id", SPAN), ("x-parent-span-id", SPAN)]);
        let (trace, ..) = traceparent(&fields);
        assert_eq!(get(&fields, "x-trace-id"), Some(trace.as_str()));
        assert_ne!(trace.trim_start_matches('0'), id.trim_start_matches('0'));
        assert_eq!(get(&fields, "x-parent-span-id"), None, "{id}");
    }
}

#[test]
fn b3_is_continued_from_the_single_field_or_from_many() {
    let single = |rest: &str| format!("{OTHER}-{SPAN}{rest}");
    for (value, flags) in [("-1", "01"), ("-d", "01"), ("-0", "00"), ("", "00"), ("-1-fedcba9876543210", "01")] {
        let (trace, _, sent) =
            traceparent(&through(b3(), &[("b3", &single(value)), ("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)]));
        assert_eq!((trace.as_str(), sent.as_str()), (OTHER, flags), "{value}");
    }
    let many = [
        ("x-b3-traceid", OTHER),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", "fedcba9876543210"),
        ("x-b3-sampled", "1"),
    ];
    let fields = through(b3(), &many);
    let (trace, span, flags) = traceparent(&fields);
    assert_eq!((trace.as_str(), flags.as_str(), get(&fields, "x-b3-parentspanid")), (OTHER, "01", Some(SPAN)));
    assert_eq!(get(&fields, "b3"), Some(format!("{OTHER}-{span}-1-{SPAN}").as_str()));
}

#[test]
fn a_decision_without_a_trace_is_heeded() {
    let all = json!({ "dialects": ["b3"], "sample": 1.0 });
    for received in [("b3", "0"), ("x-b3-sampled", "0"), ("x-b3-sampled", "false")] {
        assert_eq!(get(&through(all.clone(), &[received]), "x-b3-sampled"), Some("0"), "{received:?}");
    }
    let none = json!({ "dialects": ["b3"], "sample": 0.0 });
    for received in [("b3", "1"), ("b3", "d"), ("x-b3-sampled", "1"), ("x-b3-flags", "1")] {
        let fields = through(none.clone(), &[received]);
        assert_eq!((get(&fields, "x-b3-sampled"), get(&fields, "x-b3-flags")), (Some("1"), None), "{received:?}");
    }
}
