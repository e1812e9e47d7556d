//! Requests and answers as a chain sees them.

use super::Walk;
use super::body::Read;
use crate::chain::Metadata;
use crate::headers::{apply, bytes, joined};
use crate::plugin::bindings::types;
use crate::plugin::fields::Pseudo;
use crate::service::InFlight;
use http::Response;
use http::header::HeaderName;
use http::request::Parts;
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
