//! `[[route]]`: a match that names a service and a chain.

use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue};
use http::uri::Authority;
use serde::Serialize;

use super::names::{Kind, suggest};
use super::reader::{Fields, Value};
use super::show;
use super::values::{list, reference, string, table, timeout_or_none, url_path};

/// What a route allows an exchange when the file says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// One way from a listener to a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// `None` is every listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(rename = "match")]
    pub matcher: Match,
    pub service: String,
    /// `None` is a chain without policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// For the whole exchange, 15 s unless the file says otherwise. `None`, written `"none"`, sets
    /// no deadline, as streams without an end need.
    #[serde(serialize_with = "show::timeout")]
    pub timeout: Option<Duration>,
    /// For each attempt; `None` leaves an attempt all the time that the exchange has.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "show::optional_duration")]
    pub attempt_timeout: Option<Duration>,
    /// As in `[limits]`, for the exchanges of this route; `None` leaves it at what is said there.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "show::optional_timeout")]
    pub stream_idle_timeout: Option<Option<Duration>>,
}

impl Route {
    /// What it refers to by name.
    pub(super) fn names(&self) -> [(Kind, Option<&str>); 3] {
        [
            (Kind::Listener, self.listener.as_deref()),
            (Kind::Service, Some(&self.service)),
            (Kind::Chain, self.chain.as_deref()),
        ]
    }
}

/// What a call must be for a route to take it. A part that is absent takes every call.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Match {
    /// In lower case, without a port: `user-service`, or `*.example.com` for every name below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Begins with `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Empty is every method.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "show::each")]
    pub methods: Vec<Method>,
    /// Fields that must have exactly these values; no name twice.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "show::headers")]
    pub headers: Vec<(HeaderName, String)>,
}

/// How the request target changes on its way.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rewrite {
    /// Taken off the front of the path; begins with `/`.
    pub strip_prefix: String,
}

pub(super) fn route(fields: &mut Fields<'_>) -> Option<Route> {
    let listener = fields.optional("listener", reference(Kind::Listener));
    let matcher = fields.or("match", Match::default(), table(matcher));
    let service = fields.required("service", reference(Kind::Service));
    let chain = fields.optional("chain", reference(Kind::Chain));
    let rewrite = fields.optional("rewrite", table(rewrite));
    let timeout = fields.or("timeout", Some(DEFAULT_TIMEOUT), timeout_or_none);
    let attempt_timeout = fields.optional("attempt-timeout", super::values::timeout);
    let stream_idle_timeout = fields.optional("stream-idle-timeout", timeout_or_none);
    let service = service?;
    Some(Route { listener, matcher, service, chain, rewrite, timeout, attempt_timeout, stream_idle_timeout })
}

fn matcher(fields: &mut Fields<'_>) -> Option<Match> {
    Some(Match {
        host: fields.optional("host", host),
        path_prefix: fields.optional("path-prefix", url_path),
        methods: fields.or("methods", Vec::new(), methods),
        headers: fields.or("headers", Vec::new(), headers),
    })
}

fn rewrite(fields: &mut Fields<'_>) -> Option<Rewrite> {
    let strip_prefix = fields.required("strip-prefix", url_path)?;
    Some(Rewrite { strip_prefix })
}

fn host(value: &Value<'_>) -> Option<String> {
    let host = string(value)?;
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let authority = match name.parse::<Authority>() {
        Ok(authority) if !name.contains(['*', '@', '%']) => authority,
        _ => {
            let hint = "write a name as in \"user-service\", or \"*.example.com\" for every name below";
            return value.fail(format!("{host:?} is not a host"), hint);
        }
    };
    if authority.as_str() != authority.host() {
        let hint = format!("write {:?}, without a port", authority.host());
        return value.fail(format!("{host:?} is not a host"), hint);
    }
    Some(host.to_ascii_lowercase())
}

fn methods(value: &Value<'_>) -> Option<Vec<Method>> {
    let methods = list(method)(value)?;
    let listed = value.node.get_ref().as_array().map_or(0, |array| array.len());
    if listed == 0 {
        return value.fail("no method would match", "leave the key out to match every method");
    }
    Some(methods)
}

fn method(value: &Value<'_>) -> Option<Method> {
    const STANDARD: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    let word = string(value)?;
    // Methods are case-sensitive (RFC 9110, 9.1): "get" is valid, and no client means it.
    let miswritten =
        word.bytes().any(|byte| byte.is_ascii_lowercase()) && STANDARD.contains(&word.to_ascii_uppercase().as_str());
    match Method::from_bytes(word.as_bytes()) {
        Ok(method) if !miswritten => Some(method),
        _ => value.fail(format!("{word:?} is not a method"), suggest(&word, STANDARD.into_iter()).unwrap_or_default()),
    }
}

fn headers(value: &Value<'_>) -> Option<Vec<(HeaderName, String)>> {
    let mut headers: Vec<(HeaderName, String)> = Vec::new();
    for (key, at, value) in value.entries()? {
        let Ok(name) = key.parse::<HeaderName>() else {
            value.reader.report(at, format!("{key:?} is not a header name"), "write it as in \"x-canary\"");
            continue;
        };
        let Some(wanted) = string(&value) else {
            continue;
        };
        if HeaderValue::from_str(&wanted).is_err() {
            value.fail::<()>("not a header value", "a header value has no control characters");
        } else if headers.iter().any(|(other, _)| *other == name) {
            value.reader.report(at, format!("header {name} is matched twice"), "names are the same in any case");
        } else {
            headers.push((name, wanted));
        }
    }
    Some(headers)
}
