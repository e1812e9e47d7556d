//! `[policy.…]`: a plugin with a configuration. `[chain]`: policies in their order.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value as Json;
use toml::de::DeValue;

use super::capability::{Capability, capabilities};
use super::names::Kind;
use super::positions::Positions;
use super::problem::Position;
use super::reader::{Fields, Value};
use super::show;
use super::values::{choice, name, reference, size, table, timeout};

/// A plugin with a configuration, to be placed in chains.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    #[serde(skip)]
    pub name: String,
    /// The stem of a file in the plugin directory.
    pub plugin: String,
    pub on_error: OnError,
    pub limits: PolicyLimits,
    /// What the plugin's `configure` gets: always an object. Dates are strings.
    pub config: Json,
    /// What the plugin may use, exactly. `None`: the keys that `config` names, and `endpoints`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Capability>>,
    #[serde(skip)]
    positions: Positions,
}

/// What becomes of an exchange when its policy fails: cannot be loaded, traps, overruns or answers
/// nonsense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// It is answered 503.
    #[default]
    Reject,
    /// It goes on as if the policy were not there.
    Skip,
}

/// What one instance of a policy may use.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyLimits {
    /// For one hook, up to a minute.
    #[serde(serialize_with = "show::duration")]
    pub cpu: Duration,
    /// Bytes of linear memory, 64 KiB (one page) to 4 GiB.
    pub memory: u64,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_millis(5), memory: 16 * 1024 * 1024 }
    }
}

impl Policy {
    /// Where a part of `config` is written. The pointer is relative to `config`, as a JSON-schema
    /// validator gives it; a part that is not there is located at its nearest ancestor that is.
    pub fn locate(&self, json_pointer: &str) -> Position {
        self.positions.nearest(&format!("/config{json_pointer}"))
    }

    /// Where the plugin is named.
    pub fn plugin_position(&self) -> Position {
        self.positions.nearest("/plugin")
    }

    /// Where it is said what the plugin may use; where the policy begins, if that is not said.
    pub fn allow_position(&self) -> Position {
        self.positions.nearest("/allow")
    }

    /// Where the policy begins.
    pub fn start(&self) -> Position {
        self.positions.nearest("")
    }
}

pub(super) fn policy(name_of_policy: &str, value: &Value<'_>) -> Option<Policy> {
    value.fields(|fields| {
        let on_error = choice(&[("reject", OnError::Reject), ("skip", OnError::Skip)]);
        let mut positions = Positions::default();
        positions.note("", fields.at());
        let plugin = fields.required("plugin", name);
        positions.note("/plugin", fields.at_key("plugin"));
        let on_error = fields.or("on-error", OnError::default(), on_error);
        let limits = fields.or("limits", PolicyLimits::default(), table(limits));
        let allow = fields.optional("allow", capabilities);
        if allow.is_some() {
            positions.note("/allow", fields.at_key("allow"));
        }
        let config = match fields.value("config") {
            Some(value) => config(&value, &mut positions),
            None => Some(Json::Object(serde_json::Map::new())),
        };
        Some(Policy {
            name: name_of_policy.to_owned(),
            plugin: plugin?,
            on_error,
            limits,
            config: config?,
            allow,
            positions,
        })
    })
}

fn limits(fields: &mut Fields<'_>) -> Option<PolicyLimits> {
    let default = PolicyLimits::default();
    Some(PolicyLimits {
        cpu: fields.or("cpu", default.cpu, cpu),
        memory: fields.or("memory", default.memory, size(64 * 1024..=4 * 1024 * 1024 * 1024)),
    })
}

fn cpu(value: &Value<'_>) -> Option<Duration> {
    let limit = timeout(value)?;
    if limit > Duration::from_secs(60) {
        return value.fail("a hook is not for work this long", "the longest is \"1m\"");
    }
    Some(limit)
}

fn config(value: &Value<'_>, positions: &mut Positions) -> Option<Json> {
    positions.note("/config", value.at());
    match value.node.get_ref() {
        DeValue::Table(_) => json(value, "/config", positions),
        _ => value.mistyped("a table", "write it as in { max-attempts = 3 }"),
    }
}

/// Turns TOML into JSON and notes where each part is written: members at their key, elements at
/// their value.
fn json(value: &Value<'_>, pointer: &str, positions: &mut Positions) -> Option<Json> {
    match value.node.get_ref() {
        DeValue::String(text) => Some(Json::from(text.as_ref())),
        DeValue::Boolean(boolean) => Some(Json::from(*boolean)),
        DeValue::Datetime(date) => Some(Json::from(date.to_string())),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Some(Json::from(number)),
            Err(_) => value.fail(format!("{integer} is out of range"), "an integer has 64 bits"),
        },
        DeValue::Float(float) => match float.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            Some(number) => Some(Json::Number(number)),
            None => value.fail(format!("{} is not a number a policy can take", float.as_str()), ""),
        },
        DeValue::Array(_) => {
            let mut array = Vec::new();
            for (index, item) in value.items("an array", "")?.iter().enumerate() {
                let pointer = format!("{pointer}/{index}");
                positions.note(&pointer, item.at());
                array.extend(json(item, &pointer, positions));
            }
            Some(Json::Array(array))
        }
        DeValue::Table(_) => {
            let mut object = serde_json::Map::new();
            for (key, at, member) in value.entries()? {
                let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                positions.note(&pointer, at);
                object.extend(json(&member, &pointer, positions).map(|json| (key.to_owned(), json)));
            }
            Some(Json::Object(object))
        }
    }
}

/// One entry of `[chain]`: names of policies, none twice.
pub(super) fn chain(_: &str, value: &Value<'_>) -> Option<Vec<String>> {
    let mut chain = Vec::new();
    for item in value.items("an array of policy names", "write it as in [\"trace\", \"retry\"]")? {
        let Some(policy) = reference(Kind::Policy)(&item) else {
            continue;
        };
        if chain.contains(&policy) {
            item.fail::<()>(format!("policy {policy:?} is in this chain already"), "name it once");
        }
        chain.push(policy);
    }
    Some(chain)
}
