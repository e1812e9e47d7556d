//! The cases of the W3C's own test suite, and the rest of the specification.

use super::*;

const TAIL: &str = "12345678901234567890123456789012-1234567890123456-01";

#[test]
fn a_call_without_a_trace_starts_one() {
    let (trace, ..) = traceparent(&through(json!({}), &[]));
    assert_ne!(trace, TRACE);
    let policy = policy(json!({}));
    let (one, two) = (traceparent(&sent(&policy, &Call::new(), &[])), traceparent(&sent(&policy, &Call::new(), &[])));
    assert!(one.0 != two.0 && one.1 != two.1, "each its own");
}

#[test]
fn a_valid_traceparent_is_continued_with_a_new_parent_id() {
    let later = |version: &str, rest: &str| format!("{version}-{TAIL}{rest}");
    let valid = [
        PARENT.to_owned(),
        later("cc", ""),
        later("cc", "-more"),
        later("01", "-"),
        format!(" {PARENT}"),
        format!("\t{PARENT}"),
        format!("{PARENT} "),
        format!("\t {PARENT} \t"),
    ];
    for value in &valid {
        let (trace, span, flags) = traceparent(&through(json!({}), &[("traceparent", value)]));
        assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"), "{value}");
        assert_ne!(span, SPAN, "{value}");
    }
}

#[test]
fn a_malformed_traceparent_restarts_the_trace_and_is_not_forwarded() {
    let malformed = [
        // version
        "00-12345678901234567890123456789012-1234567890123456-01.",
        "00-12345678901234567890123456789012-1234567890123456-01-more",
        "cc-12345678901234567890123456789012-1234567890123456-01.more",
        "ff-12345678901234567890123456789012-1234567890123456-01",
        "ff-12345678901234567890123456789012-1234567890123456-01-more",
        ".0-12345678901234567890123456789012-1234567890123456-01",
        "0.-12345678901234567890123456789012-1234567890123456-01",
        "000-12345678901234567890123456789012-1234567890123456-01",
        "0000-12345678901234567890123456789012-1234567890123456-01",
        "0-12345678901234567890123456789012-1234567890123456-01",
        "CC-12345678901234567890123456789012-1234567890123456-01",
        // trace id
        "00-00000000000000000000000000000000-1234567890123456-01",
        "00-.2345678901234567890123456789012-1234567890123456-01",
        "00-1234567890123456789012345678901.-1234567890123456-01",
        "00-123456789012345678901234567890123-1234567890123456-01",
        "00-1234567890123456789012345678901-1234567890123456-01",
        "00-1234567890ABCDEF1234567890ABCDEF-1234567890123456-01",
        "00-1234567890123456-1234567890123456-01",
        "00-1234567890123456-1234567890123456-01-123456789012345",
        // parent id
        "00-12345678901234567890123456789012-0000000000000000-01",
        "00-12345678901234567890123456789012-.234567890123456-01",
        "00-12345678901234567890123456789012-123456789012345.-01",
        "00-12345678901234567890123456789012-12345678901234567-01",
        "00-12345678901234567890123456789012-123456789012345-01",
        "00-12345678901234567890123456789012-ABCDEFABCDEFABCD-01",
        // flags
        "00-12345678901234567890123456789012-1234567890123456-.0",
        "00-12345678901234567890123456789012-1234567890123456-0.",
        "00-12345678901234567890123456789012-1234567890123456-001",
        "00-12345678901234567890123456789012-1234567890123456-1",
        "00-12345678901234567890123456789012-1234567890123456-0A",
        // the whole
        "",
        "-",
        "00",
        "00-12345678901234567890123456789012-1234567890123456",
        "00_12345678901234567890123456789012_1234567890123456_01",
        "00-123456789012345678901234567890121234567890123456--01",
        "00--1234567890123456789012345678901-1234567890123456-01",
        "äö-12345678901234567890123456789012-1234567890123456-0",
    ];
    for value in malformed {
        let fields = through(json!({}), &[("traceparent", value), ("tracestate", "foo=1")]);
        let (trace, ..) = traceparent(&fields);
        assert!(!value.contains(&trace) && trace != TRACE, "{value}");
        assert_eq!(get(&fields, "tracestate"), None, "{value}");
    }
}

#[test]
fn several_traceparents_restart_the_trace() {
    let other = PARENT.replace("9012-", "9011-");
    for joined in [
        format!("{PARENT}, {other}"),
        format!("{PARENT}, {PARENT}"),
        format!("cc-{TAIL}-x, {other}"),
        format!("cc-{TAIL}, {other}"),
    ] {
        let (trace, ..) = traceparent(&through(json!({}), &[("traceparent", &joined)]));
        assert!(!joined.contains(&trace), "{joined}");
    }
}

