//! Types for configurations.

use crate::ExchangeKind;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};
use std::borrow::Cow;
use std::ops::Deref;
use std::time::Duration;

/// A length of time, written as in `"250ms"`, `"1s"`, `"1m 30s"` or `"2h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Period(pub Duration);

impl Period {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

impl Deref for Period {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Cow<'de, str> = Deserialize::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|error| D::Error::custom(format!("{text:?} is not a length of time such as \"250ms\": {error}")))
    }
}

impl serde::Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^\\s*([0-9]+\\s*[a-zA-Z]+\\s*)+$",
            "description": "a length of time such as \"250ms\" or \"1s\"",
        })
    }
}

/// Some kinds of exchanges, written as in `["call", "publish", "delivery"]`; at least one. For what a policy should do with
/// some of the exchanges of a chain, and leave alone in the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    pub const ALL: Self = Self::of(&[ExchangeKind::Call, ExchangeKind::Publish, ExchangeKind::Delivery]);

    pub const fn of(kinds: &[ExchangeKind]) -> Self {
        match kinds {
            [] => Self(0),
            [first, rest @ ..] => Self(1 << *first as u8 | Self::of(rest).0),
        }
    }

    pub const fn contain(self, kind: ExchangeKind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }
}

impl<'de> Deserialize<'de> for Kinds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kinds: Vec<ExchangeKind> = Deserialize::deserialize(deserializer)?;
        if kinds.is_empty() {
            return Err(D::Error::custom("name at least one of \"call\", \"publish\" and \"delivery\""));
        }
        Ok(Self::of(&kinds))
    }
}

impl JsonSchema for Kinds {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Kinds".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": { "enum": ["call", "publish", "delivery"] },
            "minItems": 1,
            "uniqueItems": true,
        })
    }
}
