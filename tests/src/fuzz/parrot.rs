//! Makes up what a policy could ever answer, for the guest `parrot` to say.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::Shown;
use crate::weir::{Setup, guests_directory};

/// A node with the policies `a` and `b`, for the hosts `reject` and `skip`, which are also their `on-error`.
pub fn setup(upstream: SocketAddr) -> Setup {
    let mut setup = Setup::new()
        .with_plugin_file(&guests_directory().join("parrot.wasm"), "parrot")
        .toml("[limits]\nmax-header-bytes = \"1MiB\"\n[chain]\nreject = [\"a-reject\", \"b-reject\"]\nskip = [\"a-skip\", \"b-skip\"]");
    for on_error in ["reject", "skip"] {
        for name in ["a", "b"] {
            setup = setup.toml(&format!(
                "[policy.{name}-{on_error}]\nplugin = \"parrot\"\non-error = \"{on_error}\"\nlimits = {{ cpu = \"10s\" }}\nconfig = {{ name = \"{name}\" }}"
            ));
        }
        let route = format!("chain = \"{on_error}\"\ntimeout = \"10s\"");
        setup = setup.service_with(on_error, &[upstream], "http1", &route);
    }
    setup
}

/// The fields that tell `a` and `b` what to say.
pub fn fields(a: &Value, b: &Value) -> String {
    let hexadecimal = |words: &Value| words.to_string().bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("x-say-a: {}\r\nx-say-b: {}\r\n", hexadecimal(a), hexadecimal(b))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Set,
    Append,
    Remove,
}

/// One edit, allowed or not.
#[derive(Debug, Clone)]
pub struct Edit {
    pub kind: Kind,
    pub name: String,
    pub value: Shown,
    /// The value is repeated so many times.
    pub times: usize,
}

impl Edit {
    pub fn value(&self) -> Vec<u8> {
        self.value.0.repeat(self.times)
    }

    pub fn json(&self) -> Value {
        let value = said(&self.value.0, self.times);
        match self.kind {
            Kind::Set => json!({ "set": [self.name, value] }),
            Kind::Append => json!({ "append": [self.name, value] }),
            Kind::Remove => json!({ "remove": self.name }),
        }
    }
}

/// Bytes as the guest reads them.
fn said(bytes: &[u8], times: usize) -> Value {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    json!([text, times])
}

const GOOD_NAMES: &[&str] = &["x-a", "x-b", "x-c", "cookie", "authorization", "accept", "x-kept", "_a.b~c", "x-say-a"];
const BAD_NAMES: &[&str] = &[
    "",
    "X-A",
    "x a",
    "x-a\r\nx-injected",
    "x-a:",
    "x\u{e9}",
    "x\0",
    ":path",
    ":status",
    "host",
    "Host",
    "connection",
    "content-length",
    "Content-Length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "expect",
    "http2-settings",
];

const ODD_VALUES: &[&[u8]] = &[b"a\r\nx-injected: b", b"\n", b"\0", b" a", b"a\t", b"a\tb", b"\xff\xfe", b"\x7f"];

/// Edits of which most are good, and so at times all.
pub fn edit() -> impl Strategy<Value = Edit> {
    let kind = select(&[Kind::Set, Kind::Append, Kind::Append, Kind::Remove][..]);
    let name = prop_oneof![
        30 => select(GOOD_NAMES).prop_map(str::to_owned),
        1 => select(BAD_NAMES).prop_map(str::to_owned),
        1 => (255..258usize).prop_map(|length| "n".repeat(length)),
        1 => any::<String>().prop_map(|name| name.chars().take(20).collect()),
    ];
    let plain = "[a-z0-9,;=\"]{0,12}".prop_map(String::into_bytes);
    let value = prop_oneof![
        30 => plain.prop_map(|value| (value, 1)),
        2 => vec(any::<u8>(), 0..6).prop_map(|value| (value, 1)),
        1 => select(ODD_VALUES).prop_map(|value| (value.to_vec(), 1)),
        1 => (8190..8194usize).prop_map(|length| (b"v".to_vec(), length)),
    ];
    (kind, name, value).prop_map(|(kind, name, (value, times))| Edit { kind, name, value: Shown(value), times })
}

