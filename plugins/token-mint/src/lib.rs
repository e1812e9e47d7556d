//! Signs a token for each service that is called and each channel that is published to, and sends it along.

mod cache;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cache::{Cache, Minted, Target};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use weir_sdk::prelude::*;

/// A JSON Web Token (RFC 7519), signed by the host with a key of the node, for each service or channel and each caller; or
/// one fixed value.
#[derive(Deserialize, JsonSchema)]
struct TokenMint {
    /// The key that signs, by its name in the node's configuration. Not with `static-token`.
    key: Option<String>,
    /// Who issues the token: its `iss`. Needed with `key`.
    issuer: Option<String>,
    /// Whom it is for: its `aud`. If left out the name of the service that is called, or of the channel that is published to.
    audience: Option<String>,
    /// Who calls: its `sub`. The identity of the listener, if left out.
    subject: Option<String>,
    /// How long it is valid, in whole seconds.
    #[serde(default = "an_hour")]
    ttl: Period,
    /// What the caller may do: its `roles`.
    #[serde(default)]
    roles: Vec<String>,
    /// More claims, the same in every token.
    #[serde(default)]
    claims: BTreeMap<String, Value>,
    /// Send this value instead of a token. It is no secret: everyone who may read the configuration sees it.
    static_token: Option<StaticToken>,
    /// The kinds of exchanges that get it. Others pass as they are: what a delivery carries came with its message.
    #[serde(default = "calls_and_publishes")]
    on: Kinds,
    /// The field to send it in. `authorization`, or `x-internal-token` for a fixed value, if left out.
    field: Option<String>,
    #[serde(skip)]
    ready: Option<Ready>,
}

/// A fixed value, sent as it is.
#[derive(Deserialize, JsonSchema)]
struct StaticToken {
    #[schemars(length(min = 1))]
    value: String,
}

struct Ready {
    field: String,
    source: Source,
}

enum Source {
    Fixed(String),
    Signed { key: crypto::Key, cache: RefCell<Cache> },
}

/// Claims with a meaning of their own (RFC 7519, section 4.1), which `claims` must leave alone.
const REGISTERED: [&str; 8] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "roles"];

fn an_hour() -> Period {
    Period::from_secs(3600)
}

fn calls_and_publishes() -> Kinds {
    Kinds::of(&[ExchangeKind::Call, ExchangeKind::Publish])
}

#[policy]
impl Policy for TokenMint {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        let source = match (&self.static_token, &self.key) {
            (Some(fixed), None) => self.fixed(&fixed.value)?,
            (None, Some(key)) => self.signed(key)?,
            _ => return Err(Error::new("configure either `key` or `static-token`")),
        };
        if matches!(source, Source::Signed { .. }) && self.subject.is_none() {
            needs.read(":identity");
        }
        let usual = if matches!(source, Source::Fixed(_)) { "x-internal-token" } else { "authorization" };
        let field = self.field.as_deref().unwrap_or(usual).to_ascii_lowercase();
        if field.is_empty() || !field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(Error::at("/field", "name a header or metadata field, as in \"x-internal-token\""));
        }
        self.ready = Some(Ready { field, source });
        Ok(())
    }

    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        if !self.on.contain(exchange.kind) {
            return Ok(Verdict::Proceed);
        }
        let ready = self.ready.as_ref().ok_or(Error::new("not configured"))?;
        let value = match &ready.source {
            Source::Fixed(value) => value.clone().into_bytes(),
            Source::Signed { key, cache } => self.token(*key, cache, &ready.field, exchange)?,
        };
        Ok(Amendment::new().set(ready.field.as_str(), value).into())
    }
}

