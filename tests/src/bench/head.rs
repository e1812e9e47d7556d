//! A request and its answer as a chain sees them, without a connection.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use weir::chain::Metadata;
use weir::plugin::bindings::types::Edit;
use weir::plugin::fields::Pseudo;

use super::token::TOKEN;

/// The fields of a message, and what else a policy may read of it.
#[derive(Clone, Debug)]
pub struct Head {
    fields: HeaderMap,
}

impl Head {
    /// A request as one application sends it to another: twelve fields, a token among them.
    pub fn request() -> Self {
        let bearer = format!("Bearer {TOKEN}");
        Self::of(&[
            ("host", "user-service"),
            ("user-agent", "order-service/4.2"),
            ("accept", "application/json"),
            ("accept-encoding", "gzip, br"),
            ("accept-language", "en"),
            ("content-type", "application/json"),
            ("authorization", &bearer),
            ("x-user", "7301"),
            ("x-tenant", "blue"),
            ("x-request-id", "01d4c2f0-1"),
            ("x-service-name", "order-service"),
            ("x-forwarded-for", "127.0.0.1"),
        ])
    }

    /// An answer to it.
    pub fn answer() -> Self {
        Self::of(&[
            ("content-type", "application/json"),
            ("content-length", "1024"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("server", "user-service/1.7"),
        ])
    }

    /// Takes a field out that a policy has put in.
    pub fn remove(&mut self, field: &HeaderName) {
        self.fields.remove(field);
    }

    fn of(fields: &[(&'static str, &str)]) -> Self {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a field's value"))
        };
        Self { fields: fields.iter().map(field).collect() }
    }
}

impl Metadata for Head {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        self.fields.get(name).map(|value| value.as_bytes().into())
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        let text = match pseudo {
            Pseudo::Method => "GET",
            Pseudo::Path => "/users/7301",
            Pseudo::Authority => "user-service",
            Pseudo::Identity => "order-service",
            Pseudo::Status => "200",
            Pseudo::Endpoint => "127.0.0.1:3201",
            _ => return None,
        };
        Some(text.as_bytes().into())
    }

    fn edit(&mut self, edits: &[Edit]) -> Result<(), String> {
        for edit in edits {
            let field = |name: &str, value: &[u8]| {
                (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_bytes(value).expect("a value"))
            };
            match edit {
                Edit::Set((name, value)) => {
                    let (name, value) = field(name, value);
                    self.fields.insert(name, value);
                }
                Edit::Append((name, value)) => {
                    let (name, value) = field(name, value);
                    self.fields.append(name, value);
                }
                Edit::Remove(name) => drop(self.fields.remove(name)),
            }
        }
        Ok(())
    }
}