/// What one policy says in all of its hooks. Boxed, as all of its parts: together they would fill a thread's stack.
pub fn words() -> BoxedStrategy<Value> {
    let one = weighted(0.4, verdict());
    let pick = weighted(0.2, weighted(0.8, prop_oneof![0..3u32, any::<u32>()]));
    let two = weighted(0.4, verdict());
    (one, pick, weighted(0.3, attempt()), weighted(0.3, decision()), two, weighted(0.3, body()))
        .prop_map(|(request, pick, attempt, outcome, response, body)| {
            let mut words = json!({});
            let said = [
                ("on-request", request),
                ("on-attempt", attempt),
                ("on-outcome", outcome),
                ("on-response", response),
                ("on-body", body),
            ];
            for (hook, say) in said.into_iter().filter_map(|(hook, say)| Some((hook, say?))) {
                words[hook] = say;
            }
            if let Some(picked) = pick {
                words["pick"] = json!(picked);
            }
            words
        })
        .boxed()
}

fn verdict() -> BoxedStrategy<Value> {
    let attributes = vec((text(), text()), 0..3);
    let service = weighted(0.1, prop_oneof![0..4u32, any::<u32>()]);
    let amend = (edits(), attributes, weighted(0.1, nanos()), weighted(0.1, nanos()), service).prop_map(
        |(edits, attributes, timeout, attempt_timeout, service)| {
            json!({ "amend": { "edits": edits, "attributes": attributes, "timeout": timeout, "attempt-timeout": attempt_timeout, "service": service } })
        },
    );
    prop_oneof![4 => amend, 3 => reply(), 1 => text().prop_map(|why| json!({ "fail": why })), 1 => Just(json!("trap"))]
        .boxed()
}

fn edits() -> BoxedStrategy<Vec<Value>> {
    let some = vec(edit().prop_map(|edit| edit.json()), 0..4);
    // One field, or services would have to take thousands.
    let many = (edit(), 250..300usize).prop_map(|(edit, count)| vec![Edit { kind: Kind::Set, ..edit }.json(); count]);
    prop_oneof![8 => some, 1 => many].boxed()
}

fn reply() -> BoxedStrategy<Value> {
    let status = prop_oneof![4 => 200..600u16, 1 => any::<u16>(), 1 => select(&[100, 101, 103, 199, 204, 205, 304, 600, 999, 1000][..])];
    let headers = vec(edit().prop_map(|edit| json!([edit.name, said(&edit.value.0, edit.times)])), 0..4);
    let grpc = weighted(0.3, prop_oneof![0..20u32, any::<u32>()]);
    (status, text(), text(), headers, weighted(0.5, bytes()), grpc).prop_map(|(status, error, message, headers, body, grpc)| {
        json!({ "reply": { "status": status, "error": error, "message": message, "headers": headers, "body": body, "grpc-status": grpc } })
    })
    .boxed()
}

fn attempt() -> BoxedStrategy<Value> {
    let refuse = (text(), text(), weighted(0.5, nanos()), any::<bool>()).prop_map(|(reason, error, retry_after, every)| {
        json!({ "refuse": { "reason": reason, "error": error, "retry_after": retry_after, "every_endpoint": every } })
    });
    prop_oneof![
        edits().prop_map(|edits| json!({ "amend": edits })),
        refuse,
        text().prop_map(|why| json!({ "fail": why }))
    ]
    .boxed()
}

fn decision() -> impl Strategy<Value = Value> {
    prop_oneof![
        (nanos(), any::<bool>())
            .prop_map(|(after, elsewhere)| json!({ "retry": { "after": after, "elsewhere": elsewhere } })),
        text().prop_map(|reason| json!({ "dead-letter": reason })),
        text().prop_map(|why| json!({ "fail": why })),
    ]
}

fn body() -> BoxedStrategy<Value> {
    prop_oneof![
        bytes().prop_map(|body| json!({ "replace": body })),
        reply(),
        text().prop_map(|why| json!({ "fail": why }))
    ]
    .boxed()
}

fn bytes() -> BoxedStrategy<Value> {
    let times =
        prop_oneof![4 => Just(1usize), 1 => 1000..20_000usize, 1 => select(&[65_536usize, 1 << 20, 3 << 20][..])];
    (vec(any::<u8>(), 0..8), times).prop_map(|(bytes, times)| said(&bytes, times)).boxed()
}

/// Long enough not to be waited for, or hardly any time at all.
fn nanos() -> impl Strategy<Value = u64> {
    prop_oneof![0..2_000_000u64, select(&[u64::MAX, u64::MAX / 2, i64::MAX as u64, 1 << 60][..])]
}

fn text() -> BoxedStrategy<String> {
    let odd = any::<String>().prop_map(|text| text.chars().take(12).collect());
    let known =
        select(&["", "policy", "breaker-open", "limited", "overload", "no-such-kind", "a\r\nx-injected: b", "a b"][..]);
    prop_oneof![
        known.prop_map(str::to_owned),
        odd,
        (60..70usize).prop_map(|length| "e".repeat(length)),
        Just("m".repeat(9000)),
        Just("\u{1}".to_owned())
    ]
    .boxed()
}
