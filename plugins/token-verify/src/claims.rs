//! From a token to what it allows: the signature first, then what it claims.

use crate::cache::Verified;
use crate::denial::Denial;
use crate::token::Token;
use crate::{Names, Ready, TokenVerify};
use serde_json::Value;
use std::borrow::Cow;
use weir_sdk::prelude::*;

impl TokenVerify {
    /// `now` in seconds since 1970. Apart from what a known token takes, which is little.
    #[cold]
    pub(crate) fn verify(&self, ready: &Ready, token: &[u8], version: u64, now: f64) -> Result<Verified, Denial> {
        let token = Token::parse(token)?;
        self.is_authentic(ready.key, &token)?;
        let claims = token.claims()?;
        let verified = self.read(ready, &claims, version)?;
        if now >= verified.until {
            return Err(Denial::Invalid("the token has expired"));
        }
        if now < verified.from {
            return Err(Denial::Invalid("the token is not valid yet"));
        }
        Ok(verified)
    }

    fn is_authentic(&self, key: crypto::Key, token: &Token<'_>) -> Result<(), Denial> {
        if !self.algorithms.iter().any(|allowed| allowed.name() == token.algorithm) {
            return Err(Denial::Invalid("the token is signed with an algorithm that is not accepted"));
        }
        if let Some(typ) = &self.typ
            && !token.typ.as_ref().is_some_and(|own| media_type(own).eq_ignore_ascii_case(media_type(typ)))
        {
            return Err(Denial::Invalid("the token is of another type"));
        }
        match key.verify(&token.algorithm, token.key_id.as_deref(), token.signed, &token.signature) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Denial::Invalid("the signature of the token does not fit")),
            Err(error) => {
                log::debug(format!("a token was refused: {error}"));
                Err(Denial::Invalid("no key fits the token"))
            }
        }
    }

    /// Checks all claims but time, which is for each exchange to look at.
    fn read(&self, ready: &Ready, claims: &Value, version: u64) -> Result<Verified, Denial> {
        let leeway = self.leeway.as_secs_f64();
        let expires = date(claims, "exp")?.ok_or(Denial::Invalid("the token does not say when it expires"))?;
        let begins = [date(claims, "nbf")?, date(claims, "iat")?].into_iter().flatten();
        let issuer = text(claims, "iss")?;
        if self.issuer.as_ref().is_some_and(|known| !issuer.is_some_and(|issuer| known.contains(issuer))) {
            return Err(Denial::Invalid("the token is of another issuer"));
        }
        if !is_for(self.audience.as_ref(), claim(claims, "aud")) {
            return Err(Denial::Invalid("the token is for another audience"));
        }
        if self.required_claims.iter().any(|name| claim(claims, name).is_none()) {
            return Err(Denial::Invalid("the token lacks a claim"));
        }
        let subject = text(claims, "sub")?;
        let roles = words(claim(claims, &self.roles_claim));
        let permits = |role: &&str, name: &str| {
            *role == name || self.permissions.get(*role).is_some_and(|all| all.iter().any(|one| one == name))
        };
        Ok(Verified {
            version,
            from: begins.fold(f64::NEG_INFINITY, f64::max) - leeway,
            until: expires + leeway,
            callers: ready.callers.granted(|name| subject == Some(name)),
            roles: ready.roles.granted(|name| roles.iter().any(|role| permits(role, name))),
            verdict: self.passed_on(claims)?,
        })
    }

    fn passed_on(&self, claims: &Value) -> Result<Verdict, Denial> {
        let mut amendment = Amendment::new();
        for (header, name) in &self.headers {
            amendment = match claim(claims, name).map(printed) {
                None => amendment.remove(header.as_str()),
                Some(value) if value.bytes().any(|byte| byte.is_ascii_control()) => {
                    return Err(Denial::Invalid("a claim of the token cannot be sent on in a header"));
                }
                Some(value) => amendment.set(header.as_str(), value.into_owned()),
            };
        }
        for name in &self.attributes {
            if let Some(value) = claim(claims, name) {
                amendment = amendment.attribute(name.as_str(), printed(value));
            }
        }
        Ok(amendment.into())
    }
}

/// A claim by its name, or by a JSON Pointer (RFC 6901). `null` is as good as absent.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    let found = if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) };
    found.filter(|value| !value.is_null())
}

/// A NumericDate (RFC 7519, section 2), which may have a fraction.
fn date(claims: &Value, name: &str) -> Result<Option<f64>, Denial> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(_) => Err(Denial::Invalid("a time in the token is not a number")),
    }
}

fn text<'a>(claims: &'a Value, name: &str) -> Result<Option<&'a str>, Denial> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Denial::Invalid("a name in the token is not text")),
    }
}

/// A token for somebody is not for those who do not know that they are meant (RFC 7519, section 4.1.3).
fn is_for(ours: Option<&Names>, audience: Option<&Value>) -> bool {
    let Some(ours) = ours else {
        return audience.is_none();
    };
    match audience {
        Some(Value::String(one)) => ours.contains(one),
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str().is_some_and(|one| ours.contains(one))),
        _ => false,
    }
}

/// Roles or scopes: a list of strings, or one string with spaces (RFC 8693, section 4.2). Anything else is none.
fn words(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A string as it is, and anything else as compact JSON.
fn printed(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// "application/" is left out where nothing else has a slash (RFC 7515, section 4.1.9).
fn media_type(typ: &str) -> &str {
    match typ.split_once('/') {
        Some((application, rest)) if application.eq_ignore_ascii_case("application") => rest,
        _ => typ,
    }
}
