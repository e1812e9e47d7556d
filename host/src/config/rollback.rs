//! `[plugins] rollback`: when a new version of a plugin is taken back by itself.

use std::time::Duration;

use serde::Serialize;
use toml::de::DeValue;

use super::reader::{Fields, Value};
use super::show;
use super::values::{integer, timeout};

/// How often a new version may fail: trap, overrun a limit, or break the contract. All its policies and workers count
/// together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rollback {
    /// How long a version is new.
    #[serde(serialize_with = "show::duration")]
    pub within: Duration,
    /// More failures than this are too many.
    pub failures: u64,
    /// A larger share of the calls of its hooks is too much, where there were 50 calls or more; 0 to 100, which is never.
    pub percent: u32,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { within: Duration::from_secs(60), failures: 10, percent: 5 }
    }
}

/// The inner `None` is the word `"off"`.
pub(super) fn rollback(value: &Value<'_>) -> Option<Option<Rollback>> {
    match value.node.get_ref() {
        DeValue::String(word) if word == "off" => Some(None),
        DeValue::Table(_) => value.fields(rules).map(Some),
        _ => value.mistyped(
            "a table or \"off\"",
            "write it as in { within = \"60s\", failures = 10, percent = 5 }, or \"off\"",
        ),
    }
}

fn rules(fields: &mut Fields<'_>) -> Option<Rollback> {
    let default = Rollback::default();
    Some(Rollback {
        within: fields.or("within", default.within, timeout),
        failures: fields.or("failures", default.failures, integer(0..=1_000_000_000)),
        percent: fields.or("percent", default.percent, integer(0..=100)),
    })
}
