//! Requests and answers as a chain sees them.

use super::body::Read;
use super::{Walk, request};
use crate::chain::Metadata;
use crate::plugin::bindings::types;
use crate::plugin::fields::Pseudo;
use crate::service::InFlight;
use http::header::{COOKIE, HeaderMap, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Response};
use smallvec::SmallVec;
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
            Pseudo::Identity => walk.terms.listener.identity.as_deref()?.into(),
            Pseudo::Route => walk.route.name.as_ref().into(),
            Pseudo::Service | Pseudo::Status | Pseudo::Endpoint => return None,
        };
        Some(bytes(text))
    }

    fn edit(&mut self, edits: &[types::Edit]) -> Result<(), String> {
        apply(&mut self.parts.headers, edits)
    }
}

/// An endpoint's answer while it is judged.
pub struct AnswerView<'a> {
    pub response: &'a Response<Read>,
    pub endpoint: &'a str,
}

impl Metadata for AnswerView<'_> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(self.response.headers(), name).or_else(|| joined(self.response.body().trailers()?, name))
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        Some(bytes(match pseudo {
            Pseudo::Status => self.response.status().as_str().to_owned().into(),
            Pseudo::Endpoint => self.endpoint.into(),
            _ => return None,
        }))
    }

    fn edit(&mut self, _: &[types::Edit]) -> Result<(), String> {
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

    fn edit(&mut self, edits: &[types::Edit]) -> Result<(), String> {
        apply(self.response.headers_mut(), edits)
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

/// An edit whose name and value can be in a header.
enum Checked {
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    Remove(HeaderName),
}

fn apply(headers: &mut HeaderMap, edits: &[types::Edit]) -> Result<(), String> {
    let checked: SmallVec<[Checked; 4]> = edits.iter().map(checked).collect::<Result<_, _>>()?;
    // What `HeaderMap` takes at most is far above what a caller or an endpoint may send.
    let too_many = |_| "there are too many fields".to_owned();
    checked.into_iter().try_for_each(|edit| match edit {
        Checked::Set(name, value) => headers.try_insert(name, value).map(drop).map_err(too_many),
        Checked::Append(name, value) => headers.try_append(name, value).map(drop).map_err(too_many),
        Checked::Remove(name) => {
            headers.remove(&name);
            Ok(())
        }
    })
}

fn checked(edit: &types::Edit) -> Result<Checked, String> {
    let field = |name: &str, value: &[u8]| {
        let name = request::editable_name(name)?;
        let value = request::editable_value(&name, value)?;
        Ok::<_, String>((name, value))
    };
    Ok(match edit {
        types::Edit::Set((name, value)) => field(name, value).map(|(name, value)| Checked::Set(name, value))?,
        types::Edit::Append((name, value)) => field(name, value).map(|(name, value)| Checked::Append(name, value))?,
        types::Edit::Remove(name) => Checked::Remove(request::editable_name(name)?),
    })
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}
