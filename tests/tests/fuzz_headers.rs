//! Whatever policies make of the fields of a message, all of it is done as they say, or nothing of it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_oneof};
use serde_json::{Value, json};
use weir_tests::fuzz::node::{Script, Settled, Watched};
use weir_tests::fuzz::parrot::{self, Edit, Kind};
use weir_tests::fuzz::{Shown, again, fuzz};
use weir_tests::upstream::Reply;

/// What one policy does to the request, to its attempt and to the answer.
#[derive(Debug, Clone)]
struct Edits {
    request: Vec<Edit>,
    attempt: Vec<Edit>,
    response: Vec<Edit>,
}

impl Edits {
    fn words(&self) -> Value {
        let json = |edits: &[Edit]| edits.iter().map(Edit::json).collect::<Vec<_>>();
        json!({
            "on-request": { "amend": { "edits": json(&self.request) } },
            "on-attempt": { "amend": json(&self.attempt) },
            "on-response": { "amend": { "edits": json(&self.response) } },
        })
    }
}

/// Of a policy that makes a few edits, or as many as are allowed and one more.
fn edits(many: bool) -> impl Strategy<Value = Edits> {
    let some = || vec(parrot::edit(), 0..5);
    let full = (parrot::edit(), 255..258usize)
        .prop_map(|(edit, count)| vec![Edit { times: edit.times.min(1), ..edit }; count]);
    let request = prop_oneof![15 => some(), u32::from(many) => full];
    (request, prop_oneof![some(), Just(Vec::new())], some()).prop_map(|(request, attempt, response)| Edits {
        request,
        attempt,
        response,
    })
}

/// Fields by their names; the order of several values of one name counts.
type Fields = BTreeMap<String, Vec<Vec<u8>>>;

fn node() -> Watched {
    Watched::start(
        |_| Reply::new(200).header("x-kept", "1").header("x-b", "2").header("x-b", "3").body("hello").into(),
        parrot::setup,
    )
}

/// Names that once passed for good ones.
#[test]
fn names_that_were_trouble_once_are_none() {
    let node = node();
    for name in ["\"", "x-\"a\""] {
        let edit = Edit { kind: Kind::Set, name: name.to_owned(), value: Shown(b"1".to_vec()), times: 1 };
        let none = || Edits { request: Vec::new(), attempt: Vec::new(), response: Vec::new() };
        let cases = [
            Edits { request: vec![edit.clone()], ..none() },
            Edits { attempt: vec![edit.clone()], ..none() },
            Edits { response: vec![edit], ..none() },
        ];
        for case in cases {
            again(&case, |case| node.block_on(law(&node, case, &none())));
        }
    }
}

#[test]
fn edits_are_made_as_they_are_said_or_not_at_all() {
    let node = node();
    fuzz("headers", &(edits(true), edits(false)), |(a, b)| node.block_on(law(&node, a, b)));
    node.block_on(node.check_records()).expect("each answer leaves one record");
}

async fn law(node: &Watched, a: &Edits, b: &Edits) -> Result<()> {
    let own = [("x-kept", "1"), ("x-b", "2"), ("x-b", "3"), ("cookie", "a=b"), ("accept", "*/*")];
    let lines: String = own.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let said = parrot::fields(&a.words(), &b.words());
    let bytes = format!("GET / HTTP/1.1\r\nhost: reject\r\nconnection: close\r\n{lines}{said}\r\n");
    let script = Script { bytes: bytes.clone().into(), ..Script::default() };
    let got = node.say(&script, &["GET"], usize::MAX).await?;
    let Settled { exchanges, seen } = node.settle().await?;
    ensure!(exchanges == 1 && got.answers.len() == 1 && got.rest.is_empty(), "{exchanges} records, {got:?}");
    let answer = &got.answers[0];

    let mut wanted = Fields::new();
    for line in lines.lines().chain(said.lines()) {
        let (name, value) = line.split_once(": ").expect("a field");
        wanted.entry(name.to_owned()).or_default().push(value.into());
    }
    let on_the_way = [&a.request, &b.request, &a.attempt, &b.attempt];
    let forwarded = on_the_way.into_iter().all(|edits| apply(&mut wanted, edits));
    ensure!(seen.len() == usize::from(forwarded), "{} requests arrived", seen.len());
    if let Some(received) = seen.first() {
        let fields = received.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
        same(
            &wanted,
            fields,
            &["host", "x-request-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-weir-timeout"],
        )?;
        let host = received.headers_named("host");
        ensure!(host == ["reject"] && received.headers_named("connection").is_empty(), "{:?}", received.headers);
    }
    let mut wanted = Fields::from([
        ("x-kept".to_owned(), vec![b"1".to_vec()]),
        ("x-b".to_owned(), vec![b"2".to_vec(), b"3".to_vec()]),
    ]);
    if forwarded && [&b.response, &a.response].into_iter().all(|edits| apply(&mut wanted, edits)) {
        ensure!(answer.status == 200 && answer.body == b"hello", "{answer:?}");
        same(&wanted, answer.fields.iter().cloned(), &["content-length", "date", "x-request-id", "connection"])?;
    } else {
        ensure!(answer.status == 503 && answer.text("x-weir-error") == Some("policy"), "{answer:?}");
    }
    ensure!(answer.values("x-injected").is_empty(), "{answer:?}");
    Ok(())
}

/// Makes the edits as the contract says; false if one of them is not allowed.
fn apply(fields: &mut Fields, edits: &[Edit]) -> bool {
    let size = |edit: &Edit| edit.name.len() + if edit.kind == Kind::Remove { 0 } else { edit.value().len() };
    if edits.len() > 256 || edits.iter().map(size).sum::<usize>() > 65_536 || !edits.iter().all(is_allowed) {
        return false;
    }
    for edit in edits {
        if edit.kind != Kind::Append {
            fields.remove(&edit.name);
        }
        if edit.kind != Kind::Remove {
            fields.entry(edit.name.clone()).or_default().push(edit.value());
        }
    }
    true
}

/// The rules of the contract, said anew: the host's own list would agree with itself.
fn is_allowed(edit: &Edit) -> bool {
    const HOSTS: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = &edit.name;
    let name_fits = (1..=256).contains(&name.len()) && name.bytes().all(character) && !HOSTS.contains(&name.as_str());
    let value = edit.value();
    let white = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let visible = value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 127));
    let value_fits = value.len() <= 8192 && visible && !white(value.first()) && !white(value.last());
    name_fits && (edit.kind == Kind::Remove || value_fits)
}

/// The fields are those that are wanted, and some of the host's own.
fn same(wanted: &Fields, fields: impl Iterator<Item = (String, Vec<u8>)>, hosts: &[&str]) -> Result<()> {
    let mut given = Fields::new();
    for (name, value) in fields.filter(|(name, _)| wanted.contains_key(name) || !hosts.contains(&name.as_str())) {
        given.entry(name).or_default().push(value.trim_ascii().to_vec());
    }
    let shown = |fields: &Fields| {
        let short = |value: &Vec<u8>| value.escape_ascii().to_string().chars().take(60).collect::<String>();
        fields
            .iter()
            .map(|(name, values)| format!("{name}: {:?}", values.iter().map(short).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    ensure!(given == *wanted, "{:?} instead of {:?}", shown(&given), shown(wanted));
    Ok(())
}
