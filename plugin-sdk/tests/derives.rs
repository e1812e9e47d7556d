//! `Deserialize` and `JsonSchema` of the SDK: what one takes, the other takes, with the habits of Weir's configuration.

use serde_json::{Value, json};
use weir_sdk::prelude::*;
use weir_sdk::schemars;
use weir_sdk::serde::de::DeserializeOwned;

fn schema<T: schemars::JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

fn parse<T: DeserializeOwned>(config: &Value) -> Result<T, String> {
    serde_json::from_value(config.clone()).map_err(|error| error.to_string())
}

/// That the schema and `Deserialize` agree on each of these.
fn agree<T: DeserializeOwned + schemars::JsonSchema>(taken: &[Value], refused: &[Value]) {
    let schema = schema::<T>();
    for (configs, expected) in [(taken, true), (refused, false)] {
        for config in configs {
            let parsed = parse::<T>(config).map(|_| ());
            assert_eq!(parsed.is_ok(), expected, "Deserialize: {config}: {parsed:?}");
            assert_eq!(jsonschema::is_valid(&schema, config), expected, "schema: {config}: {schema:#}");
        }
    }
}

/// Of the whole.
#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Plain {
    /// How often.
    max_attempts: u32,
    #[serde(default)]
    only_once: bool,
    per_try: Option<Period>,
    #[serde(default = "seven")]
    #[schemars(range(max = 10))]
    days: u8,
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(default, alias = "label")]
    labels: Vec<String>,
    #[serde(skip)]
    private: std::cell::RefCell<Vec<String>>,
}

fn seven() -> u8 {
    7
}

#[test]
fn names_are_in_kebab_case_and_unknown_ones_are_refused() {
    agree::<Plain>(
        &[
            json!({ "max-attempts": 1 }),
            json!({ "max-attempts": 1, "only-once": true, "per-try": "250ms", "days": 1, "Type": "a", "labels": ["x"] }),
            json!({ "max-attempts": 1, "per-try": null }),
        ],
        &[
            json!({}),
            json!({ "max_attempts": 1 }),
            json!({ "max-attempts": -1 }),
            json!({ "max-attempts": "1" }),
            json!({ "max-attempts": 1, "kind": "a" }),
            json!({ "max-attempts": 1, "private": [] }),
            json!({ "max-attempts": 1, "surprise": 1 }),
            json!({ "max-attempts": 1, "per-try": 5 }),
            json!({ "max-attempts": 1, "per-try": "soon" }),
            json!([1]),
            json!("max-attempts"),
        ],
    );
}

#[test]
fn what_is_absent_has_its_default() {
    let plain: Plain = parse(&json!({ "max-attempts": 1 })).unwrap();
    let expected = Plain {
        max_attempts: 1,
        only_once: false,
        per_try: None,
        days: 7,
        kind: None,
        labels: Vec::new(),
        private: Vec::new().into(),
    };
    assert_eq!(plain, expected);
}

#[test]
fn the_schema_tells_descriptions_defaults_and_limits() {
    let schema = schema::<Plain>();
    assert_eq!((&schema["title"], &schema["description"]), (&json!("Plain"), &json!("Of the whole.")));
    assert_eq!(schema["properties"]["max-attempts"]["description"], "How often.");
    assert_eq!(
        (&schema["properties"]["days"]["default"], &schema["properties"]["days"]["maximum"]),
        (&json!(7), &json!(10))
    );
    assert_eq!(schema["required"], json!(["max-attempts"]));
    assert!(!schema.to_string().contains("__Weir"), "the copy does not show: {schema:#}");
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(default)]
struct Defaults {
    initial: Period,
    max_attempts: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { initial: Period::from_secs(1), max_attempts: 5 }
    }
}

#[test]
fn a_container_takes_its_defaults_from_its_type() {
    agree::<Defaults>(
        &[json!({}), json!({ "initial": "1m 30s" })],
        &[json!({ "initial": "soon" }), json!({ "max": 1 })],
    );
    assert_eq!(
        parse::<Defaults>(&json!({ "initial": "2s" })).unwrap(),
        Defaults { initial: Period::from_secs(2), max_attempts: 5 }
    );
    let properties = &schema::<Defaults>()["properties"];
    assert_eq!((&properties["initial"]["default"], &properties["max-attempts"]["default"]), (&json!("1s"), &json!(5)));
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(default = "ten")]
struct DefaultOfFunction {
    max_attempts: u32,
}

