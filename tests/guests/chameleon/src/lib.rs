//! Marks each exchange with a word that tests write into the built file: one build gives as many versions as a test
//! needs. A few words make a version that should not go live.

use std::borrow::Cow;
use std::hint::black_box;
use weir_sdk::prelude::*;
use weir_sdk::schemars::{self, Schema, SchemaGenerator};
use weir_sdk::serde_json;

/// What tests look for in the file and write over: the word, filled up with dots.
static WORD: [u8; 32] = *b"chameleon-word:v0...............";

/// Volatile in effect: the compiler must not know what the file will say.
fn word() -> &'static str {
    let word = black_box(&WORD).get(15..).unwrap_or_default();
    std::str::from_utf8(word).unwrap_or_default().trim_end_matches('.')
}

/// Whether the version fails the requests that ask for it.
fn is_bad() -> bool {
    word().starts_with("bad") || word() == "red"
}

#[derive(Deserialize)]
struct Chameleon {
    /// Put before the word, to tell several policies of this plugin apart.
    #[serde(default)]
    name: String,
    /// Known to the versions `blue` and `red` only, which need it.
    colour: Option<String>,
    #[serde(skip)]
    count: Option<cells::Word>,
}

impl schemars::JsonSchema for Chameleon {
    fn schema_name() -> Cow<'static, str> {
        "Chameleon".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let schema = match word() {
            "trap" => std::process::abort(),
            "loop" => loop {
                black_box(());
            },
            "no-schema" => r#"{ "type": 12 }"#.to_owned(),
            "long-schema" => format!(r#"{{ "description": "{}" }}"#, "x".repeat(1 << 20)),
            "blue" | "red" => format!(
                r#"{{ "type": "object", "required": ["colour"], "properties": {{ "name": {{}}, "colour": {{ "const": "{}" }} }}, "additionalProperties": false }}"#,
                word()
            ),
            _ => {
                r#"{ "type": "object", "properties": { "name": { "type": "string" } }, "additionalProperties": false }"#
                    .to_owned()
            }
        };
        serde_json::from_str::<serde_json::Value>(&schema)
            .ok()
            .and_then(|schema| schema.try_into().ok())
            .unwrap_or_default()
    }
}

impl Chameleon {
    fn mark(&self, header: &str) -> Verdict {
        let count = self.count.map_or(0, |count| count.fetch_add(1));
        let colour = self.colour.as_deref().unwrap_or_default();
        Amendment::new()
            .append(header, format!("{}{}{colour}", self.name, word()))
            .set("x-count", count.to_string())
            .into()
    }
}

#[policy(reads = ["x-trap"])]
impl Policy for Chameleon {
    fn configure(&mut self, _: &mut Needs) -> Result<()> {
        match word() {
            "refuse" => return Err(Error::at("/name", "this version likes no name")),
            "broken" => std::process::abort(),
            _ => self.count = Some(cells::Word::open("count")?),
        }
        Ok(())
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        // These go live, and then do harm.
        if word().starts_with("crash") {
            std::process::abort();
        }
        while word().starts_with("spin") {}
        // And these only where a request asks for it.
        match exchange.field("x-trap") {
            Some(b"trap") if is_bad() => std::process::abort(),
            Some(b"overrun") if is_bad() => loop {
                black_box(());
            },
            Some(b"lie") if is_bad() => return Ok(Verdict::reply(99, "no such status")),
            Some(b"error") if is_bad() => return Err("no luck today".into()),
            _ => {}
        }
        Ok(self.mark("x-version"))
    }

    fn on_response(&self, _: &Exchange, _: &Response) -> Result<Verdict> {
        Ok(self.mark("x-version"))
    }
}
