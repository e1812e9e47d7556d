//! Messages as a chain sees them.

use crate::chain::Metadata;
use crate::headers::{apply, bytes, joined};
use crate::plugin::bindings::types;
use crate::plugin::fields::Pseudo;
use http::{HeaderMap, HeaderName};
use std::borrow::Cow;

/// What of a message's exchange is no header. A policy written for calls finds in it what it knows from there: for a
/// publish the request that the publisher made, or would have made over HTTP; for a delivery the one to the consumer.
pub struct View<'a> {
    pub path: &'a str,
    pub authority: &'a str,
    pub protocol: &'static str,
    /// The publisher's address.
    pub peer: Option<&'a str>,
    /// Of the listener that a publish came through.
    pub identity: Option<&'a str>,
    /// The channel or the subscription.
    pub route: &'a str,
}

/// A message's headers.
pub struct Head<'a> {
    pub headers: &'a mut HeaderMap,
    pub view: &'a View<'a>,
}

impl Metadata for Head<'_> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(self.headers, name)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        let text = match pseudo {
            Pseudo::Method => "POST",
            Pseudo::Path => self.view.path,
            Pseudo::Authority => self.view.authority,
            Pseudo::Protocol => self.view.protocol,
            Pseudo::Peer => self.view.peer?,
            Pseudo::Identity => self.view.identity?,
            Pseudo::Route => self.view.route,
            Pseudo::Service | Pseudo::Status | Pseudo::Endpoint => return None,
        };
        Some(text.as_bytes().into())
    }

    fn edit(&mut self, edits: &[types::Edit]) -> Result<(), String> {
        apply(self.headers, edits)
    }
}

/// What a broker or a consumer answered, while it is judged.
pub struct Answer<'a> {
    pub status: u16,
    pub headers: &'a HeaderMap,
    pub endpoint: &'a str,
}

impl Metadata for Answer<'_> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(self.headers, name)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        Some(bytes(match pseudo {
            Pseudo::Status if self.status > 0 => self.status.to_string().into(),
            Pseudo::Endpoint => self.endpoint.into(),
            _ => return None,
        }))
    }

    fn edit(&mut self, _: &[types::Edit]) -> Result<(), String> {
        Err("an outcome cannot be edited".into())
    }
}

/// What a broker or a consumer answered, on its way back.
pub struct Ended<'a> {
    pub status: u16,
    pub headers: &'a mut HeaderMap,
    pub endpoint: &'a str,
}

impl Metadata for Ended<'_> {
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        joined(self.headers, name)
    }

    fn pseudo(&self, pseudo: Pseudo) -> Option<Cow<'_, [u8]>> {
        let Self { status, headers, endpoint } = self;
        let answer = Answer { status: *status, headers, endpoint };
        answer.pseudo(pseudo).map(|value| value.into_owned().into())
    }

    fn edit(&mut self, edits: &[types::Edit]) -> Result<(), String> {
        apply(self.headers, edits)
    }
}