fn ten() -> DefaultOfFunction {
    DefaultOfFunction { max_attempts: 10 }
}

#[test]
fn a_container_takes_its_defaults_from_a_function() {
    agree::<DefaultOfFunction>(&[json!({}), json!({ "max-attempts": 1 })], &[json!({ "x": 1 })]);
    assert_eq!(parse::<DefaultOfFunction>(&json!({})).unwrap(), ten());
}

#[derive(Deserialize, JsonSchema, Debug)]
#[serde(rename_all = "camelCase", rename = "Better")]
struct Renamed {
    #[expect(dead_code, reason = "read by serde alone")]
    max_attempts: u32,
}

#[test]
fn an_authors_own_names_are_honoured() {
    agree::<Renamed>(&[json!({ "maxAttempts": 1 })], &[json!({ "max-attempts": 1 }), json!({ "max_attempts": 1 })]);
    assert_eq!(schema::<Renamed>()["title"], "Better");
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Nested {
    plain: Option<Defaults>,
    list: Vec<Node>,
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Node {
    name: String,
    #[serde(default)]
    children: Vec<Node>,
}

#[test]
fn types_nest_and_recur() {
    agree::<Nested>(
        &[json!({ "list": [] }), json!({ "plain": {}, "list": [{ "name": "a", "children": [{ "name": "b" }] }] })],
        &[
            json!({ "list": [{ "name": "a", "children": [{}] }] }),
            json!({ "list": [{ "name": "a", "child": [] }] }),
            json!({ "plain": { "x": 1 }, "list": [] }),
        ],
    );
}

mod other {
    use weir_sdk::prelude::*;

    /// Of the same name as the one beside it, and with other fields.
    #[derive(Deserialize, JsonSchema, Debug)]
    pub struct Node {
        #[expect(dead_code, reason = "read by serde alone")]
        weight: u32,
    }
}

#[derive(Deserialize, JsonSchema, Debug)]
#[expect(dead_code, reason = "read by serde alone")]
struct SameNames {
    one: Node,
    two: other::Node,
}

#[test]
fn types_of_the_same_name_are_told_apart() {
    agree::<SameNames>(
        &[json!({ "one": { "name": "a" }, "two": { "weight": 1 } })],
        &[
            json!({ "one": { "weight": 1 }, "two": { "name": "a" } }),
            json!({ "one": { "name": "a" }, "two": { "name": "a" } }),
        ],
    );
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Flat {
    name: String,
    #[serde(flatten)]
    limits: Limits,
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Limits {
    max_calls: u32,
    #[serde(default)]
    successes: u32,
}

#[test]
fn a_flattened_part_stands_beside_the_others() {
    agree::<Flat>(
        &[json!({ "name": "a", "max-calls": 1 }), json!({ "name": "a", "max-calls": 1, "successes": 2 })],
        &[json!({ "name": "a" }), json!({ "name": "a", "limits": { "max-calls": 1 } }), json!({ "max-calls": 1 })],
    );
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct FlatMap {
    max_calls: u32,
    #[serde(flatten)]
    others: std::collections::BTreeMap<String, String>,
}

#[test]
fn a_flattened_part_gives_up_that_unknown_names_are_refused() {
    agree::<Flat>(&[json!({ "name": "a", "max-calls": 1, "surprise": 1 })], &[]);
    agree::<FlatMap>(
        &[json!({ "max-calls": 1 }), json!({ "max-calls": 1, "a": "b" })],
        &[json!({ "a": "b" }), json!({ "max-calls": 1, "a": 1 })],
    );
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
enum Unit {
    RoundRobin,
    #[serde(rename = "P2C")]
    PowerOfTwo,
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
enum External {
    Off,
    ConsecutiveFailures(u32),
    FailureRate { min_calls: u32, per_cent: Option<u8> },
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(tag = "kind")]
enum Internal {
    Fixed { wait_for: Period },
    Exponential(Defaults),
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(tag = "kind", content = "with")]
enum Adjacent {
    None,
    Some { max_calls: u32 },
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Parts { max_calls: u32 },
}

#[test]
fn enums_take_all_their_forms() {
    agree::<Unit>(&[json!("round-robin"), json!("P2C")], &[json!("RoundRobin"), json!("power-of-two"), json!(1)]);
    agree::<External>(
        &[
            json!("off"),
            json!({ "consecutive-failures": 3 }),
            json!({ "failure-rate": { "min-calls": 1, "per-cent": 5 } }),
        ],
        &[
            json!("on"),
            json!({ "off": 1 }),
            json!({ "failure-rate": { "min_calls": 1 } }),
            json!({ "failure-rate": { "min-calls": 1, "x": 1 } }),
        ],
    );
    agree::<Internal>(
        &[
            json!({ "kind": "fixed", "wait-for": "1s" }),
            json!({ "kind": "exponential" }),
            json!({ "kind": "exponential", "initial": "1s" }),
        ],
        &[
            json!({ "kind": "fixed" }),
            json!({ "kind": "fixed", "wait-for": "1s", "x": 1 }),
            json!({ "wait-for": "1s" }),
            json!({ "kind": "exponential", "x": 1 }),
        ],
    );
    agree::<Adjacent>(
        &[json!({ "kind": "none" }), json!({ "kind": "some", "with": { "max-calls": 1 } })],
        &[
            json!({ "kind": "some" }),
            json!({ "kind": "some", "with": { "max-calls": 1, "x": 1 } }),
            json!({ "kind": "none", "x": 1 }),
        ],
    );
    agree::<Untagged>(
        &[json!(1), json!({ "max-calls": 1 })],
        &[json!("1"), json!({}), json!({ "max-calls": 1, "x": 1 })],
    );
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Newtype(#[schemars(range(max = 100))] u8);

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(transparent)]
struct Transparent {
    names: Vec<String>,
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
struct Pair(u32, String);

#[test]
fn tuples_are_what_they_hold() {
    agree::<Newtype>(&[json!(1)], &[json!("1"), json!({}), json!(-1), json!(256)]);
    agree::<Transparent>(&[json!([]), json!(["a"])], &[json!({ "names": [] }), json!("a")]);
    agree::<Pair>(&[json!([1, "a"])], &[json!([1]), json!([1, "a", 2]), json!(["a", 1])]);
    assert_eq!(schema::<Newtype>()["maximum"], 100);
}

#[derive(Deserialize, JsonSchema, Debug, PartialEq)]
#[serde(try_from = "String")]
struct Percent(u8);

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        number.map(Self).ok_or_else(|| format!("{text:?} is not a percentage"))
    }
}

#[test]
fn a_type_can_be_made_of_another() {
    assert_eq!(parse::<Percent>(&json!("50%")).unwrap(), Percent(50));
    assert!(parse::<Percent>(&json!("50")).unwrap_err().contains("is not a percentage"));
    assert_eq!(schema::<Percent>()["type"], "string");
}

/// Whom it is for.
#[derive(Deserialize, JsonSchema)]
struct Narrowed {
    on: Kinds,
}

#[test]
fn kinds_are_some_of_three() {
    let on = |kinds: Value| json!({ "on": kinds });
    agree::<Narrowed>(
        &[on(json!(["call"])), on(json!(["publish", "delivery"])), on(json!(["delivery", "publish", "call"]))],
        &[on(json!([])), on(json!(["calls"])), on(json!("call")), on(json!([1])), json!({})],
    );
    let kinds = [ExchangeKind::Call, ExchangeKind::Publish, ExchangeKind::Delivery];
    let taken = |names: Value| {
        let on = parse::<Narrowed>(&on(names)).unwrap().on;
        kinds.map(|kind| on.contain(kind))
    };
    assert_eq!(taken(json!(["publish"])), [false, true, false]);
    assert_eq!(taken(json!(["delivery", "call"])), [true, false, true]);
    assert_eq!(kinds.map(|kind| Kinds::ALL.contain(kind)), [true; 3]);
}
