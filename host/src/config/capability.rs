//! What can be granted to a policy: `allow = ["crypto:service-signing", "outbound:flags", "endpoints"]`.

use std::fmt;

use serde::{Serialize, Serializer};

use super::names::{Kind, suggest};
use super::reader::Value;
use super::values::string;

/// Something that a policy may use only if it is granted. Each grant names what it is for: there is none for all keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// To sign and verify with the key of that name.
    Crypto(String),
    /// To call the service of that name.
    Outbound(String),
    /// To eject endpoints and to report breakers, which changes what other policies see.
    Endpoints,
}

/// A capability without the name of what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CapabilityKind {
    Crypto,
    Outbound,
    Endpoints,
}

impl CapabilityKind {
    pub const ALL: [Self; 3] = [Self::Crypto, Self::Outbound, Self::Endpoints];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crypto => "crypto",
            Self::Outbound => "outbound",
            Self::Endpoints => "endpoints",
        }
    }

    /// What a policy can do with it, for an operator.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Crypto => "use keys",
            Self::Outbound => "make calls of its own",
            Self::Endpoints => "eject endpoints and report breakers",
        }
    }

    /// How it is written in `allow`.
    pub fn form(self) -> &'static str {
        match self {
            Self::Crypto => "crypto:<key>",
            Self::Outbound => "outbound:<service>",
            Self::Endpoints => "endpoints",
        }
    }
}

impl Capability {
    pub fn kind(&self) -> CapabilityKind {
        match self {
            Self::Crypto(_) => CapabilityKind::Crypto,
            Self::Outbound(_) => CapabilityKind::Outbound,
            Self::Endpoints => CapabilityKind::Endpoints,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crypto(key) => write!(f, "crypto:{key}"),
            Self::Outbound(service) => write!(f, "outbound:{service}"),
            Self::Endpoints => f.write_str("endpoints"),
        }
    }
}

impl Serialize for Capability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A list of capabilities, none twice, for keys and services that the file defines.
pub(super) fn capabilities(value: &Value<'_>) -> Option<Vec<Capability>> {
    let mut granted = Vec::new();
    for item in value.items("an array of capabilities", "write it as in [\"crypto:service-signing\"]")? {
        let Some(capability) = capability(&item) else { continue };
        if granted.contains(&capability) {
            item.fail::<()>(format!("\"{capability}\" is granted already"), "name it once");
            continue;
        }
        granted.push(capability);
    }
    Some(granted)
}

fn capability(value: &Value<'_>) -> Option<Capability> {
    let text = string(value)?;
    let (kind, name) = match text.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (text.as_str(), None),
    };
    let Some(kind) = CapabilityKind::ALL.into_iter().find(|known| known.as_str() == kind) else {
        let hint = suggest(kind, CapabilityKind::ALL.into_iter().map(CapabilityKind::as_str));
        return value.fail(format!("unknown capability {kind:?}"), hint.unwrap_or_default());
    };
    let named = |of: Kind| match name.filter(|name| !name.is_empty()) {
        Some(name) => {
            value.reader.refer(of, name, value.at());
            Some(name.to_owned())
        }
        None => value.fail(format!("{text:?} does not say which {of}"), format!("write it as in \"{}\"", kind.form())),
    };
    match kind {
        CapabilityKind::Crypto => named(Kind::Key).map(Capability::Crypto),
        CapabilityKind::Outbound => named(Kind::Service).map(Capability::Outbound),
        CapabilityKind::Endpoints if name.is_none() => Some(Capability::Endpoints),
        CapabilityKind::Endpoints => value.fail("\"endpoints\" takes no name", "write \"endpoints\": it is for all"),
    }
}
