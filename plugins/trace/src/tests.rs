use super::*;
use serde_json::{Value, json};
use weir_sdk::testing::{Call, Harness};

mod dialects;
mod messages;
mod sampling;
mod spans;
mod w3c;

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";
const PARENT: &str = "00-12345678901234567890123456789012-1234567890123456-01";

fn policy(config: Value) -> Harness<Trace> {
    Harness::new(config).unwrap()
}

/// What the service receives: the fields of the call with the policy's edits applied.
fn sent(policy: &Harness<Trace>, call: &Call, received: &[(&str, &str)]) -> Vec<(String, String)> {
    let edits = match policy.on_request(call).unwrap() {
        Verdict::Amend(amendment) => amendment.edits,
        other => panic!("{other:?}"),
    };
    apply(received, edits)
}

fn apply<N: AsRef<str>, V: AsRef<str>>(received: &[(N, V)], edits: Vec<Edit>) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> =
        received.iter().map(|(name, value)| (name.as_ref().into(), value.as_ref().into())).collect();
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                fields.retain(|(other, _)| *other != name);
                fields.push((name, String::from_utf8(value).unwrap()));
            }
            Edit::Append(name, value) => fields.push((name, String::from_utf8(value).unwrap())),
            Edit::Remove(name) => fields.retain(|(other, _)| *other != name),
        }
    }
    fields
}

fn call(received: &[(&str, &str)]) -> Call {
    received
        .iter()
        .fold(Call::new().field(":method", "GET").field(":path", "/users/1?token=secret"), |call, (name, value)| {
            call.field(name, *value)
        })
}

/// A request with these fields through a policy with this configuration.
fn through(config: Value, received: &[(&str, &str)]) -> Vec<(String, String)> {
    sent(&policy(config), &call(received), received)
}

fn get<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let value = values.next();
    assert_eq!(values.next(), None, "{name} is sent once");
    value
}

/// The parts of the `traceparent` that is sent, which is well-formed.
fn traceparent(fields: &[(String, String)]) -> (String, String, String) {
    let value = get(fields, "traceparent").unwrap();
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("{value}") };
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert_eq!(
        (version, trace.len(), span.len(), flags.len(), hex(&value.replace('-', ""))),
        ("00", 32, 16, 2, true),
        "{value}"
    );
    assert!(trace.bytes().any(|byte| byte != b'0') && span.bytes().any(|byte| byte != b'0'), "{value}");
    (trace.into(), span.into(), flags.into())
}
