//! The fields that a policy declares, parsed once so that each exchange only looks them up.

use super::bindings::types;
use http::HeaderName;
use std::fmt;

/// A declared field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    Header(HeaderName),
    Pseudo(Pseudo),
    /// An attribute that an earlier policy set.
    Attribute(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    Method,
    Path,
    Authority,
    Protocol,
    Peer,
    Identity,
    Service,
    Route,
    Status,
    Endpoint,
}

impl Pseudo {
    const REQUEST: [(&'static str, Self); 8] = [
        (":method", Self::Method),
        (":path", Self::Path),
        (":authority", Self::Authority),
        (":protocol", Self::Protocol),
        (":peer", Self::Peer),
        (":identity", Self::Identity),
        (":service", Self::Service),
        (":route", Self::Route),
    ];
    const RESPONSE: [(&'static str, Self); 3] =
        [(":status", Self::Status), (":service", Self::Service), (":endpoint", Self::Endpoint)];
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => f.write_str(name.as_str()),
            Self::Attribute(name) => write!(f, "@{name}"),
            Self::Pseudo(pseudo) => {
                let mut all = Pseudo::REQUEST.iter().chain(&Pseudo::RESPONSE);
                f.write_str(all.find(|(_, known)| known == pseudo).map_or("", |(name, _)| name))
            }
        }
    }
}

/// The most fields of one kind that a policy may declare.
pub const MAX_FIELDS: usize = 32;

/// What a configured policy wants to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    pub request: Vec<Field>,
    pub response: Vec<Field>,
    pub skip: types::Occasions,
    /// Skipped as well while the word of this name is 0.
    pub idle: Option<(String, types::Occasions)>,
}

impl Default for Needs {
    fn default() -> Self {
        Self { request: Vec::new(), response: Vec::new(), skip: types::Occasions::empty(), idle: None }
    }
}

impl Needs {
    /// Fails with a message that names the field.
    pub fn parse(needs: &types::Needs) -> Result<Self, String> {
        Ok(Self {
            request: fields(&needs.request, &Pseudo::REQUEST)?,
            response: fields(&needs.response, &Pseudo::RESPONSE)?,
            skip: needs.skip,
            idle: needs.idle.as_ref().map(|idle| (idle.word.clone(), idle.skip)),
        })
    }

    pub fn skips(&self, occasion: types::Occasions) -> bool {
        self.skip.contains(occasion)
    }
}

fn fields(names: &[String], pseudo: &[(&'static str, Pseudo)]) -> Result<Vec<Field>, String> {
    if names.len() > MAX_FIELDS {
        return Err(format!("a policy reads at most {MAX_FIELDS} fields, not {}", names.len()));
    }
    names.iter().map(|name| field(name, pseudo)).collect()
}

fn field(name: &str, pseudo: &[(&'static str, Pseudo)]) -> Result<Field, String> {
    if let Some(attribute) = name.strip_prefix('@') {
        return Ok(Field::Attribute(attribute.to_owned()));
    }
    if name.starts_with(':') {
        let known = || pseudo.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        return pseudo
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, pseudo)| Field::Pseudo(*pseudo))
            .ok_or_else(|| format!("it reads {name:?}, which does not exist; there are {}", known()));
    }
    HeaderName::from_lowercase(name.as_bytes())
        .map(Field::Header)
        .map_err(|_| format!("it reads {name:?}, which is no lower-case field name"))
}