impl TokenMint {
    fn fixed(&self, value: &str) -> Result<Source> {
        let tokens_only = self.issuer.is_some()
            || self.audience.is_some()
            || self.subject.is_some()
            || !self.roles.is_empty()
            || !self.claims.is_empty();
        if tokens_only {
            return Err(Error::new("with `static-token` there is only `field` to say: nothing is signed"));
        }
        if value.is_empty() || !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(Error::at("/static-token/value", "use visible ASCII characters"));
        }
        Ok(Source::Fixed(value.to_owned()))
    }

    fn signed(&self, name: &str) -> Result<Source> {
        if self.issuer.is_none() {
            return Err(Error::at("/issuer", "say who issues the tokens"));
        }
        if self.subject.as_deref() == Some("") {
            return Err(Error::at("/subject", "leave it out, or say who calls"));
        }
        if self.subject.is_none() && self.on.contain(ExchangeKind::Delivery) {
            let message = "a delivery comes through no listener, whose identity it could be: say who delivers";
            return Err(Error::at("/subject", message));
        }
        if self.ttl.as_secs() == 0 || self.ttl.subsec_nanos() != 0 {
            return Err(Error::at("/ttl", "use whole seconds, at least one"));
        }
        if let Some(claim) = REGISTERED.into_iter().find(|claim| self.claims.contains_key(*claim)) {
            return Err(Error::at(format!("/claims/{claim}"), format!("{claim:?} is not a claim to set here")));
        }
        let open = || -> Result<crypto::Key> {
            let key = crypto::Key::open(name)?;
            if key.algorithm().is_empty() {
                return Err(Error::new("a set of keys verifies only"));
            }
            // Better told now than with the first call: a public key cannot sign either.
            key.sign(&[])?;
            Ok(key)
        };
        let key = open().map_err(|error| Error::at("/key", error.message()))?;
        Ok(Source::Signed { key, cache: RefCell::default() })
    }

    /// The value of the field, from the cache where that is still good.
    fn token(&self, key: crypto::Key, cache: &RefCell<Cache>, field: &str, exchange: &Exchange) -> Result<Vec<u8>> {
        let subject = match &self.subject {
            Some(subject) => subject,
            None => exchange
                .fields()
                .at(0)
                .and_then(|identity| std::str::from_utf8(identity).ok())
                .filter(|identity| !identity.is_empty())
                .ok_or(Error::new("the listener has no `identity` and the policy no `subject` to put in a token"))?,
        };
        let is_publish = exchange.kind == ExchangeKind::Publish;
        // With an audience of its own, one token is good for all services, and one for all channels.
        let target = match (is_publish, self.audience.is_some()) {
            (false, false) => Target::service(exchange.service),
            (false, true) => Target::service(ServiceId::default()),
            (true, false) => Target::channel(exchange.route),
            (true, true) => Target::channel(RouteId::default()),
        };
        let (now, version) = (clock::unix(), key.version());
        if let Some(minted) = cache.borrow().get(target, subject).filter(|minted| minted.is_good(now, version)) {
            return Ok(minted.value.clone());
        }
        let token = self.mint(key, subject, exchange, now)?;
        let value = if field == "authorization" { format!("Bearer {token}") } else { token }.into_bytes();
        let issued = Duration::from_secs(now.as_secs());
        // What goes with a message is looked at when that is delivered, and nobody renews it meanwhile.
        let margin = if is_publish { *self.ttl / 2 } else { (*self.ttl / 10).min(Duration::from_secs(60)) };
        let minted = Minted { value: value.clone(), version, issued, renew: issued.saturating_add(*self.ttl - margin) };
        cache.borrow_mut().insert(target, subject, minted);
        Ok(value)
    }

    /// A token in compact form (RFC 7515, section 7.1).
    fn mint(&self, key: crypto::Key, subject: &str, exchange: &Exchange, now: Duration) -> Result<String> {
        let audience = match (&self.audience, exchange.kind) {
            (Some(audience), _) => audience.clone(),
            // The service is the broker, which passes it on. Who will consume it is not known, and may be many.
            (None, ExchangeKind::Publish) => exchange.route.name().trim_start_matches("publish ").to_owned(),
            (None, _) => exchange.service.name(),
        };
        if audience.is_empty() {
            return Err(Error::new("the service or the channel has no name to put in a token"));
        }
        let mut header = BTreeMap::from([("alg", key.algorithm()), ("typ", "JWT".to_owned())]);
        if let Some(id) = key.id() {
            header.insert("kid", id);
        }
        let mut claims = self.claims.clone();
        let issued = now.as_secs();
        for (claim, value) in [
            ("iss", json!(self.issuer)),
            ("sub", json!(subject)),
            ("aud", json!(audience)),
            ("iat", json!(issued)),
            ("exp", json!(issued.saturating_add(self.ttl.as_secs()))),
        ] {
            claims.insert(claim.to_owned(), value);
        }
        if !self.roles.is_empty() {
            claims.insert("roles".to_owned(), json!(self.roles));
        }
        let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&claims)?, &mut token);
        let signature = key.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}
