use super::*;
use serde_json::json;
use weir_sdk::testing::{Call, Harness};

fn transform(config: Value) -> Harness<Transform> {
    Harness::new(config).unwrap()
}

fn through(config: Value, of: BodyOf, body: &[u8]) -> BodyVerdict {
    transform(config).on_body(&Call::new().kind(ExchangeKind::Publish), of, body).unwrap()
}

/// What becomes of a message; `None`: it goes on byte by byte.
fn edited(config: Value, body: Value) -> Option<Value> {
    match through(config, BodyOf::Message, body.to_string().as_bytes()) {
        BodyVerdict::Proceed => None,
        BodyVerdict::Replace(body) => Some(serde_json::from_slice(&body).unwrap()),
        BodyVerdict::Reply(reply) => panic!("{reply:?}"),
    }
}

#[test]
fn values_are_renamed_then_removed_then_set() {
    let config = json!({
        "set": { "/customer/tier": "gold" }, "remove": ["/card"], "rename": { "/a": "/b", "/payment": "/card" },
    });
    let body = json!({ "a": 1, "card": "4711", "payment": "by card", "customer": { "id": 7, "tier": "tin" } });
    assert_eq!(edited(config, body), Some(json!({ "b": 1, "customer": { "id": 7, "tier": "gold" } })));
}

#[test]
fn what_is_not_there_is_left_alone_and_the_body_too() {
    let config = json!({ "set": { "/tier": "gold" }, "remove": ["/card", "/lines/9"], "rename": { "/x": "/y" } });
    assert_eq!(edited(config.clone(), json!({ "tier": "gold", "lines": [1] })), None);
    // Not even its spaces, nor how it writes numbers.
    let body = br#" { "tier" : "gold", "total": 1.50e2 } "#;
    assert_eq!(through(config, BodyOf::Message, body), BodyVerdict::Proceed);
}

#[test]
fn objects_on_the_way_are_made() {
    let set = |pointer: &str, body: Value| edited(json!({ "set": { pointer: 1 } }), body);
    assert_eq!(set("/a/b/c", json!({})), Some(json!({ "a": { "b": { "c": 1 } } })));
    assert_eq!(set("/a/0", json!({})), Some(json!({ "a": { "0": 1 } })));
    assert_eq!(set("/a/1", json!({ "a": [0, 0] })), Some(json!({ "a": [0, 1] })));
    assert_eq!(set("/a/b", json!({ "a": [{}] })), None, "a list has no such item");
    assert_eq!(set("/a/1", json!({ "a": [0] })), None, "nor one more");
    assert_eq!(set("/a/b", json!({ "a": "text" })), None, "what is there is not thrown away");
    assert_eq!(set("/a", json!(["list"])), None);
}

#[test]
fn a_value_that_cannot_move_stays_where_it_was() {
    let moved = |from: &str, to: &str, body: Value| edited(json!({ "rename": { from: to } }), body);
    for body in [json!({ "a": 1, "to": "text" }), json!({ "a": 1, "to": [] })] {
        assert_eq!(moved("/a", "/to/b", body), None);
    }
    assert_eq!(moved("/list/0", "/to/b", json!({ "list": [1, 2, 3], "to": 0 })), None);
    assert_eq!(moved("/list/2", "/to/b", json!({ "list": [1, 2, 3], "to": 0 })), None);
    assert_eq!(moved("/list/0", "/first", json!({ "list": [1, 2] })), Some(json!({ "list": [2], "first": 1 })));
    // To where the same value is already: it has moved all the same.
    assert_eq!(moved("/a", "/b", json!({ "a": 1, "b": 1 })), Some(json!({ "b": 1 })));
    assert_eq!(moved("/a", "/a/b", json!({ "a": 1 })), Some(json!({ "a": { "b": 1 } })));
    assert_eq!(moved("/a/b", "/a", json!({ "a": { "b": { "b": 1 } } })), Some(json!({ "a": { "b": 1 } })));
}

