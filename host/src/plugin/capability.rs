//! What a policy may use, what a component asks for, and what is said where the two differ.
//!
//! Log, clocks, random numbers, names, cells, metrics, spans and the load of endpoints harm nobody, and are granted to
//! all. The rest is for the operator to grant, by name.

use super::bindings::{PACKAGE, VERSION};
use crate::config::{self, Capability, CapabilityKind};
use serde_json::Value;
use std::collections::BTreeSet;

/// What a policy may use beyond what everyone may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    granted: BTreeSet<Capability>,
    /// `allow` is given: a component that asks for more is refused before it does anything.
    exact: bool,
}

impl Grants {
    /// `allow`, exactly, where it is given. Otherwise the keys that the policy's configuration names, since the operator
    /// has named them there, and `endpoints`; never calls out.
    pub fn of(policy: &config::Policy, is_key: impl Fn(&str) -> bool) -> Self {
        if let Some(allow) = &policy.allow {
            return Self { granted: allow.iter().cloned().collect(), exact: true };
        }
        let mut granted = BTreeSet::from([Capability::Endpoints]);
        for text in texts(&policy.config).into_iter().filter(|text| is_key(text)) {
            granted.insert(Capability::Crypto(text.to_owned()));
        }
        Self { granted, exact: false }
    }

    pub fn allow(&self, capability: &Capability) -> bool {
        self.granted.contains(capability)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Capability> {
        self.granted.iter()
    }

    /// What a component asks for although `allow` grants nothing of the kind.
    pub fn lacks(&self, asks: &[CapabilityKind]) -> Option<CapabilityKind> {
        let has = |kind: CapabilityKind| self.granted.iter().any(|capability| capability.kind() == kind);
        asks.iter().copied().find(|kind| self.exact && !has(*kind))
    }

    /// What an operator can do about a capability that a policy asks for and does not have.
    pub fn hint(&self, capability: &str) -> String {
        if self.exact {
            format!("add \"{capability}\" to its allow, or use a version of the plugin that does without")
        } else {
            let granted = self.granted.iter().map(ToString::to_string).chain([capability.to_owned()]);
            let all: Vec<String> = granted.map(|granted| format!("{granted:?}")).collect();
            format!("give it allow = [{}], or use a version of the plugin that does without", all.join(", "))
        }
    }
}

/// All the strings in a configuration.
fn texts(config: &Value) -> Vec<&str> {
    match config {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(members) => members.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// What a component asks for, by the functions that it imports of an interface.
pub fn asked(import: &str, mut functions: impl Iterator<Item = impl AsRef<str>>) -> Option<CapabilityKind> {
    let interface = |name: &str| import == format!("{PACKAGE}/{name}@{VERSION}");
    let (kind, guarded): (_, &[&str]) = if interface("crypto") {
        // Digests need no key.
        (CapabilityKind::Crypto, &["open"])
    } else if interface("outbound") {
        (CapabilityKind::Outbound, &["send"])
    } else if interface("endpoints") {
        // To look is free.
        (CapabilityKind::Endpoints, &["eject", "report-breaker"])
    } else {
        return None;
    };
    functions.any(|function| guarded.contains(&function.as_ref())).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn grants(config: Value, allow: Option<Vec<Capability>>) -> Grants {
        let mut policy = config::Policy::default();
        (policy.config, policy.allow) = (config, allow);
        Grants::of(&policy, |name| matches!(name, "signing" | "issuer"))
    }

    #[test]
    fn without_allow_the_keys_that_the_configuration_names_are_granted_and_no_calls() {
        let granted = grants(json!({ "key": "signing", "more": [{ "deep": "issuer" }, "other", 3] }), None);
        let all: Vec<String> = granted.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["crypto:issuer", "crypto:signing", "endpoints"]);
        assert_eq!(granted.lacks(&CapabilityKind::ALL), None, "what is used is judged, not what could be");
        assert!(!granted.allow(&Capability::Outbound("signing".into())));
    }

    #[test]
    fn allow_is_exact() {
        let granted = grants(json!({ "key": "signing" }), Some(vec![Capability::Crypto("issuer".into())]));
        assert!(granted.allow(&Capability::Crypto("issuer".into())));
        assert!(!granted.allow(&Capability::Crypto("signing".into())));
        assert_eq!(granted.lacks(&[CapabilityKind::Crypto]), None);
        assert_eq!(
            granted.lacks(&[CapabilityKind::Crypto, CapabilityKind::Endpoints]),
            Some(CapabilityKind::Endpoints)
        );
    }

    #[test]
    fn a_component_asks_by_the_functions_that_it_imports() {
        let asks = |name: &str, functions: &[&str]| asked(&format!("{PACKAGE}/{name}@{VERSION}"), functions.iter());
        assert_eq!(asks("crypto", &["sha256"]), None);
        assert_eq!(asks("crypto", &["sha256", "open"]), Some(CapabilityKind::Crypto));
        assert_eq!(asks("endpoints", &["load", "least-loaded"]), None);
        assert_eq!(asks("endpoints", &["load", "eject"]), Some(CapabilityKind::Endpoints));
        assert_eq!(asks("outbound", &["send"]), Some(CapabilityKind::Outbound));
        assert_eq!(asks("log", &["open", "send", "eject"]), None);
    }
}
