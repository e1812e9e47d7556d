//! Requests and answers as a chain sees them.

use super::{Walk, request};
use crate::chain::{Edit, Metadata};
use crate::plugin::fields::Pseudo;
use crate::service::InFlight;
use http::header::{COOKIE, HeaderMap, HeaderName};
use http::request::Parts;
use http::Response;
use std::borrow::Cow;

/// A request on its way to a service.
pub struct RequestHead<'a> {
    pub parts: &'a mut Parts,
    pub walk: &'a Walk<'a>,
}

impl Metadata for RequestHead<'_> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(&self.parts.headers, name)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        let walk = self.walk;
        let text: Cow<'_, str> = match pseudo {
            Pseudo::Method => self.parts.method.as_str().into(),
            Pseudo::Path => walk.target.path_and_query().into(),
            Pseudo::Authority => walk.target.authority().into(),
            Pseudo::Protocol => if walk.caller.http2 { "http2" } else { "http1" }.into(),
            Pseudo::Peer => walk.connection.peer.to_string().into(),
            Pseudo::Identity => walk.connection.listener.identity.as_deref()?.into(),
            Pseudo::Route => walk.route.name.as_ref().into(),
            Pseudo::Service | Pseudo::Status | Pseudo::Endpoint => return None,
        };
        Some(bytes(text))
    }

    fn edit(&mut self, name: &str, edit: Edit<'_>) -> Result<(), String> {
        apply(&mut self.parts.headers, name, edit)
    }
}

/// An endpoint's answer while it is judged.
pub struct AnswerView<'a, B> {
    pub response: &'a Response<B>,
    pub endpoint: &'a str,
}

impl<B> Metadata for AnswerView<'_, B> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(self.response.headers(), name)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        Some(bytes(match pseudo {
            Pseudo::Status => self.response.status().as_str().to_owned().into(),
            Pseudo::Endpoint => self.endpoint.into(),
            _ => return None,
        }))
    }

    fn edit(&mut self, _: &str, _: Edit<'_>) -> Result<(), String> {
        Err("an outcome cannot be edited".into())
    }
}

/// An answer on its way to the caller.
pub struct AnswerHead<'a, B> {
    pub response: &'a mut Response<B>,
    /// Who gave it; absent where the proxy or a policy did.
    pub in_flight: Option<&'a InFlight>,
}

impl<B> Metadata for AnswerHead<'_, B> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(self.response.headers(), name)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        Some(bytes(match pseudo {
            Pseudo::Status => self.response.status().as_str().to_owned().into(),
            Pseudo::Endpoint => self.in_flight?.address().into(),
            _ => return None,
        }))
    }

    fn edit(&mut self, name: &str, edit: Edit<'_>) -> Result<(), String> {
        apply(self.response.headers_mut(), name, edit)
    }
}

/// All values of a field as one (RFC 9110, section 5.3; cookies by RFC 6265, section 5.4).
fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.as_bytes().into()) };
    let separator: &[u8] = if name == COOKIE { b"; " } else { b", " };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(separator);
        all.extend_from_slice(value.as_bytes());
    }
    Some(all.into())
}

fn apply(headers: &mut HeaderMap, name: &str, edit: Edit<'_>) -> Result<(), String> {
    let name = request::editable_name(name)?;
    let too_many = |_| "there are too many fields".to_owned();
    match edit {
        Edit::Set(bytes) => {
            let value = request::editable_value(&name, bytes)?;
            headers.try_insert(name, value).map_err(too_many)?;
        }
        Edit::Append(bytes) => {
            let value = request::editable_value(&name, bytes)?;
            headers.try_append(name, value).map_err(too_many)?;
        }
        Edit::Remove => {
            headers.remove(&name);
        }
    }
    Ok(())
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}