#[test]
fn only_flags_that_are_known_are_handed_on() {
    for (received, expected) in
        [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00"), ("09", "01")]
    {
        let value = format!("00-{TRACE}-{SPAN}-{received}");
        assert_eq!(traceparent(&through(json!({}), &[("traceparent", &value)])).2, expected, "{received}");
    }
}

#[test]
fn a_tracestate_without_a_traceparent_is_dropped() {
    assert_eq!(get(&through(json!({}), &[("tracestate", "foo=1,bar=2")]), "tracestate"), None);
}

#[test]
fn a_valid_tracestate_is_sent_on_untouched() {
    let key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
    let value: String = (' '..='~').filter(|c| !",=".contains(*c)).collect();
    let numbered: Vec<String> = (1..=32).map(|n| format!("k{n}={n}")).collect();
    let valid = [
        "foo=1,bar=2".to_owned(),
        "foo=1, ".to_owned(),
        ", foo=1".to_owned(),
        "foo=1,,bar=2".to_owned(),
        "foo=1,bar=2, qux=4,quux=5, baz=3".to_owned(),
        "foo=1, foo=2".to_owned(),
        format!("{key}={value}"),
        format!("{key}@a-z0-9_-*/={value}"),
        "foo=1 \t , \t bar=2, \t baz=3".to_owned(),
        " \tfoo= 1\t ".to_owned(),
        "1foo=1,2tenant@3vendor=2".to_owned(),
        numbered.join(","),
        format!("foo=1, {}=1", "z".repeat(256)),
        format!("foo=1, {}@{}=1", "t".repeat(241), "v".repeat(14)),
        format!("foo={}", "v".repeat(256)),
        format!("foo={},bar={}", "v".repeat(250), "w".repeat(253)),
    ];
    for state in &valid {
        let fields = through(json!({}), &[("traceparent", PARENT), ("tracestate", state)]);
        assert_eq!(get(&fields, "tracestate"), Some(state.as_str()));
    }
    assert_eq!(valid.last().unwrap().len(), 512, "the longest that every participant has to send on");
}

#[test]
fn a_malformed_tracestate_is_dropped_and_the_trace_goes_on() {
    let numbered: Vec<String> = (1..=33).map(|n| format!("k{n}={n}")).collect();
    let malformed = [
        "foo =1".to_owned(),
        "FOO=1".to_owned(),
        "foo.bar=1".to_owned(),
        "foo@=1,bar=2".to_owned(),
        "@foo=1,bar=2".to_owned(),
        "foo@@bar=1,bar=2".to_owned(),
        "foo@bar@baz=1,bar=2".to_owned(),
        "_foo=1".to_owned(),
        numbered.join(","),
        format!("foo=1, {}=1", "z".repeat(257)),
        format!("foo=1, {}@v=1", "t".repeat(242)),
        format!("foo=1, t@{}=1", "v".repeat(15)),
        "foo=bar=baz".to_owned(),
        "foo=,bar=3".to_owned(),
        "foo".to_owned(),
        "=1".to_owned(),
        format!("foo={}", "v".repeat(257)),
        "foo=a\tb".to_owned(),
        "foo=ä".to_owned(),
        String::new(),
        " , ,".to_owned(),
    ];
    for state in &malformed {
        let fields = through(json!({}), &[("traceparent", PARENT), ("tracestate", state)]);
        assert_eq!(get(&fields, "tracestate"), None, "{state:?}");
        assert_eq!(traceparent(&fields).0, TRACE, "{state:?}");
    }
}

#[test]
fn a_long_tracestate_loses_long_members_first_and_then_the_last() {
    let long = |key: &str| format!("{key}={}", "v".repeat(200));
    let short = |n: usize| format!("m{n:02}={}", "v".repeat(20));
    let received = [long("a"), short(1), long("b"), short(2), long("c")].join(",");
    let fields = through(json!({}), &[("traceparent", PARENT), ("tracestate", &received)]);
    assert_eq!(get(&fields, "tracestate"), Some([long("a"), short(1), long("b"), short(2)].join(",").as_str()));

    let received: Vec<String> = (0..32).map(short).collect();
    let fields = through(json!({}), &[("traceparent", PARENT), ("tracestate", &received.join(","))]);
    let kept = get(&fields, "tracestate").unwrap();
    assert_eq!(kept, received[..20].join(","));
    assert!(kept.len() <= 512 && kept.len() + 25 > 512);
}
