//! Lets an exchange pass only with a valid token, and only where its caller may go.

mod cache;
mod claims;
mod denial;
mod json;
mod rules;
#[cfg(test)]
mod tests;
mod token;

use cache::Cache;
use denial::Denial;
use rules::{Rules, Table, Target};
use std::cell::RefCell;
use std::collections::BTreeMap;
use weir_sdk::prelude::*;

/// Verifies JSON Web Tokens (RFC 7519) and says who may call what. Whatever is not clearly allowed is refused: 401
/// without a valid token, 403 where a valid one does not reach.
#[derive(Deserialize, JsonSchema)]
struct TokenVerify {
    /// The key that checks signatures, or a set of keys, by its name in the node's configuration.
    key: String,
    /// The algorithms a token may be signed with.
    #[schemars(length(min = 1))]
    algorithms: Vec<Algorithm>,
    /// The `iss` a token must have, or a list of them. Not looked at if left out.
    issuer: Option<Names>,
    /// The `aud` a token must be for, or a list of which one will do. If left out, a token with an `aud` is refused (RFC
    /// 7519, section 4.1.3).
    audience: Option<Names>,
    /// How far clocks may differ, at most "10m". With "0s" a token has expired at its `exp`.
    #[serde(default)]
    leeway: Period,
    /// Claims a token must have, besides `exp`.
    #[serde(default)]
    required_claims: Vec<String>,
    /// The `typ` of the token's header, as in "at+jwt". Not looked at if left out.
    typ: Option<String>,
    /// The `sub` that may call: a list, or lists by method and path.
    callers: Option<Callers>,
    /// The roles or permissions that are needed, by method and path: one of them will do.
    #[serde(default)]
    roles: Table,
    /// The claim that holds the roles: a list, or one string with spaces. A JSON Pointer finds a nested one.
    #[serde(default = "roles_claim")]
    roles_claim: String,
    /// The permissions that come with a role.
    #[serde(default)]
    permissions: BTreeMap<String, Vec<String>>,
    /// Request headers to set from claims. What the client sent in them never passes.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Claims that later policies (as "@sub") and the record are told.
    #[serde(default = "subject")]
    attributes: Vec<String>,
    /// The field that the token is in. In `authorization` it follows "Bearer", anywhere else it stands alone.
    #[serde(default = "authorization")]
    field: String,
    /// The kinds of exchanges to verify. Others pass as they are.
    #[serde(default = "all")]
    on: Kinds,
    /// Let a call without any token pass where no rule asks for one. A bad token is refused all the same.
    #[serde(default)]
    optional: bool,
    #[serde(skip)]
    ready: Option<Ready>,
}

/// Signature algorithms (RFC 7518, RFC 8037). There is no "none".
#[derive(Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "HS256")]
    Hs256,
}

/// One name, or several of which one will do.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Callers {
    Everywhere(Vec<String>),
    ByTarget(Table),
}

/// What `configure` made of the configuration.
struct Ready {
    key: crypto::Key,
    callers: Rules,
    roles: Rules,
    /// For an exchange without a token, where that may pass: the client's own headers go.
    without_token: Verdict,
    cache: RefCell<Cache>,
}

const LONGEST_LEEWAY: Duration = Duration::from_secs(600);

fn roles_claim() -> String {
    "roles".to_owned()
}

fn subject() -> Vec<String> {
    vec!["sub".to_owned()]
}

fn authorization() -> String {
    "authorization".to_owned()
}

fn all() -> Kinds {
    Kinds::ALL
}

#[policy]
impl Policy for TokenVerify {
    fn configure(&mut self, needs: &mut Needs) -> Result<()> {
        if *self.leeway > LONGEST_LEEWAY {
            return Err(Error::at("/leeway", "use 10m at most: it is for clocks that differ"));
        }
        lower_case_name(&mut self.field, "/field")?;
        let mut headers = BTreeMap::new();
        for (mut header, claim) in std::mem::take(&mut self.headers) {
            lower_case_name(&mut header, "/headers")?;
            headers.insert(header, claim);
        }
        self.headers = headers;
        let callers = match &self.callers {
            None => Rules::default(),
            Some(Callers::Everywhere(callers)) => Rules::everywhere(callers),
            Some(Callers::ByTarget(table)) => Rules::new(table, "/callers")?,
        };
        let roles = Rules::new(&self.roles, "/roles")?;
        needs.read(self.field.as_str());
        if callers.read_target() || roles.read_target() {
            needs.read(":method");
            needs.read(":path");
        }
        let removals = self.headers.keys().fold(Amendment::new(), |all, header| all.remove(header.as_str()));
        let (key, without_token, cache) = (self.open()?, removals.into(), RefCell::default());
        self.ready = Some(Ready { key, callers, roles, without_token, cache });
        Ok(())
    }

    // Never an error: a policy that is skipped on errors would let the exchange pass.
    fn on_request(&self, exchange: &Exchange) -> Result<Verdict> {
        if !self.on.contain(exchange.kind) {
            return Ok(Verdict::Proceed);
        }
        Ok(self.admit(exchange).unwrap_or_else(Verdict::from))
    }
}

impl TokenVerify {
    fn open(&self) -> Result<crypto::Key> {
        let key = crypto::Key::open(&self.key).map_err(|error| Error::at("/key", error.message()))?;
        if self.algorithms.is_empty() {
            return Err(Error::at("/algorithms", "name the algorithms a token may be signed with, as in [\"RS256\"]"));
        }
        let own = key.algorithm();
        if !own.is_empty() && !self.algorithms.iter().any(|algorithm| algorithm.name() == own) {
            let message = format!("the key {:?} is for {own}, which is not among them", self.key);
            return Err(Error::at("/algorithms", message));
        }
        Ok(key)
    }

    fn admit(&self, exchange: &Exchange) -> Result<Verdict, Denial> {
        let ready = self.ready.as_ref().ok_or(Denial::Invalid("the policy is not configured"))?;
        let fields = exchange.fields();
        let target = Target::new(fields.at(1), fields.at(2)).ok_or(Denial::AMBIGUOUS)?;
        let (caller_rule, role_rule) = (ready.callers.find(&target), ready.roles.find(&target));
        let Some(value) = fields.at(0) else {
            let pass = self.optional && caller_rule.is_none() && role_rule.is_none();
            return if pass { Ok(ready.without_token.clone()) } else { Err(Denial::Missing) };
        };
        let token = if self.field == "authorization" { token::bearer(value)? } else { value };

        let now = clock::unix().as_secs_f64();
        // Read before the signature is checked: a key that changes meanwhile makes the entry an old one.
        let version = ready.key.version();
        let mut cache = ready.cache.borrow_mut();
        let verified = match cache.get(token) {
            Some(verified) if verified.is_good(now, version) => verified,
            _ => cache.insert(token, self.verify(ready, token, version, now)?),
        };

        let granted = |rule: Option<usize>, grants: &[bool]| rule.is_none_or(|rule| grants.get(rule) == Some(&true));
        if !granted(caller_rule, &verified.callers) {
            return Err(Denial::Forbidden("the caller may not call this"));
        }
        if !granted(role_rule, &verified.roles) {
            return Err(Denial::Forbidden("none of the caller's roles allows this"));
        }
        Ok(verified.verdict.clone())
    }
}

fn lower_case_name(name: &mut String, pointer: &str) -> Result<()> {
    name.make_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(Error::at(pointer, format!("{name:?} is not the name of a field, such as \"x-user-id\"")));
    }
    Ok(())
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }
}

impl Names {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Several(several) => several.iter().any(|one| one == name),
        }
    }
}