#[test]
fn pointers_are_those_of_rfc_6901() {
    let body = || json!({ "": 0, "a/b": 1, "m~n": 2, "~1": 3, "c%d": 4, " ": 5, "list": ["x", "y"], "ä": 6 });
    for (pointer, left_out) in
        [("/", ""), ("/a~1b", "a/b"), ("/m~0n", "m~n"), ("/~01", "~1"), ("/c%d", "c%d"), ("/ ", " "), ("/ä", "ä")]
    {
        let mut expected = body();
        expected.as_object_mut().unwrap().remove(left_out);
        assert_eq!(edited(json!({ "remove": [pointer] }), body()), Some(expected), "{pointer}");
    }
    for no_item in ["/list/00", "/list/01", "/list/+1", "/list/-", "/list/2", "/list/ 1", "/list/99999999999999999999"]
    {
        assert_eq!(edited(json!({ "remove": [no_item] }), body()), None, "{no_item}");
    }
}

#[test]
fn only_the_bodies_that_are_named_are_edited() {
    let edits = |kinds: Value| {
        let config = json!({ "kinds": kinds, "remove": ["/a"] });
        [BodyOf::Request, BodyOf::Response, BodyOf::Message]
            .map(|of| through(config.clone(), of, b"{\"a\":1}") == BodyVerdict::Replace(b"{}".into()))
    };
    assert_eq!(edits(json!(["message"])), [false, false, true]);
    assert_eq!(edits(json!(["request", "response"])), [true, true, false]);
    let config = json!({ "remove": ["/a"] });
    assert_eq!(through(config, BodyOf::Request, b"{\"a\":1}"), BodyVerdict::Proceed, "by default messages alone");
}

#[test]
fn what_is_not_json_passes_or_is_refused() {
    let deep = "[".repeat(10_000);
    for body in [b"".as_slice(), b"text", b"{", b"{} {}", b"\xff", b"{'a':1}", deep.as_bytes()] {
        let with = |config| through(config, BodyOf::Message, body);
        assert_eq!(with(json!({ "remove": ["/a"] })), BodyVerdict::Proceed);
        let BodyVerdict::Reply(reply) = with(json!({ "not-json": "reject" })) else { panic!("{body:?} passed") };
        assert_eq!((reply.status, reply.error.as_str()), (400, "bad-request"));
        // A body that nobody asked about is not judged either.
        let kinds = json!({ "kinds": ["request"], "not-json": "reject" });
        assert_eq!(with(kinds), BodyVerdict::Proceed);
    }
    assert_eq!(through(json!({ "not-json": "reject" }), BodyOf::Message, b" 1 "), BodyVerdict::Proceed);
}

#[test]
fn a_wrong_configuration_is_refused_by_its_key() {
    for (config, pointer) in [
        (json!({ "set": { "": 1 } }), "/set"),
        (json!({ "set": { "tier": 1 } }), "/set"),
        (json!({ "remove": ["/a~2"] }), "/remove"),
        (json!({ "remove": ["/a~"] }), "/remove"),
        (json!({ "rename": { "/a": "b" } }), "/rename"),
        (json!({ "kinds": [] }), "/kinds"),
    ] {
        assert_eq!(Harness::<Transform>::new(config.clone()).err().unwrap().pointer(), pointer, "{config}");
    }
    for (config, word) in [
        (json!({ "kinds": ["publish"] }), "publish"),
        (json!({ "not-json": "drop" }), "drop"),
        (json!({ "removed": [] }), "removed"),
    ] {
        assert!(Harness::<Transform>::new(config.clone()).err().unwrap().message().contains(word), "{config}");
    }
}

#[test]
fn the_schema_takes_what_the_policy_takes() {
    let schema: Value = serde_json::from_str(&weir_sdk::policy::schema::<Transform>()).unwrap();
    let text = schema.to_string();
    for part in ["\"message\"", "\"reject\"", "\"uniqueItems\":true", "\"minItems\":1"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("edits"), "{text}");
}
